"""One component as a process of its own: checked against its declaration, executed, its outputs published.

The step does the same work as under the local runner and its outputs carry the same manifests; what the local runner adds
(cache, lineage, reports) is the scheduler's affair here.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.artifacts import MANIFEST, Artifact, ArtifactError, open_artifact, publish, verify
from components.base import Component, ComponentError, Context, Port, Progress
from components.registry import COMPONENTS
from pipeline.cache import cache_key, code_digest
from pipeline.config import PipelineConfig
from pipeline.provenance import describe_provenance, new_run_id, write_output_manifest
from schemas.config import ConfigError, decode, load
from schemas.tf_config import VARIABLE, Cluster, read_cluster


@dataclass(frozen=True)
class Job:
    """One component with all it needs.

    Attributes:
        component: What runs.
        config: Configuration of the whole run.
        run_id: The run it belongs to.
        inputs: Artifacts by input name; optional ones may be absent.
        outputs: Folders to fill, by output name.
        root: Folder that relative destinations are below.
        scratch: Folder for what a later attempt at the same work can use; None: nothing is kept.
        cluster: The processes that do this job together; the chief alone publishes.
    """

    component: Component
    config: PipelineConfig
    run_id: str
    inputs: Mapping[str, Artifact]
    outputs: Mapping[str, Path]
    root: Path
    scratch: Path | None
    cluster: Cluster = field(default_factory=Cluster)


def prepare(
    component: str,
    config: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    root: str | None = None,
    scratch: str | None = None,
    run_id: str | None = None,
) -> Job:
    """Turns a command line into a job, checked against the component's declaration.

    Args:
        component: Name of the component.
        config: JSON of the whole run, or @FILE.
        inputs: NAME=PATH each; an optional input may be absent or its path empty.
        outputs: NAME=PATH each.
        root: Existing folder that relative destinations are below; none means the working directory.
        scratch: Folder that outlives this process; none means `scratch` below `root`, or nothing is kept if that is not given.
        run_id: The run; none makes a new one.

    Raises:
        ConfigError: Something is unknown, missing or not what it should be.
    """
    if component not in COMPONENTS:
        raise ConfigError(f"--component {component}: no such component; known: {', '.join(COMPONENTS)}")
    if root and not Path(root).is_dir():
        raise ConfigError(f"--root {root}: no such folder; on a cluster, a volume must be mounted there")
    declaration = COMPONENTS[component]
    cluster = read_cluster(os.environ)
    if cluster.num_processes > 1 and not declaration.several_workers:
        raise ConfigError(f"{VARIABLE}: {component} is done by one process, not by {cluster.num_processes}")
    if cluster.num_processes > 1 and not run_id:
        raise ConfigError(f"{VARIABLE}: {cluster.num_processes} processes need one name for what they do together: --run-id")
    base = Path(root or ".").resolve()
    kept = Path(scratch).absolute() if scratch else base / "scratch" if root else None
    return Job(
        component=declaration,
        config=decode_config(config),
        run_id=run_id or new_run_id(),
        inputs=_inputs(declaration, inputs),
        outputs=_outputs(declaration, outputs),
        root=base,
        scratch=kept,
        cluster=cluster,
    )


def check_code(component: Component, expected: str) -> None:
    """Checks that the code at hand is the code that a scheduler's cache goes by.

    Raises:
        ConfigError: It is not.
    """
    found = code_digest(component.executor_module)
    if found != expected:
        raise ConfigError(
            f"--code: the pipeline was compiled from {component.name} {expected[:12]}, this image holds {found[:12]}; "
            "compile the pipeline from the code that the image is built from"
        )


def check_digests(job: Job, pairs: Sequence[str]) -> None:
    """Checks that inputs hold what a scheduler's cache takes them to hold.

    Args:
        job: What runs.
        pairs: NAME=DIGEST each.

    Raises:
        ConfigError: An input holds something else.
    """
    for name, expected in _by_name("expect", pairs, job.component.inputs).items():
        artifact = job.inputs.get(name)
        if artifact is None or artifact.digest != expected:
            found = f"{artifact.path} holds {artifact.digest[:12]}" if artifact else "there is none"
            raise ConfigError(
                f"--expect {name}: its maker wrote {expected[:12]}, {found}; it changed since, or a cache gave another one: "
                "run again without the cache"
            )


def digest_files(component: Component, pairs: Sequence[str]) -> dict[str, Path]:
    """Files to write digests of outputs to, from NAME=FILE each."""
    return {name: Path(path) for name, path in _by_name("digest", pairs, component.outputs).items()}


def execute(job: Job, progress: Progress) -> dict[str, Artifact]:
    """Executes the component and publishes its outputs.

    Args:
        job: What to run, with what.
        progress: Where the step reports.

    Returns:
        The outputs, published; nothing for a worker that is not the chief.

    Raises:
        ComponentError: The step failed; what it could finish is published.
        ConfigError: The configuration does not fit its data.
    """
    if not job.cluster.is_chief:
        _assist(job, progress)
        return {}
    component, making = job.component, {name: _making(job, name) for name in job.outputs}
    failure: ComponentError | None = None
    try:
        with _scratch(job) as scratch:
            context = Context(scratch, job.root, job.config.beam.arguments(), progress)
            try:
                properties = component.load()(job.config.of(component.name), job.inputs, making, context)
                finished = list(component.outputs)
            except ComponentError as error:
                failure, properties = error, error.outputs or {}
                finished = list(properties)
            provenance = describe_provenance(component, job.config, job.run_id, job.inputs)
            for name in finished:
                write_output_manifest(component, name, making[name], properties[name], provenance)
            # Only when all are complete: a step that is killed while it works leaves nothing that looks finished.
            for name in finished:
                _publish(making[name], job.outputs[name])
            if failure is not None:
                raise failure
    finally:
        for folder in making.values():
            shutil.rmtree(folder, ignore_errors=True)
    return {name: open_artifact(job.outputs[name]) for name in finished}


def _assist(job: Job, progress: Progress) -> None:
    """Does the part of a worker that is not the chief: what it writes is thrown away, and what they share is left alone."""
    with tempfile.TemporaryDirectory(prefix=f"longplay-worker-{job.cluster.index}-") as folder:
        scratch = _scratch_folder(job) or Path(folder) / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        context = Context(scratch, job.root, job.config.beam.arguments(), progress)
        outputs = {name: Path(folder) / name for name in job.component.outputs}
        job.component.load()(job.config.of(job.component.name), job.inputs, outputs, context)


def _making(job: Job, name: str) -> Path:
    """Where an output is made: beside its place, or where the workers of another engine can write, too."""
    if job.config.beam.engine is None or job.scratch is None:
        return _beside(job.outputs[name])
    folder = job.scratch / job.component.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".making-{job.run_id}-{name}-{os.getpid()}"


def _beside(output: Path) -> Path:
    """A folder beside a place, or inside it where it is there already, because it may be a mounted volume."""
    folder = output if output.is_dir() else output.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".making-{output.name}-{os.getpid()}"


def _publish(making: Path, output: Path) -> None:
    """Moves a finished artifact to its place: in one step where that is possible, else with the manifest last."""
    if making.parent not in (output, output.parent):
        elsewhere, making = making, _beside(output)
        try:
            shutil.copytree(elsewhere, making)
            _publish(making, output)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return
    if making.parent != output:
        publish(making, output)
        return
    # A folder that was there before may be a mount point, which cannot be replaced. Whoever goes by the manifest sees nothing,
    # then all.
    (output / MANIFEST).unlink(missing_ok=True)
    for old in output.iterdir():
        if old.is_dir() and old != making:
            shutil.rmtree(old)
        elif old != making:
            old.unlink()
    for path in making.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    for new in sorted(making.iterdir(), key=lambda path: path.name == MANIFEST):
        new.rename(output / new.name)


@contextlib.contextmanager
def _scratch(job: Job) -> Iterator[Path]:
    """The step's scratch folder; it stays when the step does not come to its end, so that the next attempt goes on from there."""
    scratch = _scratch_folder(job)
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix=f"longplay-{job.component.name}-") as folder:
            yield Path(folder)
        return
    scratch.mkdir(parents=True, exist_ok=True)
    yield scratch
    shutil.rmtree(scratch, ignore_errors=True)


