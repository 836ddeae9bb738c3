"""Metrics beside baselines, and the verdict."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from components.artifacts import Artifact
from components.evaluation import Decisions
from components.evaluator import executor
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED, judge, judge_health, judge_spread
from components.evaluator.config import SEQUENTIAL, SLICES, BlessingConfig, EstimatorName, EvaluatorConfig
from components.evaluator.executor import execute
from components.evaluator.slices import slice_masks
from components.model_io import ModelConfig, RankingModel, build_model, load_model, save_model
from models.baselines import BASELINES
from models.frameworks import tf
from models.metrics.ranking import sum_by_session
from models.ope.registry import ESTIMATORS
from models.ope.sequential import SequentialEstimator
from schemas.config import ConfigError, decode

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

# === The verdict ===

METRICS = {
    CANDIDATE: {"ndcg@10": 0.2, "coverage@10": 0.05},
    "popularity": {"ndcg@10": 0.1, "coverage@10": 0.01},
    "repeat_last": {"ndcg@10": 0.3, "coverage@10": 0.5},
}

VERDICTS = {
    "above the baseline": ({}, {}, None, True, ["ndcg@10 0.2000 reaches popularity's 0.1000"]),
    "equal to the baseline": ({"popularity": {"ndcg@10": 0.2}}, {}, None, True, ["ndcg@10 0.2000 reaches popularity's 0.2000"]),
    "below a baseline": (
        {},
        {"not_below_baselines": ("popularity", "repeat_last")},
        None,
        False,
        ["ndcg@10 0.2000 is below repeat_last's 0.3000"],
    ),
    "compared by another metric": (
        {},
        {"metric": "coverage@10", "not_below_baselines": ("repeat_last",)},
        None,
        False,
        ["coverage@10 0.0500 is below repeat_last's 0.5000"],
    ),
    "above a bound": (
        {},
        {"at_least": {"coverage@10": 0.04}, "not_below_baselines": ()},
        None,
        True,
        ["coverage@10 0.0500 reaches 0.04"],
    ),
    "below a bound": ({}, {"at_least": {"coverage@10": 0.06}}, None, False, ["coverage@10 0.0500 is below 0.06"]),
    "a bound on what was not measured": (
        {},
        {"at_least": {"purchase/ndcg@10": 0.0}},
        None,
        False,
        ["purchase/ndcg@10 was not measured; known: ndcg@10, coverage@10"],
    ),
    "a metric that was not measured": (
        {},
        {"metric": "ndgc@10"},
        None,
        False,
        ["evaluator.blessing.metric 'ndgc@10' was not measured; known: ndcg@10, coverage@10"],
    ),
    "a little below the last blessed": (
        {LAST_BLESSED: {"ndcg@10": 0.202}},
        {"not_below_baselines": ()},
        None,
        True,
        ["ndcg@10 0.2000 reaches 0.1980, the last blessed model's 0.2020 less 2.0%"],
    ),
    "far below the last blessed": (
        {LAST_BLESSED: {"ndcg@10": 0.21}},
        {"not_below_baselines": ()},
        None,
        False,
        ["ndcg@10 0.2000 is below 0.2058, the last blessed model's 0.2100 less 2.0%"],
    ),
    "nothing may be lost": (
        {LAST_BLESSED: {"ndcg@10": 0.2001}},
        {"not_below_baselines": (), "max_drop": 0.0},
        None,
        False,
        ["ndcg@10 0.2000 is below 0.2001, the last blessed model's 0.2001 less 0.0%"],
    ),
    "the last blessed cannot be compared": (
        {},
        {"not_below_baselines": ()},
        "its weights are gone",
        False,
        ["the last blessed model could not be compared … its weights are gone"],
    ),
    "the last blessed is not asked for": (
        {LAST_BLESSED: {"ndcg@10": 0.9}},
        {"not_below_baselines": (), "against_last_blessed": False},
        None,
        True,
        [],
    ),
    "the last blessed cannot be compared and is not asked for": (
        {},
        {"not_below_baselines": (), "against_last_blessed": False},
        "its weights are gone",
        True,
        [],
    ),
    "no condition": ({}, {"not_below_baselines": ()}, None, True, []),
    "two failures": (
        {LAST_BLESSED: {"ndcg@10": 0.9}},
        {"at_least": {"coverage@10": 0.5}, "not_below_baselines": ("repeat_last",)},
        None,
        False,
        [
            "coverage@10 0.0500 is below 0.5",
            "ndcg@10 0.2000 is below repeat_last's 0.3000",
            "ndcg@10 0.2000 is below 0.8820, the last blessed model's 0.9000 less 2.0%",
        ],
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_and_its_reasons(name: str):
    changes, config, unavailable, blessed, reasons = VERDICTS[name]
    metrics = {model: {**METRICS.get(model, {}), **changes.get(model, {})} for model in {**METRICS, **changes}}
    checks = judge(metrics, BlessingConfig(**config), unavailable)
    assert all(check.passed for check in checks) == blessed
    found = [check.reason for check in checks if check.passed == blessed]
    assert len(found) == len(reasons)
    for reason, expected in zip(found, reasons, strict=True):
        first, _, last = expected.partition(" … ")
        assert reason.startswith(first)
        assert reason.endswith(last)


def test_every_check_has_a_name_of_its_own():
    config = BlessingConfig(at_least={"ndcg@10": 0.1, "coverage@10": 0.1}, not_below_baselines=("popularity", "repeat_last"))
    checks = judge({**METRICS, LAST_BLESSED: {"ndcg@10": 0.1}}, config)
    assert [check.name for check in checks] == [
        "at_least/ndcg@10",
        "at_least/coverage@10",
        "baseline/popularity",
        "baseline/repeat_last",
        "last_blessed",
    ]


def test_every_comparison_says_its_numbers_to_programs():
    config = BlessingConfig(at_least={"coverage@10": 0.06}, not_below_baselines=("popularity",))
    checks = judge({**METRICS, LAST_BLESSED: {"ndcg@10": 0.5}}, config)
    assert [(check.found, check.bound) for check in checks] == [(0.05, 0.06), (0.2, 0.1), (0.2, 0.49)]


@pytest.mark.parametrize(
    ("coverage", "before", "passed"),
    [
        # Twice what popularity has is .02, half of what the last model had .04.
        (0.05, 0.08, {"coverage/popularity": True, "coverage/last_blessed": True}),
        (0.03, 0.08, {"coverage/popularity": True, "coverage/last_blessed": False}),
        (0.01, None, {"coverage/popularity": False}),
        (0.02, None, {"coverage/popularity": True}),
    ],
)
def test_a_model_that_shows_everybody_the_same_is_not_blessed(coverage: float, before: float | None, passed: dict[str, bool]):
    metrics = {CANDIDATE: {"coverage@10": coverage}, "popularity": {"coverage@10": 0.01}}
    if before is not None:
        metrics[LAST_BLESSED] = {"coverage@10": before}
    checks = judge_spread(metrics, BlessingConfig())
    assert {check.name: check.passed for check in checks} == passed
    assert all(check.found == coverage for check in checks)
    assert judge_spread(metrics, BlessingConfig(min_coverage_ratio=None, max_coverage_drop=None)) == []


def test_half_of_a_small_catalogue_is_enough():
    metrics = {CANDIDATE: {"seen_removed/coverage@10": 0.6}, "popularity": {"seen_removed/coverage@10": 0.55}}
    (check,) = judge_spread(metrics, BlessingConfig())
    assert (check.passed, check.bound) == (True, 0.5)


def test_values_beyond_what_rewards_allow_are_not_healthy():
    config = BlessingConfig()
    (well,) = judge_health({"q_scale": 1.9, "q_bound": 2.0}, config)
    (ill,) = judge_health({"q_scale": 3.0, "q_bound": 2.0}, config)
    assert (well.passed, well.found, ill.passed, ill.found, ill.bound) == (True, 0.95, False, 1.5, 1.0)
    assert "3, 150% of the greatest return" in ill.reason
    # Methods without values, and models from before they were kept.
    assert judge_health({"entropy": 2.0}, config) == judge_health(None, config) == []
    assert judge_health({"q_scale": 3.0, "q_bound": 2.0}, BlessingConfig(max_value_size=None)) == []


def test_all_estimators_can_be_named_but_magic():
    """Resampled values of MAGIC are those of WDR, so the interval of a difference of two blends, by which the evaluator compares, would
    be that of a difference of two WDRs, and `wdr` has that name; besides, its products grow with the square of the longest session."""
    assert [*get_args(EstimatorName), "magic"] == list(ESTIMATORS)
    # Those of whole sessions are the ones that are asked for whole sessions.
    assert list(SEQUENTIAL) == [name for name in get_args(EstimatorName) if issubclass(ESTIMATORS[name], SequentialEstimator)]


def _table(name: str) -> dict[str, str]:
    return {"name": name, "path": "x.csv", "of": "user", "key_column": "id", "column": "c"}


def test_the_slices_of_trajectories_begin_with_the_names_that_are_taken():
    state = np.zeros(1, np.int64)
    decisions = Decisions(state, state, state[:, None], state, state, state, state, state, state)
    assert {name.partition("/")[0] for name in slice_masks(decisions, 3, state)} == set(SLICES)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"blessing": {"not_below_baselines": ["popularty"]}}, "unknown baseline 'popularty'; known: "),
        ({"splits": ["tset"]}, "expected one or more of train, eval, test, found tset"),
        ({"splits": []}, "found none"),
        ({"protocols": ["seen"]}, "protocols"),
        ({"blessing": {"max_drop": -0.1}}, "max_drop"),
        ({"blessing": {"force": {"by": "Ada", "reason": "because"}}}, "reason"),
        ({"blessing": {"force": {"reason": "the log of last week is broken"}}}, "by"),
        ({"ope": {"as_logged": 0.9, "as_random": 0.1}}, "leave no decision to the ranker"),
        ({"slices": [_table("brand"), _table("colour"), _table("brand")]}, "two tables are called brand; "),
        *(({"slices": [_table("brand"), _table(name)]}, f"tables are called {name}, but slices") for name in (*SLICES, "user/age")),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_an_error(plain: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        decode(EvaluatorConfig, plain, "test")


# === The component ===


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that knows nothing and repeats the session, which the successor shop never does."""
    return _save(tmp_path_factory.mktemp("untrained"), toy.vocabulary())


