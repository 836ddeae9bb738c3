"""Estimates over parts on Beam are those of one machine; a better policy is blessed, and what the log cannot tell is refused."""

import gzip
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import trajectory_io
from components.artifacts import Artifact
from components.base import ComponentError
from components.evaluation import Decisions, Protocol, read_decisions
from components.evaluator import logs, train_counts
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED, judge_slices, judge_value
from components.evaluator.config import BlessingConfig, EvaluatorConfig, OpeConfig, SliceTable
from components.evaluator.slices import known_before, measure_slices, slice_masks, table_masks
from components.evaluator.train_counts import TrainCounts, count_train
from components.evaluator.value import LOGGED, estimate_value
from components.ope import estimate_panels
from components.trajectory_io import name_keys
from models.frameworks import tf
from models.metrics.ranking import MAX_RANK, RankedSteps
from models.ope.behaviour import Counts, CrossFittedBehaviour, Rounds
from models.ope.diagnostics import Calibration
from models.ope.log import SessionLog
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling
from models.ope.sensitivity import MAX_FACTOR
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
    estimators = [kind() for kind in ESTIMATORS.values()]
    resampling = Resampling(num_resamples=20, seed=3)
    logs = {"one": random_log(0), "other": random_log(1)}
    jobs = {name: (log, estimators) for name, log in logs.items()} | {"few": (logs["one"], estimators[:2])}
    panels = estimate_panels(jobs, resampling, toy.context(tmp_path), rounds_of_a_part=150)
    for policy, (log, wanted) in jobs.items():
        whole = Panel(wanted, resampling).add(log)
        assert panels[policy].statistics.keys() == whole.statistics.keys()
        for key, statistics in whole.statistics.items():
            found = panels[policy].statistics[key]
            assert found.num_sessions == 150
            assert found.estimate() == statistics.estimate(), key
            np.testing.assert_array_equal(found.resampled_values(), statistics.resampled_values(), err_msg=key)


# === A log whose policy is known ===


def shop_of(num_sessions: int, seed: int, with_propensity: bool, folder: Path, num_users: int = 1) -> Artifact:
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
                for name, text in {"user_id": "u" * (1 + number % num_users), "session_id": f"{split}-{number}"}.items():
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


def value_of(
    examples: Artifact, folder: Path, candidate: list[int], deployed: list[int] | None = None, scale: float = 1.0, **changes: Any
) -> dict[str, Any]:
    decisions = decisions_of(examples)
    decisions = replace(decisions, propensity=decisions.propensity * np.float32(scale))
    ranked = {CANDIDATE: always(decisions, candidate)}
    if deployed:
        ranked[LAST_BLESSED] = always(decisions, deployed)
    config = EvaluatorConfig(num_resamples=200, ope=OpeConfig(**{"k": 5, "min_propensity": 1e-3, **changes}))
    other = count_train(examples, NUM_ITEMS).items
    return estimate_value(config, ranked, decisions, NUM_ITEMS, toy.context(folder), other=other)


REQUIRED = BlessingConfig(value_gate="required")
CHANCE = np.linspace(2.0, 1.0, NUM_ITEMS - 1) / np.linspace(2.0, 1.0, NUM_ITEMS - 1).sum()
LOGGED_VALUE = float(CHANCE @ np.where(np.arange(1, NUM_ITEMS) > 15, 1.0, 0.2))
"""Mean reward of the policy that logged: .347."""


def test_logged_propensities_are_read_in_the_order_of_the_states(logged: Artifact):
    decisions = decisions_of(logged)
    np.testing.assert_allclose(decisions.propensity, CHANCE[decisions.target - 1], rtol=1e-6)


