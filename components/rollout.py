"""Which versions of a model are served and how they are called: `models.config`, the file that TF Serving reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.artifacts import write_text
from schemas import serving

_PLATFORM = "tensorflow"


class RolloutError(ValueError):
    """A `models.config` that cannot be used."""


@dataclass(frozen=True)
class Rollout:
    """What is to be served of one model.

    Attributes:
        name: The model's.
        base_path: Absolute folder of its versions, as the server sees it.
        versions: Those to serve; empty serves the latest.
        num_latest: How many of the latest, where no versions are named.
        labels: Label to version.
    """

    name: str
    base_path: str
    versions: tuple[int, ...] = ()
    num_latest: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)


def versions_in(folder: Path) -> list[int]:
    """Numbers of the complete versions in a folder, rising."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.isdecimal() and path.name.isascii())
    return sorted(int(path.name) for path in found if str(int(path.name)) == path.name and (path / serving.SAVED_MODEL_FILE).is_file())


def read_rollout(path: Path, name: str | None = None) -> Rollout:
    """Reads `models.config`.

    Args:
        path: The file.
        name: The model that is meant; may be left out where the file names one.

    Raises:
        RolloutError: It cannot be read, or does not say what to serve of that model.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise RolloutError(f"{path}: {error}") from None
    models = [entry for entry in config.model_config_list.config if name in (None, entry.name)]
    if len(models) != 1:
        names = ", ".join(entry.name for entry in config.model_config_list.config) or "none"
        raise RolloutError(f"{path}: expected one model{f' called {name}' if name else ''}, found {names}")
    entry = models[0]
    policy = entry.model_version_policy
    latest = policy.latest.num_versions or 1
    return Rollout(entry.name, entry.base_path, tuple(sorted(policy.specific.versions)), latest, dict(entry.version_labels))


def write_rollout(rollout: Rollout, path: Path) -> None:
    """Writes `models.config`; a server that looks at it sees the old one or the new one."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    entry = config.model_config_list.config.add(name=rollout.name, base_path=rollout.base_path, model_platform=_PLATFORM)
    if rollout.versions:
        entry.model_version_policy.specific.versions.extend(sorted(rollout.versions))
    else:
        entry.model_version_policy.latest.num_versions = rollout.num_latest
    for label, version in sorted(rollout.labels.items()):
        entry.version_labels[label] = version
    write_text(path, text_format.MessageToString(config))
