"""Recommendations for many histories: what is written, what is counted, what a killed job leaves."""

import gzip
import json
import shutil
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from components.artifacts import Artifact
from components.base import ComponentError
from components.bulk_inferrer import job as job_module
from components.bulk_inferrer.component import BULK_INFERRER
from components.bulk_inferrer.config import BulkInferrerConfig, InferenceConfig
from components.bulk_inferrer.executor import execute
from components.bulk_inferrer.job import Job, run
from components.bulk_inferrer.rows import BadRow, Part, Row, batches, parts_of_files, read_part
from components.datasets import lines as lines_module
from models.frameworks import tf
from pipeline.cli import app
from schemas.request import Request

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

K = 5


@pytest.fixture(scope="module")
def serving_model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from components.exporter.executor import export
    from components.model_io import load_model

    folder = tmp_path_factory.mktemp("exported") / "serving_model"
    export(load_model(toy.trained().model), folder / "Format-Serving", K)
    found: Artifact = toy.artifact(folder, "ServingModel", {})
    return found


def _examples(folder: Path) -> Artifact:
    """Five sessions in two shards; the second session is long and has three records."""
    records = [
        toy.Record([1, 2, 3], session="a"),
        toy.Record([4, 5, 6, 7], session="b"),
        toy.Record([6, 7, 8, 9], num_context=2, session="b"),
        toy.Record([8, 9, 10], num_context=2, session="b"),
        toy.Record([toy.UNKNOWN, 12], session="c"),
    ]
    examples: Artifact = toy.write_examples(folder, {"train": [toy.Record([1, 2])], "eval": [toy.Record([1, 2])], "test": records})
    second = folder / "Split-test" / "data_tfrecord-00001-of-00002.gz"
    with tf.io.TFRecordWriter(str(second), "GZIP") as writer:
        for number, items in enumerate(([13, 14], [15])):
            writer.write(toy._example(toy.Record(items, session=f"d{number}"), number))
    splits = {**examples.properties["splits"], "test": {"trajectories": 7, "events": 18}}
    changed: Artifact = toy.artifact(folder, "Examples", {"max_length": toy.MAX_STEPS, "splits": splits})
    return changed


def _infer(
    folder: Path, serving_model: Artifact, examples: Artifact | None = None, blessed: bool = True, **config: Any
) -> tuple[Mapping[str, Any], Path]:
    """What is stated and where the files are."""
    inputs = {"serving_model": serving_model, "vocabulary": toy.write_vocabulary(folder / "vocabulary")}
    for name, kind, file in (("blessing", "ModelBlessing", "BLESSED"), ("infra_blessing", "InfraBlessing", "INFRA_BLESSED")):
        inputs[name] = toy.artifact(folder / name, kind, {})
        (folder / name / (file if blessed else f"NOT_{file}")).touch()
    inputs["examples"] = examples or _examples(folder / "examples")
    outputs = {"inference_result": folder / "inference_result"}
    found = execute(BulkInferrerConfig(enabled=True, batch_size=2, **config), inputs, outputs, toy.context(folder))
    return found["inference_result"], outputs["inference_result"]


def _expected(serving_model: Artifact, history: list[str], exclude: list[str] | None = None) -> list[str]:
    loaded = tf.saved_model.load(str(serving_model.path / "Format-Serving"))
    answer = loaded.signatures["serving_default"](item_history=tf.constant([history]), exclude=tf.constant([exclude or [""]]))
    return [item.decode() for item in answer["item_id"].numpy()[0] if item]


SESSIONS = {
    "a": ["item-1", "item-2", "item-3"],
    "b": ["item-8", "item-9", "item-10"],
    "c": ["(unknown)", "item-12"],
    "d0": ["item-13", "item-14"],
    "d1": ["item-15"],
}


# === Sessions of a split ===