@pytest.mark.parametrize("kind", ["logged", "estimated"])
def test_values_come_near_the_known_ones(kind: str, logged: Artifact, unlogged: Artifact, tmp_path: Path):
    found = value_of(logged if kind == "logged" else unlogged, tmp_path, GOOD)
    assert found["propensities"] == kind
    # Half of the decisions as logged, half on items that bring 1.
    truth = 0.5 * LOGGED_VALUE + 0.5
    for name in ("snips", "clipped_ips", "dm", "sndr"):
        interval = found["values"][f"event/{name}"][CANDIDATE]["interval"]
        assert interval is not None, found["values"][f"event/{name}"]
        # Three standard errors; the direct method is drawn towards the mean where there are few rounds, by design.
        error = (interval["high"] - interval["low"]) / 3.92
        assert interval["value"] == pytest.approx(truth, abs=0.1 if name == "dm" else 3.0 * error), name
        assert interval["low"] < interval["value"] < interval["high"]
    # What comes after an event does not depend on it here, so the return gains what the event gains.
    for name in ("event/sndr", "return/sndr"):
        gain = found["differences"][name]["interval"]
        assert gain["low"] < truth - LOGGED_VALUE < gain["high"], name
    assert found["deployed"] == LOGGED
    assert (found["key"], found["decided_by"]) == ("top5_logged@0.5", "return/sndr")
    assert found["difference"] == found["differences"]["return/sndr"]
    # An event on what is good brings 1 at least, more than the mean return of .82: no factor turns that.
    assert found["tipping_factor"] == MAX_FACTOR
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
    # What a perfect model has by chance is no contradiction, only too little to say.
    by_chance = {**found, "calibration": {**found["calibration"], "chance_error": 1.0}}
    (passed_over,) = judge_value(by_chance, BlessingConfig())
    assert passed_over.passed
    assert "passed over" in passed_over.reason


