"""Sequential estimators against numbers worked out by hand and exact expectations over every session of a small process."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ope.bandit import DR, IPS, SNDR, SNIPS
from models.ope.base import Estimator
from models.ope.log import SessionLog
from models.ope.magic import MAGIC, least_on_simplex, lengths
from models.ope.resampling import Resampling
from models.ope.sequential import PDIS, SNPDIS, SNTIS, TIS, WDR, SequentialDR
from models.ope.statistics import Panel, Statistics

sys.path.append(str(Path(__file__).parent))
worlds = import_module("worlds")

DISCOUNT = 0.9
WRONG_Q = np.array([[[1.0, 3.0], [0.5, 2.0]], [[2.0, 0.0], [1.0, 1.0]], [[0.3, 0.6], [0.9, 0.2]]])
WRONG_V = (worlds.Chain.target * WRONG_Q).sum(axis=2)


def value(estimator: Estimator, log: SessionLog) -> float:
    return Statistics.of(estimator, log).estimate()


def magic(log: SessionLog, seed: int = 0, **settings: object) -> float:
    estimator = MAGIC(discount=DISCOUNT, **settings)
    return Panel([estimator], Resampling(num_resamples=200, seed=seed)).add(log).statistics[estimator.key].estimate()


@pytest.fixture(scope="module")
def chain() -> "worlds.Chain":
    return worlds.Chain()


def test_weights_multiply_along_a_session():
    log = worlds.worked_sessions()
    assert log.cumulative_weight() == pytest.approx(np.array([[1, 2], [0.5, 0.5], [2, 1.5]]))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TIS, (2 * 1 + 0.5 * 0.9 + 1.5 * 1.9) / 3),
        (PDIS, 1.6),
        (SNTIS, 5.3 / 4),
        # 3 / 3.5 and .9 (.5 + 1.5) / 4
        (SNPDIS, 3 / 3.5 + 0.9 * 2 / 4),
        (SequentialDR, 1.0533333333),
        # Step 0: .8 + (0 - .5 + 0) / 3.5; step 1: .9 (.4 + (-1 + .25 + .75) / 4)
        (WDR, 0.8 - 0.5 / 3.5 + 0.9 * 0.4),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_the_worked_example(kind: type[Estimator], expected: float):
    assert value(kind(discount=DISCOUNT), worlds.worked_sessions()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("kind", [TIS, PDIS, SequentialDR], ids=lambda kind: kind.__name__)
def test_what_is_unbiased_has_the_true_value_as_its_expectation(chain, kind: type[Estimator], discount: float):
    # A mean over sessions; over all of them, each as often as its probability says, it is the expectation.
    truth = chain.values(discount)[1][0, 0]
    assert value(kind(discount=discount), chain.population(WRONG_Q, WRONG_V)) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("kind", [SNTIS, SNPDIS, WDR], ids=lambda kind: kind.__name__)
def test_what_normalises_itself_is_right_in_the_population(chain, kind: type[Estimator]):
    truth = chain.values(DISCOUNT)[1][0, 0]
    assert value(kind(discount=DISCOUNT), chain.population(WRONG_Q, WRONG_V)) == pytest.approx(truth, abs=1e-12)


@given(st.integers(0, 10**6))
def test_a_session_of_one_step_is_a_round(seed: int):
    log = worlds.random_log(12, seed, max_length=1)
    for sequential, bandit in (
        (TIS(), IPS()),
        (PDIS(), IPS()),
        (SNTIS(), SNIPS()),
        (SNPDIS(), SNIPS()),
        (SequentialDR(), DR()),
        (WDR(), SNDR()),
    ):
        assert value(sequential, log) == pytest.approx(value(bandit, log), rel=1e-12)


@given(st.integers(0, 10**6))
def test_the_same_policy_has_the_mean_return(seed: int):
    log = worlds.random_log(12, seed)
    same = SessionLog(log.session, log.offsets, log.reward, log.behaviour, log.behaviour)
    padded = log.padded(log.reward, 0.0)
    expected = (padded * DISCOUNT ** np.arange(padded.shape[1])).sum(axis=1).mean()
    for kind in (TIS, PDIS, SNTIS, SNPDIS):
        assert value(kind(discount=DISCOUNT), same) == pytest.approx(expected, rel=1e-12)


def test_an_ended_session_keeps_its_weight_in_the_normaliser():
    # One session of one step with weight 2, one of two steps with weights 1 and 1, and reward 1 at every step.
    half = np.full(3, 0.5)
    log = SessionLog.from_rounds(np.array([0, 1, 1], np.uint64), np.ones(3), np.array([1.0, 0.5, 0.5]), half)
    # 3 / 3 at step 0; at step 1 one of (2 + 1).
    assert value(SNPDIS(), log) == pytest.approx(1 + 1 / 3)
    assert value(PDIS(), log) == pytest.approx((2 + 2) / 2)


def test_shards_of_different_lengths_join_as_one_log():
    short, long = worlds.random_log(30, 1, max_length=2), worlds.random_log(30, 2, max_length=7, begin=30)
    columns = ("reward", "target", "behaviour", "predicted", "expected")
    both = SessionLog(
        np.concatenate([short.session, long.session]),
        np.concatenate([short.offsets, long.offsets[1:] + short.num_rounds]),
        *(np.concatenate([getattr(short, name), getattr(long, name)]) for name in columns),
    )
    for estimator in (SNPDIS(discount=0.9), WDR(discount=0.9)):
        whole = Statistics.of(estimator, both)
        joined = Statistics.of(estimator, short).merge(Statistics.of(estimator, long))
        assert joined.estimate() == whole.estimate() == Statistics.of(estimator, long).merge(Statistics.of(estimator, short)).estimate()
    one, other = (Panel([MAGIC()], Resampling(num_resamples=20)).add(log) for log in (short, long))
    whole_panel = Panel([MAGIC()], Resampling(num_resamples=20)).add(both)
    assert one.merge(other).statistics[MAGIC().key].estimate() == whole_panel.statistics[MAGIC().key].estimate()


# === MAGIC ===


def test_magic_lies_between_the_model_and_wdr(chain):
    log = chain.population(WRONG_Q, WRONG_V)
    j_step = [value(WDR(discount=DISCOUNT), log), WRONG_V[0, 0]]
    assert min(j_step) - 1.0 <= magic(log) <= max(j_step) + 1.0


def test_magic_takes_the_model_where_it_is_exact_and_wdr_where_it_is_far_off(chain):
    q, v = chain.values(DISCOUNT)
    truth = v[0, 0]
    exact = chain.population(q, v[:3])
    assert magic(exact) == pytest.approx(truth, abs=1e-6)
    far = chain.population(q + 50.0, v[:3] + 50.0)
    assert value(WDR(discount=DISCOUNT), far) == pytest.approx(truth, abs=1e-9)
    # The model alone says 50 too much.
    assert abs(magic(far) - truth) < 5.0


def test_magic_of_two_lengths_is_the_best_of_both(chain):
    # By hand: g of the model alone and of WDR, and the blend that minimises the quadratic form of their covariance.
    q, v = chain.values(DISCOUNT)
    log = chain.population(q, v[:3])
    estimator = MAGIC(discount=DISCOUNT, num_lengths=2)
    statistics = Panel([estimator], Resampling(num_resamples=100)).add(log).statistics[estimator.key]
    left_over, said = estimator.corrections(log)
    weight = log.cumulative_weight()
    earlier = np.concatenate([np.ones((log.num_sessions, 1)), weight[:, :-1]], axis=1)
    parts = np.stack([said[:, 0] / log.num_sessions, (left_over / weight.sum(0) + said / earlier.sum(0)).sum(1)])
    covariance = np.cov(parts) * log.num_sessions
    blend = least_on_simplex(covariance)
    assert statistics.estimate() == pytest.approx(float(blend @ parts.sum(axis=1)), abs=1e-9)


def test_magic_without_resamples_says_what_it_needs(chain):
    with pytest.raises(ValueError, match="needs resamples"):
        value(MAGIC(), chain.population(WRONG_Q, WRONG_V))


def test_lengths_run_from_the_model_to_the_last_step():
    assert lengths(3, 25).tolist() == [-1, 0, 1, 2]
    assert lengths(100, 3).tolist() == [-1, 49, 99]


@given(st.integers(1, 8), st.integers(0, 10**6))
def test_the_minimum_on_the_simplex_is_one(size: int, seed: int):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, rng.integers(1, size + 1)))
    matrix = factor @ factor.T
    found = least_on_simplex(matrix)
    assert found.min() >= 0.0
    assert found.sum() == pytest.approx(1.0)
    gradient = matrix @ found
    # No vertex lies downhill: the condition of optimality for a convex function.
    assert gradient.min() >= found @ gradient - 1e-6 * np.trace(matrix)


def test_the_minimum_of_nothing_is_the_longest():
    assert least_on_simplex(np.zeros((3, 3))).tolist() == [0.0, 0.0, 1.0]