def test_every_session_gets_what_comes_after_its_last_event(serving_model: Artifact, tmp_path: Path):
    stated, folder = _infer(tmp_path, serving_model)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [f"Split-test/recommendations-0000{number}-of-00002.parquet" for number in (0, 1)]
    rows = [row for file in files for row in pq.read_table(folder / file).to_pylist()]
    assert [row["session_id"] for row in rows] == list(SESSIONS)
    assert {row["user_id"] for row in rows} == {"user"}
    for row in rows:
        assert row["item_id"] == _expected(serving_model, SESSIONS[row["session_id"]])
        assert row["score"] == sorted(row["score"], reverse=True)
    counts = {"read": 5, "answered": 5, "quarantined": 0, "without_items": 0, "items": 5 * K, "records": 7}
    assert {name: stated[name] for name in counts} == counts
    assert "25 items for 5 histories as parquet" in BULK_INFERRER.describe({"inference_result": stated})


def test_prediction_logs_hold_requests_and_answers(serving_model: Artifact, tmp_path: Path):
    from tensorflow_serving.apis import prediction_log_pb2

    _, folder = _infer(tmp_path, serving_model, format="prediction_log")
    files = [str(folder / "Split-test" / f"prediction_logs-0000{number}-of-00002.gz") for number in (0, 1)]
    logs = [prediction_log_pb2.PredictionLog.FromString(r) for r in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()]
    assert len(logs) == 5
    for log, history in zip(logs, SESSIONS.values(), strict=True):
        request, response = log.predict_log.request, log.predict_log.response
        assert request.model_spec.signature_name == "recommend"
        assert [item.decode() for item in tf.make_ndarray(request.inputs["item_history"])[0] if item] == history
        items = [item.decode() for item in tf.make_ndarray(response.outputs["item_id"])[0] if item]
        assert items == _expected(serving_model, history)


def test_seen_items_are_left_out_and_fewer_are_given_where_fewer_are_wanted(serving_model: Artifact, tmp_path: Path):
    _, folder = _infer(tmp_path, serving_model, format="jsonl", exclude_seen=True, k=2)
    text = gzip.decompress((folder / "Split-test" / "recommendations-00000-of-00002.jsonl.gz").read_bytes()).decode()
    for row in map(json.loads, text.splitlines()):
        history = SESSIONS[row["session_id"]]
        assert row["item_id"] == _expected(serving_model, history, history)[:2]


def test_records_that_are_lost_are_noticed(serving_model: Artifact, tmp_path: Path):
    examples = _examples(tmp_path / "examples")
    (examples.path / "Split-test" / "data_tfrecord-00001-of-00002.gz").unlink()
    with pytest.raises(ComponentError, match="5 records were read, the ledger says 7 were written"):
        _infer(tmp_path, serving_model, examples)


def test_a_model_that_is_not_blessed_recommends_nothing(serving_model: Artifact, tmp_path: Path):
    stated, folder = _infer(tmp_path, serving_model, blessed=False)
    assert stated == {"inferred": 0, "reasons": ["the model is not blessed", "the exported model does not pass"]}
    assert list(folder.iterdir()) == []


# === Files ===

LINES = [
    '{"user_id": "u1", "session_id": "s1", "item_history": ["item-3", "item-4"]}',
    '{"item_history": [], "candidates": ["item-7", "item-2"], "k": 9}',
    "",
    '{"item_history": ["item-5"], "k": 1}',
    json.dumps({"item_history": ["item-5"], "exclude": toy.item_names()}),
]
BAD_LINES = ["no json", '{"item_history": "item-3"}', '{"item_history": [], "target_return": 3}', '{"item_history": [], "user_id": 7}']