def test_a_behaviour_model_that_the_log_contradicts_blesses_nothing(unlogged: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def skewed(self: CrossFittedBehaviour, session: np.ndarray, rounds: Rounds, floor: float) -> tuple[Calibration, float]:
        """What is shown twice as often as other items is held to be shown sixteen times as often."""
        said = np.tile(CHANCE**4 / (CHANCE**4).sum(), (len(session), 1))
        return Calibration.of(said, rounds.item - 1), 0.0

    monkeypatch.setattr(CrossFittedBehaviour, "check", skewed)
    found = value_of(unlogged, tmp_path, GOOD)
    # The seven likeliest items alone have .6 of the probability and .4 of the events.
    assert 0.15 < found["calibration"]["error"] < 0.3
    assert found["calibration"]["chance_error"] < 0.05
    (check,) = judge_value(found, BlessingConfig())
    assert (check.passed, "uncalibrated_behaviour" in check.codes) == (False, True)
    assert "contradict" in check.reason


def test_a_policy_on_what_was_never_shown_gives_no_value(logged: Artifact, tmp_path: Path):
    found = value_of(logged, tmp_path, GOOD, min_propensity=0.2)
    (check,) = judge_value(found, REQUIRED)
    assert not check.passed
    assert "unsupported_mass" in check.codes


def test_logged_propensities_that_contradict_the_log_bless_nothing(logged: Artifact, tmp_path: Path):
    # Half of the decisions stay as they were logged, with a weight of 1; the others' weights are ten times what they should be.
    found = value_of(logged, tmp_path, GOOD, scale=0.1)
    assert found["difference"]["interval"] is None
    # A log without support would be passed over; one that is wrong is not.
    (check,) = judge_value(found, BlessingConfig())
    assert (check.passed, "mean_weight_off" in check.codes) == (False, True)
    # A policy whose items are acted on more often may have weights so great, and whoever expects that can say so.
    (passed_over,) = judge_value(found, BlessingConfig(max_mean_weight=10.0))
    assert passed_over.passed


def test_logged_propensities_that_are_missing_are_an_error(unlogged: Artifact, tmp_path: Path):
    with pytest.raises(ComponentError, match="events have no propensity"):
        value_of(unlogged, tmp_path, GOOD, propensities="logged")


def test_without_an_estimate_the_gate_says_so():
    (required,) = judge_value(None, REQUIRED)
    (asked,) = judge_value(None, BlessingConfig())
    assert (required.passed, asked.passed, required.codes) == (False, True, ("not_estimated",))
    assert judge_value(None, BlessingConfig(value_gate="off")) == []


# === The long run ===

STEPS = 6
PATIENT, BAIT = 1, 2


def bait_shop(num_sessions: int) -> Decisions:
    """An even choice at every step: bait brings 1 and ends the session, the other item .3 and leads on, six steps at most."""
    rng = np.random.default_rng(3)
    rows: list[tuple[int, list[int], int, float, float, int]] = []
    for session in range(num_sessions):
        items: list[int] = []
        while len(items) < STEPS and BAIT not in items:
            items.append(int(rng.integers(1, 3)))
        reward = np.where(np.array(items) == BAIT, 1.0, 0.3)
        to_go = np.cumsum(reward[::-1])[::-1]
        rows += [(session, (items[:t] + [0] * STEPS)[:STEPS], items[t], reward[t], to_go[t], t) for t in range(len(items))]
    session, history, target, reward, to_go, time = (np.array(column) for column in zip(*rows, strict=True))
    half = np.full(len(rows), 0.5, np.float32)
    return Decisions(
        session=session,
        user=session,
        history=history,
        target=target,
        role=(target == BAIT).astype(np.int64),
        reward=reward.astype(np.float32),
        to_go=to_go.astype(np.float32),
        time=time,
        propensity=half,
    )


def test_a_policy_for_the_long_run_is_blessed_by_the_return_and_not_by_the_moment(tmp_path: Path):
    decisions = bait_shop(1200)
    # Shuffled: the order of a session is that of its times.
    order = np.random.default_rng(0).permutation(len(decisions.session))
    decisions = Decisions(**{name: getattr(decisions, name)[order] for name in Decisions.__dataclass_fields__})

    def best(item: int) -> RankedSteps:
        found = np.full((len(decisions.target), 1), item)
        nothing = np.zeros(len(found), np.int64)
        return RankedSteps(nothing, nothing, decisions.reward, decisions.session, nothing == 0, {}, found)

    ranked = {CANDIDATE: best(PATIENT), LAST_BLESSED: best(BAIT)}
    ope = OpeConfig(k=1, as_logged=0.8, estimators=("snips", "pdis", "wdr", "sequential_dr"))
    masks = {"step/first": decisions.time == 0, "step/later": decisions.time > 0, "step/never": decisions.time > STEPS}
    config = EvaluatorConfig(num_resamples=200, ope=ope)
    found = estimate_value(config, ranked, decisions, 3, toy.context(tmp_path), masks=masks)

    # A fifth of all decisions are the policy's. V_t = (1 + .3 + V_{t+1}) / 2 as logged, step t is reached by 2^-t of the sessions.
    as_logged, mixed = np.zeros(STEPS + 1), {item: np.zeros(STEPS + 1) for item in (PATIENT, BAIT)}
    for t in reversed(range(STEPS)):
        as_logged[t] = 0.5 * 1.0 + 0.5 * (0.3 + as_logged[t + 1])
        for item, share in ((PATIENT, 0.4), (BAIT, 0.6)):
            mixed[item][t] = share * 1.0 + (1.0 - share) * (0.3 + mixed[item][t + 1])
    reached = 0.5 ** np.arange(STEPS)
    one_step = float((reached * 0.2 * (0.3 + as_logged[1:] - 1.0)).sum() / reached.sum())
    truths = {
        "event/sndr": 0.2 * (0.3 - 1.0),
        "event/snips": 0.2 * (0.3 - 1.0),
        "return/sndr": one_step,
        "return/snips": one_step,
        **{f"session/{name}": mixed[PATIENT][0] - mixed[BAIT][0] for name in ("pdis", "wdr", "sequential_dr")},
    }
    assert one_step > 0.05
    assert set(found["differences"]) == set(truths)
    for name, truth in truths.items():
        interval = found["differences"][name]["interval"]
        assert interval is not None, (name, found["differences"][name]["reasons"])
        # Three standard errors and a bit: percentiles of 200 resamples are rough.
        assert interval["value"] == pytest.approx(truth, abs=0.8 * (interval["high"] - interval["low"])), name
        assert (interval["low"] > 0.0) == (truth > 0.0), name

    assert [check.passed for check in judge_value(found, REQUIRED)] == [True, True]
    by_moment = {**found, "decided_by": "event/sndr", "difference": found["differences"]["event/sndr"]}
    assert [check.passed for check in judge_value(by_moment, REQUIRED)] == [True, False]
    assert set(found["slices"]) == {"step/first", "step/later"}
    first = found["slices"]["step/first"]
    assert first["sessions"] == 1200
    assert first["interval"]["low"] < 0.2 * (0.3 + as_logged[1] - 1.0) < first["interval"]["high"]


def test_sessions_beyond_all_weights_are_refused_and_nothing_else(tmp_path: Path):
    # A hundred visitors who do what the candidate would for sixty steps, which the log says is one in five million each: (6.7e6 / 2)^60.
    count, length = 100, 60
    zeros = np.zeros(count * length, np.int64)
    history = np.tile(np.tril(np.ones((length, length), np.int64), -1), (count, 1))
    decisions = Decisions(
        session=np.repeat(np.arange(count), length),
        user=zeros,
        history=history,
        target=zeros + 1,
        role=zeros,
        reward=np.ones(count * length, np.float32),
        to_go=np.ones(count * length, np.float32),
        time=np.tile(np.arange(length), count),
        propensity=np.full(count * length, 1.5e-7, np.float32),
    )
    ranked = {CANDIDATE: RankedSteps(zeros, zeros, decisions.reward, decisions.session, zeros == 0, {}, zeros[:, None] + 1)}
    ope = OpeConfig(k=1, estimators=("snpdis", "tis"), decided_by="snips")
    found = estimate_value(EvaluatorConfig(num_resamples=10, ope=ope), ranked, decisions, 3, toy.context(tmp_path))
    for name in ("session/snpdis", "session/tis"):
        assert {reason["code"] for reason in found["differences"][name]["reasons"]} == {"dominant_weight"}
        assert found["values"][name][CANDIDATE]["interval"] is None
    assert "return/snips" in found["differences"]
    long = replace(
        decisions, session=np.repeat(np.arange(10), 600), time=np.tile(np.arange(600), 10), propensity=decisions.propensity * 0 + 0.5
    )
    found = estimate_value(EvaluatorConfig(num_resamples=10, ope=ope), ranked, long, 3, toy.context(tmp_path))
    assert found["differences"]["session/tis"]["reasons"][0] == {
        "policy": CANDIDATE,
        "code": "too_long_sessions",
        "found": 600,
        "bound": 256,
    }


# === Rankers as policies ===


def some_log(ope: OpeConfig, num_items: int = 9) -> logs.Logged:
    """Sessions over items 1 to 8."""
    rng = np.random.default_rng(5)
    count, length = 240, 4
    items = rng.integers(1, num_items, (count, length))
    history = np.stack([np.where(np.arange(length) < t, items, 0) for t in range(length)], axis=1).reshape(-1, length)
    zeros = np.zeros(count * length)
    decisions = Decisions(
        session=np.repeat(np.arange(count), length),
        user=zeros.astype(np.int64),
        history=history,
        target=items.ravel(),
        role=zeros.astype(np.int64),
        reward=rng.random(count * length).astype(np.float32),
        to_go=rng.random(count * length).astype(np.float32),
        time=np.tile(np.arange(length), count),
        propensity=zeros.astype(np.float32),
    )
    return logs.read_logged(ope, decisions, None, num_items)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"k": 3}, "top3_logged@0.5"),
        ({"k": 3, "as_logged": 0.0, "as_random": 0.2}, "top3_logged@0_random@0.2"),
        ({"k": 4, "temperature": 2.0, "as_random": 0.1, "as_logged": 0.3}, "top4@2_logged@0.3_random@0.1"),
    ],
)
def test_a_ranker_is_a_policy_whose_probabilities_sum_to_one(changes: dict[str, Any], key: str):
    ope = OpeConfig(**changes)
    assert ope.key == key
    log = some_log(ope)
    best = np.tile(np.arange(1, ope.k + 1), (len(log.rows), 1))
    models = logs.ItemModels.of(log, 3)
    total, modelled = np.zeros(len(log.rows)), np.zeros(len(log.rows))
    for item in range(1, log.num_items):
        rounds = Rounds(log.rounds.history, np.full(len(log.rows), item))
        chance = log.behaviour.probabilities(log.session, rounds.history, rounds.item[:, None])[:, 0]
        there = replace(log, rounds=rounds, chance=chance)
        made = logs.mixture(ope, there, models, best)
        total += made.target
        # Predictions of every item, as often as the policy shows it.
        modelled += (made.target - ope.as_logged * chance) * models.reward.of(there.arms(rounds.item[:, None]))[:, 0]
    np.testing.assert_allclose(total, 1.0, atol=1e-9)
    made = logs.mixture(ope, log, models, best)
    np.testing.assert_allclose(made.reward[1] - ope.as_logged * made.reward[0], modelled, atol=1e-9)
    shares = logs.place_shares(ope)
    if ope.temperature:
        np.testing.assert_allclose(shares[1:] / shares[:-1], np.exp(-0.5))


