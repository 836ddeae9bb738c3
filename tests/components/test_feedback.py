"""Logs of what was served: joined with events, read by the next run, compared with what was trained on."""

import gzip
import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from components.base import ComponentError
from components.datasets import lines as lines_module
from components.datasets.base import Columns
from components.datasets.jsonl import JsonLinesConfig
from components.datasets.reading import plan_ranges, read_range
from components.feedback.config import FeedbackConfig, SkewConfig
from components.feedback.join import join
from components.feedback.skew import compare
from components.server.metrics import Metrics
from components.server.served_log import Served, ServedLog, rows_of
from pipeline.cli import app
from schemas.reward import CLICK

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")


# === What the server writes ===


def _served(signature: str = "explore", **changes: Any) -> Served:
    inputs = {"item_history": np.array([[b"item-1", b""], [b"\xff", b"item-2"]], object)}
    outputs = {
        "item_id": np.array([[b"item-3", b"item-4", b""], [b"item-5", b"", b""]], object),
        "score": np.array([[-0.5, -1.5, -1e30], [-0.25, -1e30, -1e30]], np.float32),
    }
    if signature == "explore":
        inputs["request_id"] = np.array([b"r1", b"r2"], object)
        outputs["propensity"] = np.array([[0.75, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    plain = {"time": 12.5, "request_id": "h", "user_id": "u", "session_id": None, "model": "toy", "version": 3}
    return Served(**{**plain, "signature": signature, "inputs": inputs, "outputs": outputs, **changes})


def test_a_row_is_what_was_shown_and_with_which_probability():
    first, second = rows_of(_served())
    assert first == {
        "time": 12.5,
        "request_id": "r1",
        "row": 0,
        "model": "toy",
        "version": 3,
        "signature": "explore",
        "user_id": "u",
        "session_id": None,
        "item_history": ["item-1"],
        "item_id": ["item-3", "item-4"],
        "score": [-0.5, -1.5],
        "propensity": [0.75, 1.0],
    }
    # Empty places are left out, and bytes that are no text do no harm.
    assert (second["request_id"], second["item_id"], second["item_history"]) == ("r2", ["item-5"], ["\ufffd", "item-2"])
    plain = list(rows_of(_served("serving_default")))
    assert [(row["request_id"], row["row"], row["propensity"]) for row in plain] == [("h", 0, None), ("h", 1, None)]


def test_examples_are_logged_with_their_histories():
    from components.exporter.warmup import example

    examples = np.array([example(np.array(["item-9", ""], object)), example(np.array(["item-8"], object))], object)
    assert [row["item_history"] for row in rows_of(_served("serving_examples", inputs={"examples": examples}))] == [["item-9"], ["item-8"]]


def test_files_end_when_they_are_large_and_nothing_is_lost(tmp_path: Path):
    metrics = Metrics()
    log = ServedLog(tmp_path / "log", "toy", 1.0, 1000, metrics)
    for number in range(50):
        log.add(_served("serving_default", request_id=str(number)))
    # What recommends nothing is not logged.
    log.add(_served("score_candidates", outputs={"score": np.zeros((2, 1))}))
    log.close()
    files = sorted((tmp_path / "log").iterdir())
    assert len(files) > 5
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [row["request_id"] for row in rows] == [str(number) for number in range(50) for _ in range(2)]
    assert 'longplay_log_rows_total{model_name="toy"} 100' in metrics.text()
    assert 'longplay_log_dropped_total{model_name="toy"} 0' in metrics.text()


def test_a_share_of_the_requests_is_logged_whole(tmp_path: Path):
    log = ServedLog(tmp_path / "log", "toy", 0.25, 1 << 20, Metrics())
    for number in range(2000):
        log.add(_served("serving_default", request_id=f"request {number}"))
    log.close()
    rows = [json.loads(line) for file in (tmp_path / "log").iterdir() for line in file.read_text().splitlines()]
    # Two rows of each; five standard deviations of a quarter of 2,000.
    assert len(rows) / 4000 == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 2000))


# === Joining ===


def _row(request: str, items: list[str], propensity: list[float] | None, **more: Any) -> dict[str, Any]:
    return {"request_id": request, "row": 0, "item_history": [], "item_id": items, "propensity": propensity, **more}


def _write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def _joined(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("interactions-*.jsonl.gz"))
    return [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).decode().splitlines()]


SERVED = [
    _row("r1", ["a", "b", "c"], [0.5, 0.25, 1.0]),
    _row("r2", ["a", "b"], None),
    _row("r3", ["a"], [0.1], row=1),
    # Answered again, after a new version came: what was shown last counts.
    _row("r1", ["b", "a"], [0.75, 1.0]),
]
EVENTS = [
    ({"request_id": "r1", "item_id": "b"}, 0, 0.75),
    ({"request_id": "r1", "item_id": "c"}, None, None),
    ({"request_id": "r2", "item_id": "b"}, 1, None),
    ({"request_id": "r3", "item_id": "a", "row": 1}, 0, 0.1),
    ({"request_id": "r3", "item_id": "a"}, None, None),
    ({"request_id": "r9", "item_id": "a"}, None, None),
    ({"item_id": "a"}, None, None),
]
OUTCOMES = {"with_propensity": 2, "shown_without_chance": 1, "item_not_shown": 1, "request_not_in_log": 2, "without_request": 1}