def _save(folder: Path, table: Any, max_steps: int = toy.MAX_STEPS) -> Artifact:
    toy.seed_everything()
    config = ModelConfig(algorithm=toy.algorithm_config("bc"), network=toy.network(), max_steps=max_steps)
    items = toy.write_vocabulary(folder / "vocabulary", table["item"].to_pylist())
    save_model(folder / "model", build_model(config, table, 0), config, items.path / "items.parquet")
    return toy.artifact(folder / "model", "Model", {"max_steps": max_steps})


def _evaluate(folder: Path, model: Artifact, previous: Artifact | None = None, **config: Any) -> tuple[Mapping[str, Any], Path]:
    neighbours = toy.write_neighbours(folder / "neighbours")
    inputs = {"examples": toy.trained().examples, "model": model, "neighbours": neighbours}
    if previous is not None:
        inputs["baseline_model"] = previous
    outputs = {"evaluation": folder / "evaluation", "blessing": folder / "blessing"}
    found = execute(EvaluatorConfig(**{"num_resamples": 50, **config}), inputs, outputs, toy.context(folder))
    return found, outputs["blessing"]


def _markers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Any], Path, Path]:
    """Verdict on the trained model: properties, blessing and folder."""
    folder = tmp_path_factory.mktemp("good")
    found, blessing = _evaluate(folder, toy.trained().model, protocols=("seen_kept", "seen_removed"), splits=("eval", "test"))
    return found, blessing, folder