def _scratch_folder(job: Job) -> Path | None:
    if job.scratch is None:
        return None
    # The run and all that the result depends on: a retry finds what the killed attempt left, and nobody else does.
    key = cache_key(job.component, job.config.of(job.component.name), job.inputs)
    return job.scratch / job.component.name / f"{job.run_id}-{key[:16]}"


def decode_config(text: str) -> PipelineConfig:
    """Configuration of a whole run from JSON, or from a file given as @FILE.

    Raises:
        ConfigError: It is not one.
    """
    if text.startswith("@"):
        return load(PipelineConfig, text[1:])
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--config: not valid JSON: {error}; a file is given as @FILE") from None
    if not isinstance(data, dict):
        raise ConfigError(f"--config: expected a mapping of keys to values, found {type(data).__name__}")
    return decode(PipelineConfig, data, "--config")


def _inputs(component: Component, pairs: Sequence[str]) -> dict[str, Artifact]:
    paths = _by_name("input", pairs, component.inputs)
    for name, port in component.inputs.items():
        if not port.optional and not paths.get(name):
            raise ConfigError(f"{component.name} needs its input {name} ({port.type}): --input {name}=PATH")
    return {name: _open(name, path, component.inputs[name]) for name, path in paths.items() if path}


def _open(name: str, path: str, port: Port) -> Artifact:
    try:
        artifact = open_artifact(path)
        verify(artifact)
    except ArtifactError as error:
        raise ConfigError(f"--input {name}: {error}") from None
    if artifact.type != port.type:
        raise ConfigError(f"--input {name}: {path} holds {artifact.type}, expected {port.type}")
    return artifact


def _outputs(component: Component, pairs: Sequence[str]) -> dict[str, Path]:
    paths = _by_name("output", pairs, component.outputs)
    for name, port in component.outputs.items():
        if not paths.get(name):
            raise ConfigError(f"{component.name} needs a folder for its output {name} ({port.type}): --output {name}=PATH")
    return {name: _vacant(name, Path(paths[name]).absolute()) for name in component.outputs}


def _vacant(name: str, path: Path) -> Path:
    """Refuses a place that holds anything but an earlier result, because it would be lost."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--output {name}: {path} is not a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise ConfigError(f"--output {name}: {path} holds files that are no artifact; give an empty or a new folder")
    return path


def _by_name(kind: str, pairs: Sequence[str], ports: Mapping[str, Port]) -> dict[str, str]:
    """Splits NAME=PATH."""
    paths: dict[str, str] = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator:
            raise ConfigError(f"--{kind} {pair}: expected NAME=PATH")
        if name not in ports:
            raise ConfigError(f"--{kind} {pair}: no such {kind}; known: {', '.join(ports) or 'none'}")
        if name in paths:
            raise ConfigError(f"--{kind} {pair}: {name} is given twice")
        paths[name] = path
    return paths
