"""Bounds of a self-normalised estimate under weights that are only known to lie somewhere."""

from itertools import product

import numpy as np
import pytest

from models.ope.sensitivity import MAX_FACTOR, ratio_bounds, tipping_factor


def test_the_worked_example():
    # Rewards 0 and 1, weights between 1 and 3: the one is at least 1 / (3 + 1) and at most 3 / (1 + 3) of all.
    assert ratio_bounds(np.array([1.0, 1.0]), np.array([3.0, 3.0]), np.array([1.0, 0.0])) == (0.25, 0.75)


@pytest.mark.parametrize("seed", range(30))
def test_no_corner_of_the_box_is_beyond_the_bounds(seed: int):
    rng = np.random.default_rng(seed)
    size = 1 + seed % 8
    low, reward = rng.uniform(0.1, 2.0, size), rng.normal(size=size).round(1)
    high = low + rng.uniform(0.0, 3.0, size)
    # A ratio of linear functions is greatest in a corner.
    corners = [float((np.array(w) * reward).sum() / np.sum(w)) for w in product(*zip(low, high, strict=True))]
    assert ratio_bounds(low, high, reward) == pytest.approx((min(corners), max(corners)), abs=1e-12)


def test_bounds_without_width_are_the_estimate():
    rng = np.random.default_rng(0)
    weight, reward = rng.uniform(0.0, 2.0, 50), rng.normal(size=50)
    estimate = float((weight * reward).sum() / weight.sum())
    assert ratio_bounds(weight, weight, reward) == pytest.approx((estimate, estimate))


def test_the_factor_at_which_a_gain_is_gone():
    # Half of the rounds have reward 1 and weight 4, half 0 and weight 1: .8 against a mean of .5. With weights off by f the least value
    # is (4 / f) / (4 / f + f), which is a half at f = 2.
    chosen, reward = np.array([4.0, 1.0]), np.array([1.0, 0.0])
    assert tipping_factor(chosen, 0.0, reward) == pytest.approx(2.0)
    # The share that stays as logged is not in doubt: (k + 4 / f) = (k + f) again at 2, whatever k.
    assert tipping_factor(chosen, 0.7, reward) == pytest.approx(2.0)


def test_a_policy_that_is_not_better_has_no_such_factor():
    assert tipping_factor(np.array([1.0, 4.0]), 0.0, np.array([1.0, 0.0])) is None
    assert tipping_factor(np.zeros(2), 0.0, np.array([1.0, 0.0])) is None
    assert tipping_factor(np.zeros(0), 0.5, np.zeros(0)) is None


def test_what_nothing_can_turn_is_robust():
    assert tipping_factor(np.array([1000.0, 0.001]), 0.0, np.array([1.0, 0.0])) == MAX_FACTOR
