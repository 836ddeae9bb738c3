"""The graph as a Kubeflow pipeline: KFP v2 YAML with one container component for each step.

A container runs `python -m pipeline.run_component` in our image. Nothing is installed at run time, nothing is decided in the
graph, and compiling reads and writes nothing but the YAML. kfp is imported when a pipeline is compiled, not before.
"""

import inspect
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from components.base import Component
from pipeline.cache import code_digest
from pipeline.config import PipelineConfig
from pipeline.deployment import MOUNT, DeploymentConfig, Resources
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
    "InferenceResult": "Dataset",
    "ModelEvaluation": "Metrics",
}
"""Our artifact types as classes of `kfp.dsl`, `system.Dataset` and so on; every other type is an `Artifact`."""

CONFIG, ROOT = "config", "root"
"""Parameters of every step and of the pipeline."""

CARD, REPORT = "card", "report"
"""Output of every step, from which the last step of the pipeline makes its report."""

_SHARED = {
    CONFIG: "Configuration of the whole run, as JSON.",
    ROOT: "Folder that relative destinations are below; it must exist in the containers.",
}

_EXECUTOR_INPUT = "{{$}}"
"""Placeholder of all that Kubeflow tells a step."""


class CompileError(Exception):
    """A pipeline that cannot be compiled; the message is for the user."""


RESOURCES: Mapping[str, Resources] = {
    "trajectory_gen": Resources(cpu="4", memory="8Gi"),
    "relabeller": Resources(cpu="4", memory="8Gi"),
    "reward_trainer": Resources(cpu="4", memory="8Gi"),
    "user_model_trainer": Resources(cpu="4", memory="8Gi"),
    "bulk_inferrer": Resources(cpu="4", memory="4Gi"),
    "trainer": Resources(cpu="4", memory="8Gi"),
}
"""Requests of the steps that need more than the default ones."""


def compile_pipeline(
    config: PipelineConfig,
    out: Path,
    deployment: DeploymentConfig | None = None,
) -> None:
    """Writes the pipeline of a configuration.

    Args:
        config: The run; its JSON becomes the default of the pipeline's one parameter `config`.
        out: YAML file to write.
        deployment: Image, requests, volumes, secrets and the like.

    Raises:
        CompileError: kfp is not installed, the file cannot be written, or a step is unknown.
    """
    deployment = deployment or DeploymentConfig()
    known = [*step_names(), REPORT]
    unknown = sorted(deployment.steps() - set(known))
    if unknown:
        raise CompileError(f"deployment of {', '.join(unknown)}: no such step; steps are {', '.join(known)}")
    if out.suffix not in (".yaml", ".yml"):
        raise CompileError(f"{out}: expected a name that ends in .yaml")
    try:
        from kfp import compiler

        pipeline = _pipeline(config, deployment.image or default_image(), deployment)
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
        A `kfp.dsl` container component. Its parameters are `config`, `root`, the digests of the inputs that other steps make, and the
        inputs from history; its artifacts are the component's other inputs, its outputs and its card. Every output also has its
        digest as a parameter. Kubeflow's cache goes by names and parameters, not by what artifacts hold, so without the digests
        it would take results for those of other data.
    """
    from kfp import dsl

    component = step.component
    history = [name for name, source in step.inputs.items() if isinstance(source, FromHistory)]
    artifacts = {name: port for name, port in component.inputs.items() if name not in history}
    annotations: dict[str, Any] = {CONFIG: str, ROOT: str}
    annotations |= {name: dsl.Input[_artifact_class(port.type)] for name, port in artifacts.items()}
    annotations |= {_digest_of(name): str for name in artifacts}
    annotations |= {name: dsl.Output[_artifact_class(port.type)] for name, port in component.outputs.items()}
    annotations |= {_written_digest_of(name): dsl.OutputPath(str) for name in component.outputs}
    annotations[CARD] = dsl.Output[dsl.Artifact]
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
        for name in artifacts:
            args += ["--expect", f"{name}={given[_digest_of(name)]}"]
        for name in component.outputs:
            args += ["--digest", f"{name}={given[_written_digest_of(name)]}"]
        args += ["--card", given[CARD].path, "--executor-input", _EXECUTOR_INPUT]
        # Part of the command, hence of the key of Kubeflow's cache: other code, other key.
        args += ["--code", code_digest(component.executor_module)]
        return dsl.ContainerSpec(image=image, command=["python", "-m", "pipeline.run_component"], args=args)

    descriptions = {name: port.description for name, port in component.inputs.items()}
    produced = {name: port.description for name, port in component.outputs.items()}
    descriptions |= {_digest_of(name): f"SHA-256 of {name}." for name in artifacts}
    produced |= {_written_digest_of(name): f"SHA-256 of {name}." for name in component.outputs}
    produced[CARD] = "What the report says about this step."
    run.__name__ = component.name
    run.__signature__ = _signature(annotations, dict.fromkeys(history, ""))  # type: ignore[attr-defined]
    run.__doc__ = _docstring(component.description, {**_SHARED, **descriptions}, produced)
    return dsl.container_component(run)


def report_component(image: str) -> Any:
    """Builds the component that makes the report from the cards of all steps, and what Kubeflow's pages show of a run."""
    from kfp import dsl

    cards = step_names()
    annotations: dict[str, Any] = {CONFIG: str, **dict.fromkeys(cards, dsl.Input[dsl.Artifact])}
    outputs = {REPORT: (dsl.HTML, "The run as one page."), "summary": (dsl.Artifact, "What the run did, for programs.")}
    outputs["roc"] = (dsl.ClassificationMetrics, "Share of the wanted items by share of the others that is recommended.")
    annotations |= {name: dsl.Output[kind] for name, (kind, _) in outputs.items()}

    def run(*channels: Any) -> Any:
        given = dict(zip(annotations, channels, strict=True))
        args = ["--config", given[CONFIG]]
        for name in cards:
            args += ["--card", given[name].path]
        args += ["--html", given[REPORT].path, "--summary", given["summary"].path, "--executor-input", _EXECUTOR_INPUT]
        return dsl.ContainerSpec(image=image, command=["python", "-m", "pipeline.run_report"], args=args)

    run.__name__ = REPORT
    run.__signature__ = _signature(annotations, {})  # type: ignore[attr-defined]
    inputs = {CONFIG: _SHARED[CONFIG], **{name: f"The card of {name}." for name in cards}}
    run.__doc__ = _docstring("Makes the report of the run.", inputs, {name: text for name, (_, text) in outputs.items()})
    return dsl.container_component(run)


