"""Going back to an earlier model, for every kind of server: the earlier one becomes the next version."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from components.artifacts import publish
from components.base import ComponentError
from components.rollout import Rollout, RolloutError, read_rollout, versions_in, write_rollout
from schemas import serving

HISTORY_FILE = "history.jsonl"


def roll_back(folder: Path, to: int | None = None, reason: str = "") -> tuple[int, int]:
    """Serves an earlier model again.

    Servers that follow the greatest version and servers that follow `models.config` both change over; nothing is deleted, and
    no moment is without a version. Called again, it goes back one further.

    Args:
        folder: Holds the versions.
        to: The version to go back to; None is the stable one where a canary is tried, else the one pushed before.
        reason: Kept in `history.jsonl`.

    Returns:
        The number under which it is served now, and the version that it is a copy of.

    Raises:
        ComponentError: There is nothing to go back to.
    """
    versions = versions_in(folder)
    if not versions:
        raise ComponentError(f"{folder} holds no versions")
    origins = {version: version for version in versions} | _origins(folder)
    path = folder / serving.MODELS_FILE
    try:
        rollout = read_rollout(path) if path.is_file() else Rollout(folder.name, str(folder.resolve()))
    except RolloutError as error:
        raise ComponentError(str(error)) from None
    served = rollout.labels.get(serving.STABLE, versions[-1])
    source = _source(versions, origins, served, rollout.labels, to)
    version = max(int(time.time()), versions[-1] + 1)
    temporary = folder / f".pushing-{version}-{os.getpid()}"
    try:
        _copy(folder / str(source), temporary)
        publish(temporary, folder / str(version))
        origin = origins.get(source, source)
        _note(folder, {"version": version, "origin": origin, "from": served, "reason": reason, "time": int(time.time())})
        if path.is_file():
            rollout = Rollout(rollout.name, rollout.base_path, (version,), labels={serving.STABLE: version})
            write_rollout(rollout, path)
    except OSError as error:
        raise ComponentError(f"cannot roll back in {folder}: {error}") from None
    return version, source


def _source(versions: list[int], origins: dict[int, int], served: int, labels: Any, to: int | None) -> int:
    """The version whose files are to be served again."""
    if to is not None:
        if to not in versions:
            raise ComponentError(f"there is no version {to}; found {', '.join(map(str, versions))}")
        return to
    if labels.get(serving.CANARY, served) != served and served in versions:
        return served
    current = origins.get(served, served)
    earlier = [version for version in versions if origins[version] < current]
    if not earlier:
        raise ComponentError(f"version {served} holds the first model that was pushed and is still here; there is none to go back to")
    return max(earlier, key=lambda version: (origins[version], version))


def _copy(source: Path, target: Path) -> None:
    """Files that never change are linked rather than copied, where the file system can."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=link)


def _origins(folder: Path) -> dict[int, int]:
    """Version to the version that it is a copy of, of all that were rolled back to."""
    path = folder / HISTORY_FILE
    if not path.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {int(entry["version"]): int(entry["origin"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ComponentError(f"{path}: {error}") from None


def _note(folder: Path, entry: dict[str, Any]) -> None:
    with open(folder / HISTORY_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