def _events() -> list[dict[str, Any]]:
    return [{"user_id": f"u{place}", "timestamp": place, **event} for place, (event, _, _) in enumerate(EVENTS)]


def test_events_get_the_propensities_of_what_they_came_of(tmp_path: Path):
    events, served = _write(tmp_path / "events.jsonl.gz", _events()), _write(tmp_path / "served" / "a.jsonl", SERVED)
    counts = join(str(events), str(served.parent), tmp_path / "out", FeedbackConfig(), toy.context(tmp_path))
    assert {name: counts[name] for name in OUTCOMES} == OUTCOMES
    assert (counts["events_read"], counts["rows_served"], counts["quarantined"]) == (7, 4, 0)
    found = _joined(tmp_path / "out")
    assert [(event["place"], event["propensity"]) for event in found] == [(place, chance) for _, place, chance in EVENTS]
    assert [{key: event[key] for key in event if key not in ("place", "propensity")} for event in found] == _events()
    assert json.loads((tmp_path / "out" / "_counts.json").read_text()) == counts


def test_the_order_and_the_outcome_do_not_depend_on_how_the_work_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    many = [{**event, "timestamp": number} for number in range(60) for event in _events()]
    events, served = _write(tmp_path / "events.jsonl", many), _write(tmp_path / "served.jsonl", SERVED)
    whole = join(str(events), str(served), tmp_path / "whole", FeedbackConfig(), toy.context(tmp_path))
    monkeypatch.setattr(lines_module, "RANGE_BYTES", 100)
    monkeypatch.setattr("components.feedback.join._PARTITION_BYTES", 2000)
    cut = join(str(events), str(served), tmp_path / "cut", FeedbackConfig(), toy.context(tmp_path))
    assert cut == whole
    assert len(list((tmp_path / "cut").glob("*.jsonl.gz"))) > 3
    one, other = (sorted(json.dumps(event, sort_keys=True) for event in _joined(tmp_path / name)) for name in ("cut", "whole"))
    assert one == other


def test_the_next_run_reads_them(tmp_path: Path):
    events, served = _write(tmp_path / "events.jsonl", _events()), _write(tmp_path / "served.jsonl", SERVED)
    join(str(events), str(served), tmp_path / "out", FeedbackConfig(), toy.context(tmp_path))
    columns = Columns(user="user_id", item="item_id", timestamp="timestamp", propensity="propensity")
    dataset = JsonLinesConfig(path=str(tmp_path / "out"), columns=columns, feedback={"shown": CLICK})
    blocks = [block for part in plan_ranges(dataset.sources()) for block in read_range(part)]
    assert sum(len(block.bad_lines) for block in blocks) == 0
    propensities = [value for block in blocks for value in block.normalised.batch.column("propensity").to_pylist()]
    assert [None if value is None else round(value, 6) for value in propensities] == [chance for _, _, chance in EVENTS]


BAD = ["no json", "[1]", '{"item_id": [1]}', '{"request_id": "r1"}', "[" * 100_000]


def test_lines_that_are_no_events_are_counted_and_too_many_are_an_error(tmp_path: Path):
    events, served = _write(tmp_path / "events.jsonl", [*_events(), *BAD]), _write(tmp_path / "served.jsonl", SERVED)
    with pytest.raises(ComponentError, match=r"(?s)5 of 12 lines cannot be used:.*events.jsonl, byte \d+: "):
        join(str(events), str(served), tmp_path / "out", FeedbackConfig(), toy.context(tmp_path))
    counts = join(str(events), str(served), tmp_path / "out", FeedbackConfig(max_bad_fraction=0.5), toy.context(tmp_path))
    assert (counts["events_read"], counts["quarantined"], len(_joined(tmp_path / "out"))) == (12, 5, 7)
    with pytest.raises(ComponentError, match="is not empty"):
        join(str(events), str(served), tmp_path / "out", FeedbackConfig(), toy.context(tmp_path))


NO_CHANCES: list[Any] = [
    [0.5],
    [0.5, 0.0],
    [0.5, 1.5],
    [0.5, -1.0],
    [0.5, "0.5"],
    [0.5, True],
    [0.5, math.nan],
    0.5,
    "ab",
    {"a": 1, "b": 1},
]
NO_ROWS: list[Any] = [None, "x", "0", 0.5, True, [0], math.inf]
BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    *(({"propensity": found}, "propensity must hold a probability above 0 for each item") for found in NO_CHANCES),
    *(({"row": found}, "row must be the number of the row") for found in NO_ROWS),
    ({"item_id": "ab"}, "no row that was served"),
    ({"request_id": None}, "no row that was served"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ROWS, ids=[json.dumps(changes) for changes, _ in BAD_ROWS])