def _pipeline(config: PipelineConfig, image: str, deployment: DeploymentConfig) -> Any:
    from kfp import dsl

    history = history_parameters()
    defaults = {CONFIG: canonical_json(config), ROOT: MOUNT, **dict.fromkeys(history, "")}

    def build(*channels: Any) -> None:
        given = dict(zip(defaults, channels, strict=True))
        tasks: dict[str, Any] = {}
        for step in GRAPH:
            arguments = {CONFIG: given[CONFIG], ROOT: given[ROOT]}
            for name, source in step.inputs.items():
                if isinstance(source, FromStep):
                    made = tasks[source.step].outputs
                    arguments[name] = made[source.output]
                    arguments[_digest_of(name)] = made[_written_digest_of(source.output)]
                else:
                    arguments[name] = given[name]
            tasks[step.name] = container_component(step, image)(**arguments)
            cached = not looks_outside(step.component, config.of(step.name))
            _configure(tasks[step.name], step.name, cached, deployment)
        cards = {name: task.outputs[CARD] for name, task in tasks.items()}
        # Says of this run what ran and what came from the cache, so it is always made.
        _configure(report_component(image)(**{CONFIG: given[CONFIG]}, **cards), REPORT, False, deployment)

    build.__signature__ = _signature(dict.fromkeys(defaults, str), defaults)  # type: ignore[attr-defined]
    build.__doc__ = _docstring("From interaction logs to a pushed recommendation policy.", {**_SHARED, **history})
    # KFP allows no underscore in the name of a pipeline.
    return dsl.pipeline(name=config.name.replace("_", "-"))(build)


def looks_outside(component: Component, config: Any) -> bool:
    """True for a step that looks at more than parameters and artifacts, or changes it."""
    return component.outputs_hold is not None or (component.external_state is not None and component.looks_outside(config))


def _configure(task: Any, step: str, cached: bool, deployment: DeploymentConfig) -> None:
    from kfp import kubernetes

    # No display name: with one, KFP up to 2.5 no longer finds the step's outputs. So a step is called `trajectory-gen` there.
    _request(task, RESOURCES.get(step, Resources()).changed(deployment.resources.get(step, Resources())))
    # Kubeflow's cache knows parameters and artifacts. A step that looks at anything else, or changes it, always runs, unless
    # whoever starts the run vouches for the rest with `enable_caching=True`.
    task.set_caching_options(cached)
    retries = deployment.retries
    if retries.attempts:
        task.set_retry(retries.attempts, f"{retries.wait_seconds}s", retries.factor, f"{retries.max_wait_seconds}s")
    # From the pod's label and not as an argument, which would make every run's cache key another one.
    kubernetes.use_field_path_as_env(task, RUN_ID_VARIABLE, "metadata.labels['pipeline/runid']")
    _place(task, step, deployment)


def _request(task: Any, wanted: Resources) -> None:
    from kfp import kubernetes

    task.set_cpu_request(wanted.cpu).set_memory_request(wanted.memory)
    if wanted.cpu_limit:
        task.set_cpu_limit(wanted.cpu_limit)
    if wanted.memory_limit:
        task.set_memory_limit(wanted.memory_limit)
    if wanted.gpus:
        task.set_accelerator_type(wanted.gpu_kind).set_accelerator_limit(wanted.gpus)
    for label, value in wanted.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for taint in wanted.tolerations:
        kubernetes.add_toleration(task, taint.key, taint.operator, taint.value, taint.effect)


def _place(task: Any, step: str, deployment: DeploymentConfig) -> None:
    """Volumes, secrets and what else a step's pod has beside its container."""
    from kfp import kubernetes

    if deployment.volume:
        kubernetes.mount_pvc(task, pvc_name=deployment.volume, mount_path=MOUNT)
    for volume in deployment.volumes:
        if volume.steps is None or step in volume.steps:
            kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.mount_path)
    for secret in deployment.secrets:
        if secret.steps is None or step in secret.steps:
            if secret.env:
                kubernetes.use_secret_as_env(task, secret.name, dict(secret.env))
            if secret.mount_path:
                kubernetes.use_secret_as_volume(task, secret.name, secret.mount_path)
    if deployment.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(deployment.image_pull_secrets))
    if deployment.image_pull_policy:
        kubernetes.set_image_pull_policy(task, deployment.image_pull_policy)
    for name, value in deployment.env.items():
        task.set_env_variable(name, value)
    for label, value in deployment.labels.items():
        kubernetes.add_pod_label(task, label, value)
    for label, value in deployment.annotations.items():
        kubernetes.add_pod_annotation(task, label, value)
    if deployment.timeout_seconds:
        kubernetes.set_timeout(task, deployment.timeout_seconds)


def _digest_of(artifact: str) -> str:
    """Parameter with the digest of an input."""
    return f"{artifact}_digest"


def _written_digest_of(artifact: str) -> str:
    """Output parameter with the digest of an output; an input and an output may have the same name."""
    return f"{artifact}_sha256"


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
