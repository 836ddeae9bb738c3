"""Estimates over parts on Beam are those of one machine; a better policy is blessed, and what the log cannot tell is refused."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact
from components.base import ComponentError
from components.evaluation import Decisions, Protocol, read_decisions
from components.evaluator import value
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED, judge_slices, judge_value
from components.evaluator.config import BlessingConfig, EvaluatorConfig, OpeConfig
from components.evaluator.slices import measure_slices, slice_masks
from components.evaluator.value import LOGGED, estimate_value
from components.ope import estimate_panels
from models.frameworks import tf
from models.metrics.ranking import MAX_RANK, RankedSteps
from models.ope.log import SessionLog
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling
from models.ope.statistics import Panel

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

NUM_ITEMS = 21
"""N: items 1..20."""


# === The combiner ===


def random_log(seed: int = 0, num_sessions: int = 150) -> SessionLog:
    rng = np.random.default_rng(seed)
    session = np.repeat(np.arange(num_sessions), rng.integers(1, 7, num_sessions))
    count = len(session)
    columns = [rng.normal(size=count), *(rng.uniform(0.05, 1.0, count) for _ in range(2)), rng.normal(size=count), rng.normal(size=count)]
    return SessionLog.from_rounds(session, *columns)


def test_a_beam_run_equals_one_machine_to_the_last_bit(tmp_path: Path):
    estimators = [kind() for name, kind in ESTIMATORS.items() if name != "magic"]
    resampling = Resampling(num_resamples=20, seed=3)
    logs = {"one": random_log(0), "other": random_log(1)}
    panels = estimate_panels(logs, estimators, resampling, toy.context(tmp_path), rounds_of_a_part=150)
    for policy, log in logs.items():
        whole = Panel(estimators, resampling).add(log)
        assert panels[policy].statistics.keys() == whole.statistics.keys()
        for key, statistics in whole.statistics.items():
            found = panels[policy].statistics[key]
            assert found.num_sessions == 150
            assert found.estimate() == statistics.estimate(), key
            np.testing.assert_array_equal(found.resampled_values(), statistics.resampled_values(), err_msg=key)


# === A log whose policy is known ===


def shop_of(num_sessions: int, seed: int, with_propensity: bool, folder: Path) -> Artifact:
    """Sessions of a policy that shows items 1..20 with known chances, whatever came before; items above 15 bring five times as much."""
    rng = np.random.default_rng(seed)
    chance = np.linspace(2.0, 1.0, NUM_ITEMS - 1)
    chance /= chance.sum()
    for split, size in {"train": num_sessions, "eval": 5, "test": num_sessions}.items():
        path = folder / f"Split-{split}"
        path.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(path / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
            for number in range(size):
                items = rng.choice(NUM_ITEMS - 1, int(rng.integers(3, 7)), p=chance) + 1
                reward = np.where(items > 15, 1.0, 0.2)
                ints = {"item_id": items, "feedback": (reward > 0.5).astype(int), "num_context": [0], "is_terminal": [1]}
                floats = {"reward": reward, "return_to_go": np.cumsum(reward[::-1])[::-1]}
                if with_propensity:
                    floats["propensity"] = chance[items - 1]
                feature = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=values)) for name, values in ints.items()}
                feature |= {name: tf.train.Feature(float_list=tf.train.FloatList(value=values)) for name, values in floats.items()}
                for name, text in {"user_id": "u", "session_id": f"{split}-{number}"}.items():
                    feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return toy.artifact(folder, "Examples", {})


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return shop_of(400, 0, True, tmp_path_factory.mktemp("logged"))


@pytest.fixture(scope="module")
def unlogged(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return shop_of(400, 0, False, tmp_path_factory.mktemp("unlogged"))


def decisions_of(examples: Artifact) -> Decisions:
    return read_decisions(examples, "test", NUM_ITEMS, Protocol())


def always(decisions: Decisions, items: list[int]) -> RankedSteps:
    """The ranks of a model that recommends the same items to everybody."""
    best = np.tile(np.array(items), (len(decisions.target), 1))
    hit = best == decisions.target[:, None]
    rank = np.where(hit.any(axis=1), hit.argmax(axis=1), MAX_RANK)
    role = (decisions.reward > 0.5).astype(np.int64)
    return RankedSteps(rank, role, decisions.reward, decisions.session, decisions.target < NUM_ITEMS, {}, best)


GOOD, BAD = [16, 17, 18, 19, 20], [6, 7, 8, 9, 10]


def value_of(examples: Artifact, folder: Path, candidate: list[int], deployed: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    decisions = decisions_of(examples)
    ranked = {CANDIDATE: always(decisions, candidate)}
    if deployed:
        ranked[LAST_BLESSED] = always(decisions, deployed)
    config = EvaluatorConfig(num_resamples=200, ope=OpeConfig(**{"k": 5, "min_propensity": 1e-3, **changes}))
    return estimate_value(config, ranked, examples, "test", NUM_ITEMS, toy.context(folder))


REQUIRED = BlessingConfig(value_gate="required")


def test_logged_propensities_are_read_in_the_order_of_the_states(logged: Artifact):
    decisions = decisions_of(logged)
    chance = np.linspace(2.0, 1.0, NUM_ITEMS - 1) / np.linspace(2.0, 1.0, NUM_ITEMS - 1).sum()
    np.testing.assert_allclose(decisions.propensity, chance[decisions.target - 1], rtol=1e-6)


@pytest.mark.parametrize("kind", ["logged", "estimated"])
def test_values_come_near_the_known_ones(kind: str, logged: Artifact, unlogged: Artifact, tmp_path: Path):
    found = value_of(logged if kind == "logged" else unlogged, tmp_path, GOOD)
    assert found["propensities"] == kind
    chance = np.linspace(2.0, 1.0, NUM_ITEMS - 1) / np.linspace(2.0, 1.0, NUM_ITEMS - 1).sum()
    reward = np.where(np.arange(1, NUM_ITEMS) > 15, 1.0, 0.2)
    # Half of the decisions as logged, half on items that bring 1.
    truth = 0.5 * float(chance @ reward) + 0.5
    for name in ("snips", "clipped_ips", "dm", "sndr"):
        interval = found["values"][name][CANDIDATE]["interval"]
        assert interval is not None, found["values"][name]
        # The direct method is drawn towards the mean where there are few rounds, by design.
        assert interval["value"] == pytest.approx(truth, abs=0.1 if name == "dm" else 0.05), name
        assert interval["low"] < interval["value"] < interval["high"]
    assert found["deployed"] == LOGGED
    assert found["key"] == "top5_logged@0.5"
    assert abs(sum(share for _, share, _ in found["weights"]) - 1.0) < 1e-9


def test_a_better_policy_is_blessed_and_a_worse_one_is_not(logged: Artifact, tmp_path: Path):
    better = judge_value(value_of(logged, tmp_path / "better", GOOD, BAD), REQUIRED)
    assert [(check.name, check.passed) for check in better] == [("value/support", True), ("value/lower_bound", True)]
    worse = judge_value(value_of(logged, tmp_path / "worse", BAD, GOOD), REQUIRED)
    assert [(check.name, check.passed) for check in worse] == [("value/support", True), ("value/lower_bound", False)]
    assert worse[1].found is not None
    assert worse[1].bound is not None
    assert worse[1].found < worse[1].bound < 0.0
    # By chance alone the worse one would pass the gate of its own value: only the paired difference tells.
    same = value_of(logged, tmp_path / "same", GOOD, GOOD)["difference"]["interval"]
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_an_uncalibrated_behaviour_model_gives_no_value(unlogged: Artifact, tmp_path: Path):
    found = value_of(unlogged, tmp_path, GOOD, max_calibration_error=1e-4)
    assert found["difference"]["interval"] is None
    (check,) = judge_value(found, REQUIRED)
    assert not check.passed
    assert "uncalibrated_behaviour" in check.codes
    (passed_over,) = judge_value(found, BlessingConfig())
    assert passed_over.passed
    assert "passed over" in passed_over.reason


def test_a_policy_on_what_was_never_shown_gives_no_value(logged: Artifact, tmp_path: Path):
    found = value_of(logged, tmp_path, GOOD, min_propensity=0.2)
    (check,) = judge_value(found, REQUIRED)
    assert not check.passed
    assert "unsupported_mass" in check.codes


def test_wrong_propensities_are_seen_by_their_mean_weight(logged: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decisions = decisions_of(logged)
    wrong = replace(decisions, propensity=decisions.propensity / 3.0)
    monkeypatch.setattr(value, "read_decisions", lambda *_: wrong)
    found = value_of(logged, tmp_path, GOOD)
    assert found["difference"]["interval"] is None
    assert "mean_weight_off" in {reason["code"] for reason in found["difference"]["reasons"]}


def test_logged_propensities_that_are_missing_are_an_error(unlogged: Artifact, tmp_path: Path):
    with pytest.raises(ComponentError, match="events have no propensity"):
        value_of(unlogged, tmp_path, GOOD, propensities="logged")


def test_without_an_estimate_the_gate_says_so():
    (required,) = judge_value(None, REQUIRED)
    (asked,) = judge_value(None, BlessingConfig())
    assert (required.passed, asked.passed, required.codes) == (False, True, ("not_estimated",))
    assert judge_value(None, BlessingConfig(value_gate="off")) == []


# === Slices ===


def test_a_win_on_average_hides_no_loss_in_a_slice():
    rng = np.random.default_rng(0)
    sessions = np.repeat(np.arange(300), 4)
    target = rng.integers(1, 101, len(sessions))
    history = np.tile([1, 2, 0, 0], (len(sessions), 1))
    decisions = Decisions(sessions, history, target, np.ones(len(sessions), np.float32), np.zeros(len(sessions), np.float32))
    masks = slice_masks(decisions, 101)
    # The candidate always finds what is popular and never what is not; the deployed model finds half of everything.
    tail = masks["item/tail"]
    ranks = {CANDIDATE: np.where(tail, MAX_RANK, 0), LAST_BLESSED: np.where(rng.random(len(tail)) < 0.5, 0, MAX_RANK)}
    ranked = {
        name: RankedSteps(rank, np.zeros(len(rank), np.int64), decisions.reward, sessions, tail >= 0, {}) for name, rank in ranks.items()
    }
    slices = measure_slices(ranked, masks, "ndcg@10", 100, 0)
    checks = {check.name: check.passed for check in judge_slices(slices, BlessingConfig(max_slice_drop=0.1))}
    assert checks["slice/item/tail"] is False
    assert checks["slice/item/next 9%"] is True
    assert judge_slices(slices, BlessingConfig()) == []
    # Places of the session that nobody reached are no slice.
    assert "step/10+" not in slices
    assert sum(slices[name]["events"] for name in ("item/top 1%", "item/next 9%", "item/tail") if name in slices) <= len(sessions)
