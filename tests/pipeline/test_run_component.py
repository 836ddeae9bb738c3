"""One component as a process: what it takes, what it refuses, what it leaves behind."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import ArtifactType, open_artifact, verify, write_manifest
from components.base import Component, ComponentError
from components.registry import COMPONENTS
from pipeline import console, run_component
from pipeline.cache import code_digest
from pipeline.card import read_card
from pipeline.config import PipelineConfig
from schemas.config import ConfigError, canonical_json, load

ROOT = Path(__file__).resolve().parents[2]
CONFIG = canonical_json(load(PipelineConfig, ROOT / "pipeline" / "configs" / "quickstart.yaml", ["name=shop"]))

Execute = Callable[[Any, Mapping[str, Any], Mapping[str, Path], Any], Mapping[str, Any]]
Install = Callable[[Execute], None]


@pytest.fixture(autouse=True)
def _leave_logging_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quieten", lambda: None)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts an executor in place of the component's own, which would need the frameworks."""
    return lambda execute: monkeypatch.setattr(Component, "load", lambda self: execute)


@pytest.fixture
def schema_gen(tmp_path: Path) -> list[str]:
    """Arguments of schema_gen, all but the output."""
    statistics = artifact(tmp_path / "in" / "statistics", "ExampleStatistics", rows=7)
    vocabulary = artifact(tmp_path / "in" / "vocabulary", "Vocabulary")
    return ["--component", "schema_gen", "--input", f"statistics={statistics}", "--input", f"vocabulary={vocabulary}"]


def artifact(folder: Path, kind: ArtifactType, **properties: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "data").write_text(f"{kind} of {folder.name}")
    write_manifest(folder, kind, "test.output", properties, {})
    return folder


def run(*arguments: str, config: str = CONFIG) -> int:
    return run_component.main([*arguments, "--config", config])


def write_schema(config: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Path], context: Any) -> dict[str, Any]:
    outputs["schema"].mkdir(parents=True)
    (outputs["schema"] / "schema.pbtxt").write_text(f"{inputs['statistics'].properties['rows']} rows")
    return {"schema": {"features": []}}


def refuse(*_: Any) -> dict[str, Any]:
    raise AssertionError("the component must not be executed")