def test_decisions_at_random_need_a_log_that_explored():
    # Every item has about an eighth: support at .05, none at .5 but for what the best three are counted for themselves.
    found = {floor: some_log(OpeConfig(as_logged=0.0, as_random=0.2, min_propensity=floor)).random_outside for floor in (0.05, 0.5)}
    assert found == {0.05: pytest.approx(0.0), 0.5: pytest.approx(1.0, abs=0.01)}


def test_a_mixture_that_leaves_nothing_to_the_ranker_is_refused():
    with pytest.raises(ValueError, match="leave no decision to the ranker"):
        OpeConfig(as_logged=0.7, as_random=0.3)


# === Slices ===


def plain_decisions(session: np.ndarray, history: np.ndarray, target: np.ndarray) -> Decisions:
    ones = np.ones(len(session), np.float32)
    zeros = np.zeros(len(session), np.int64)
    return Decisions(session, zeros, history, target, zeros, ones, ones, zeros, 0.0 * ones)


def test_a_win_on_average_hides_no_loss_in_a_slice():
    rng = np.random.default_rng(0)
    sessions = np.repeat(np.arange(300), 4)
    target = rng.integers(1, 101, len(sessions))
    decisions = plain_decisions(sessions, np.tile([1, 2, 0, 0], (len(sessions), 1)), target)
    masks = slice_masks(decisions, 101)
    # The candidate always finds what is popular and never what is not; the deployed model finds half of everything.
    tail = masks["item/tail"]
    ranks = {CANDIDATE: np.where(tail, MAX_RANK, 0), LAST_BLESSED: np.where(rng.random(len(tail)) < 0.5, 0, MAX_RANK)}
    ranked = {
        name: RankedSteps(rank, np.zeros(len(rank), np.int64), decisions.reward, sessions, tail >= 0, {}) for name, rank in ranks.items()
    }
    slices = measure_slices(ranked, masks, "ndcg@10", 100, 0)
    checks = {check.name: check.passed for check in judge_slices(slices, None, BlessingConfig())}
    assert checks["slice/item/tail"] is False
    assert checks["slice/item/next 9%"] is True
    assert judge_slices(slices, None, BlessingConfig(max_slice_drop=None)) == []
    # Places of the session that nobody reached are no slice, and neither is activity that nobody knows.
    assert not {"step/10+", "user/new", "feedback/purchase"} & set(slices)
    assert sum(slices[name]["events"] for name in ("item/top 1%", "item/next 9%", "item/tail") if name in slices) <= len(sessions)


