"""Bandit estimators against numbers worked out by hand and exact expectations over every outcome."""

import itertools
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ope.bandit import (
    DR,
    IPS,
    SNDR,
    SNIPS,
    ClippedIPS,
    DirectMethod,
    OptimisticShrinkageDR,
    SubGaussianDR,
    SubGaussianIPS,
    SwitchDR,
)
from models.ope.base import Estimator
from models.ope.log import SessionLog
from models.ope.statistics import Statistics

sys.path.append(str(Path(__file__).parent))
worlds = import_module("worlds")

WRONG = np.array([[0.9, 0.1, 0.4], [0.2, 0.8, 0.5]])
"""A model that is right about nothing."""


def value(estimator: Estimator, log: SessionLog) -> float:
    return Statistics.of(estimator, log).estimate()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (IPS(), 0.75),
        (ClippedIPS(cap=1.0), 0.5),
        (SNIPS(), 6 / 7),
        (DirectMethod(), 0.4125),
        (DR(), 0.7375),
        # .4125 + (2 * .5 - .5 * .2 + .4) / 3.5
        (SNDR(), 0.4125 + 1.3 / 3.5),
        (SwitchDR(threshold=1.0), 0.4875),
        # Weights 2/5, .5/1.25, 1/2, 0
        (OptimisticShrinkageDR(shrinkage=1.0), 0.4925),
        # Weights 2/1.5, .5/.75, 1, 0
        (SubGaussianIPS(smoothing=0.5), (4 / 3 + 1) / 4),
        (SubGaussianDR(smoothing=0.5), 0.4125 + (4 / 3 * 0.5 - 2 / 3 * 0.2 + 0.4) / 4),
    ],
    ids=lambda each: each.key if isinstance(each, Estimator) else "",
)
def test_the_worked_example(estimator: Estimator, expected: float):
    assert value(estimator, worlds.worked_bandit()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", [IPS(), DR(), SwitchDR(threshold=100.0), ClippedIPS(cap=100.0)], ids=lambda each: each.key)
def test_what_is_unbiased_has_the_true_value_as_its_expectation(estimator: Estimator):
    # Every log of two rounds with its probability; no sampling.
    rows = list(worlds.outcomes())
    expectation = 0.0
    for one, other in itertools.product(rows, rows):
        log = worlds.bandit_log(*([one[k], other[k]] for k in (1, 2, 3)), WRONG)
        expectation += one[0] * other[0] * value(estimator, log)
    assert expectation == pytest.approx(worlds.BANDIT_VALUE, abs=1e-12)


@pytest.mark.parametrize("estimator", [SNIPS(), SNDR()], ids=lambda each: each.key)
def test_what_normalises_itself_is_biased_in_small_logs_and_right_in_the_population(estimator: Estimator):
    expectation = total = 0.0
    rows = list(worlds.outcomes())
    for one, other in itertools.product(rows, rows):
        found = value(estimator, worlds.bandit_log(*([one[k], other[k]] for k in (1, 2, 3)), WRONG))
        if np.isfinite(found):
            expectation, total = expectation + one[0] * other[0] * found, total + one[0] * other[0]
    assert abs(expectation / total - worlds.BANDIT_VALUE) > 0.01
    assert value(estimator, worlds.bandit_population(WRONG)) == pytest.approx(worlds.BANDIT_VALUE, abs=1e-12)


def test_wrong_propensities_with_the_right_model_leave_dr_right():
    right = worlds.bandit_population(worlds.MEANS)
    wrong = SessionLog(right.session, right.offsets, right.reward, right.target, right.behaviour**0.5, right.predicted, right.expected)
    assert value(DR(), wrong) == pytest.approx(worlds.BANDIT_VALUE, abs=1e-12)
    assert abs(value(IPS(), wrong) - worlds.BANDIT_VALUE) > 0.05


def test_the_direct_method_is_as_right_as_its_model():
    assert value(DirectMethod(), worlds.bandit_population(worlds.MEANS)) == pytest.approx(worlds.BANDIT_VALUE, abs=1e-12)
    assert value(DirectMethod(), worlds.bandit_population(WRONG)) != pytest.approx(worlds.BANDIT_VALUE, abs=0.01)


def test_a_model_that_knows_every_reward_leaves_nothing_to_correct():
    log = worlds.worked_bandit()
    exact = SessionLog(log.session, log.offsets, log.reward, log.target, log.behaviour, log.reward, log.expected)
    for estimator in (DR(), SNDR(), SwitchDR(), OptimisticShrinkageDR(), SubGaussianDR()):
        assert value(estimator, exact) == pytest.approx(value(DirectMethod(), exact), abs=1e-12)


def _changed(log: SessionLog, **changes: object) -> SessionLog:
    return SessionLog(**{**{name: getattr(log, name) for name in SessionLog.__dataclass_fields__}, **changes})


@given(st.integers(0, 10**6))
def test_settings_at_their_ends_are_other_estimators(seed: int):
    log = worlds.random_log(20, seed)
    dr, dm, ips = (value(estimator, log) for estimator in (DR(), DirectMethod(), IPS()))
    assert value(SwitchDR(threshold=1e6), log) == dr
    assert value(SwitchDR(threshold=0.0), log) == pytest.approx(dm, abs=1e-12)
    assert value(OptimisticShrinkageDR(shrinkage=1e18), log) == pytest.approx(dr, rel=1e-9)
    assert value(OptimisticShrinkageDR(shrinkage=0.0), log) == pytest.approx(dm, abs=1e-12)
    assert value(SubGaussianDR(smoothing=0.0), log) == dr
    assert value(SubGaussianIPS(smoothing=0.0), log) == ips
    assert value(SubGaussianIPS(smoothing=1.0), log) == pytest.approx(log.reward.mean())
    assert value(ClippedIPS(cap=1e6), log) == ips


@given(st.integers(0, 10**6))
def test_the_same_policy_has_the_mean_reward(seed: int):
    log = worlds.random_log(10, seed)
    same = _changed(log, target=log.behaviour)
    for estimator in (IPS(), SNIPS(), ClippedIPS()):
        assert value(estimator, same) == pytest.approx(log.reward.mean(), abs=1e-12)


@given(st.integers(0, 10**6), st.floats(-5.0, 5.0))
def test_a_shift_of_all_rewards_moves_self_normalised_estimates_along(seed: int, shift: float):
    log = worlds.random_log(15, seed)
    moved = _changed(log, reward=log.reward + shift)
    assert value(SNIPS(), moved) == pytest.approx(value(SNIPS(), log) + shift, abs=1e-9)
    assert value(SNDR(), moved) == pytest.approx(value(SNDR(), log) + shift, abs=1e-9)
    assert value(IPS(), moved) == pytest.approx(value(IPS(), log) + shift * log.weight.mean(), abs=1e-9)


@given(st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_self_normalised_estimates_do_not_know_the_scale_of_the_propensities(seed: int, scale: float):
    log = worlds.random_log(15, seed)
    scaled = _changed(log, behaviour=log.behaviour * scale)
    assert value(SNIPS(), scaled) == pytest.approx(value(SNIPS(), log), rel=1e-9)
    assert value(IPS(), scaled) == pytest.approx(value(IPS(), log) / scale, rel=1e-9)


@given(st.integers(0, 10**6))
def test_snips_stays_within_the_rewards_however_small_a_propensity(seed: int):
    log = worlds.random_log(10, seed)
    tiny = _changed(log, behaviour=np.where(np.arange(log.num_rounds) == 0, 1e-12, log.behaviour))
    assert log.reward.min() <= value(SNIPS(), tiny) <= log.reward.max()


def test_without_any_weight_there_is_no_self_normalised_value():
    log = worlds.worked_bandit()
    nowhere = _changed(log, target=np.zeros(4))
    assert np.isnan(value(SNIPS(), nowhere))
    assert value(IPS(), nowhere) == 0.0


def test_estimators_that_need_a_model_say_so():
    log = _changed(worlds.worked_bandit(), predicted=None, expected=None)
    assert value(IPS(), log) == 0.75
    with pytest.raises(ValueError, match="needs a reward model"):
        value(DR(), log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviour": np.array([0.4, 0.0, 0.4, 0.4])}, "behaviour"),
        ({"behaviour": np.array([0.4, np.nan, 0.4, 0.4])}, "behaviour"),
        ({"target": np.array([0.4, 1.2, 0.4, 0.4])}, "target"),
        ({"reward": np.zeros(3)}, "3 rewards"),
        ({"predicted": None}, "both or neither"),
        ({"offsets": np.array([0, 2, 2, 3, 4])}, "without rounds"),
        ({"offsets": np.array([0, 1, 2, 3, 5])}, "from 0 to 4"),
    ],
)
def test_a_log_that_cannot_be_is_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        _changed(worlds.worked_bandit(), **changes)


def test_rounds_are_gathered_by_session_in_their_order():
    log = SessionLog.from_rounds(np.array([7, 3, 7, 3, 3], np.uint64), np.arange(5.0), np.full(5, 0.5), np.full(5, 0.5))
    assert log.session.tolist() == [3, 7]
    assert log.reward.tolist() == [1.0, 3.0, 4.0, 0.0, 2.0]
    assert log.lengths.tolist() == [3, 2]
    assert log.by_session(log.reward).tolist() == [8.0, 2.0]


def test_keys_hold_every_setting():
    assert ClippedIPS(cap=2.5).key == "clipped_ips@2.5"
    assert IPS().key == "ips"
