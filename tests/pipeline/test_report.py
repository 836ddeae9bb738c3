"""The report shows what the artifacts state, for every way a run can end, and nothing from the logs becomes markup."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, ArtifactType, write_manifest
from pipeline.config import PipelineConfig
from pipeline.graph import step_names
from pipeline.local import RunResult, StepResult
from pipeline.report import write_report
from schemas.config import canonical_json, decode

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "link", "input", "br", "wbr"}
DRAWN = {"path", "line", "circle", "rect"}
BLOCKS = {"div", "p", "ul", "dl", "table", "pre", "section", "figure", "details", "h1", "h2", "h3", "header", "main", "nav"}

Outputs = dict[str, tuple[ArtifactType, dict[str, Any], dict[str, Any]]]
"""Output name -> artifact type, properties, and JSON files by name."""


class Page(HTMLParser):
    """A page as a reader sees it; fails on tags that do not match and on blocks inside paragraphs."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.bold: list[str] = []
        self._classes: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.stack == []
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in BLOCKS or "p" not in self.stack, f"<{tag}> inside a paragraph"
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
            self._classes.append(dict(attrs).get("class") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in DRAWN, f"<{tag}/> is not closed in HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes another element"
        self._classes.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.stack:
            return
        self.pieces.append(data.replace("\xa0", " "))
        if self._classes and self._classes[-1] == "best":
            self.bold.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


LEDGER = {
    "rows_read": 10_000,
    "quarantined": 37,
    "ignored_feedback": 101,
    "short_session": 1_202,
    "long_session": 303,
    "rare_item": 404,
    "after_split_end": 5,
    "events": 7_948,
}


def split(events: int, first: int, last: int) -> dict[str, Any]:
    return {
        "trajectories": 905,
        "sessions": 900,
        "events": events,
        "unknown_events": events // 20,
        "propensity_events": 0,
        "role_events": {"click": events - events // 4, "purchase": events // 4},
        "reward": events * 0.25,
        "first_time": first,
        "last_time": last,
        "lengths": [0, 0, 500, 300, 100, *[0] * 96],
    }


def trajectory_gen(**ledger: int) -> Outputs:
    splits = {"eval": split(1_000, 1_740_000_000, 1_740_500_000), "test": split(948, 1_740_500_000, 1_741_000_000)}
    splits["train"] = split(6_000, 1_735_689_600, 1_740_000_000)
    examples = {
        "splits": splits,
        "ledger": LEDGER | ledger,
        "split": {"by": "time", "eval_begins": 1_740_000_000, "test_begins": 1_740_500_000},
        "num_shards": 2,
        "max_length": 50,
        "discount": 1.0,
        "num_items": 401,
    }
    return {
        "examples": ("Examples", examples, {}),
        "vocabulary": ("Vocabulary", {"num_items": 401, "events": 6_000, "popularity": [[1, 1000], [10, 100], [400, 3]]}, {}),
        "quarantine": ("Quarantine", quarantine(), {}),
    }


def quarantine() -> dict[str, Any]:
    samples = [
        {"file": "logs/a.csv", "line": 41, "reason": f"unknown event '{EVIL}'; known: view", "row": f"u1,{EVIL},view\x1b[31m"},
        {"file": "logs/b.csv", "line": 7, "reason": "item is empty", "row": "u2,,view"},
    ]
    return {"rows": 37, "rows_read": 10_000, "reasons": {"unknown event": 25, "item is empty": 12}, "samples": samples}


def statistics_gen() -> Outputs:
    splits = {name: {"num_examples": 905, "features": []} for name in ("train", "eval", "test")}
    return {"statistics": ("ExampleStatistics", {"splits": splits}, {})}


def example_validator(anomalies: tuple[dict[str, Any], ...] = ()) -> Outputs:
    distances = [
        {"feature": "feedback", "kind": "drift", "measure": "jensen_shannon_divergence", "value": 0.31, "threshold": 0.2},
        {"feature": "item_id", "kind": "skew", "measure": "jensen_shannon_divergence", "value": 0.2, "threshold": 0.8},
    ]
    properties = {"anomalies": list(anomalies), "distances": distances, "compared_with_previous": True, "features": 10}
    return {"anomalies": ("ExampleAnomalies", {**properties, "blessed": 0 if anomalies else 1}, {})}


def reward_trainer(enabled: bool = True) -> Outputs:
    metrics = {"auc": 0.81, "explained": 0.27, "calibration_error": 0.012, "reward_bias": -0.001}
    curve = [[0.1, 0.12, 40], [0.5, 0.48, 50], [0.9, 0.95, 10]]
    measured = {"metrics": metrics, "before": metrics | {"calibration_error": 0.2}}
    curves = {"reward": curve, "all": curve, "purchase": curve}
    model = {
        "enabled": enabled,
        "blessed": True,
        "checks": [{"passed": True, "reason": "calibration_error 0.0120, at most 0.05"}],
        "reasons": [],
        "estimator": {"name": "din", "width": 32, "members": 3, "outcome": "role"},
        "events": 100,
        "epochs": 3,
        "best_epoch": 2,
        "stopped": "enough",
    }
    files = {"metrics.json": measured | {"curves": curves, "raw": curves}}
    properties = model | measured if enabled else {"enabled": False}
    return {"reward_model": ("RewardModel", properties, files if enabled else {})}


def user_model_trainer(enabled: bool = True) -> Outputs:
    curve = [[0.1, 0.12, 40], [0.5, 0.48, 60]]
    metrics = {"explained": 0.31, "calibration_error": 0.021, "leaving/auc": 0.74, "leaving/calibration_error": 0.009}
    model = {
        "enabled": enabled,
        "blessed": True,
        "checks": [{"passed": True, "reason": "explained 0.3100, at least 0"}],
        "reasons": [],
        "metrics": metrics,
        "model": {"rewards": {"name": "deepfm", "members": 5}, "debiasing": "snips"},
        "events": 100,
        "epochs": 2,
        "best_epoch": 2,
        "stopped": "enough",
    }
    files = {"metrics.json": {"metrics": metrics, "curves": {"reward": curve, "leaving": curve}}}
    return {"user_model": ("UserModel", model if enabled else {"enabled": False}, files if enabled else {})}


def relabeller(is_on: bool = False) -> Outputs:
    if not is_on:
        return {"relabelled": ("Examples", {"relabelled": False}, {}), "q_function": ("Model", {}, {})}
    quantiles = [[0.0, 0.2, 0.2], [0.5, 1.0, 1.5], [1.0, 4.0, 5.0]]
    examples = {
        "relabelled": True,
        "discount": 1.0,
        "events": 6_000,
        "raised": 2_400,
        "raised_share": 0.4,
        "with_next_state": 4_800,
        "replaced": 1_200,
        "replaced_share": 0.25,
        "mean": [1.25, 1.75],
        "mean_raise_of_raised": 1.25,
        "greatest": [4.0, 5.0],
        "value": [0.1, 3.5],
        "quantiles": quantiles,
        "curve": [[share / 4, share, share + share / 4] for share in range(5)],
    }
    values = {"algorithm": {"name": "cql", "conservatism": 1.0, "discount": 1.0}}
    return {"relabelled": ("Examples", examples, {}), "q_function": ("Model", values, {})}


def trainer() -> Outputs:
    model = {
        "algorithm": {"name": "sqn", "discount": 0.5},
        "network": {"backbone": {"name": "sasrec"}, "width": 64},
        "num_items": 401,
        "max_steps": 50,
        "parameters": 126_475,
        "validation": {"ndcg@10": 0.38},
    }
    run = {
        "epochs": 3,
        "steps": 300,
        "stopped": "no better ndcg@10 for 1 epochs",
        "best_epoch": 2,
        "metric": "ndcg@10",
        "best": 0.38,
        "warm_start": {"items": 390, "new_items": 10},
        "median_transitions_per_second": 23_078.6,
        "median_input_wait_share": 0.031,
    }
    steps = [
        {"step": step, "cross_entropy": 6 - step / 100, "td": 0.2, "transitions_per_second": 2e4, "input_wait_share": 0.03}
        for step in (1, 100, 200, 300)
    ]
    epochs = [{"epoch": e, "step": e * 100, "ndcg@10": v, "purchase/ndcg@10": v + 0.1} for e, v in ((1, 0.35), (2, 0.38), (3, 0.37))]
    return {"model": ("Model", model, {}), "model_run": ("ModelRun", run, {"history.json": {"steps": steps, "epochs": epochs}})}


def online_tuner(tuned: bool = True) -> Outputs:
    model = trainer()["model"]
    if not tuned:
        return {"model": model, "tuning_run": ("ModelRun", {"tuned": 0}, {"history.json": {"rounds": [], "evaluations": []}})}
    evaluations = [
        {"round": r, "update": 64 * r, "return": [v, v - 0.1, v + 0.1], "click_rate": [0.3, 0.2, 0.4], "gain": [v - 1.5, v - 1.6, v - 1.4]}
        for r, v in ((0, 1.5), (5, 1.9), (7, 1.8))
    ]
    rewards = {"return": 1.6, "return_low": 1.5, "return_high": 1.7, "click_rate": 0.3, "click_rate_low": 0.2, "click_rate_high": 0.4}
    rounds = [
        {"round": r, "step": 900 * r, **rewards, "cross_entropy": 5.0, "health/temperature": 0.1, "buffer_return": 2.0} for r in range(1, 8)
    ]
    run = {
        "tuned": 1,
        "rounds": 7,
        "updates": 448,
        "sessions": 7_168,
        "stopped": f"the reward dropped {EVIL}",
        "dropped": 1,
        "floor": 1.38,
        "offline": evaluations[0],
        "kept": evaluations[1],
        "simulator": {"name": "session_shop"},
    }
    return {"model": model, "tuning_run": ("ModelRun", run, {"history.json": {"rounds": rounds, "evaluations": evaluations}})}


def metrics(value: float) -> dict[str, list[float]]:
    names = ("ndcg@10", "hit_rate@10", "purchase/ndcg@10", "click/ndcg@10", "seen_removed/ndcg@10")
    found = {name: [value, value - 0.01, value + 0.01] for name in names}
    return found | {"coverage@10": [1 - value] * 3, "popularity_share@10": [value] * 3}


CHECKS = [
    {"name": "baseline/popularity", "passed": True, "reason": "ndcg@10 0.3863 reaches popularity's 0.0857"},
    {"name": "at_least/coverage@10", "passed": False, "reason": "coverage@10 0.6137 is below 0.7"},
]


def estimated_value() -> dict[str, Any]:
    """One estimator with a value and one that the log does not support."""
    interval = {"method": "bootstrap", "value": 0.42, "low": 0.4, "high": 0.44}
    given = {"key": "snips", "interval": interval, "reasons": [], "effective_size": 900.0, "behaviour_is_estimated": True}
    reason = {"code": "uncalibrated_behaviour", "found": 0.08, "bound": 0.05}
    refused = given | {"interval": None, "reasons": [reason]}
    numbers = {"effective_size": 900.0, "tail_index": None, "calibration_error": 0.08}
    difference = {"interval": None, "deployed_value": 0.4, "reasons": [reason | {"policy": "candidate"}]}
    above = {"interval": {"value": 0.02, "low": -0.01, "high": 0.05}, "deployed_value": 0.4, "reasons": []}
    return {
        "key": "top10_logged@0.5",
        "split": "test",
        "decided_by": "return/snips",
        "deployed": "logging_policy",
        "propensities": "estimated",
        "rounds": 2_500,
        "rounds_left_out": 138,
        "sessions": 905,
        "values": {
            "event/snips": {"candidate": given, "logging_policy": given},
            "event/dm": {"candidate": refused, "logging_policy": given},
            "return/snips": {"candidate": refused, "logging_policy": given},
            "session/snpdis": {"candidate": given, "logging_policy": given},
        },
        "differences": {"event/snips": above, "return/snips": difference, "session/snpdis": above},
        "difference": difference,
        "diagnostics": {"candidate": numbers, "logging_policy": numbers},
        "tipping_factor": 1.234,
        "weights": [[0.5, 0.6, 0.3], [1.0, 0.3, 0.3], [2.0, 0.1, 0.4]],
        "calibration": {"error": 0.08, "log_loss": 3.2, "rounds": 500, "bins": [[0.4, 0.35, 100], [0.01, 0.012, 9_000]]},
        "slices": {"user/new": {"events": 90, "sessions": 50, **above}, "step/10+": {"events": 9, "sessions": 5, **difference}},
    }


def slices() -> dict[str, Any]:
    return {"item/tail": {"events": 900, "sessions": 500, "models": {"candidate": [0.2, 0.1, 0.3], "popularity": [0.0, 0.0, 0.0]}}}


def evaluator(blessed: bool = True) -> Outputs:
    models = {"candidate": metrics(0.3863), "repeat_last": metrics(0.3377), "popularity": metrics(0.0857)}
    counts = {"test": {"events": 2_638, "sessions": 905, "events_on_unknown_items": 66}}
    protocol = {"splits": ["test"], "min_history": 1, "max_states": None, "num_resamples": 1000, "blessing": {"metric": "ndcg@10"}}
    measured = {"metrics": {"test": models}, "counts": counts, "value": estimated_value(), "slices": slices()}
    checks = [check | {"passed": check["passed"] or blessed} for check in CHECKS]
    reasons = [check["reason"] for check in checks if check["passed"] == blessed]
    return {
        "evaluation": ("ModelEvaluation", measured, {"metrics.json": measured | {"protocol": protocol}}),
        "blessing": ("ModelBlessing", {"blessed": int(blessed), "reasons": reasons, "checks": checks}, {}),
    }


def exporter() -> Outputs:
    properties = {"k": 20, "max_steps": 50, "num_items": 401, "signatures": ["serving_default"], "warmup_requests": 12}
    # Not every signature answers with items.
    answers = [{"score": [[-1.0]]}, {"item_id": [["a,b", "blue shoe", "", "o'item"]], "score": [[-1.0, -2.0, -3.0, -4.0]]}]
    return {"serving_model": ("ServingModel", properties, {"expected.json": answers})}


def infra_validator() -> Outputs:
    times = {"first": 312.75, "median": 4.41}
    properties = {"blessed": 1, "reasons": ["12 warm-up requests answered"], "load_seconds": 0.732, "request_milliseconds": times}
    return {"infra_blessing": ("InfraBlessing", properties, {})}


def pusher(blessed: bool = True) -> Outputs:
    pushed = {"pushed": 1, "reasons": [], "version": 1_795_304_943, "path": "/srv/longplay/1795304943"}
    refused = {"pushed": 0, "reasons": ["not blessed: coverage@10 0.6137 is below 0.7"], "version": None, "path": None}
    return {"pushed_model": ("PushedModel", pushed if blessed else refused, {})}


MakeRun = Callable[..., RunResult]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Builds a run from the outputs of its steps; `failed` names the last step and its error."""

    def make(steps: dict[str, Outputs], failed: tuple[str, str] | None = None) -> RunResult:
        data = {"name": "shop", "trajectory_gen": {"dataset": {"name": "session_shop", "num_events": 4321}}}
        result = RunResult("20260102-030405-abcdef", decode(PipelineConfig, data, "test"), started=1_767_323_045.0)
        for place, (name, outputs) in enumerate(steps.items()):
            error = failed[1] if failed and failed[0] == name else None
            made = {output: make_artifact(result, name, output, *entry) for output, entry in outputs.items()}
            result.steps.append(StepResult(name, "failed" if error else "cached" if place else "executed", 1.5 * (place + 1), made, error))
        return result

    def make_artifact(
        result: RunResult, step: str, output: str, kind: ArtifactType, properties: dict[str, Any], files: dict[str, Any]
    ) -> Artifact:
        folder = tmp_path / "store" / step / output
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        config = json.loads(canonical_json(result.config.of(step)))
        return write_manifest(folder, kind, f"{step}.{output}", properties, {"config": config, "run_id": "20260101-000000-first1"})

    return make


def leakage_audit() -> Outputs:
    check = {"name": "time_order", "status": "warned", "reason": EVIL, "found": 1, "of": 2, "allowed": 0, "details": {}}
    return {"audit": ("LeakageAudit", {"passed": 1, "checks": [check], "splits": {"train": {"records": 9, "targets": 20}}}, {})}


def complete(blessed: bool = True) -> dict[str, Outputs]:
    return {
        "trajectory_gen": trajectory_gen(),
        "statistics_gen": statistics_gen(),
        "schema_gen": {"schema": ("Schema", {"features": ["item_id"]}, {})},
        "example_validator": example_validator(),
        "neighbour_gen": {"neighbours": ("Neighbours", {"records": 7_000, "pairs": 12, "items_with_neighbours": 5, "num_items": 11}, {})},
        "leakage_audit": leakage_audit(),
        "reward_trainer": reward_trainer(),
        "user_model_trainer": user_model_trainer(),
        "relabeller": relabeller(),
        "trainer": trainer(),
        "online_tuner": online_tuner(tuned=blessed),
        "evaluator": evaluator(blessed),
        "exporter": exporter(),
        "infra_validator": infra_validator(),
        "pusher": pusher(blessed),
        "bulk_inferrer": {"inference_result": ("InferenceResult", {"inferred": 0, "reasons": ["off"]}, {})},
    }


def report(result: RunResult, tmp_path: Path) -> Page:
    path = tmp_path / "runs" / result.run_id / "report.html"
    write_report(result, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    return Page(path)


def runs() -> dict[str, tuple[dict[str, Outputs], tuple[str, str] | None]]:
    """Ways a run can end."""
    anomaly = {
        "split": "train",
        "feature": EVIL,
        "kind": "drift",
        "severity": "ERROR",
        "short": "too far",
        "description": EVIL,
        "action": "fail",
    }
    early = {name: outputs for name, outputs in complete().items() if name in ("trajectory_gen", "statistics_gen", "schema_gen")}
    return {
        "blessed": (complete(), None),
        "not blessed": (complete(blessed=False), None),
        "ended early": (early, None),
        "bad rows": (
            {"trajectory_gen": {"quarantine": trajectory_gen()["quarantine"]}},
            ("trajectory_gen", f"too many bad rows:\n  {EVIL}"),
        ),
        "anomalies": (early | {"example_validator": example_validator((anomaly,))}, ("example_validator", f"1 anomalies: {EVIL}")),
        "at once": ({"trajectory_gen": {}}, ("trajectory_gen", "no such file")),
    }


@pytest.mark.parametrize("name", list(runs()))
def test_every_page_is_well_formed_and_needs_nothing_else(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(*runs()[name]), tmp_path)
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    links = [link["href"] or "" for link in page.all("a")]
    assert {link[1:] for link in links} <= set(ids)
    assert page.all("script") == []
    assert not re.search(r"https?:|url\(|@import|\bsrc=", page.source)
    assert "could not be made" not in page.text
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("name", list(runs()))
def test_every_page_can_be_read_without_seeing_it(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(*runs()[name]), tmp_path)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert all(scope in ("col", "row", "colgroup") for scope in (header.get("scope") for header in page.all("th")))
    assert levels[0] == 1
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))
    labels = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert set(labels) <= set(page.ids())


def test_rows_are_accounted_for_to_the_last(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    for count in LEDGER.values():
        assert f"{count:,}" in page.text
    assert "10,000 read = 2,052 left out + 7,948 kept" in page.text
    assert "7,948 kept = 6,000 + 1,000 + 948" in page.text
    assert "short sessions fewer than 2 events 1,202 12.02 %" in page.text


def test_books_that_do_not_balance_say_so(make_run: MakeRun, tmp_path: Path) -> None:
    steps = complete() | {"trajectory_gen": trajectory_gen(rows_read=10_001, events=7_950)}
    page = report(make_run(steps), tmp_path)
    assert "10,001 read ≠ 2,052 left out + 7,950 kept" in page.text
    assert "7,950 kept ≠ 6,000 + 1,000 + 948" in page.text
    # And three of the estimated value: why it is refused, and the two estimates that are.
    assert [mark["aria-label"] for mark in page.all("span") if mark.get("role") == "img"].count("not passed") == 2 + 3


def test_bars_of_the_rows_meet_end_to_end(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    bars = []
    for bar in page.all("i"):
        place = re.match(r"left:([\d.]+)%;width:([\d.]+)%", bar["style"] or "")
        if place:
            bars.append((bar["class"], float(place[1]), float(place[2])))
    losses = [(begin, width) for kind, begin, width in bars if kind == "loss" and begin]
    assert losses[0] == (99.63, 0.37)
    assert all(after[0] + after[1] == pytest.approx(before[0]) for before, after in pairwise(losses))
    assert losses[-1][0] == pytest.approx(79.48)
    assert ("test", 70.0, 9.48) in bars


def test_what_stands_in_the_logs_stays_text(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert f"u1,{EVIL},view" in page.text
    assert "<script" not in page.source
    assert "\x1b" not in page.source
    assert "view␛[31m" in page.text


def test_relabelled_returns_are_shown_beside_the_logged_ones(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete() | {"relabeller": relabeller(is_on=True)}), tmp_path)
    assert "raised 2,400 of 6,000 returns (40.0 %)" in page.text
    assert "replaced by a value 1,200 of 4,800 events that have a next state (25.0 %)" in page.text
    assert "mean return 1.75, was 1.25" in page.text
    assert "as logged 0.2000 1.0000 4.0000 relabelled 0.2000 1.5000 5.0000" in page.text
    assert "Quantiles of the relabelled returns by those of the logged ones" in page.text
    assert "could not be made" not in page.text
    assert "relabelling" in page.ids()


def test_returns_as_logged_have_no_section(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "relabelling" not in page.ids()
    assert "relabeller off cached" in page.text or "relabeller off executed" in page.text


def test_quarantine_shows_reasons_and_samples(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "37 rows of 10,000 (0.37 %); more than 1.00 % fail the run" in page.text
    assert page.text.index("unknown event 25") < page.text.index("item is empty 12")
    assert "logs/a.csv:41" in page.text
    assert "logs/b.csv:7 item is empty u2,,view" in page.text
    assert str(tmp_path / "store/trajectory_gen/quarantine/rows.jsonl") in page.text


def test_a_failed_run_shows_its_error_first_and_all_that_exists(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(*runs()["bad rows"]), tmp_path)
    assert "✕ FAILED" in page.text
    assert f"trajectory_gen failed too many bad rows: {EVIL}" in page.text
    assert "The run ended before the remaining 9,963 rows were divided further" in page.text
    assert "Not pushed: the run failed before pusher" in page.text
    assert page.text.count("not run") == len(step_names()) - 1
    assert [name for name in page.ids() if name in ("rows", "splits", "training", "evaluation", "serving", "provenance")] == [
        "rows",
        "provenance",
    ]


def test_anomalies_that_stop_a_run_are_listed(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(*runs()["anomalies"]), tmp_path)
    assert "1 anomalies, the run stops" in page.text
    assert f"train {EVIL} drift ERROR too far {EVIL} fail" in page.text


def test_distances_are_drawn_against_their_thresholds(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "feedback drift Jensen–Shannon 0.31 0.2" in page.text
    bars = [(bar["class"], bar["style"]) for bar in page.all("i")]
    # The greater of distance and threshold takes four fifths of the bar.
    assert ("failed", "width:80.00%") in bars
    assert ("", "width:20.00%") in bars
    assert [mark["style"] for mark in page.all("b") if "style" in mark] == ["left:80.00%", "left:51.61%"]


def test_verdict_names_every_check(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete(blessed=False)), tmp_path)
    assert "✕ NOT BLESSED" in page.text
    assert "✓ ndcg@10 0.3863 reaches popularity's 0.0857 ✕ coverage@10 0.6137 is below 0.7" in page.text
    assert "✕ not pushed: not blessed: coverage@10 0.6137 is below 0.7" in page.text


def test_a_blessed_run_says_where_its_model_went(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "BLESSED · shop 20260102-030405-abcdef" in page.text
    assert "version 1795304943 /srv/longplay/1795304943" in page.text
    assert "Friday 2026-01-02 03:04:05 UTC" in page.text


def test_a_run_that_ended_early_has_no_verdict(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(*runs()["ended early"]), tmp_path)
    assert "– NO VERDICT" in page.text
    assert "The run ended before evaluator" in page.text


def test_steps_show_status_time_and_what_they_say_of_themselves(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "trajectory_gen 10,000 rows, 37 quarantined, 7,948 events in 2,715 trajectories, 400 items executed 1.5 s" in page.text
    # 1.5 s for the first of 16 steps, 3 s for the second, …
    assert "pusher version 1795304943 in /srv/longplay/1795304943 cached 22.5 s" in page.text
    assert "1 executed, 15 cached 3 min" in page.text


def test_splits_show_shares_and_times(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "train 900 905 6,000 25.0 % 0.250 5.00 % 2025-01-01 00:00 2025-02-19 21:20" in page.text
    assert "eval begins 2025-02-19 21:20, test 2025-02-25 16:13 UTC" in page.text
    assert "median 2" in page.text
    assert "90 % have at most 4" in page.text
    assert page.text.index("train 900") < page.text.index("eval 900") < page.text.index("test 900")


def test_training_shows_every_loss_and_marks_the_best_epoch(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    for caption in ("Loss: cross_entropy", "Loss: td", "Validation: ndcg@10 on the eval split", "Speed", "Waiting for input"):
        assert caption in page.text
    assert "Loss: transitions_per_second" not in page.text
    assert "epoch 2: 0.3800" in page.text
    assert "ended because no better ndcg@10 for 1 epochs" in page.text
    assert "2 (kept) 200 0.3800 0.4800" in page.text
    assert "items 390, new_items 10" in page.text


def test_metric_table_has_the_best_of_each_column_in_bold(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    rows = ["candidate 0.3863 0.3763–0.3963", "popularity 0.0857 0.0757–0.0957", "repeat_last 0.3377 0.3277–0.3477"]
    places = [page.text.index(row) for row in rows]
    assert places == sorted(places)
    # Five metrics of the candidate, one of them under the other protocol; coverage is best where nothing else is.
    assert sorted(page.bold) == ["0.3863"] * 5 + ["0.9143"]
    assert "2,638 events of 905 sessions" in page.text
    assert "2.50 % are on items never trained on" in page.text
    assert "Split test, seen_removed" in page.text


def test_headline_compares_with_the_best_baseline(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "ndcg@10, test 0.3863 0.3763 to 0.3963; best baseline repeat_last 0.3377, +14.4 %" in page.text


def test_interval_plots_compare_overall_purchases_and_clicks(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    labels = [drawing["aria-label"] or "" for drawing in page.all("svg")]
    for metric in ("ndcg@10", "purchase/ndcg@10", "click/ndcg@10"):
        assert (
            f"{metric}: candidate 0.3863, 0.3763 to 0.3963; popularity 0.0857, 0.0757 to 0.0957; repeat_last 0.3377, 0.3277 to 0.3477"
            in labels
        )


def test_serving_gives_commands_that_a_shell_takes(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    # A name with a comma is no example, as the option divides at commas.
    assert """longplay predict --model /srv/longplay/1795304943 --history 'blue shoe,o'"'"'item'""" in page.text
    assert "saved_model_cli show --dir /srv/longplay/1795304943 --all" in page.text
    assert "4.41 ms, of 12 warm-up requests" in page.text


def test_a_model_that_was_not_pushed_is_tried_where_it_lies(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete(blessed=False)), tmp_path)
    assert f"--dir {tmp_path}/store/exporter/serving_model/Format-Serving --all" in page.text


def test_provenance_holds_the_whole_configuration_and_every_artifact(make_run: MakeRun, tmp_path: Path) -> None:
    result = make_run(complete())
    page = report(result, tmp_path)
    text = "".join(page.pieces)
    whole = text[text.index('{\n "beam"') :]
    config, _ = json.JSONDecoder().raw_decode(whole)
    assert decode(PipelineConfig, config, "page") == result.config
    for step in result.steps:
        for name, artifact in step.outputs.items():
            assert f"{step.name}.{name}" in page.text
            assert artifact.digest in page.source
            assert str(artifact.path) in page.text


def test_a_section_that_cannot_be_made_leaves_the_others(make_run: MakeRun, tmp_path: Path) -> None:
    steps = complete()
    del steps["trajectory_gen"]["examples"][1]["splits"]["train"]["role_events"]
    result = make_run(steps)
    (next(step for step in result.steps if step.name == "trainer").outputs["model_run"].path / "history.json").unlink()
    page = report(result, tmp_path)
    assert "could not be made: training: FileNotFoundError" in page.text
    assert "could not be made: splits: UndefinedError" in page.text
    assert {"rows", "evaluation", "serving", "provenance"} <= set(page.ids())
    assert not {"splits", "training"} & set(page.ids())


def test_messages_that_are_no_valid_text_can_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run({"trajectory_gen": {}}, ("trajectory_gen", "cannot read caf\udce9.csv\0")), tmp_path)
    assert "cannot read caf\\udce9.csv␀" in page.text


def test_the_same_run_gives_the_same_page(make_run: MakeRun, tmp_path: Path) -> None:
    result = make_run(complete())
    assert report(result, tmp_path).source == report(result, tmp_path).source


def test_importing_the_report_imports_neither_frameworks_nor_templates(repository: Path) -> None:
    code = (
        "import sys, pipeline.report; print([name for name in ('tensorflow', 'apache_beam', 'pyarrow', 'jinja2') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert found.stdout.strip() == "[]"


def test_the_reward_model_is_drawn_before_and_after_calibration(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "Reliability: probability, before calibration" in page.text
    assert "Reliability: probability, purchase events, calibrated" in page.text
    assert "calibration_error 0.0120, at most 0.05" in page.text
    assert "din, width 32, 3 members" in page.text
    drawings = [chart["aria-label"] or "" for chart in page.all("svg")]
    assert any("predicted 0.5, observed 0.48, 50 events" in label for label in drawings)


def test_a_reward_model_that_is_off_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    off = report(make_run(complete() | {"reward_trainer": reward_trainer(enabled=False)}), tmp_path)
    assert "Reliability: probability" not in off.text
    assert "could not be made" not in off.text
    assert "off: estimator is null" in off.text


def test_online_tuning_is_drawn_with_its_intervals(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    for words in (
        "Online tuning",
        "1.900",
        "1.800 to 2.000; 1.500 before tuning",
        "7,168 sessions",
        "5 (kept) 320",
        "Loss: cross_entropy",
    ):
        assert words in page.text, words
    captions = ("Return of a session without exploration", "Click rate while exploring", "Temperature: weight of the entropy")
    assert all(caption in page.text for caption in captions)


def test_there_is_no_section_on_tuning_where_it_is_off(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete(blessed=False)), tmp_path)
    assert "Online tuning" not in page.text


def test_the_user_model_is_drawn_where_there_is_one(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "deepfm, 5 members" in page.text
    assert "explained 0.3100, at least 0" in page.text
    drawings = [chart["aria-label"] or "" for chart in page.all("svg")]
    assert any("an event is its session's last" in label for label in drawings)


def test_a_user_model_that_is_off_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    off = report(make_run(complete() | {"user_model_trainer": user_model_trainer(enabled=False)}), tmp_path)
    assert "User model" not in off.text
    assert "off: model is null" in off.text


def test_why_a_model_may_be_trusted_stands_in_the_report(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(make_run(complete()), tmp_path)
    assert "could not be made" not in page.text
    for part in (
        "Leakage audit",
        "Estimated value",
        "Reward of an event",
        "Return from an event on, one decision made by the policy",
        "Return of a session, all decisions made by the policy",
        "snips, candidate",
        "event/dm, candidate: uncalibrated behaviour",
        "Candidate above the logging policy, event and return",
        "Candidate above the logging policy, session",
        "return/snips above the logging policy, by slice",
        "user/new: +0.0200, 95 % interval -0.0100 to +0.0500",
        "uncalibrated behaviour: found 0.08, bound 0.05",
        "2,500 events of 905 sessions, propensities estimated",
        "item/tail",
        "no propensity is off by more than a factor of 1.23 ",
    ):
        assert part in page.text, part