def test_policies_have_values_in_slices_of_what_is_known_before_alone():
    decisions = plain_decisions(np.arange(4), np.zeros((4, 1), np.int64), np.ones(4, np.int64))
    tables = [SliceTable(name=name, path="x", of=of, key_column="k", column="c") for name, of in (("brand", "item"), ("country", "user"))]
    names = [*slice_masks(decisions, 3, np.zeros(4, np.int64)), "brand/a", "country/is"]
    kept = known_before({name: np.ones(4, bool) for name in names}, tables)
    assert {name.partition("/")[0] for name in kept} == {"step", "user", "country"}
    # Of the events on a good item, whoever shows it more often would have had more: their weights do not average to 1.
    assert {"item/tail", "feedback/purchase", "session/1-3 events", "brand/a"} <= set(names) - set(kept)


def test_users_are_sliced_by_what_they_did_in_training():
    decisions = plain_decisions(np.arange(4), np.zeros((4, 1), np.int64), np.ones(4, np.int64))
    counted = TrainCounts(Counts.of_pairs(*np.zeros((2, 0), np.int64), np.zeros(0, bool), 3), np.array([3, 8]), np.array([9, 10]))
    events = counted.events_of(np.array([8, 2, 3, 9]))
    assert events.tolist() == [10, 0, 9, 0]
    masks = slice_masks(decisions, 3, events)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items() if name.startswith("user/")} == {
        "user/new": [1, 3],
        "user/1-9 train events": [2],
        "user/10+ train events": [0],
    }


def test_the_train_split_is_counted_as_its_decisions_say(logged: Artifact):
    counted = count_train(logged, NUM_ITEMS)
    decisions = read_decisions(logged, "train", NUM_ITEMS, Protocol(min_history=0))
    whole = Counts.of(Rounds(decisions.history, decisions.target), NUM_ITEMS)
    for name in ("fresh", "first", "pair", "times"):
        np.testing.assert_array_equal(getattr(counted.items, name), getattr(whole, name))
    assert counted.events_of(decisions.user[:1]) == len(decisions.target)


