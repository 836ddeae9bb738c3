"""The graph as a Kubeflow pipeline: KFP v2 YAML with one container component for each step.

A container runs `python -m pipeline.run_component` in our image. Nothing is installed at run time, nothing is decided in the
graph, and compiling reads and writes nothing but the YAML. kfp is imported when a pipeline is compiled, not before.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.base import Component
from pipeline.cache import code_digest
from pipeline.config import PipelineConfig
from pipeline.graph import GRAPH, FromHistory, FromStep, Step, step_names
from pipeline.run_component import RUN_ID_VARIABLE
from schemas.config import canonical_json

ARTIFACT_CLASSES: Mapping[str, str] = {
    "Examples": "Dataset",
    "Model": "Model",
    "RewardModel": "Model",
    "UserModel": "Model",
    "ServingModel": "Model",
    "PushedModel": "Model",
    "ModelEvaluation": "Metrics",
}
"""Our artifact types as classes of `kfp.dsl`, `system.Dataset` and so on; every other type is an `Artifact`."""

CONFIG, ROOT = "config", "root"
"""Parameters of every step and of the pipeline."""

_SHARED = {
    CONFIG: "Configuration of the whole run, as JSON.",
    ROOT: "Folder that relative destinations are below; it must exist in the containers.",
}

MOUNT = "/mnt/longplay"
"""Where the shared volume is mounted; the default of the pipeline's `root`."""


class CompileError(Exception):
    """A pipeline that cannot be compiled; the message is for the user."""


@dataclass(frozen=True)
class Resources:
    """What a step's container asks for.

    Attributes:
        cpu: Processors, such as `2` or `500m`.
        memory: Memory, such as `8Gi`.
    """

    cpu: str = "1"
    memory: str = "2Gi"


RESOURCES: Mapping[str, Resources] = {
    "trajectory_gen": Resources(cpu="4", memory="8Gi"),
    "relabeller": Resources(cpu="4", memory="8Gi"),
    "trainer": Resources(cpu="4", memory="8Gi"),
}
"""Requests of the steps that need more than the default ones."""


def compile_pipeline(
    config: PipelineConfig,
    out: Path,
    image: str | None = None,
    volume: str | None = None,
    resources: Mapping[str, Resources] | None = None,
) -> None:
    """Writes the pipeline of a configuration.

    Args:
        config: The run; its JSON becomes the default of the pipeline's one parameter `config`.
        out: YAML file to write.
        image: Image of every step; none means `longplay` in the installed version.
        volume: Claim of a persistent volume that every step mounts at `MOUNT`.
        resources: Requests by step, in place of those in `RESOURCES`.

    Raises:
        CompileError: kfp is not installed, the file cannot be written, or a step is unknown.
    """
    requests = {**RESOURCES, **(resources or {})}
    unknown = sorted(set(requests) - set(step_names()))
    if unknown:
        raise CompileError(f"resources of {', '.join(unknown)}: no such step; steps are {', '.join(step_names())}")
    if out.suffix not in (".yaml", ".yml"):
        raise CompileError(f"{out}: expected a name that ends in .yaml")
    try:
        from kfp import compiler

        pipeline = _pipeline(config, image or default_image(), volume, requests)
    except ImportError as error:
        raise CompileError(f"{error}; compiling needs the Kubeflow SDK: pip install 'longplay[kubeflow]'") from None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(out))
    except OSError as error:
        raise CompileError(f"{out}: cannot write: {error.strerror}") from None


def default_image() -> str:
    """The image of the installed version."""
    try:
        return f"longplay:{metadata.version('longplay')}"
    except metadata.PackageNotFoundError:
        raise CompileError("longplay is not installed, so that its version is unknown; name the image with --image") from None


def history_parameters() -> dict[str, str]:
    """Pipeline parameters for what an earlier run made: name to description."""
    return {
        name: f"Folder of the {source.step}.{source.artifact} of an earlier run ({step.component.inputs[name].type}); empty for none."
        for step in GRAPH
        for name, source in step.inputs.items()
        if isinstance(source, FromHistory)
    }


