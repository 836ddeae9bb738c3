"""What a component is: a light declaration here, its work in an executor that is imported when it runs."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from components.artifacts import Artifact, ArtifactType
from models import frameworks
from schemas.config import Config

Properties = Mapping[str, Any]
"""What an executor states about one output; JSON values, kept in the output's manifest."""


class ComponentError(Exception):
    """A step that cannot succeed with what it was given; the message is for the user, without a traceback.

    Args:
        message: What was found, where, and what was expected.
        outputs: Properties of outputs that are complete and worth keeping although the step failed, such as the
            anomalies that stopped it.
    """

    def __init__(self, message: str, outputs: Mapping[str, Properties] | None = None):
        super().__init__(message)
        self.outputs = outputs


@dataclass(frozen=True)
class Port:
    """One input or output of a component.

    Attributes:
        type: Artifact type.
        description: What it holds, for `longplay graph` and the compiled pipeline.
        optional: True for an input that a first run does not have.
    """

    type: ArtifactType
    description: str
    optional: bool = False


class Task(Protocol):
    """One piece of long work that shows how far it is."""

    def advance(self, amount: float = 1.0, note: str | None = None) -> None: ...


class Progress(Protocol):
    """Where long work reports; the local runner draws bars, a container prints lines."""

    def task(self, description: str, total: float | None = None, unit: str = "") -> Any: ...

    def log(self, message: str) -> None: ...


class SilentProgress:
    """Progress that nobody watches."""

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield _SilentTask()

    def log(self, message: str) -> None:
        pass


class _SilentTask:
    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        pass


@dataclass(frozen=True)
class Context:
    """What a step may use but what must not change its result.

    Attributes:
        scratch: Folder that survives a killed attempt at the same work; checkpoints and spilled partitions live here.
        root: Folder that relative destinations are below.
        beam_args: Options of Apache Beam, `--runner=…` and the like.
        progress: Where to report.
    """

    scratch: Path
    root: Path = Path()
    beam_args: tuple[str, ...] = ("--runner=FnApiRunner",)
    progress: Progress = field(default_factory=SilentProgress)


Execute = Callable[[Any, Mapping[str, Artifact], Mapping[str, Path], Context], Mapping[str, Properties]]
"""An executor: (config, inputs, output folders, context) -> properties of every output.

It fills the folders and returns what it states about them. It publishes nothing itself; the runner writes the manifests
and moves the folders to their place.
"""


@dataclass(frozen=True)
class Component:
    """Declaration of a component; importing it imports no framework.

    Attributes:
        name: Folder, registry key, field of `PipelineConfig` and name of the step on Kubeflow.
        description: One sentence.
        config: Its configuration class.
        inputs: Input ports by name.
        outputs: Output ports by name.
        external_state: Given the configuration, describes what the step reads or writes outside its artifacts (log files,
            a push destination); a change of it makes a cached result stale.
        looks_outside: Given the configuration, whether the step has external state at all, without looking at it.
        outputs_hold: Given the outputs, says whether what they state about the world outside still holds; a cached result
            that does not is made again.
        describe: Given the properties of the outputs, one line for people.
        several_workers: True for a step that several processes can do together, as TF_CONFIG tells them; the chief alone fills the
            outputs, and the others return nothing.
    """

    name: str
    description: str
    config: type[Config]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    external_state: Callable[[Any], Mapping[str, Any]] | None = None
    looks_outside: Callable[[Any], bool] = lambda _: True
    outputs_hold: Callable[[Mapping[str, Artifact]], bool] | None = None
    describe: Callable[[Mapping[str, Properties]], str] | None = None
    several_workers: bool = False

    @property
    def executor_module(self) -> str:
        return f"components.{self.name}.executor"

    def load(self) -> Execute:
        """Imports the executor, and with it the frameworks it needs."""
        frameworks.prepare()
        execute: Execute = importlib.import_module(self.executor_module).execute
        return execute
