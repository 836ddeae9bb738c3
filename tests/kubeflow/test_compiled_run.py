"""The compiled YAML executed, container by container, beside a local run of the same configuration."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, open_artifact, verify
from components.base import SilentProgress
from components.model_io import EVALUATION_FOLDER
from models.frameworks import tf
from pipeline import kfp
from pipeline.config import PipelineConfig
from pipeline.deployment import DeploymentConfig
from pipeline.graph import GRAPH, step_names
from pipeline.local import LocalRunner, RunResult
from pipeline.summary import summarise
from schemas.config import load

sys.path.append(str(Path(__file__).parent))
cluster = import_module("cluster")

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "name=tiny_shop",
    "trajectory_gen.dataset.num_events=3000",
    "trajectory_gen.dataset.shop={num_items: 60, num_clusters: 5}",
    "trainer.max_epochs=1",
    "evaluator.num_resamples=20",
]
SHOP = load(PipelineConfig, ROOT / "pipeline" / "configs" / "quickstart.yaml", TINY)


def compiled(folder: Path, **options: Any) -> Any:
    """A cluster with the pipeline of the tiny shop, and a volume."""
    if not (folder / "pipeline.yaml").exists():
        kfp.compile_pipeline(SHOP, folder / "pipeline.yaml", DeploymentConfig(image="registry.example/longplay:test"))
        (folder / "volume").mkdir()
    run_id = options.pop("run_id", "the-pod's-run")
    (folder / run_id).mkdir()
    return cluster.Cluster(folder / "pipeline.yaml", folder / run_id, {"root": str(folder / "volume")}, run_id, **options)


def run_locally(root: Path, last: str | None = None) -> RunResult:
    *_, result = LocalRunner(root, SilentProgress()).run(SHOP, last=last)
    assert isinstance(result, RunResult)
    assert result.failed is None, result.failed
    return result


SAVED = {"saved_model.pb", "fingerprint.pb", "variables.index", "variables.data-00000-of-00001"}
"""Files of a SavedModel that name functions by a counter of the process, or hold a random number."""

MAY_DIFFER: dict[str, set[str]] = {
    "trainer.model": SAVED,
    "trainer.model_run": {"history.json", "events", "median_transitions_per_second", "median_input_wait_share"},
    "online_tuner.model": SAVED,
    # Digests of the models before them.
    "evaluator.blessing": {"current_model"},
    "exporter.serving_model": {*SAVED, "model"},
    "infra_validator.infra_blessing": {"serving_model", "load_seconds", "request_milliseconds", "latency_milliseconds", "memory_megabytes"},
    "pusher.pushed_model": {"pushed.json", "version", "path"},
}
"""What two runs of one configuration do not share: names of files and of properties by artifact. The weights of models are not among them:
they lie beside their SavedModels, whose own are compared by `tensors_of`."""


def differing(found: Any, expected: RunResult, steps: list[str]) -> dict[str, set[str]]:
    """Files and properties in which artifacts of two runs differ, after their files were checked."""
    different = {}
    for name in steps:
        for output in next(step for step in GRAPH if step.name == name).component.outputs:
            made, wanted = open_artifact(found.artifact(name.replace("_", "-"), output)), expected.output(name, output)
            verify(made, contents=True)
            assert wanted is not None
            assert made.type == wanted.type
            if made.digest != wanted.digest:
                different[f"{name}.{output}"] = _differences(_content(made), _content(wanted))
    return different


def _content(artifact: Artifact) -> dict[str, Any]:
    """Properties, and digests of files by name; the names of event files hold the time."""
    files: dict[str, list[str]] = {}
    for path, entry in artifact.manifest["files"].items():
        name = Path(path).name
        files.setdefault("events" if name.startswith("events.out") else name, []).append(entry["sha256"])
    return {**files, **artifact.properties}


def _differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def tensors_of(model: Artifact) -> dict[str, Any]:
    """Variables of a model's SavedModel by name, without the graph of objects, which names them by a counter of the process."""
    reader = tf.train.load_checkpoint(str(model.path / EVALUATION_FOLDER / "variables" / "variables"))
    names = reader.get_variable_to_shape_map().keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return {name: reader.get_tensor(name).tobytes() for name in names}


