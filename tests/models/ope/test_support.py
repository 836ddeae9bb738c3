"""Diagnostics against closed forms, and estimates that must be refused."""

import json
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ope.bandit import IPS, DirectMethod
from models.ope.diagnostics import NUM_LARGEST, Calibration, Overlap, WeightStatistics
from models.ope.intervals import bootstrap
from models.ope.log import SessionLog
from models.ope.resampling import Resampling
from models.ope.statistics import Panel, Statistics
from models.ope.support import Evidence, Reason, Requirements, judge, refuse

sys.path.append(str(Path(__file__).parent))
worlds = import_module("worlds")


def test_the_worked_example():
    weights = WeightStatistics.of_rounds(worlds.worked_bandit())
    assert weights.effective_size() == pytest.approx(7 / 3)
    assert weights.mean() == pytest.approx(3.5 / 4)
    assert weights.largest_share() == pytest.approx(2 / 3.5)
    assert weights.num_zero == 1
    assert weights.mean_error() == pytest.approx(np.std([2, 0.5, 1, 0], ddof=1) / 2)


def test_weights_of_sessions_are_those_at_their_ends():
    weights = WeightStatistics.of_sessions(worlds.worked_sessions())
    assert weights.largest == pytest.approx([2, 1.5, 0.5])
    assert weights.effective_size() == pytest.approx(16 / 6.5)


def test_equal_weights_are_all_effective():
    weights = WeightStatistics.of(np.full(50, 0.3))
    assert weights.effective_size() == pytest.approx(50)
    assert weights.tail_index() == math.inf
    assert weights.largest_share() == pytest.approx(1 / 50)


@pytest.mark.parametrize("index", [0.8, 1.5, 3.0])
def test_the_tail_index_of_a_power_law_is_its_exponent(index: float):
    # The quantiles of P(w > x) = x^-a, without chance.
    size = 200_000
    weights = WeightStatistics.of(((np.arange(size) + 0.5) / size) ** (-1 / index))
    assert weights.tail_index() == pytest.approx(index, rel=0.05)


def test_too_few_weights_have_no_tail():
    assert math.isnan(WeightStatistics.of(np.array([1.0, 2.0, 3.0])).tail_index())
    assert math.isnan(WeightStatistics.of(np.zeros(100)).tail_index())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(0, 60))
def test_weights_of_shards_are_those_of_one_log(values: list[float], cut: int):
    whole = WeightStatistics.of(np.array(values))
    one, other = (WeightStatistics.of(np.array(part, np.float64)) for part in (values[:cut], values[cut:]))
    for joined in (one.merge(other), other.merge(one)):
        assert joined.effective_size() == whole.effective_size()
        assert joined.largest.tolist() == whole.largest.tolist()
        assert (joined.size, joined.num_zero) == (whole.size, whole.num_zero)


def test_only_the_largest_weights_are_kept():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=5 * NUM_LARGEST)
    joined = WeightStatistics.of(values[:2000]).merge(WeightStatistics.of(values[2000:]))
    assert joined.largest.tolist() == sorted(values, reverse=True)[:NUM_LARGEST]


def test_overlap_is_the_mass_of_the_target_where_nothing_was_shown():
    target = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    behaviour = np.array([[1.0, 0.0, 0.0], [0.6, 0.3, 0.1]])
    assert Overlap.of(target, behaviour).unsupported_mass() == pytest.approx(0.25)
    assert Overlap.of(target, behaviour, floor=0.2).unsupported_mass() == pytest.approx(0.5)
    joined = Overlap.of(target[:1], behaviour[:1]).merge(Overlap.of(target[1:], behaviour[1:]))
    assert joined.unsupported_mass() == pytest.approx(0.25)


def test_a_model_that_knows_the_logging_policy_is_calibrated():
    # In 8 rounds the items are logged as often as the model says.
    behaviour = np.tile([0.5, 0.25, 0.125, 0.125], (8, 1))
    item = np.array([0, 0, 0, 0, 1, 1, 2, 3])
    right = Calibration.of(behaviour, item)
    assert right.error() == pytest.approx(0.0)
    assert right.mean_log_loss() == pytest.approx((4 * math.log(2) + 2 * math.log(4) + 2 * math.log(8)) / 8)
    # Half of the mass of item 0 is elsewhere: 2 of 8 rounds.
    assert Calibration.of(behaviour, np.array([0, 0, 1, 1, 1, 1, 2, 3])).error() == pytest.approx(0.25)
    joined = Calibration.of(behaviour[:3], item[:3]).merge(Calibration.of(behaviour[3:], item[3:]))
    assert joined.error() == right.error()
    assert joined.mean_log_loss() == right.mean_log_loss()