def container_component(step: Step, image: str) -> Any:
    """Builds the container component of a step from its component's declaration.

    kfp inspects a function, so this makes one whose signature follows from the ports; kfp then checks names, types and
    placeholders as it does for one written by hand. The other way, component text, was tried: it joins a name and a path by a
    Concat placeholder, which not every KFP backend resolves, where a plain text with the path's placeholder in it works
    on all of them.

    Args:
        step: The step.
        image: Image of the container.

    Returns:
        A `kfp.dsl` container component. Its parameters are `config`, `root` and the inputs from history; its artifacts are the
        component's other inputs and its outputs.
    """
    from kfp import dsl

    component = step.component
    history = [name for name, source in step.inputs.items() if isinstance(source, FromHistory)]
    artifacts = {name: port for name, port in component.inputs.items() if name not in history}
    annotations: dict[str, Any] = {CONFIG: str, ROOT: str}
    annotations |= {name: dsl.Input[_artifact_class(port.type)] for name, port in artifacts.items()}
    annotations |= {name: dsl.Output[_artifact_class(port.type)] for name, port in component.outputs.items()}
    # Last, because parameters with a default follow those without.
    annotations |= dict.fromkeys(history, str)

    def run(*channels: Any) -> Any:
        given = dict(zip(annotations, channels, strict=True))
        paths = {name: given[name].path for name in (*artifacts, *component.outputs)} | {name: given[name] for name in history}
        args = ["--component", component.name, "--config", given[CONFIG], "--root", given[ROOT]]
        for name in component.inputs:
            args += ["--input", f"{name}={paths[name]}"]
        for name in component.outputs:
            args += ["--output", f"{name}={paths[name]}"]
        # Part of the command, hence of the key of Kubeflow's cache: other code, other key.
        args += ["--code", code_digest(component.executor_module)]
        return dsl.ContainerSpec(image=image, command=["python", "-m", "pipeline.run_component"], args=args)

    descriptions = {name: port.description for name, port in component.inputs.items()}
    produced = {name: port.description for name, port in component.outputs.items()}
    run.__name__ = component.name
    run.__signature__ = _signature(annotations, dict.fromkeys(history, ""))  # type: ignore[attr-defined]
    run.__doc__ = _docstring(component.description, {**_SHARED, **descriptions}, produced)
    return dsl.container_component(run)


def _pipeline(config: PipelineConfig, image: str, volume: str | None, resources: Mapping[str, Resources]) -> Any:
    from kfp import dsl

    history = history_parameters()
    defaults = {CONFIG: canonical_json(config), ROOT: MOUNT, **dict.fromkeys(history, "")}

    def build(*channels: Any) -> None:
        given = dict(zip(defaults, channels, strict=True))
        tasks: dict[str, Any] = {}
        for step in GRAPH:
            arguments = {CONFIG: given[CONFIG], ROOT: given[ROOT]}
            for name, source in step.inputs.items():
                arguments[name] = tasks[source.step].outputs[source.output] if isinstance(source, FromStep) else given[name]
            tasks[step.name] = container_component(step, image)(**arguments)
            cached = not _looks_outside(step.component, config.of(step.name))
            _configure(tasks[step.name], cached, resources.get(step.name, Resources()), volume)

    build.__signature__ = _signature(dict.fromkeys(defaults, str), defaults)  # type: ignore[attr-defined]
    build.__doc__ = _docstring("From interaction logs to a pushed recommendation policy.", {**_SHARED, **history})
    # KFP allows no underscore in the name of a pipeline.
    return dsl.pipeline(name=config.name.replace("_", "-"))(build)


def _looks_outside(component: Component, config: Any) -> bool:
    """True for a step that looks at more than parameters and artifacts, or changes it."""
    return component.outputs_hold is not None or (component.external_state is not None and component.looks_outside(config))


def _configure(task: Any, cached: bool, requests: Resources, volume: str | None) -> None:
    from kfp import kubernetes

    # No display name: with one, KFP up to 2.5 no longer finds the step's outputs. So a step is called `trajectory-gen` there.
    task.set_cpu_request(requests.cpu).set_memory_request(requests.memory)
    # Kubeflow's cache knows parameters and artifacts. A step that looks at anything else, or changes it, always runs, unless
    # whoever starts the run vouches for the rest with `enable_caching=True`.
    task.set_caching_options(cached)
    # From the pod's label and not as an argument, which would make every run's cache key another one.
    kubernetes.use_field_path_as_env(task, RUN_ID_VARIABLE, "metadata.labels['pipeline/runid']")
    if volume:
        kubernetes.mount_pvc(task, pvc_name=volume, mount_path=MOUNT)


def _signature(annotations: Mapping[str, Any], defaults: Mapping[str, str]) -> inspect.Signature:
    kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return inspect.Signature(
        [inspect.Parameter(name, kind, annotation=annotation, default=defaults.get(name, none)) for name, annotation in annotations.items()]
    )


def _artifact_class(kind: str) -> Any:
    from kfp import dsl

    return getattr(dsl, ARTIFACT_CLASSES.get(kind, "Artifact"))


def _docstring(summary: str, inputs: Mapping[str, str], outputs: Mapping[str, str] | None = None) -> str:
    """A docstring from which kfp takes the descriptions that its user interface shows."""
    lines = [summary, "", "Args:", *(f"    {name}: {text}" for name, text in inputs.items())]
    if outputs:
        lines += ["", "Returns:", *(f"    {name}: {text}" for name, text in outputs.items())]
    return "\n".join(lines)
