"""What was made from what, in a file that only grows: one line for every step of every run."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from components.artifacts import Artifact, ArtifactError, open_artifact, verify
from pipeline.graph import FromHistory


@dataclass(frozen=True)
class Execution:
    """One step of one run, executed or taken from the cache.

    Attributes:
        run_id: The run.
        pipeline: Name of its configuration.
        step: The step.
        status: executed or cached.
        key: Cache key.
        inputs: Artifact folders and digests by input name.
        outputs: The same by output name.
        time: Seconds since 1970-01-01 UTC.
        facts: What is worth knowing of outputs even when their folders are gone, by output name; see `facts_of`.
    """

    run_id: str
    pipeline: str
    step: str
    status: str
    key: str
    inputs: Mapping[str, Mapping[str, str]]
    outputs: Mapping[str, Mapping[str, str]]
    time: float
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_FACTS: Mapping[str, tuple[str, ...]] = {
    "LeakageAudit": ("passed",),
    "ModelBlessing": ("blessed", "forced", "reasons", "checks"),
    "PushedModel": ("pushed", "version", "path"),
}


def facts_of(outputs: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """Verdicts and pushes, with who forced them and why, by output name."""
    found = {
        name: {key: artifact.properties[key] for key in _FACTS.get(artifact.type, ()) if key in artifact.properties}
        for name, artifact in outputs.items()
    }
    return {name: facts for name, facts in found.items() if facts}


def reference(artifact: Artifact) -> dict[str, str]:
    """How lineage names an artifact."""
    return {"path": str(artifact.path), "digest": artifact.digest, "type": artifact.type}


class Lineage:
    """The lineage file of a root folder.

    Args:
        path: File of JSON lines.
    """

    def __init__(self, path: Path):
        self.path = path

    def record(self, execution: Execution) -> None:
        """Appends one line, in one write, so that runs side by side do not mix."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(vars(execution), sort_keys=True) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line  # a killed process left half a line
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def latest_first(self, pipeline: str, step: str) -> Iterator[Execution]:
        """Executions of a step of a pipeline, the latest first."""
        for execution in self.executions():
            if execution.pipeline == pipeline and execution.step == step:
                yield execution

    def executions(self) -> Iterator[Execution]:
        """All executions, the latest first; a line that a killed process left half written is passed over."""
        if not self.path.is_file():
            return
        for line in reversed(self.path.read_text(encoding="utf-8").splitlines()):
            try:
                entry: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue
            # A later version may say more, an earlier one less.
            yield Execution(**{each.name: entry[each.name] for each in fields(Execution) if each.name in entry})

    def find(self, wanted: FromHistory, pipeline: str, differs_from: str | None) -> Artifact | None:
        """The latest artifact that fits and still exists unchanged.

        Args:
            wanted: What is looked for.
            pipeline: Name of the pipeline.
            differs_from: Digest it must not have.

        Returns:
            The artifact, or None.
        """
        for execution in self.latest_first(pipeline, wanted.step):
            entry = {**execution.inputs, **execution.outputs}.get(wanted.artifact)
            if entry is None or entry["digest"] == differs_from:
                continue
            try:
                if wanted.blessed_only and not open_artifact(execution.outputs["blessing"]["path"]).properties["blessed"]:
                    continue
                artifact = open_artifact(entry["path"])
                verify(artifact)
            except (ArtifactError, KeyError):
                continue
            if artifact.digest == entry["digest"]:
                return artifact
        return None