def _write(path: Path, lines: list[str]) -> Path:
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["users.jsonl", "users.jsonl.gz"])
def test_requests_in_files_are_answered_in_order(name: str, serving_model: Artifact, tmp_path: Path):
    path = _write(tmp_path / name, [*LINES, *BAD_LINES])
    stated, folder = _infer(tmp_path, serving_model, histories=str(path), max_bad_fraction=0.5)
    rows = pq.read_table(folder / "recommendations-00000-of-00001.parquet").to_pylist()
    assert [(row["user_id"], row["session_id"]) for row in rows] == [("u1", "s1"), (None, None), (None, None), (None, None)]
    assert rows[0]["item_id"] == _expected(serving_model, ["item-3", "item-4"])
    assert sorted(rows[1]["item_id"]) == ["item-2", "item-7"]
    assert rows[2]["item_id"] == _expected(serving_model, ["item-5"])[:1]
    assert rows[3]["item_id"] == []
    counts = {"read": 8, "answered": 4, "quarantined": 4, "without_items": 1, "items": K + 2 + 1}
    assert {name: stated[name] for name in counts} == counts
    bad = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in bad] == [str(path)] * 4
    for entry, reason in zip(bad, ("Expecting value", "items must be text", "not conditioned on a return", "user_id"), strict=True):
        assert reason in entry["reason"]


def test_too_many_bad_rows_fail_with_samples(serving_model: Artifact, tmp_path: Path):
    path = _write(tmp_path / "users.jsonl", [*LINES, *BAD_LINES])
    with pytest.raises(ComponentError, match=r"(?s)4 of 8 rows are no requests, max_bad_fraction is 0.01:.*users.jsonl, byte \d+: Exp"):
        _infer(tmp_path, serving_model, histories=str(path))


def test_parquet_says_nothing_where_it_is_null(serving_model: Artifact, tmp_path: Path):
    table = pa.table({"item_history": [["item-3", "item-4"], []], "exclude": [None, ["item-1"]], "user_id": ["u", None]})
    pq.write_table(table, tmp_path / "users.parquet")
    _, folder = _infer(tmp_path, serving_model, histories=str(tmp_path / "users.parquet"))
    rows = pq.read_table(folder / "recommendations-00000-of-00001.parquet").to_pylist()
    assert rows[0]["item_id"] == _expected(serving_model, ["item-3", "item-4"])
    assert rows[1]["item_id"] == _expected(serving_model, [""], ["item-1"])


def test_ranges_of_a_file_hold_every_line_once(tmp_path: Path):
    lines = [json.dumps({"item_history": [f"item-{number}"] * (number % 5)}) for number in range(200)]
    path = _write(tmp_path / "users.jsonl", lines)
    size = path.stat().st_size
    whole = list(read_part(Part("0", "jsonl", str(path)), [], False))
    assert len(whole) == 200
    for width in (1, 7, 100, size - 1, size):
        parts = [Part(str(start), "jsonl", str(path), start, start + width) for start in range(0, size, width)]
        assert [row for part in parts for row in read_part(part, [], False)] == whole


def test_a_long_file_is_cut_and_what_is_compressed_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = b'{"item_history": []}\n' * 10
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(content)
    monkeypatch.setattr(lines_module, "RANGE_BYTES", 100)
    # 210 bytes are two ranges of 100 and one of 10; names go on counting.
    found = [(part.name, Path(part.path).name, part.begin, part.end) for part in parts_of_files(str(tmp_path), "histories")]
    cut = [("00000", "a.jsonl", 0, 100), ("00001", "a.jsonl", 100, 200), ("00002", "a.jsonl", 200, 300)]
    assert found == [*cut, ("00003", "b.jsonl.gz", 0, None)]


def test_many_values_in_one_list_are_no_request(tmp_path: Path):
    path = _write(tmp_path / "users.jsonl", [json.dumps({"item_history": ["x"] * 10_001}), "[" * 100_000])
    long, deep = read_part(Part("0", "jsonl", str(path)), [], False)
    assert isinstance(long, BadRow)
    assert "10,001 values in a list" in long.reason
    assert isinstance(deep, BadRow)


# === Attempts ===