def test_a_good_model_is_blessed(good: tuple[Mapping[str, Any], Path, Path]):
    found, blessing, _ = good
    assert _markers(blessing) == ["BLESSED"]
    assert found["blessing"]["blessed"] == 1
    assert found["blessing"]["reasons"] == [check["reason"] for check in found["blessing"]["checks"]]
    assert found["blessing"]["current_model"] == toy.trained().model.digest
    assert found["blessing"]["baseline_model"] is None


def test_a_model_below_popularity_is_not_blessed_and_says_why(untrained: Artifact, tmp_path: Path):
    found, blessing = _evaluate(tmp_path, untrained)
    assert _markers(blessing) == ["NOT_BLESSED"]
    assert found["blessing"]["blessed"] == 0
    (reason,) = found["blessing"]["reasons"]
    assert "is below popularity's" in reason


def test_metrics_are_those_of_ranking_the_split(good: tuple[Mapping[str, Any], Path, Path], tmp_path: Path):
    found, _, folder = good
    written = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert written["metrics"] == json.loads(json.dumps(found["evaluation"]["metrics"]))
    run = toy.trained()
    for split in ("eval", "test"):
        values = sum_by_session(toy.rank_split(load_model(run.model), run.examples, split, tmp_path / split)).values()
        for name, value in values.items():
            assert written["metrics"][split][CANDIDATE][name][0] == pytest.approx(value), (split, name)


def test_every_metric_has_a_value_within_its_interval(good: tuple[Mapping[str, Any], Path, Path]):
    found, _, _ = good
    count = 0
    for models in found["evaluation"]["metrics"].values():
        for metrics in models.values():
            for name, (value, low, high) in metrics.items():
                assert np.isfinite([value, low, high]).all(), name
                # Percentiles of fifty resamples; the value is in their middle, give or take rounding.
                assert low - 1e-9 <= high
                assert low - 0.1 <= value <= high + 0.1, name
                count += 1
    assert count > 100