def test_few_rounds_of_a_true_model_are_off_by_chance():
    # Bins of 2, 1, .8 and .2 events.
    behaviour = np.array([[0.5, 0.25, 0.2, 0.05]])
    four = Calibration.of(np.tile(behaviour, (4, 1)), np.array([0, 0, 1, 2]))
    assert four.chance_error() == pytest.approx(np.sqrt(2.0 * 4 * behaviour / math.pi).sum() / 8.0)
    rng = np.random.default_rng(0)
    found = [Calibration.of(np.tile(behaviour, (400, 1)), rng.choice(4, 400, p=behaviour[0])) for _ in range(50)]
    # Each bin's share varies a bit less than Poisson's: by sqrt(1 - p).
    assert 0.7 < np.mean([each.error() for each in found]) / found[0].chance_error() < 1.0


def test_an_item_the_model_held_impossible_shows():
    found = Calibration.of(np.array([[1.0, 0.0]]), np.array([1]))
    assert found.error() == pytest.approx(1.0)
    assert found.mean_log_loss() > 700


# === Refusal ===


def _log(weight: np.ndarray) -> SessionLog:
    """A log with given weights up to 1000."""
    size = len(weight)
    behaviour = np.full(size, 1e-3)
    model = np.full(size, 0.5)
    return SessionLog.from_rounds(worlds.keys(size), np.ones(size), weight * behaviour, behaviour, model, model)


def _reasons(log: SessionLog, estimator=None, **evidence: object) -> dict[str, Reason]:
    given = Evidence(WeightStatistics.of_rounds(log), **evidence)
    return {reason.code: reason for reason in refuse(Statistics.of(estimator or IPS(), log), given)}


GOOD = np.tile([0.5, 1.5], 500)


def test_a_log_with_support_gives_a_value():
    log = _log(GOOD)
    statistics = Panel([IPS()], Resampling(num_resamples=100)).add(log).statistics["ips"]
    verdict = judge(statistics, bootstrap(statistics), Evidence(WeightStatistics.of_rounds(log)))
    assert verdict.reasons == ()
    assert verdict.interval is not None
    assert verdict.interval.low < 1.0 < verdict.interval.high


def test_one_great_weight_is_no_support():
    weight = np.append(np.zeros(999), 1000.0)
    found = _reasons(_log(weight))
    assert set(found) == {"low_effective_size", "low_effective_share", "dominant_weight"}
    assert found["dominant_weight"].found == pytest.approx(1.0)
    assert found["low_effective_size"] == Reason("low_effective_size", pytest.approx(1.0), 100.0)


def test_weights_that_miss_mass_are_off():
    assert "mean_weight_off" in _reasons(_log(GOOD * 0.8))
    assert _reasons(_log(GOOD)) == {}


def test_a_heavy_tail_is_refused():
    size = 4000
    weight = ((np.arange(size) + 0.5) / size) ** (-1 / 1.5)
    assert "heavy_tail" in _reasons(_log(np.minimum(weight / weight.mean(), 1000.0)))


def test_too_few_sessions_are_refused():
    assert _reasons(_log(GOOD[:50]))["too_few_sessions"] == Reason("too_few_sessions", 50, 100)


def test_mass_on_what_was_never_shown_is_refused():
    overlap = Overlap.of(np.array([[0.9, 0.1]]), np.array([[1.0, 0.0]]))
    assert _reasons(_log(GOOD), overlap=overlap)["unsupported_mass"].found == pytest.approx(0.1)


def test_an_estimated_logging_policy_must_have_been_checked():
    assert set(_reasons(_log(GOOD), behaviour_is_estimated=True)) == {"unknown_support"}
    good, bad = (Calibration.of(np.array([[share, 1 - share]] * 2), np.array([0, 1])) for share in (0.5, 0.999))
    assert _reasons(_log(GOOD), behaviour_is_estimated=True, calibration=good) == {}
    assert set(_reasons(_log(GOOD), behaviour_is_estimated=True, calibration=bad)) == {"uncalibrated_behaviour"}


def test_the_direct_method_is_not_asked_for_its_weights_but_for_support():
    weight = np.append(np.zeros(999), 1000.0)
    assert _reasons(_log(weight), DirectMethod()) == {}
    assert "mean_weight_off" in _reasons(_log(GOOD * 0.8), DirectMethod())


def test_a_refused_verdict_is_plain_data_without_a_number():
    log = _log(np.zeros(200))
    given = judge(Statistics.of(IPS(), log), None, Evidence(WeightStatistics.of_rounds(log)))
    plain = json.loads(json.dumps(given.as_dict(), allow_nan=False))
    assert plain["interval"] is None
    assert {"code": "no_interval", "found": None, "bound": None} in plain["reasons"]
    assert {reason["code"] for reason in plain["reasons"]} >= {"low_effective_size", "mean_weight_off"}


def test_requirements_can_be_set():
    log = _log(GOOD[:50])
    required = Requirements(min_sessions=10, min_effective_size=5.0)
    assert refuse(Statistics.of(IPS(), log), Evidence(WeightStatistics.of_rounds(log)), required) == ()