def test_an_output_states_what_it_was_made_from(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(write_schema)
    assert run(*schema_gen, "--output", f"schema={tmp_path / 'out' / 'schema'}", "--run-id", "run-7") == 0
    made = open_artifact(tmp_path / "out" / "schema")
    verify(made, contents=True)
    assert (made.path / "schema.pbtxt").read_text() == "7 rows"
    assert (made.type, made.manifest["producer"], made.properties) == ("Schema", "schema_gen.schema", {"features": []})
    provenance, statistics = made.manifest["provenance"], open_artifact(tmp_path / "in" / "statistics")
    assert (provenance["pipeline"], provenance["run_id"], provenance["config"]) == ("shop", "run-7", {"curated_schema": None})
    assert provenance["code"] == code_digest("components.schema_gen.executor")
    assert set(provenance["inputs"]) == {"statistics", "vocabulary"}
    assert provenance["inputs"]["statistics"] == {"path": str(statistics.path), "digest": statistics.digest, "type": "ExampleStatistics"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["schema"]
    printed = capsys.readouterr().out
    assert "longplay schema_gen: pipeline shop, run run-7" in printed
    assert f"{made.path}  sha256 {made.digest}" in printed


def test_a_component_gets_its_part_of_a_file_and_beam_and_root(schema_gen: list[str], tmp_path: Path, install: Install) -> None:
    seen: list[Any] = []

    def execute(config: Any, inputs: Any, outputs: Any, context: Any) -> dict[str, Any]:
        seen.append((config.model_dump(), context.beam_args, context.root))
        return {"schema": {"features": []}}

    install(execute)
    file = tmp_path / "run.yaml"
    parts = ("trajectory_gen: {dataset: {name: session_shop}}", "schema_gen: {curated_schema: mine.pbtxt}", "beam: {args: [--workers=2]}")
    file.write_text("\n".join(parts))
    assert run(*schema_gen, "--output", f"schema={tmp_path / 'schema'}", "--root", str(tmp_path), config=f"@{file}") == 0
    assert seen == [({"curated_schema": "mine.pbtxt"}, ("--runner=FnApiRunner", "--workers=2"), tmp_path)]


def test_an_optional_input_may_be_absent_or_empty(tmp_path: Path, install: Install) -> None:
    seen: list[set[str]] = []

    def execute(config: Any, inputs: Mapping[str, Any], outputs: Any, context: Any) -> dict[str, Any]:
        seen.append(set(inputs))
        return {"anomalies": {"anomalies": [], "compared_with_previous": "previous_statistics" in inputs}}

    install(execute)
    statistics = artifact(tmp_path / "statistics", "ExampleStatistics")
    schema = artifact(tmp_path / "schema", "Schema")
    given = ["--component", "example_validator", "--input", f"statistics={statistics}", "--input", f"schema={schema}"]
    given += ["--output", f"anomalies={tmp_path / 'anomalies'}"]
    for previous in ([], ["--input", "previous_statistics="], ["--input", f"previous_statistics={statistics}"]):
        assert run(*given, *previous) == 0
    assert seen == [{"statistics", "schema"}, {"statistics", "schema"}, {"statistics", "schema", "previous_statistics"}]


def test_a_folder_that_is_there_already_is_filled_in_place(schema_gen: list[str], tmp_path: Path, install: Install) -> None:
    """It may be a mount point, which cannot be replaced by another folder."""
    install(write_schema)
    folder = tmp_path / "mounted"
    folder.mkdir()
    before = folder.stat().st_ino
    for _ in range(2):  # The second time over the first result.
        assert run(*schema_gen, "--output", f"schema={folder}") == 0
        assert folder.stat().st_ino == before
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "schema.pbtxt"]
        verify(open_artifact(folder), contents=True)


def test_a_failed_step_keeps_what_it_finished(tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def execute(config: Any, inputs: Any, outputs: Mapping[str, Path], context: Any) -> dict[str, Any]:
        outputs["anomalies"].mkdir()
        (outputs["anomalies"] / "SchemaDiff.pb").write_text("bad")
        raise ComponentError("2 anomalies stop the run", outputs={"anomalies": {"blessed": 0}})

    install(execute)
    statistics, schema = artifact(tmp_path / "statistics", "ExampleStatistics"), artifact(tmp_path / "schema", "Schema")
    arguments = ["--component", "example_validator", "--input", f"statistics={statistics}", "--input", f"schema={schema}"]
    assert run(*arguments, "--output", f"anomalies={tmp_path / 'out' / 'anomalies'}", "--run-id", "r") == 1
    kept = open_artifact(tmp_path / "out" / "anomalies")
    verify(kept, contents=True)
    assert kept.properties == {"blessed": 0}
    assert kept.manifest["provenance"]["run_id"] == "r"
    assert set(kept.manifest["provenance"]["inputs"]) == {"statistics", "schema"}
    assert capsys.readouterr().err == "error: example_validator failed: 2 anomalies stop the run\n"


def test_a_crashed_step_leaves_nothing_and_a_traceback(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(config: Any, inputs: Any, outputs: Mapping[str, Path], context: Any) -> dict[str, Any]:
        outputs["schema"].mkdir()
        (outputs["schema"] / "half").write_text("half")
        raise ZeroDivisionError("by zero")

    install(execute)
    assert run(*schema_gen, "--output", f"schema={tmp_path / 'out' / 'schema'}") == 1
    assert list((tmp_path / "out").iterdir()) == []
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("error: schema_gen failed: ZeroDivisionError: by zero\n")


def test_a_retry_of_the_run_finds_the_scratch_of_the_killed_attempt(schema_gen: list[str], tmp_path: Path, install: Install) -> None:
    found: list[list[str]] = []
    killed = True

    def execute(config: Any, inputs: Any, outputs: Mapping[str, Path], context: Any) -> dict[str, Any]:
        found.append(sorted(path.name for path in context.scratch.iterdir()))
        (context.scratch / "checkpoint").write_text("half way")
        if killed:
            raise KeyboardInterrupt
        return {"schema": {"features": []}}

    install(execute)
    arguments = [*schema_gen, "--output", f"schema={tmp_path / 'schema'}", "--root", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        run(*arguments, "--run-id", "first")
    killed = False
    for run_id in ("other", "first"):
        assert run(*arguments, "--run-id", run_id) == 0
    assert found == [[], [], ["checkpoint"]]
    assert list((tmp_path / "scratch" / "schema_gen").iterdir()) == []


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, config: str = CONFIG) -> str:
    """What is said to a command that is refused before anything runs."""
    assert run(*arguments, config=config) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_an_unknown_component_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--component", "tariner")
    assert "--component tariner" in message
    assert all(name in message for name in COMPONENTS)


def test_a_missing_input_is_refused(schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(refuse)
    output = ["--output", f"schema={tmp_path / 'schema'}"]
    assert "--input vocabulary=PATH" in refused(capsys, *schema_gen[:4], *output)
    assert "--input vocabulary=PATH" in refused(capsys, *schema_gen[:4], "--input", "vocabulary=", *output)
    assert "schema (Schema): --output schema=PATH" in refused(capsys, *schema_gen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "examples=/data"], "--input examples=/data: no such input; known: statistics, vocabulary"),
        (["--input", "statistics"], "--input statistics: expected NAME=PATH"),
        (["--input", "statistics=/data"], "--input statistics=/data: statistics is given twice"),
        (["--output", "model=/data"], "--output model=/data: no such output; known: schema"),
        (["--root", "/no/such/folder"], "--root /no/such/folder: no such folder"),
    ],
)
def test_what_the_component_does_not_take_is_refused(
    arguments: list[str], message: str, schema_gen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *schema_gen, *arguments)


def test_an_input_that_is_no_artifact_is_refused(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(refuse)
    (tmp_path / "plain").mkdir()
    rest = [*schema_gen[:4], "--output", f"schema={tmp_path / 'schema'}"]
    assert "nowhere: no such artifact folder" in refused(capsys, *rest, "--input", f"vocabulary={tmp_path / 'nowhere'}")
    assert "plain: not a finished artifact, it has no manifest.json" in refused(
        capsys, *rest, "--input", f"vocabulary={tmp_path / 'plain'}"
    )
    model = artifact(tmp_path / "model", "Model")
    assert "holds Model, expected Vocabulary" in refused(capsys, *rest, "--input", f"vocabulary={model}")
    (tmp_path / "in" / "vocabulary" / "data").write_text("cut")
    assert "3 bytes, 24 when it was made" in refused(capsys, *schema_gen, "--output", f"schema={tmp_path / 'schema'}")


def test_a_folder_of_other_files_is_not_overwritten(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(refuse)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    assert "holds files that are no artifact" in refused(capsys, *schema_gen, "--output", f"schema={tmp_path / 'home'}")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    assert "is not a folder" in refused(capsys, *schema_gen, "--output", f"schema={tmp_path / 'home' / 'thesis.txt'}")


def test_a_configuration_that_cannot_be_used_is_refused(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(refuse)
    arguments = [*schema_gen, "--output", f"schema={tmp_path / 'schema'}"]
    assert "not valid JSON" in refused(capsys, *arguments, config="{")
    assert "expected a mapping" in refused(capsys, *arguments, config="[]")
    assert "cannot read the configuration" in refused(capsys, *arguments, config="@/no/such.yaml")
    wrong = json.loads(CONFIG) | {"trianer": {}}
    assert "trianer: unknown key (did you mean 'trainer'?)" in refused(capsys, *arguments, config=json.dumps(wrong))

    def does_not_fit(*_: Any) -> dict[str, Any]:
        raise ConfigError("schema_gen.curated_schema: no such file")

    install(does_not_fit)
    assert run(*arguments) == 2
    assert capsys.readouterr().err == "error: schema_gen.curated_schema: no such file\n"


def test_other_code_than_the_caller_knows_is_refused(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a cache that goes by the digest would hold results of code that it has never seen."""
    install(refuse)
    arguments = [*schema_gen, "--output", f"schema={tmp_path / 'schema'}"]
    assert "this image holds" in refused(capsys, *arguments, "--code", "0" * 64)
    install(write_schema)
    assert run(*arguments, "--code", code_digest("components.schema_gen.executor")) == 0


def test_help_answers_within_half_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run(
        [sys.executable, "-m", "pipeline.run_component", "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "--component NAME" in answer.stdout
    # Processor time, which does not depend on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


# === Several workers ===

TWO_WORKERS = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}


def as_worker(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    monkeypatch.setenv("TF_CONFIG", json.dumps({**TWO_WORKERS, "task": {"type": "worker", "index": index}}))


@pytest.fixture
def trainer(tmp_path: Path) -> list[str]:
    """Arguments of trainer."""
    kinds: dict[str, ArtifactType] = {
        "examples": "Examples",
        "relabelled": "Examples",
        "vocabulary": "Vocabulary",
        "neighbours": "Neighbours",
        "reward_model": "RewardModel",
        "user_model": "UserModel",
        "anomalies": "ExampleAnomalies",
        "audit": "LeakageAudit",
    }
    arguments = ["--component", "trainer", "--root", str(tmp_path)]
    for name, kind in kinds.items():
        arguments += ["--input", f"{name}={artifact(tmp_path / 'in' / name, kind)}"]
    return [*arguments, "--output", f"model={tmp_path / 'out' / 'model'}", "--output", f"model_run={tmp_path / 'out' / 'model_run'}"]


def test_of_several_workers_the_chief_alone_publishes(
    trainer: list[str], tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, list[str]]] = []

    def execute(config: Any, inputs: Any, outputs: Mapping[str, Path], context: Any) -> dict[str, Any]:
        seen.append((context.scratch, sorted(path.name for path in context.scratch.iterdir())))
        (context.scratch / "checkpoint").write_text("of the chief")
        for folder in outputs.values():
            folder.mkdir()
            (folder / "data").write_text("made")
        run = {"epochs": 1, "stopped": "done", "metric": "ndcg@10", "best": 0.5, "median_transitions_per_second": 9.0}
        return {} if json.loads(os.environ["TF_CONFIG"])["task"]["index"] else {"model": {"algorithm": {"name": "bc"}}, "model_run": run}

    install(execute)
    as_worker(monkeypatch, 1)
    digest = ["--digest", f"model={tmp_path / 'digest'}", "--card", str(tmp_path / "card")]
    assert run(*trainer, *digest, "--run-id", "r") == 0
    # Nothing is published, and the checkpoints, which the chief will need, are left where they are.
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "digest").exists()
    as_worker(monkeypatch, 0)
    assert run(*trainer, *digest, "--run-id", "r") == 0
    assert seen[0][0] == seen[1][0]
    assert [names for _, names in seen] == [[], ["checkpoint"]]
    assert (tmp_path / "digest").read_text() == open_artifact(tmp_path / "out" / "model").digest
    assert list((tmp_path / "scratch" / "trainer").iterdir()) == []


def test_several_workers_need_one_run_and_a_step_that_can_be_shared(
    trainer: list[str], tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(refuse)
    monkeypatch.delenv(run_component.RUN_ID_VARIABLE, raising=False)
    as_worker(monkeypatch, 1)
    assert "2 processes need one name for what they do together: --run-id" in refused(capsys, *trainer)
    assert "TF_CONFIG: schema_gen is done by one process, not by 2" in refused(capsys, "--component", "schema_gen", "--run-id", "r")


# === What a scheduler is told ===


def test_digests_cards_and_what_kubeflow_shows_are_written_when_the_step_is_done(
    schema_gen: list[str], tmp_path: Path, install: Install
) -> None:
    install(write_schema)
    told = tmp_path / "kfp" / "executor_output.json"
    outputs = {"schema": {"artifacts": [{"name": "", "uri": "s3://bucket/schema", "type": {"schemaTitle": "system.Artifact"}}]}}
    executor_input = json.dumps({"inputs": {}, "outputs": {"artifacts": outputs, "outputFile": str(told)}})
    statistics = open_artifact(tmp_path / "in" / "statistics")
    options = ["--expect", f"statistics={statistics.digest}", "--digest", f"schema={tmp_path / 'kfp' / 'digest'}"]
    options += ["--card", str(tmp_path / "card"), "--executor-input", executor_input, "--run-id", "run-7"]
    assert run(*schema_gen, "--output", f"schema={tmp_path / 'schema'}", *options) == 0
    made = open_artifact(tmp_path / "schema")
    assert (tmp_path / "kfp" / "digest").read_text() == made.digest
    (entry,) = json.loads(told.read_text())["artifacts"]["schema"]["artifacts"]
    assert entry == {"name": "", "uri": "s3://bucket/schema", "metadata": {"digest": made.digest, "kind": "Schema"}}
    card = read_card(tmp_path / "card")
    assert (card.component, card.run_id, list(card.outputs)) == ("schema_gen", "run-7", ["schema"])
    assert card.outputs["schema"].digest == made.digest
    # The manifest without the data.
    assert not (tmp_path / "card" / "schema" / "schema.pbtxt").exists()


def test_an_input_of_another_content_than_its_maker_wrote_is_refused(
    schema_gen: list[str], tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else what a cache believes of its results would not be so."""
    install(refuse)
    output = ["--output", f"schema={tmp_path / 'schema'}"]
    message = refused(capsys, *schema_gen, *output, "--expect", f"statistics={'0' * 64}")
    assert "--expect statistics: its maker wrote 000000000000" in message
    assert "run again without the cache" in message
    assert "no such expect; known: statistics, vocabulary" in refused(capsys, *schema_gen, *output, "--expect", "examples=0")
    assert "not what Kubeflow tells a task" in refused(capsys, *schema_gen, *output, "--executor-input", '{"inputs": {}}')


def test_what_workers_elsewhere_write_is_made_on_the_shared_volume(schema_gen: list[str], tmp_path: Path, install: Install) -> None:
    """The folder of a container's output is its own; a Beam engine's workers see what is below the root."""
    (tmp_path / "volume").mkdir()
    made: list[Path] = []

    def execute(config: Any, inputs: Any, outputs: Mapping[str, Path], context: Any) -> dict[str, Any]:
        made.append(outputs["schema"])
        assert context.beam_args[0] == "--runner=PortableRunner"
        return write_schema(config, inputs, outputs, context)

    install(execute)
    config = json.dumps({**json.loads(CONFIG), "beam": {"engine": {"name": "flink"}}})
    output = tmp_path / "container" / "schema"
    assert run(*schema_gen, "--output", f"schema={output}", "--root", str(tmp_path / "volume"), config=config) == 0
    assert made[0].is_relative_to(tmp_path / "volume" / "scratch")
    verify(open_artifact(output), contents=True)
    assert (output / "schema.pbtxt").read_text() == "7 rows"
    assert [path for path in (tmp_path / "volume").rglob("*") if path.is_file()] == []
    assert [path.name for path in output.parent.iterdir()] == ["schema"]