def test_all_baselines_stand_beside_the_model_under_every_protocol(good: tuple[Mapping[str, Any], Path, Path]):
    found, _, _ = good
    for split in ("eval", "test"):
        models = found["evaluation"]["metrics"][split]
        assert set(models) == {CANDIDATE, *BASELINES}
        for name, metrics in models.items():
            for key in ("ndcg@10", "purchase/hit_rate@5", "coverage@10", "popularity_share@10", "reward@20"):
                assert key in metrics, (name, key)
                assert f"seen_removed/{key}" in metrics, (name, key)
    # Nothing is ever repeated in this shop: taking out what was seen helps whoever would have shown it.
    repeat = found["evaluation"]["metrics"]["test"]["repeat_last"]
    assert repeat["seen_removed/hit_rate@5"][0] > repeat["hit_rate@5"][0]


def test_events_and_sessions_are_counted(good: tuple[Mapping[str, Any], Path, Path]):
    found, _, _ = good
    counts = found["evaluation"]["counts"]["test"]
    records = toy.successor_sessions(60, 3)
    # The first event of a session is not ranked.
    assert counts == {"events": sum(len(r.items) - 1 for r in records), "sessions": 60, "events_on_unknown_items": 0}


def test_the_verdict_is_by_the_last_split(tmp_path: Path):
    # The sessions of both splits are of other lengths, so the rewards differ.
    blessing = BlessingConfig(at_least={"reward@10": 0.0})
    found, _ = _evaluate(tmp_path, toy.trained().model, splits=("test", "eval"), blessing=blessing)
    first, last = (f"{found['evaluation']['metrics'][split][CANDIDATE]['reward@10'][0]:.4f}" for split in ("test", "eval"))
    assert first != last
    assert found["blessing"]["reasons"][0] == f"reward@10 {last} reaches 0"


def test_slices_are_by_the_protocol_of_the_metric(tmp_path: Path):
    blessing = BlessingConfig(metric="seen_removed/ndcg@10")
    found, _ = _evaluate(tmp_path, toy.trained().model, toy.trained().model, protocols=("seen_removed",), blessing=blessing)
    slices = found["evaluation"]["slices"]
    whole = found["evaluation"]["metrics"]["test"][CANDIDATE]["seen_removed/ndcg@10"][0]
    # Every event has a place in its session, and NDCG is a mean over events.
    steps = [entry for name, entry in slices.items() if name.startswith("step/")]
    assert sum(entry["events"] for entry in steps) == found["evaluation"]["counts"]["test"]["events"]
    total = sum(entry["events"] * entry["models"][CANDIDATE][0] for entry in steps)
    assert total / sum(entry["events"] for entry in steps) == pytest.approx(whole)
    assert any(check["name"].startswith("slice/step/") for check in found["blessing"]["checks"])


@pytest.mark.parametrize(
    ("protocols", "metric", "expected"),
    [
        (("seen_removed", "seen_kept"), "ndcg@10", "seen_kept"),
        (("seen_kept", "seen_removed"), "seen_removed/ndcg@10", "seen_removed"),
        (("seen_removed",), "seen_removed/ndcg@10", "seen_removed"),
        # What was not measured blesses nothing anyway.
        (("seen_removed",), "ndcg@10", "seen_removed"),
        (("seen_kept",), "seen_removed/ndcg@10", "seen_kept"),
    ],
)
def test_the_metric_says_which_protocol_decides(protocols: tuple[Any, ...], metric: str, expected: str):
    assert EvaluatorConfig(protocols=protocols, blessing=BlessingConfig(metric=metric)).decisive_protocol == expected


def test_the_same_seed_gives_the_same_intervals(good: tuple[Mapping[str, Any], Path, Path], tmp_path: Path):
    found, _, _ = good
    again, _ = _evaluate(tmp_path / "again", toy.trained().model)
    mine = found["evaluation"]["metrics"]["test"][CANDIDATE]
    assert {name: mine[name] for name in again["evaluation"]["metrics"]["test"][CANDIDATE]} == again["evaluation"]["metrics"]["test"][
        CANDIDATE
    ]


def test_a_worse_model_does_not_replace_a_better_one(untrained: Artifact, tmp_path: Path):
    config = BlessingConfig(not_below_baselines=())
    found, blessing = _evaluate(tmp_path, untrained, toy.trained().model, blessing=config)
    assert _markers(blessing) == ["NOT_BLESSED"]
    assert "the last blessed model's" in found["blessing"]["reasons"][0]
    # What is lost is lost in slices too.
    failed = [check["name"] for check in found["blessing"]["checks"] if not check["passed"]]
    assert failed[0] == "last_blessed"
    assert {name.partition("/")[0] for name in failed[1:]} == {"slice"}
    assert found["blessing"]["baseline_model"] == toy.trained().model.digest
    assert LAST_BLESSED in found["evaluation"]["metrics"]["test"]


