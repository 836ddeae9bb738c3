"""Runs the graph on this machine: cached, resumable, one step after the other."""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.artifacts import Artifact, ArtifactError, open_artifact, publish, verify, write_json
from components.base import Component, ComponentError, Context, Progress, Properties
from pipeline.cache import cache_key
from pipeline.config import PipelineConfig
from pipeline.graph import GRAPH, FromHistory, FromStep, Step, step_names
from pipeline.lineage import Execution, Lineage, facts_of, reference
from pipeline.provenance import describe_provenance, new_run_id, write_output_manifest
from pipeline.termination import EXIT_TERMINATED, TERMINATED
from schemas.config import ConfigError

CacheMode = Literal["auto", "off", "refresh"]
EXECUTION_FILE = "execution.json"


@dataclass
class StepResult:
    """What became of a step.

    Attributes:
        name: The step.
        status: executed, cached, reused (by --from) or failed.
        seconds: How long it took.
        outputs: Its artifacts; of a failed step those it could finish.
        error: Why it failed.
    """

    name: str
    status: str
    seconds: float
    outputs: dict[str, Artifact] = field(default_factory=dict)
    error: str | None = None

    def properties(self) -> dict[str, Properties]:
        """Properties of its outputs."""
        return {name: artifact.properties for name, artifact in self.outputs.items()}


@dataclass
class RunResult:
    """What became of a run."""

    run_id: str
    config: PipelineConfig
    steps: list[StepResult] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    @property
    def failed(self) -> StepResult | None:
        """The step that failed, if one did."""
        return next((step for step in self.steps if step.status == "failed"), None)

    def output(self, step: str, name: str) -> Artifact | None:
        """An artifact of the run, if it was made."""
        return next((result.outputs.get(name) for result in self.steps if result.name == step), None)