@pytest.mark.parametrize("size", [1, 3, 100])
def test_rows_are_asked_for_together_as_far_as_their_lists_allow(size: int):
    lengths = [1, 1, 1, 1, 7, 1, 1, 30, 1, 0]
    rows = [Row(Request(["a"] * length, exclude=["b"] * length), str(number), None) for number, length in enumerate(lengths)]
    found = list(batches(iter(rows), size, max_values=28))
    assert [row for batch in found for row in batch] == rows
    for batch in found:
        assert len(batch) <= size
        # The widest row is 2 x 30 wide and stands alone.
        assert len(batch) == 1 or len(batch) * max(2 * len(row.request.history) for row in batch) <= 28
    if size == 100:
        # 4 rows of 2, and no fifth of 14; then 14 with one of 2; one of 2; 60; the rest.
        assert [len(batch) for batch in found] == [4, 2, 1, 1, 2]


def _job(serving_model: Artifact, folder: Path, count: int) -> Job:
    for number in range(count):
        _write(folder / f"users-{number}.jsonl", [json.dumps({"item_history": [f"item-{number + 1}"]})] * (number + 1))
    model = str(serving_model.path / "Format-Serving")
    return Job(model, InferenceConfig(format="jsonl"), tuple(parts_of_files(str(folder / "users-*.jsonl"), "histories")))


def test_a_job_that_was_killed_goes_on_with_what_is_left(serving_model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job, context = _job(serving_model, tmp_path, 4), toy.context(tmp_path)
    whole = run(job, tmp_path / "whole", context)
    assert (whole.read, whole.answered, whole.resumed) == (10, 10, 0)
    answers = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.jsonl.gz")}
    # It ends in the middle of the third part, as if the machine had.
    read = job_module.read_part

    def fall_over(part: Part, names: list[str], tells_rewards: bool) -> Any:
        if part.name == "00002":
            raise KeyboardInterrupt
        return read(part, names, tells_rewards)

    monkeypatch.setattr(job_module, "read_part", fall_over)
    with pytest.raises(BaseException, match=""):
        run(job, tmp_path / "killed", context)
    monkeypatch.undo()
    again: list[str] = []

    def note(part: Part, names: list[str], tells_rewards: bool) -> Any:
        again.append(part.name)
        return read(part, names, tells_rewards)

    monkeypatch.setattr(job_module, "read_part", note)
    resumed = run(job, tmp_path / "killed", context)
    assert resumed.resumed == 4 - len(again) > 0
    assert "00002" in again
    assert (resumed.read, resumed.answered, resumed.items) == (whole.read, whole.answered, whole.items)
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed").glob("*.jsonl.gz")} == answers


def test_a_file_that_cannot_be_read_names_itself_and_the_rest_is_kept(serving_model: Artifact, tmp_path: Path):
    job = _job(serving_model, tmp_path, 3)
    (tmp_path / "users-1.jsonl").rename(tmp_path / "users-1.away")
    with pytest.raises(ComponentError, match=r"users-1.jsonl: cannot be read: FileNotFoundError"):
        run(job, tmp_path / "scratch", toy.context(tmp_path))
    (tmp_path / "users-1.away").rename(tmp_path / "users-1.jsonl")
    counts = run(job, tmp_path / "scratch", toy.context(tmp_path))
    assert (counts.read, counts.resumed) == (6, 2)


# === The command ===


def test_the_command_answers_and_does_not_mix_jobs(serving_model: Artifact, tmp_path: Path):
    path = _write(tmp_path / "users.jsonl", LINES)
    model = str(serving_model.path / "Format-Serving")
    arguments = ["infer", str(path), "--model", model, "--out", str(tmp_path / "out"), "--set", "format=jsonl"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "8 items for 4 of 4 histories" in done.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["counts.json", "recommendations-00000-of-00001.jsonl.gz"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "is not empty" in again.output
    for wrong, message in ((["--set", "fromat=jsonl"], "fromat"), (["--model", str(tmp_path)], "holds neither")):
        found = CliRunner().invoke(app, ["infer", str(path), "--model", model, "--out", str(tmp_path / "other"), *wrong])
        assert found.exit_code == 2
        assert message in found.output
    shutil.rmtree(tmp_path / "out")
