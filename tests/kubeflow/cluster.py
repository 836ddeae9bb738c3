"""A stand-in for Kubeflow: runs the containers of a compiled pipeline as processes, with placeholders resolved as KFP does.

Commands, arguments, parameters, artifacts, executor outputs and the keys of the cache follow what KFP's driver and launcher do
with the YAML; the SDK's own functions resolve what they can. What is left out is what only a cluster has: images, pods, volumes and
the object store between them. Every task works in a folder of its own, and reads its inputs from the folders of their makers. No
container gets a network socket, as on a cluster without the internet.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl
from kfp.components import load_component_from_file
from kfp.local import executor_input_utils, executor_output_utils, placeholder_utils

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 3600
WITHOUT_SOCKETS = [sys.executable, str(ROOT / "tests" / "without_sockets.py")] if sys.platform == "linux" else []


@cache
def documents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and what is particular to Kubernetes; a file is written once and read often."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    pipeline, platform = yaml.load_all(path.read_text(encoding="utf-8"), Loader=loader)
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@dataclass
class TaskResult:
    """What became of a task.

    Attributes:
        outputs: Its artifacts (`kfp.dsl` artifacts with their metadata) and parameters.
        cached: True when another run had made them.
        printed: What the container wrote to standard output.
    """

    outputs: dict[str, Any]
    cached: bool = False
    printed: str = ""


@dataclass
class Cluster:
    """Where compiled pipelines run.

    Attributes:
        path: The YAML.
        folder: Where tasks work.
        parameters: Parameters of the pipeline in place of their defaults.
        cache: Results by key; runs that are given the same one share it.
    """

    path: Path
    folder: Path
    parameters: Mapping[str, str]
    run_id: str = "the-pod's-run"
    cache: dict[str, TaskResult] = field(default_factory=dict)
    done: dict[str, TaskResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pipeline, self.platform = documents(self.path)
        self._specs = load_component_from_file(str(self.path)).pipeline_spec.components
        declared = self.pipeline["root"]["inputDefinitions"]["parameters"]
        unknown = set(self.parameters) - set(declared)
        assert not unknown, f"the pipeline has no parameters {unknown}"
        self._values = {name: spec["defaultValue"] for name, spec in declared.items()} | dict(self.parameters)

    @property
    def tasks(self) -> dict[str, Any]:
        found: dict[str, Any] = self.pipeline["root"]["dag"]["tasks"]
        return found

    def order(self) -> Iterator[str]:
        """Tasks, each after those it depends on."""
        waiting = dict(self.tasks)
        finished: set[str] = set()
        while waiting:
            ready = [name for name, task in waiting.items() if set(task.get("dependentTasks", [])) <= finished]
            assert ready, f"the graph has a cycle through {sorted(waiting)}"
            for name in ready:
                del waiting[name]
            finished.update(ready)
            yield from ready

    def container(self, task: str) -> dict[str, Any]:
        found: dict[str, Any] = self.pipeline["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        return found

    def artifact(self, task: str, name: str) -> Path:
        return Path(self.done[task].outputs[name].path)

    def arguments(self, task: str) -> dict[str, Any]:
        """Parameters and artifacts that a task is given."""
        inputs, given = self.tasks[task]["inputs"], {}
        for name, source in inputs.get("parameters", {}).items():
            made = source.get("taskOutputParameter")
            given[name] = (
                self.done[made["producerTask"]].outputs[made["outputParameterKey"]]
                if made
                else self._values[source["componentInputParameter"]]
            )
        for name, source in inputs.get("artifacts", {}).items():
            made = source["taskOutputArtifact"]
            given[name] = self.done[made["producerTask"]].outputs[made["outputArtifactKey"]]
        return given

    def cache_key(self, task: str) -> str:
        """The key that KFP's driver looks a task up by: names and types of artifacts, parameters, the container as it is compiled.

        Artifacts count by their names, and what a launcher records has none; so nothing of what they hold is in the key.
        """
        spec, called = self._specs[f"comp-{task}"], self.container(task)
        mounted = self.platform[f"exec-{task}"].get("pvcMount", [])
        known = {
            "inputArtifactNames": {name: [""] for name in spec.input_definitions.artifacts},
            "inputParameterValues": {name: value for name, value in self.arguments(task).items() if not isinstance(value, dsl.Artifact)},
            "outputArtifactsSpec": {name: kind.artifact_type.schema_title for name, kind in spec.output_definitions.artifacts.items()},
            "outputParametersSpec": sorted(spec.output_definitions.parameters),
            "containerSpec": [called["image"], called["command"], called["args"], [mount["constant"] for mount in mounted]],
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def run(self) -> None:
        """Runs every task that has not run."""
        for task in self.order():
            if task not in self.done:
                self.run_task(task)

    def run_task(self, task: str) -> TaskResult:
        """Runs one task, or takes its result from the cache."""
        key = self.cache_key(task) if self.tasks[task]["cachingOptions"].get("enableCache") else None
        if key is not None and key in self.cache:
            self.done[task] = TaskResult(self.cache[key].outputs, cached=True)
            return self.done[task]
        spec = self._specs[f"comp-{task}"]
        given = executor_input_utils.construct_executor_input(
            spec, self.arguments(task), str(self.folder / task), block_input_artifact=False
        )
        (self.folder / task).mkdir(parents=True)  # as the launcher makes the parents of all outputs
        called = self.container(task)
        command = placeholder_utils.replace_placeholders(
            full_command=[*called["command"], *called.get("args", [])],
            executor_input_dict=executor_input_utils.executor_input_to_dict(given, spec),
            pipeline_resource_name="run",
            task_resource_name=task,
            pipeline_root=str(self.folder),
            unique_pipeline_id="run",
        )
        answer = subprocess.run(
            [*WITHOUT_SOCKETS, *command],
            env=self._environment(task),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert answer.returncode == 0, f"{task}: {answer.stdout}\n{answer.stderr}"
        outputs = executor_output_utils.get_outputs_for_task(given, spec)
        for name, kind in given.outputs.artifacts.items():
            # What the executor output does not mention is recorded as it was asked for.
            outputs.setdefault(name, dsl.Artifact(name=name, uri=kind.artifacts[0].uri))
        self.done[task] = TaskResult(outputs, printed=answer.stdout)
        if key is not None:
            self.cache[key] = self.done[task]
        return self.done[task]

    def _environment(self, task: str) -> dict[str, str]:
        (run_id,) = self.platform[f"exec-{task}"]["fieldPathAsEnv"]
        assert run_id["fieldPath"] == "metadata.labels['pipeline/runid']"
        paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        stated = {entry["name"]: entry["value"] for entry in self.container(task).get("env", [])}
        return {**os.environ, **paths, **stated, run_id["name"]: self.run_id}