def test_an_event_that_begins_the_next_record_as_context_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train_counts, "_EVENTS", 2)
    records = [
        toy.Record([3, 5, 3], session="s", user="anna"),
        toy.Record([5, 3, 7, toy.UNKNOWN], num_context=2, session="s", user="anna"),
        toy.Record([5], session="t", user="bo"),
    ]
    examples = toy.write_examples(tmp_path / "examples", {"train": records, "eval": records[2:], "test": records[2:]})
    counted = count_train(examples, NUM_ITEMS)
    # Anna has 3 and 2 events, Bo one; an unknown item is an event of hers and no item.
    users = name_keys(tf.constant(["anna", "bo", "eve"])).numpy()
    assert counted.events_of(users).tolist() == [5, 1, 0]
    decisions = read_decisions(examples, "train", NUM_ITEMS, Protocol(min_history=0))
    known = decisions.target < NUM_ITEMS
    whole = Counts.of(Rounds(decisions.history[known], decisions.target[known]), NUM_ITEMS)
    for name in ("fresh", "first", "pair", "times"):
        np.testing.assert_array_equal(getattr(counted.items, name), getattr(whole, name))


def test_the_train_split_is_counted_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    examples = shop_of(100, 2, False, tmp_path, num_users=7)
    whole, merge, parts = count_train(examples, NUM_ITEMS), train_counts._merged, []
    users, events = np.unique(read_decisions(examples, "train", NUM_ITEMS, Protocol(min_history=0)).user, return_counts=True)
    assert (whole.user.tolist(), whole.user_events.tolist()) == (users.tolist(), events.tolist())
    assert len(users) == 7

    def merged(*given: Any) -> Any:
        found = merge(*given)
        parts.append((sum(map(len, given[2])), len(found[0])))
        return found

    monkeypatch.setattr(trajectory_io, "_RECORDS", 10)
    monkeypatch.setattr(train_counts, "_EVENTS", 60)
    monkeypatch.setattr(train_counts, "_merged", merged)
    cut = count_train(examples, NUM_ITEMS)
    # A few records more than the block, and no more than one entry for each user, are all that is kept at a time.
    assert len(parts) > 3
    assert all(waiting <= 60 + 10 * 6 and kept <= 7 for waiting, kept in parts)
    for name in ("user", "user_events"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))
    for name in ("fresh", "first", "pair", "times"):
        np.testing.assert_array_equal(getattr(cut.items, name), getattr(whole.items, name))


def test_any_feature_of_items_and_users_is_a_slice(tmp_path: Path):
    (tmp_path / "items.csv").write_text("id,colour\na,red\nb,blue\nc,green\nz,red\n", encoding="utf-8")
    (tmp_path / "users.csv").write_text("user,country\nanna,is\nbo,dk\n", encoding="utf-8")
    users = name_keys(tf.constant(["anna", "bo", "eve"])).numpy()
    decisions = replace(
        plain_decisions(np.arange(6), np.zeros((6, 1), np.int64), np.array([1, 1, 2, 3, 4, 5])), user=users[[0, 0, 1, 2, 1, 0]]
    )
    tables = [
        SliceTable(name="colour", path=str(tmp_path / "items.csv"), of="item", key_column="id", column="colour", max_values=2),
        SliceTable(name="country", path=str(tmp_path / "users.csv"), of="user", key_column="user", column="country"),
    ]
    masks = table_masks(tables, decisions, ["a", "b", "c", "d"])
    # Item 4 is in no row of the file, 5 is the unknown one; of the colours with one event each, the first by name is kept.
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "colour/(none)": [4, 5],
        "colour/red": [0, 1],
        "colour/other": [2, 3],
        "country/is": [0, 1, 5],
        "country/dk": [2, 4],
        "country/(none)": [3],
    }
    with pytest.raises(ComponentError, match=r"items.csv: no column 'color'; its columns are id, colour"):
        table_masks([tables[0].model_copy(update={"column": "color"})], decisions, ["a"])
    (tmp_path / "items.csv").write_text("id,colour\na,red\na,blue\n", encoding="utf-8")
    with pytest.raises(ComponentError, match=r"items.csv:3: item 'a' is 'blue' here and 'red' before"):
        table_masks(tables[:1], decisions, ["a"])


