"""Artifacts: folders with a manifest, published whole or not at all.

An artifact is a folder whose files carry the ecosystem's names (`Split-train/data_tfrecord-00000-of-00004.gz`,
`FeatureStats.pb`, `schema.pbtxt`, …) and one `manifest.json`: type, producer, properties (counts and the like), digests of
every file, the configuration and code that made it and the digests of what it was made from.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ArtifactType = Literal[
    "Examples",
    "Vocabulary",
    "Neighbours",
    "Quarantine",
    "ExampleStatistics",
    "Schema",
    "ExampleAnomalies",
    "LeakageAudit",
    "RewardModel",
    "UserModel",
    "Model",
    "ModelRun",
    "ModelEvaluation",
    "ModelBlessing",
    "ServingModel",
    "InfraBlessing",
    "PushedModel",
    "InferenceResult",
]

MANIFEST = "manifest.json"

# Names of files inside artifacts, as the ecosystem's tools know them.
STATISTICS_FILE = "FeatureStats.pb"
SCHEMA_FILE = "schema.pbtxt"
ANOMALIES_FILE = "SchemaDiff.pb"
AUDIT_FILE = "audit.json"
QUARANTINE_FILE = "rows.jsonl"
HISTORY_FILE = "history.json"
# In front of the numbers that a training logs beside its losses.
HEALTH = "health/"
METRICS_FILE = "metrics.json"
SERVING_FOLDER = "Format-Serving"
EXPECTED_FILE = "expected.json"
BLESSED, NOT_BLESSED = "BLESSED", "NOT_BLESSED"
INFRA_BLESSED, INFRA_NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"


class ArtifactError(ValueError):
    """An artifact that is missing, unfinished or changed since it was made."""


@dataclass(frozen=True)
class Artifact:
    """A published artifact.

    Attributes:
        path: Its folder.
        manifest: The content of `manifest.json`.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def type(self) -> str:
        return str(self.manifest["type"])

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of its files and its properties; equal content, equal digest."""
        return str(self.manifest["digest"])

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the producer states about the content: counts, ranges, results."""
        properties: Mapping[str, Any] = self.manifest["properties"]
        return properties

    def split(self, name: str) -> Path:
        """Folder of one split; the ecosystem's older lower-case spelling is accepted."""
        for folder in (self.path / f"Split-{name}", self.path / f"split-{name}"):
            if folder.is_dir():
                return folder
        raise ArtifactError(f"{self.path}: no split {name!r}; found {sorted(p.name for p in self.path.iterdir() if p.is_dir())}")


def open_artifact(path: str | Path) -> Artifact:
    """Reads an artifact's manifest.

    Raises:
        ArtifactError: The folder or its manifest does not exist, or the manifest is not one.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such artifact folder")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: not a finished artifact, it has no {MANIFEST}") from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{folder / MANIFEST}: not valid JSON: {error}") from None
    missing = {"type", "digest", "properties", "files"} - set(manifest if isinstance(manifest, dict) else ())
    if missing:
        raise ArtifactError(f"{folder / MANIFEST}: not an artifact manifest, it lacks {sorted(missing)}")
    return Artifact(folder, manifest)


def verify(artifact: Artifact, contents: bool = False) -> None:
    """Checks that the files of the manifest are there with their sizes, no others, and with their content if asked.

    Raises:
        ArtifactError: A file is missing, differs or is not known.
    """
    strays = set(_content(artifact.path)) - set(artifact.manifest["files"])
    if strays:
        raise ArtifactError(f"{artifact.path}: {min(strays)} was not there when it was made")
    for name, entry in artifact.manifest["files"].items():
        path = artifact.path / name
        if not path.is_file():
            raise ArtifactError(f"{artifact.path}: {name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise ArtifactError(f"{path}: {path.stat().st_size} bytes, {entry['bytes']} when it was made")
        if contents and file_digest(path) != entry["sha256"]:
            raise ArtifactError(f"{path}: content differs from when it was made")


def write_manifest(
    folder: Path, kind: ArtifactType, producer: str, properties: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Artifact:
    """Digests a finished folder and writes its manifest.

    Args:
        folder: The artifact's folder, complete but for the manifest.
        kind: Artifact type.
        producer: Component and output that made it, `trainer.model`.
        properties: What the producer states about the content, JSON values.
        provenance: Configuration, code digest and inputs it was made from, JSON values.

    Returns:
        The artifact.
    """
    files = {name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for name, path in _content(folder).items()}
    content = json.dumps([kind, {name: entry["sha256"] for name, entry in files.items()}, properties], sort_keys=True)
    manifest = {
        "type": kind,
        "producer": producer,
        "digest": hashlib.sha256(content.encode()).hexdigest(),
        "properties": properties,
        "files": files,
        "provenance": provenance,
    }
    write_json(folder / MANIFEST, manifest)
    return Artifact(folder, manifest)


def _content(folder: Path) -> dict[str, Path]:
    """Files of an artifact by name, all but its own manifest."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    return files


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON beside its place and moves it there, so that a reader never sees half of it."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text beside its place and moves it there once it is on the disk: a reader sees what was there before or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def publish(temporary: Path, final: Path) -> None:
    """Moves a finished folder to its place in one step, after its files have reached the disk."""
    for path in temporary.rglob("*"):
        if path.is_file():
            _sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        # Two renames, so that whatever stands at the final name is always complete.
        discarded = final.with_name(f".discarded-{final.name}-{os.getpid()}")
        final.rename(discarded)
        temporary.rename(final)
        shutil.rmtree(discarded, ignore_errors=True)
    else:
        temporary.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
