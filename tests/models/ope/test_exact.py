"""Exact sums against rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ope import exact
from models.ope.exact import MAX_TERMS, MAX_WEIGHT, ExactSums

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e280, max_value=1e280).filter(lambda x: x == 0 or abs(x) > 1e-270)


@given(st.lists(NUMBERS, min_size=1, max_size=40))
def test_a_sum_is_the_nearest_float_to_the_true_one(values: list[float]):
    found = ExactSums.of(np.array(values)[None]).value()[0]
    assert found == math.fsum(values) == float(sum(map(Fraction, values)))


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_no_order_and_no_cut_changes_a_bit(values: list[float], cut: int, random):
    whole = ExactSums.of(np.array(values)[None])
    random.shuffle(values)
    one, other = (ExactSums.of(np.array(part, np.float64)[None]) for part in (values[:cut], values[cut:]))
    assert (one + other).value() == (other + one).value() == whole.value()


@given(st.lists(st.tuples(NUMBERS, st.integers(0, MAX_WEIGHT), st.integers(0, MAX_WEIGHT)), min_size=1, max_size=30))
def test_a_weighted_sum_counts_every_term_as_often_as_its_weight(rows: list[tuple[float, int, int]]):
    values = np.array([row[0] for row in rows])
    weights = np.array([row[1:] for row in rows], np.float64)
    found = ExactSums.of(values[None], weights).value()
    for resample in range(2):
        repeated = np.repeat(values, weights[:, resample].astype(int))
        assert found[resample, 0] == math.fsum(repeated)


def test_as_many_of_the_greatest_integers_as_fit_are_still_exact():
    # All bits of a window set, the greatest count, the most terms at a time.
    value = float(2**46 - 2**10)
    sums = ExactSums.of(np.full((1, MAX_TERMS), value), np.full((MAX_TERMS, 1), float(MAX_WEIGHT)))
    assert sums.value()[0, 0] == value * MAX_TERMS * MAX_WEIGHT


def test_many_shards_do_not_overflow():
    one = ExactSums.of(np.array([[1e280, -3.5, 1.0]]))
    total, times = one, 1
    for _ in range(70):
        total, times = total + total, 2 * times
    assert Fraction(total.value()[0]) == Fraction(float((Fraction(1e280) - Fraction(5, 2)) * times))
    negative = ExactSums.of(np.array([[-0.75]]))
    for _ in range(70):
        negative = negative + negative
    assert negative.value()[0] == -0.75 * 2.0**70


def test_what_occurs_twice_is_summed_once_and_found_twice():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 50)), rng.normal(size=(4, 50))
    second[1], second[3] = first[1, 2], 0.0
    sums, _ = exact.collect([first, second])
    for found, values in zip(sums, (first, second), strict=True):
        assert found.value().tolist() == np.apply_along_axis(math.fsum, -1, values).tolist()


def test_nothing_sums_to_nothing():
    assert ExactSums.of(np.zeros((2, 0))).value().tolist() == [0.0, 0.0]
    assert (ExactSums.zeros((1,)) + ExactSums.of(np.array([[0.1]]))).value() == [0.1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float):
    with pytest.raises(ValueError, match="not finite"):
        ExactSums.of(np.array([[1.0, bad]]))


def test_too_many_terms_and_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"at most 16384"):
        ExactSums.of(np.zeros((1, MAX_TERMS + 1)))
    with pytest.raises(ValueError, match="shapes"):
        ExactSums.zeros((1,)) + ExactSums.zeros((2,))