def test_compiled_commands_make_what_the_local_runner_makes(tmp_path: Path) -> None:
    found, steps = compiled(tmp_path), ["trajectory_gen", "statistics_gen"]
    for task in ("trajectory-gen", "statistics-gen"):
        assert "run the-pod's-run" in found.run_task(task).printed
    assert differing(found, run_locally(tmp_path / "local", last=steps[-1]), steps) == {}
    examples = open_artifact(found.artifact("trajectory-gen", "examples"))
    records = sum(1 for shard in examples.path.rglob("*.gz") for _ in tf.data.TFRecordDataset(str(shard), "GZIP"))
    assert records == sum(split["trajectories"] for split in examples.properties["splits"].values()) > 100
    assert examples.properties["ledger"]["rows_read"] >= 3000
    provenance = open_artifact(found.artifact("statistics-gen", "statistics")).manifest["provenance"]
    assert (provenance["pipeline"], provenance["run_id"]) == ("tiny_shop", "the-pod's-run")
    assert provenance["inputs"]["examples"]["digest"] == examples.digest
    assert provenance["config"] == SHOP.statistics_gen.model_dump(mode="json")
    # What Kubeflow keeps of the artifact, and what it hands to the next step for its cache.
    outputs = found.done["trajectory-gen"].outputs
    assert outputs["examples"].metadata["digest"] == outputs["examples_sha256"] == examples.digest
    assert (
        outputs["vocabulary"].metadata["num_items"] == open_artifact(found.artifact("trajectory-gen", "vocabulary")).properties["num_items"]
    )


@pytest.mark.slow
def test_the_whole_pipeline_gives_what_a_local_run_gives_and_is_cached_by_content(tmp_path: Path) -> None:
    local = run_locally(tmp_path / "local")
    first = compiled(tmp_path, run_id="first")
    first.run()
    for name, differences in differing(first, local, step_names()).items():
        assert differences <= MAY_DIFFER.get(name, set()), name
    trained = local.output("trainer", "model")
    assert trained is not None
    assert tensors_of(open_artifact(first.artifact("trainer", "model"))) == tensors_of(trained)
    summary = json.loads((first.artifact("report", "summary") / "summary.json").read_text())
    expected = summarise(local)
    assert (summary["run_id"], summary["pipeline"], summary["status"]) == ("first", "tiny_shop", "complete")
    for part in ("counts", "metrics", "intervals", "blessing"):
        assert summary[part] == json.loads(json.dumps(expected[part])), part
    assert [step["status"] for step in summary["steps"]] == ["executed"] * len(GRAPH)
    assert_shown(first, summary)

    second = compiled(tmp_path, run_id="second", cache=first.cache)
    second.run()
    ran = {task for task, result in second.done.items() if not result.cached}
    assert ran == {"trajectory-gen", "pusher", "report"}
    again = json.loads((second.artifact("report", "summary") / "summary.json").read_text())
    assert again["metrics"] == summary["metrics"]
    assert {step["name"] for step in again["steps"] if step["status"] == "executed"} == {"trajectory_gen", "pusher"}


def assert_shown(found: Any, summary: Any) -> None:
    """Kubeflow's pages show the metrics of the model, a curve and the report."""
    shown = found.done["evaluator"].outputs["evaluation"]
    assert shown.schema_title == "system.Metrics"
    candidate = summary["metrics"]["test"]["candidate"]
    assert shown.metadata == pytest.approx({f"test/{name}": value for name, value in candidate.items()})
    curve = found.done["report"].outputs["roc"].metadata["confidenceMetrics"]
    inside = [point["recall"] for point in curve[1:-1]]
    assert inside == pytest.approx([candidate[f"hit_rate@{k}"] for k in (5, 10, 20)])
    assert [point["falsePositiveRate"] for point in curve] == sorted(point["falsePositiveRate"] for point in curve)
    page = found.artifact("report", "report").read_text()
    assert page.lstrip().startswith("<!doctype html>".upper()) or page.lstrip().lower().startswith("<!doctype html>")
    assert f"{candidate['ndcg@10']:.4f}" in page
