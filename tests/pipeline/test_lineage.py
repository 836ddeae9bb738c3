"""What was made from what: a file that only grows, and finding an earlier result in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, write_manifest
from pipeline.graph import FromHistory
from pipeline.lineage import Execution, Lineage, reference

WANTED = FromHistory("step", "out")


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path / "root" / "lineage.jsonl")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Artifact]:
    def run(name: str, content: str | None = None, **properties: Any) -> Artifact:
        folder = tmp_path / "artifacts" / name
        folder.mkdir(parents=True)
        (folder / "data").write_text(content or name)
        return write_manifest(folder, "Model", "step.out", properties, {})

    return run


def execution(run_id: str, step: str = "step", pipeline: str = "shop", inputs: Any = None, **outputs: Artifact) -> Execution:
    named = {name: reference(artifact) for name, artifact in outputs.items()}
    given = {name: reference(artifact) for name, artifact in (inputs or {}).items()}
    return Execution(run_id, pipeline, step, "executed", "key", given, named, 1.0)


def test_what_is_recorded_comes_back_latest_first(lineage: Lineage) -> None:
    executions = [execution("1"), execution("2", step="other"), execution("3", pipeline="other"), execution("4")]
    for entry in executions:
        lineage.record(entry)
    assert list(lineage.latest_first("shop", "step")) == [executions[3], executions[0]]
    assert len(lineage.path.read_text().splitlines()) == 4


def test_without_a_file_there_is_nothing(lineage: Lineage) -> None:
    assert list(lineage.latest_first("shop", "step")) == []
    assert lineage.find(WANTED, "shop", None) is None


def test_a_reference_names_place_digest_and_type(make: Callable[..., Artifact]) -> None:
    artifact = make("a")
    assert reference(artifact) == {"path": str(artifact.path), "digest": artifact.digest, "type": "Model"}


def test_the_latest_artifact_of_the_step_and_pipeline_is_found(lineage: Lineage, make: Callable[..., Artifact]) -> None:
    old, new, elsewhere = make("old"), make("new"), make("elsewhere")
    lineage.record(execution("1", out=old))
    lineage.record(execution("2", out=new))
    lineage.record(execution("3", step="other", out=elsewhere))
    lineage.record(execution("4", pipeline="other", out=elsewhere))
    assert lineage.find(WANTED, "shop", None) == new


def test_an_artifact_can_be_found_among_the_inputs_of_a_step(lineage: Lineage, make: Callable[..., Artifact]) -> None:
    model = make("model")
    lineage.record(execution("1", inputs={"model": model}, out=make("out")))
    assert lineage.find(FromHistory("step", "model"), "shop", None) == model
    assert lineage.find(FromHistory("step", "nothing"), "shop", None) is None


def test_an_artifact_with_the_content_at_hand_is_passed_over(lineage: Lineage, make: Callable[..., Artifact]) -> None:
    old, new, same = make("old"), make("new", "content"), make("same", "content")
    assert new.digest == same.digest
    lineage.record(execution("1", out=old))
    lineage.record(execution("2", out=new))
    lineage.record(execution("3", out=same))
    assert lineage.find(WANTED, "shop", new.digest) == old


def test_only_what_was_blessed_is_found_where_it_must_be(lineage: Lineage, make: Callable[..., Artifact]) -> None:
    good, bad = make("good"), make("bad")
    lineage.record(execution("1", inputs={"model": good}, blessing=make("yes", blessed=1)))
    lineage.record(execution("2", inputs={"model": bad}, blessing=make("no", blessed=0)))
    lineage.record(execution("3", inputs={"model": bad}))
    assert lineage.find(FromHistory("step", "model", blessed_only=True), "shop", None) == good
    assert lineage.find(FromHistory("step", "model"), "shop", None) == bad


def test_what_is_gone_truncated_or_made_anew_is_passed_over(lineage: Lineage, make: Callable[..., Artifact]) -> None:
    intact, gone, truncated, anew, torn = (make(name) for name in ("intact", "gone", "truncated", "anew", "torn"))
    for number, artifact in enumerate((intact, gone, truncated, anew, torn)):
        lineage.record(execution(str(number), out=artifact))
    (gone.path / "manifest.json").unlink()
    (truncated.path / "data").write_text("")
    (anew.path / "data").write_text("else")
    write_manifest(anew.path, "Model", "step.out", {}, {})
    (torn.path / "manifest.json").write_text('{"type": ')
    assert lineage.find(WANTED, "shop", None) == intact


def test_a_line_that_was_left_half_written_is_passed_over(lineage: Lineage, make: Callable[..., Artifact]) -> None:
    artifact = make("a")
    lineage.record(execution("1", out=artifact))
    with lineage.path.open("a") as stream:
        stream.write(json.dumps(vars(execution("2", out=artifact)))[:80])
    assert [entry.run_id for entry in lineage.latest_first("shop", "step")] == ["1"]
    assert lineage.find(WANTED, "shop", None) == artifact


def test_what_is_recorded_after_a_half_written_line_is_found(lineage: Lineage) -> None:
    lineage.record(execution("1"))
    with lineage.path.open("a") as stream:
        stream.write('{"run_id": "2", "pipel')
    lineage.record(execution("3"))
    assert [entry.run_id for entry in lineage.latest_first("shop", "step")] == ["3", "1"]


def test_a_line_of_a_later_version_does_not_stop_a_run(lineage: Lineage) -> None:
    lineage.record(execution("1"))
    entry = {**vars(execution("2")), "host": "new"}
    with lineage.path.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    assert [entry.run_id for entry in lineage.latest_first("shop", "step")][-1] == "1"