class LocalRunner:
    """Runs the graph below a root folder.

    Layout: `store/<component>/<key>/<output>/` holds finished artifacts, `scratch/<component>/<key>/` what a killed step
    needs to go on, `runs/<run_id>/` summaries and reports, `lineage.jsonl` what was made from what.

    A result appears in the store by one rename when it is complete. A step whose configuration, code, libraries and inputs
    are those of a finished result is not executed again.

    Args:
        root: The folder.
        progress: Where steps report.
        cache: `auto` uses and fills the store, `refresh` executes everything and fills it anew, `off` keeps the artifacts with
            the run only.
    """

    def __init__(self, root: Path, progress: Progress, cache: CacheMode = "auto"):
        self._root = root.resolve()
        self._progress = progress
        self._cache = cache
        self._lineage = Lineage(self._root / "lineage.jsonl")

    def run(self, config: PipelineConfig, first: str | None = None, last: str | None = None) -> Iterator[StepResult | RunResult]:
        """Runs the steps, yielding each result as it comes and the whole run at the end.

        Args:
            config: The run.
            first: Steps before this one are not executed; their latest results are used.
            last: Steps after this one are left out.

        Raises:
            ConfigError: `first` needs a result that there is not, or a configuration does not fit its data.
        """
        result = RunResult(new_run_id(), config)
        names = step_names()
        begin, end = names.index(first) if first else 0, names.index(last) if last else len(names) - 1
        if begin > end:
            raise ConfigError(f"--from {first} comes after --to {last}")
        for number, step in enumerate(GRAPH[: end + 1]):
            step_result = self._reuse(step, result) if number < begin else self._run_step(step, result)
            result.steps.append(step_result)
            yield step_result
            if step_result.status == "failed":
                break
        yield result

    def run_folder(self, run_id: str) -> Path:
        """Folder of a run's summary and report."""
        return self._root / "runs" / run_id

    def _inputs(self, step: Step, result: RunResult) -> dict[str, Artifact]:
        inputs: dict[str, Artifact] = {}
        for name, source in step.inputs.items():
            if isinstance(source, FromStep):
                artifact = result.output(source.step, source.output)
                assert artifact is not None, f"{step.name} reads {source.step}.{source.output}, which was not made"
                inputs[name] = artifact
        for name, source in step.inputs.items():
            if isinstance(source, FromHistory) and _is_wanted(source, result.config.of(step.name)):
                other = inputs[source.differs_from].digest if source.differs_from else None
                found = self._lineage.find(source, result.config.name, other)
                if found is not None:
                    inputs[name] = found
        return inputs

    def _reuse(self, step: Step, result: RunResult) -> StepResult:
        """The latest result of a step that is not to be executed, whether or not it is up to date."""
        for execution in self._lineage.latest_first(result.config.name, step.name):
            try:
                outputs = {name: open_artifact(entry["path"]) for name, entry in execution.outputs.items()}
                for artifact in outputs.values():
                    verify(artifact)
            except ArtifactError:
                continue
            return StepResult(step.name, "reused", 0.0, outputs)
        raise ConfigError(f"--from: no earlier result of {step.name} for pipeline {result.config.name!r} in {self._root}; run it first")

    def _run_step(self, step: Step, result: RunResult) -> StepResult:
        begun = time.monotonic()
        component, config = step.component, result.config.of(step.name)
        inputs = self._inputs(step, result)
        key = cache_key(component, config, inputs)
        with self._locked(component, key):
            outputs = self._cached(component, key)
            status, error = "cached", None
            if outputs is None:
                status = "executed"
                try:
                    outputs = self._execute(step, result, inputs, key)
                except ComponentError as failure:
                    status, error = "failed", str(failure)
                    outputs = self._keep_failed(step, result, inputs, key, failure)
                except ConfigError:
                    raise
                except Exception as failure:
                    if TERMINATED.is_set():
                        raise SystemExit(EXIT_TERMINATED) from failure
                    status, error = "failed", f"{type(failure).__name__}: {failure}"
                    traceback.print_exc(file=sys.stderr)
                    outputs = {}
        if status != "failed":
            self._lineage.record(
                Execution(
                    run_id=result.run_id,
                    pipeline=result.config.name,
                    step=step.name,
                    status=status,
                    key=key,
                    inputs={name: reference(artifact) for name, artifact in inputs.items()},
                    outputs={name: reference(artifact) for name, artifact in outputs.items()},
                    time=time.time(),
                    facts=facts_of(outputs),
                )
            )
        return StepResult(step.name, status, time.monotonic() - begun, outputs, error)

    def _execute(self, step: Step, result: RunResult, inputs: Mapping[str, Artifact], key: str) -> dict[str, Artifact]:
        component, config = step.component, result.config
        final = self._result_folder(component, key, result.run_id)
        for leftover in final.parent.glob(f".making-{final.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a killed process: the lock is ours
        making = final.parent / f".making-{final.name}-{os.getpid()}"
        scratch = self._scratch(component, key)
        scratch.mkdir(parents=True, exist_ok=True)
        folders = {name: making / name for name in component.outputs}
        making.mkdir(parents=True)
        context = Context(scratch, self._root, config.beam.arguments(), self._progress)
        try:
            properties = component.load()(config.of(step.name), inputs, folders, context)
        except ComponentError:
            raise  # what it finished is kept by the caller
        except (Exception, KeyboardInterrupt, SystemExit):
            shutil.rmtree(making, ignore_errors=True)
            raise
        provenance = describe_provenance(component, config, result.run_id, inputs)
        for name in component.outputs:
            write_output_manifest(component, name, folders[name], properties[name], provenance)
        write_json(making / EXECUTION_FILE, {"key": key, "run_id": result.run_id, "status": "complete"})
        publish(making, final)
        shutil.rmtree(scratch, ignore_errors=True)
        return {name: open_artifact(final / name) for name in component.outputs}

    def _keep_failed(
        self, step: Step, result: RunResult, inputs: Mapping[str, Artifact], key: str, failure: ComponentError
    ) -> dict[str, Artifact]:
        """Keeps what a failed step finished, with the run and not in the store."""
        final = self._result_folder(step.component, key, result.run_id)
        making = final.parent / f".making-{final.name}-{os.getpid()}"
        kept = self.run_folder(result.run_id) / "failed" / step.name
        outputs: dict[str, Artifact] = {}
        provenance = describe_provenance(step.component, result.config, result.run_id, inputs)
        for name, properties in (failure.outputs or {}).items():
            write_output_manifest(step.component, name, making / name, properties, provenance)
            publish(making / name, kept / name)
            outputs[name] = open_artifact(kept / name)
        shutil.rmtree(making, ignore_errors=True)
        return outputs

    def _cached(self, component: Component, key: str) -> dict[str, Artifact] | None:
        """A finished result, if the cache is used and all its files are there as they were made."""
        folder = self._result_folder(component, key, "")
        if self._cache != "auto" or not (folder / EXECUTION_FILE).is_file():
            return None
        try:
            if json.loads((folder / EXECUTION_FILE).read_text(encoding="utf-8"))["key"] != key:
                return None
            outputs = {name: open_artifact(folder / name) for name in component.outputs}
            for artifact in outputs.values():
                verify(artifact)
        except (ArtifactError, KeyError, json.JSONDecodeError) as error:
            self._progress.log(f"{component.name}: cached result is not used: {error}")
            return None
        if component.outputs_hold is not None and not component.outputs_hold(outputs):
            self._progress.log(f"{component.name}: cached result is not used: what it made is gone")
            return None
        return outputs

    def _result_folder(self, component: Component, key: str, run_id: str) -> Path:
        if self._cache == "off":
            return self.run_folder(run_id) / "artifacts" / component.name
        return self._root / "store" / component.name / key[:16]

    def _scratch(self, component: Component, key: str) -> Path:
        return self._root / "scratch" / component.name / key[:16]

    @contextlib.contextmanager
    def _locked(self, component: Component, key: str) -> Iterator[None]:
        """Two runs that need the same result make it once: the second waits and finds it cached."""
        path = self._root / "scratch" / component.name / f"{key[:16]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.log(f"{component.name}: another run is making the same result; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_wanted(source: FromHistory, config: Any) -> bool:
    return source.only_if is None or getattr(config, source.only_if[0]) == source.only_if[1]