def test_a_model_that_shows_everybody_the_same_items_is_not_blessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load, loaded, first = executor.load_ranking_model, [], []

    def collapsed(artifact: Artifact) -> RankingModel:
        model = load(artifact)
        loaded.append(artifact)
        if len(loaded) > 1:
            return model

        def rank(*asked: Any) -> Any:
            found = model.rank(*asked)
            first[:] = first or [found[:1]]
            return tf.repeat(first[0], tf.shape(found)[0], axis=0)

        return replace(model, rank=rank)

    monkeypatch.setattr(executor, "load_ranking_model", collapsed)
    # Whatever else it lost is allowed. Ten of twenty items are half of the catalogue; the last blessed model shows all.
    allowed = {"not_below_baselines": (), "max_drop": 1.0, "max_slice_drop": None, "min_coverage_ratio": None}
    config = BlessingConfig(max_coverage_drop=0.4, **allowed)
    found, blessing = _evaluate(tmp_path, toy.trained().model, toy.trained().model, blessing=config)
    assert _markers(blessing) == ["NOT_BLESSED"]
    coverage = {name: found["evaluation"]["metrics"]["test"][name]["coverage@10"][0] for name in (CANDIDATE, LAST_BLESSED)}
    assert coverage == {CANDIDATE: 0.5, LAST_BLESSED: 1.0}
    assert [check["name"] for check in found["blessing"]["checks"] if not check["passed"]] == ["coverage/last_blessed"]


def test_a_forced_blessing_keeps_who_why_and_against_what(untrained: Artifact, tmp_path: Path):
    force = {"by": "Ada", "reason": "the log of last week is broken"}
    found, blessing = _evaluate(tmp_path, untrained, blessing=decode(BlessingConfig, {"force": force}, "test"))
    verdict = found["blessing"]
    assert _markers(blessing) == ["BLESSED"]
    assert verdict["forced"] == {**force, "against": [check["name"] for check in verdict["checks"] if not check["passed"]]}
    assert "baseline/popularity" in verdict["forced"]["against"]
    assert verdict["reasons"][0].startswith("forced by Ada (the log of last week is broken) against: ")


def test_a_blessing_that_needs_no_force_is_not_forced(tmp_path: Path):
    force = {"by": "Ada", "reason": "the log of last week is broken"}
    found, blessing = _evaluate(tmp_path, toy.trained().model, blessing=decode(BlessingConfig, {"force": force}, "test"))
    assert (_markers(blessing), found["blessing"]["forced"]) == (["BLESSED"], None)


@pytest.mark.slow
def test_a_better_model_replaces_a_worse_one_of_another_vocabulary(tmp_path: Path):
    previous = _save(tmp_path / "previous", toy.vocabulary(toy.item_names()[::-1]))
    found, blessing = _evaluate(tmp_path, toy.trained().model, previous)
    assert _markers(blessing) == ["BLESSED"]
    assert any("the last blessed model's" in reason for reason in found["blessing"]["reasons"])


def test_a_model_that_was_the_last_blessed_one_reaches_itself(tmp_path: Path):
    found, blessing = _evaluate(tmp_path, toy.trained().model, toy.trained().model, blessing=BlessingConfig(max_drop=0.0))
    assert _markers(blessing) == ["BLESSED"]
    metrics = found["evaluation"]["metrics"]["test"]
    assert metrics[LAST_BLESSED] == metrics[CANDIDATE]


@pytest.mark.parametrize("what", ["lost", pytest.param("shorter", marks=pytest.mark.slow)])
def test_a_last_blessed_model_that_cannot_be_ranked_is_a_reason(what: str, tmp_path: Path):
    previous = _save(tmp_path / "previous", toy.vocabulary(), max_steps=toy.MAX_STEPS - (what == "shorter"))
    if what == "lost":
        for path in sorted(previous.path.rglob("*"), reverse=True):
            if path.is_file() and path.name != "manifest.json":
                path.unlink()
    found, blessing = _evaluate(tmp_path, toy.trained().model, previous)
    assert _markers(blessing) == ["NOT_BLESSED"]
    expected = f"it reads {toy.MAX_STEPS - 1} events, the trajectories have up to {toy.MAX_STEPS}" if what == "shorter" else "not a model"
    assert any(expected in reason for reason in found["blessing"]["reasons"])
