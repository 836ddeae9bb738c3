"""The compiled Kubeflow pipeline: the same graph, read back by the SDK, and two of its commands run for real."""

import json
import os
import re
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.components import load_component_from_file
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

from components.registry import COMPONENTS
from pipeline import kfp
from pipeline.cache import code_digest
from pipeline.cli import app
from pipeline.config import PipelineConfig
from pipeline.deployment import DeploymentConfig, Resources
from pipeline.graph import GRAPH, FromHistory, FromStep
from schemas.config import canonical_json, decode, load

sys.path.append(str(Path(__file__).parent))
cluster = import_module("cluster")

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "quickstart.kfp.yaml"
QUICKSTART = load(PipelineConfig, ROOT / "pipeline" / "configs" / "quickstart.yaml")
IMAGE = "registry.example/longplay:test"
IN_IMAGE = DeploymentConfig(image=IMAGE)
REPORT = "report"
"""The one task that is no component."""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled") / "quickstart.yaml"
    kfp.compile_pipeline(QUICKSTART, out, IN_IMAGE)
    return out


def documents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    found: tuple[dict[str, Any], dict[str, Any]] = cluster.documents(path)
    return found


def tasks(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = documents(path)[0]["root"]["dag"]["tasks"]
    return found


def container(path: Path, task: str) -> dict[str, Any]:
    found: dict[str, Any] = documents(path)[0]["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
    return found


def assert_backend_knows_every_field(path: Path) -> None:
    """Kubeflow's driver parses both documents as these messages; a field that they do not have is an error."""
    pipeline, executors = documents(path)
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    assert executors
    for executor in executors.values():
        json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def kubeflow_name(step: str) -> str:
    """KFP allows no underscore in the name of a step."""
    return step.replace("_", "-")


def test_quickstart_compiles_to_the_golden_file(quickstart: Path, update_golden: bool) -> None:
    text = re.sub(r"sdkVersion: .*", "sdkVersion: <sdk>", quickstart.read_text(encoding="utf-8"))
    text = re.sub(r"\b[0-9a-f]{64}\b", "<code>", text)
    if update_golden:
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "differs from the golden file; `make golden` writes it anew"


def test_the_sdk_reads_the_pipeline_back(quickstart: Path) -> None:
    pipeline = load_component_from_file(str(quickstart))
    assert pipeline.name == "quickstart"
    assert_backend_knows_every_field(quickstart)
    inputs = {name: (spec.type, spec.default) for name, spec in pipeline.component_spec.inputs.items()}
    assert inputs == {
        "config": ("String", canonical_json(QUICKSTART)),
        "root": ("String", "/mnt/longplay"),
        "base_model": ("String", ""),
        "baseline_model": ("String", ""),
        "previous_statistics": ("String", ""),
    }
    assert decode(PipelineConfig, json.loads(inputs["config"][1]), "yaml") == QUICKSTART


def test_every_component_is_a_step_that_runs_it(quickstart: Path) -> None:
    assert set(tasks(quickstart)) == {kubeflow_name(name) for name in COMPONENTS} | {REPORT}
    for name, component in COMPONENTS.items():
        spec = container(quickstart, kubeflow_name(name))
        assert spec["image"] == IMAGE
        assert spec["command"] == ["python", "-m", "pipeline.run_component"]
        args = spec["args"]
        assert args[args.index("--component") + 1] == name
        assert args[args.index("--config") + 1] == "{{$.inputs.parameters['config']}}"
        outputs = [args[place + 1] for place, arg in enumerate(args) if arg == "--output"]
        assert outputs == [f"{output}={{{{$.outputs.artifacts['{output}'].path}}}}" for output in component.outputs]
        # A display name other than this keeps KFP's driver from finding the step's outputs.
        assert tasks(quickstart)[kubeflow_name(name)]["taskInfo"]["name"] == kubeflow_name(name)


def test_steps_read_what_the_graph_says(quickstart: Path) -> None:
    for step in GRAPH:
        task = tasks(quickstart)[kubeflow_name(step.name)]
        made = {name: source for name, source in step.inputs.items() if isinstance(source, FromStep)}
        assert set(task.get("dependentTasks", [])) == {kubeflow_name(source.step) for source in made.values()}
        artifacts = {
            name: (entry["taskOutputArtifact"]["producerTask"], entry["taskOutputArtifact"]["outputArtifactKey"])
            for name, entry in task["inputs"].get("artifacts", {}).items()
        }
        assert artifacts == {name: (kubeflow_name(source.step), source.output) for name, source in made.items()}
        given = task["inputs"]["parameters"]
        parameters = {name: entry["componentInputParameter"] for name, entry in given.items() if "componentInputParameter" in entry}
        history = [name for name, source in step.inputs.items() if isinstance(source, FromHistory)]
        assert parameters == {name: name for name in ("config", "root", *history)}
        digests = {
            name: (entry["taskOutputParameter"]["producerTask"], entry["taskOutputParameter"]["outputParameterKey"])
            for name, entry in given.items()
            if name not in parameters
        }
        assert digests == {f"{name}_digest": (kubeflow_name(source.step), f"{source.output}_sha256") for name, source in made.items()}


def test_artifacts_have_kubeflow_types(quickstart: Path) -> None:
    components = documents(quickstart)[0]["components"]

    def types(task: str, side: str) -> dict[str, str]:
        artifacts = components[f"comp-{task}"][side]["artifacts"]
        return {name: artifact["artifactType"]["schemaTitle"] for name, artifact in artifacts.items()}

    assert types("trajectory-gen", "outputDefinitions") == {
        "card": "system.Artifact",
        "examples": "system.Dataset",
        "vocabulary": "system.Artifact",
        "quarantine": "system.Artifact",
    }
    assert types("evaluator", "inputDefinitions") == {
        "examples": "system.Dataset",
        "model": "system.Model",
        "neighbours": "system.Artifact",
    }
    assert types("evaluator", "outputDefinitions") == {
        "card": "system.Artifact",
        "evaluation": "system.Metrics",
        "blessing": "system.Artifact",
    }
    assert types("exporter", "outputDefinitions")["serving_model"] == "system.Model"
    assert types("pusher", "outputDefinitions")["pushed_model"] == "system.Model"
    assert types("report", "outputDefinitions") == {
        "report": "system.HTML",
        "roc": "system.ClassificationMetrics",
        "summary": "system.Artifact",
    }


def test_the_report_is_made_from_the_cards_of_all_steps(quickstart: Path) -> None:
    task = tasks(quickstart)[REPORT]
    made = {name: entry["taskOutputArtifact"] for name, entry in task["inputs"]["artifacts"].items()}
    assert {name: (entry["producerTask"], entry["outputArtifactKey"]) for name, entry in made.items()} == {
        name: (kubeflow_name(name), "card") for name in COMPONENTS
    }
    spec = container(quickstart, REPORT)
    assert (spec["image"], spec["command"]) == (IMAGE, ["python", "-m", "pipeline.run_report"])
    # Data sets and models are not carried to a step that only tells of them.
    assert [arg for arg in spec["args"] if "inputs.artifacts" in arg] == [
        f"{{{{$.inputs.artifacts['{name}'].path}}}}" for name in COMPONENTS
    ]


def test_other_code_is_another_key_of_the_kubeflow_cache(quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = container(quickstart, "trainer")["args"]
    assert args[args.index("--code") + 1] == code_digest("components.trainer.executor")
    monkeypatch.setattr(kfp, "code_digest", lambda module: f"changed {module}")
    kfp.compile_pipeline(QUICKSTART, tmp_path / "changed.yaml", IN_IMAGE)
    changed = container(tmp_path / "changed.yaml", "trainer")["args"]
    assert [new for old, new in zip(args, changed, strict=True) if old != new] == ["changed components.trainer.executor"]


def test_steps_that_look_outside_their_artifacts_always_run(quickstart: Path) -> None:
    cached = {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks(quickstart).items()}
    assert {name for name, answer in cached.items() if not answer} == {"trajectory-gen", "pusher", REPORT}


def _with_outputs(path: Path, **changed: str) -> Any:
    """A cluster on which every step has made artifacts of known digests."""
    found = cluster.Cluster(path, Path(), {})
    digests = {f"{name}_sha256": f"of {name}" for component in COMPONENTS.values() for name in component.outputs} | changed
    for task in found.tasks:
        found.done[task] = cluster.TaskResult(digests)
        artifacts = documents(path)[0]["components"][f"comp-{task}"]["outputDefinitions"]["artifacts"]
        found.done[task].outputs.update(dict.fromkeys(artifacts, cluster.dsl.Artifact(uri="s3://bucket/run")))
    return found


def test_other_data_is_another_key_of_the_kubeflow_cache(quickstart: Path) -> None:
    before, after = _with_outputs(quickstart), _with_outputs(quickstart, examples_sha256="of other examples")
    readers = {kubeflow_name(step.name) for step in GRAPH if "examples" in step.inputs}
    assert {"statistics-gen", "trainer", "evaluator"} < readers
    assert {task for task in before.tasks if before.cache_key(task) != after.cache_key(task)} == readers


@pytest.mark.parametrize(
    ("step", "override"),
    [("trainer", "trainer.warm_start_from=/models/earlier"), ("schema-gen", "schema_gen.curated_schema=/schemas/mine.pbtxt")],
)
def test_a_step_that_is_told_to_look_outside_always_runs(step: str, override: str, tmp_path: Path) -> None:
    config = load(PipelineConfig, ROOT / "pipeline" / "configs" / "quickstart.yaml", [override])
    kfp.compile_pipeline(config, tmp_path / "told.yaml", IN_IMAGE)
    assert not tasks(tmp_path / "told.yaml")[step]["cachingOptions"].get("enableCache", False)


def test_resources_can_be_given_by_step(quickstart: Path, tmp_path: Path) -> None:
    def requests(path: Path, task: str) -> tuple[str, str]:
        found = container(path, task)["resources"]
        return found["resourceCpuRequest"], found["resourceMemoryRequest"]

    assert requests(quickstart, "trainer") == requests(quickstart, "trajectory-gen") == ("4", "8Gi")
    assert requests(quickstart, "schema-gen") == ("1", "2Gi")
    out = tmp_path / "large.yaml"
    wanted = {"trainer": Resources(memory="64Gi", cpu_limit="32", memory_limit="96Gi", gpus=2, node_selector={"pool": "gpu"})}
    kfp.compile_pipeline(QUICKSTART, out, DeploymentConfig(image=IMAGE, resources=wanted))
    # What is not stated stays.
    assert requests(out, "trainer") == ("4", "64Gi")
    found = container(out, "trainer")["resources"]
    assert (found["resourceCpuLimit"], found["resourceMemoryLimit"]) == ("32", "96Gi")
    assert (found["accelerator"]["resourceType"], found["accelerator"]["resourceCount"]) == ("nvidia.com/gpu", "2")
    assert documents(out)[1]["exec-trainer"]["nodeSelector"] == {"labels": {"pool": "gpu"}}
    assert requests(out, "trajectory-gen") == ("4", "8Gi")
    assert "accelerator" not in container(out, "trajectory-gen")["resources"]
    with pytest.raises(kfp.CompileError, match="tuner: no such step; steps are trajectory_gen, "):
        kfp.compile_pipeline(QUICKSTART, out, DeploymentConfig(image=IMAGE, resources={"tuner": Resources()}))


def test_a_failed_step_is_tried_again(quickstart: Path, tmp_path: Path) -> None:
    policies = [task["retryPolicy"] for task in tasks(quickstart).values()]
    expected = {"maxRetryCount": 2, "backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s"}
    assert policies == [expected] * (len(COMPONENTS) + 1)
    never = decode(DeploymentConfig, {"image": IMAGE, "retries": {"attempts": 0}}, "test")
    kfp.compile_pipeline(QUICKSTART, tmp_path / "never.yaml", never)
    assert not any("retryPolicy" in task for task in tasks(tmp_path / "never.yaml").values())


CLUSTER = """
image: registry.example/longplay@sha256:{digest}
image_pull_secrets: [registry]
volumes: [{{claim: logs, mount_path: /mnt/logs, steps: [trajectory_gen]}}]
secrets:
  - {{name: store, env: {{key: AWS_ACCESS_KEY_ID}}, steps: [trajectory_gen, pusher]}}
  - {{name: certificates, mount_path: /etc/certificates}}
env: {{AWS_REGION: eu}}
resources: {{trainer: {{tolerations: [{{key: gpu, operator: Equal, value: only}}]}}}}
timeout_seconds: 7200
labels: {{team: shop}}
"""


def test_a_deployment_gives_steps_secrets_volumes_and_labels(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER.format(digest="a" * 64))
    out = tmp_path / "out.yaml"
    answer = CliRunner().invoke(app, ["compile", "--deployment", str(tmp_path / "cluster.yaml"), "--gpus", "1", "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert "note:" not in answer.output  # The image cannot move.
    assert_backend_knows_every_field(out)
    platform = documents(out)[1]
    assert [(mount["constant"], mount["mountPath"]) for mount in platform["exec-trajectory-gen"]["pvcMount"]] == [("logs", "/mnt/logs")]
    assert [task for task, entry in platform.items() if "pvcMount" in entry] == ["exec-trajectory-gen"]
    (store,) = platform["exec-pusher"]["secretAsEnv"]
    assert (store["secretName"], store["keyToEnv"]) == ("store", [{"secretKey": "key", "envVar": "AWS_ACCESS_KEY_ID"}])
    assert {task for task, entry in platform.items() if "secretAsEnv" in entry} == {"exec-trajectory-gen", "exec-pusher"}
    for task, entry in platform.items():
        assert [(secret["secretName"], secret["mountPath"]) for secret in entry["secretAsVolume"]] == [
            ("certificates", "/etc/certificates")
        ]
        assert [secret["secretName"] for secret in entry["imagePullSecret"]] == ["registry"]
        assert (entry["activeDeadlineSeconds"], entry["podMetadata"]["labels"]) == ("7200", {"team": "shop"})
        assert container(out, task.removeprefix("exec-"))["env"] == [{"name": "AWS_REGION", "value": "eu"}]
        assert container(out, task.removeprefix("exec-"))["image"].endswith("@sha256:" + "a" * 64)
    assert platform["exec-trainer"]["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": "only", "effect": "NoSchedule"}]
    assert container(out, "trainer")["resources"]["accelerator"]["resourceCount"] == "1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image: 'registry.example/long play'", "image: string should match pattern"),
        ("image: registry.example/longplay@sha256:12", "image: string should match pattern"),
        ("secrets: [{name: store}]", "neither env nor mount_path says what the secret is for"),
        ("volumes: [{claim: a, mount_path: /data}, {claim: b, mount_path: /data}]", "mount_path /data is given twice"),
        ("volume: a\nvolumes: [{claim: b, mount_path: /mnt/longplay}]", "mount_path /mnt/longplay is given twice"),
        ("resources: {trainer: {memory: 8 GB}}", "resources.trainer.memory: string should match pattern"),
        ("resources: {tuner: {cpu: '4'}}", "deployment of tuner: no such step"),
        ("secrets: [{name: store, env: {key: A}, steps: [push]}]", "deployment of push: no such step"),
        ("replicas: 3", "replicas: unknown key"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    options = ["compile", "--deployment", str(tmp_path / "cluster.yaml"), "--out", str(tmp_path / "out.yaml")]
    answer = CliRunner().invoke(app, options if "image" in text else [*options, "--image", IMAGE])
    assert answer.exit_code == 2
    assert message in answer.output
    assert not (tmp_path / "out.yaml").exists()


def test_accelerators_need_resources_that_are_keys(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("resources:\n")
    options = ["--deployment", str(tmp_path / "cluster.yaml"), "--gpus", "1", "--image", IMAGE, "--out", str(tmp_path / "out.yaml")]
    answer = CliRunner().invoke(app, ["compile", *options])
    assert answer.exit_code == 2
    assert "resources.trainer.gpus=1: resources is None, not a group of keys" in answer.output


def test_every_step_learns_its_run_from_the_pod_and_mounts_the_volume(quickstart: Path, tmp_path: Path) -> None:
    names = {f"exec-{kubeflow_name(name)}" for name in [*COMPONENTS, REPORT]}
    run_id = [{"name": "LONGPLAY_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
    assert documents(quickstart)[1] == {name: {"fieldPathAsEnv": run_id} for name in names}
    out = tmp_path / "volume.yaml"
    kfp.compile_pipeline(QUICKSTART, out, DeploymentConfig(image=IMAGE, volume="shop-data"))
    platform = documents(out)[1]
    assert set(platform) == names
    for name in names:
        (mount,) = platform[name]["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("shop-data", "/mnt/longplay")


def test_compiling_writes_one_file_and_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("compiling must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    kfp.compile_pipeline(QUICKSTART, Path("one") / "pipeline.yaml", IN_IMAGE)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["one/pipeline.yaml"]


def test_script_and_command_write_the_same_file(tmp_path: Path) -> None:
    options = [str(ROOT / "pipeline" / "configs" / "quickstart.yaml"), "--set", "name=other_shop", "--image", IMAGE, "--out"]
    answer = CliRunner().invoke(app, ["compile", *options, str(tmp_path / "command.yaml")])
    assert answer.exit_code == 0, answer.output
    script = [sys.executable, str(ROOT / "kubeflow" / "compile_pipeline.py"), *options, str(tmp_path / "script.yaml")]
    subprocess.run(script, check=True, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (tmp_path / "command.yaml").read_bytes() == (tmp_path / "script.yaml").read_bytes()
    pipeline = documents(tmp_path / "command.yaml")[0]
    assert pipeline["pipelineInfo"]["name"] == "other-shop"
    config = json.loads(pipeline["root"]["inputDefinitions"]["parameters"]["config"]["defaultValue"])
    assert config["name"] == "other_shop"


def test_what_cannot_be_compiled_is_bad_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*options: str) -> str:
        answer = CliRunner().invoke(app, ["compile", *options])
        assert answer.exit_code == 2
        assert list(tmp_path.iterdir()) == []
        return answer.output

    assert "ends in .yaml" in refused("--out", str(tmp_path / "pipeline.txt"))
    assert "trainer.epochs: unknown key" in refused("--out", str(tmp_path / "pipeline.yaml"), "--set", "trainer.epochs=3")
    monkeypatch.setitem(sys.modules, "kfp", None)
    assert "pip install 'longplay[kubeflow]'" in refused("--out", str(tmp_path / "pipeline.yaml"))