def test_a_row_that_cannot_have_been_served_is_an_error_that_names_its_place(changes: dict[str, Any], message: str, tmp_path: Path):
    rows = [*SERVED, {**_row("r1", ["a", "b"], [0.5, 0.5]), **changes}]
    events, served = _write(tmp_path / "events.jsonl", _events()), _write(tmp_path / "served.jsonl", rows)
    with pytest.raises(ComponentError, match=rf"1 of 5 lines cannot be used:\n.*served\.jsonl, byte \d+: {message}"):
        join(str(events), str(served), tmp_path / "out", FeedbackConfig(), toy.context(tmp_path))


def test_an_event_on_a_row_that_no_request_has_is_one_of_an_unknown_request(tmp_path: Path):
    rows = [{"request_id": "r1", "item_id": "b", "row": row} for row in (math.inf, math.nan, "x", [0], 7)]
    events, served = _write(tmp_path / "events.jsonl", rows), _write(tmp_path / "served.jsonl", SERVED)
    counts = join(str(events), str(served), tmp_path / "out", FeedbackConfig(), toy.context(tmp_path))
    assert (counts["request_not_in_log"], counts["events_read"]) == (5, 5)


# === Skew ===


@pytest.fixture(scope="module")
def trained() -> Any:
    return toy.trained()


def _history_log(path: Path, histories: list[list[str]]) -> Path:
    return _write(path, [{**_row(str(number), ["item-1"], None), "item_history": row} for number, row in enumerate(histories)])


def _trained_histories(count: int, seed: int) -> list[list[str]]:
    """Beginnings of sessions like those that were trained on."""
    rng = np.random.default_rng(seed)
    found = []
    for record in toy.successor_sessions(count, seed):
        found.append([f"item-{item}" for item in record.items[: rng.integers(0, len(record.items) + 1)]])
    return found


def _compare(folder: Path, trained: Any, histories: list[list[str]], **config: Any) -> Any:
    log = _history_log(folder / "served.jsonl", histories)
    return compare(str(log), trained.examples, trained.vocabulary, folder / "skew", SkewConfig(**config), toy.context(folder))


def test_what_is_served_as_it_was_trained_on_is_within_bounds(trained: Any, tmp_path: Path):
    found = _compare(tmp_path, trained, _trained_histories(3000, 7))
    assert found.anomalies == []
    assert [distance.feature for distance in found.distances] == ["history_length", "is_unknown", "last_item"]
    assert not any(distance.is_skewed for distance in found.distances)
    # Every session has one state more than it has events.
    train = trained.examples.properties["splits"]["train"]
    assert (found.num_served, found.num_trained) == (3000, train["events"] + train["trajectories"])


SKEWED = {
    "last_item": [["item-4"] * (number % 8) for number in range(1, 1001)],
    "is_unknown": [[*row[:-1], "another name"] if number % 4 else row for number, row in enumerate(_trained_histories(1000, 8))],
    "history_length": [row[-1:] for row in _trained_histories(1000, 9)],
}


@pytest.mark.parametrize("feature", SKEWED)
def test_what_is_served_otherwise_is_told_by_its_feature(feature: str, trained: Any, tmp_path: Path):
    found = _compare(tmp_path, trained, SKEWED[feature])
    assert feature in {distance.feature for distance in found.distances if distance.is_skewed}
    assert any(text.startswith(f"{feature}: ") for text in found.anomalies)


def test_an_item_that_every_tenth_history_ends_with_is_as_far_off_as_that(trained: Any, tmp_path: Path):
    # Each of 20 items ends one history in 20 that has any; one more tenth ends with item-4.
    histories = [[f"item-{number % 20 + 1}"] if number % 10 else ["item-4"] for number in range(2000)]
    (distance,) = [one for one in _compare(tmp_path, trained, histories).distances if one.feature == "last_item"]
    assert distance.measure == "l_infty"
    assert distance.value == pytest.approx(0.1, abs=0.02)


def test_a_few_rows_say_too_little(trained: Any, tmp_path: Path):
    with pytest.raises(ComponentError, match="10 rows were served; fewer than 1,000 say too little"):
        _compare(tmp_path, trained, [["item-1"]] * 10)


def test_the_command_finds_the_run_and_ends_with_1_for_skew(trained: Any, tmp_path: Path):
    outputs = {"examples": str(trained.examples.path), "vocabulary": str(trained.vocabulary.path)}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"steps": [{"name": "trajectory_gen", "outputs": outputs}]}))
    log = _history_log(tmp_path / "served.jsonl", SKEWED["history_length"])
    arguments = ["skew", str(log), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "skew")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 1, found.output
    assert "SKEW history_length" in found.output
    assert {path.name for path in (tmp_path / "skew").iterdir()} == {"train", "served", "schema.pbtxt", "SchemaDiff.pb"}
    wide = CliRunner().invoke(app, [*arguments, "--set", "max_length_divergence=1", "--set", "max_item_difference=1"])
    assert wide.exit_code == 0, wide.output
    assert "does not say where" in CliRunner().invoke(app, ["skew", str(log), "--run", str(tmp_path)]).output