def _item_table(path: Path, **changes: Any) -> SliceTable:
    return SliceTable(**{"name": "colour", "path": str(path), "of": "item", "key_column": "id", "column": "colour", **changes})


def test_a_value_called_other_is_one_with_the_rest(tmp_path: Path):
    # With a mark of byte order in front, as spreadsheets write it.
    (tmp_path / "items.csv").write_text("id,colour\na,other\nb,red\nc,blue\n", encoding="utf-8-sig")
    decisions = plain_decisions(np.arange(5), np.zeros((5, 1), np.int64), np.array([1, 1, 1, 2, 3]))
    masks = table_masks([_item_table(tmp_path / "items.csv", max_values=1)], decisions, ["a", "b", "c"])
    # One value is kept, and it is `other` by its events; red and blue are the rest.
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {"colour/other": [0, 1, 2, 3, 4]}


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no text": ("items.csv", b"id,colour\na,\xff\n", r"items\.csv: cannot be read as UTF-8 .*0xff"),
    "no text in the header": ("items.csv", b"id,\xffcolour\n", r"items\.csv: cannot be read as UTF-8 .*0xff"),
    "a field without end": ("items.csv", b"id,colour\na,red\nb," + b"x" * 200_000, r"items\.csv:3: field larger than field limit"),
    "a short row": ("items.csv", b"id,colour\na,red\nb\n", r"items\.csv:3: expected 2 fields, found 1"),
    "half a file": ("items.csv.gz", gzip.compress(b"id,colour\n" + bytes(range(97, 123)) * 400)[:-20], r"items\.csv\.gz: EOFError"),
    "another file": ("items.csv.gz", b"id,colour\na,red\n", r"items\.csv\.gz: BadGzipFile"),
    "a damaged file": ("items.csv.gz", gzip.compress(b"id,colour\n")[:10] + b"\xff" * 30, r"items\.csv\.gz: error: Error -3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_table_that_cannot_be_read_is_an_error_that_names_it(name: str, tmp_path: Path):
    file, content, message = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    decisions = plain_decisions(np.arange(1), np.zeros((1, 1), np.int64), np.array([1]))
    with pytest.raises(ComponentError, match=message):
        table_masks([_item_table(tmp_path / file)], decisions, ["a"])


def test_many_slices_are_not_judged_as_if_each_were_alone():
    def one(high: float) -> dict[str, Any]:
        return {"models": {CANDIDATE: [0.3, 0.2, 0.4], LAST_BLESSED: [0.5, 0.4, 0.6], "difference": [-0.2, -0.4 - high, high]}}

    # Alone, an upper bound of -.11 is below -.1; among twenty slices the interval reaches 1.96 -> 3.02 standard errors: -.2 + .139 = -.061.
    config = BlessingConfig(max_slice_drop=0.2)
    (alone,) = judge_slices({"x": one(-0.11)}, None, config)
    assert (alone.passed, alone.found, alone.bound) == (False, pytest.approx(-0.11), pytest.approx(-0.1))
    many = judge_slices({str(number): one(-0.11) for number in range(20)}, None, config)
    assert {(check.passed, round(check.found or 0.0, 3)) for check in many} == {(True, -0.061)}


def test_a_loss_of_value_in_a_slice_is_a_check_of_its_own():
    def one(low: float, high: float) -> dict[str, Any]:
        return {"interval": {"value": (low + high) / 2.0, "low": low, "high": high}, "deployed_value": 1.0, "reasons": []}

    unknown = {"interval": None, "deployed_value": 1.0, "reasons": [{"code": "too_few_sessions"}]}
    value = {"decided_by": "return/sndr", "deployed": LOGGED, "slices": {"new": one(-0.9, -0.5), "old": one(-0.9, 0.1), "rare": unknown}}
    checks = judge_slices({}, value, BlessingConfig())
    assert [(check.name, check.passed) for check in checks] == [("value_slice/new", False), ("value_slice/old", True)]
    assert "return/sndr of new is -0.7000 (-0.9000 to -0.5000) against the logging policy's 1.0000" in checks[0].reason
    assert judge_slices({}, value, BlessingConfig(value_gate="off")) == []
