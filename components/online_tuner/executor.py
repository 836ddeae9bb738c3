"""Work of online_tuner."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import HISTORY_FILE, MANIFEST, Artifact, write_json
from components.base import Context, Properties
from components.online_tuner.config import OnlineTunerConfig


def execute(
    config: OnlineTunerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    if not config.enabled:
        pass_on(inputs["offline_model"], outputs["model"])
        write_json(outputs["tuning_run"] / HISTORY_FILE, {"rounds": [], "evaluations": []})
        return {"model": inputs["offline_model"].properties, "tuning_run": {"tuned": 0}}
    # Frameworks are imported only where there is something to tune.
    from components.online_tuner.tuning import tune

    return tune(config, inputs, outputs, context)


def pass_on(artifact: Artifact, folder: Path) -> None:
    """The same files in another folder, without their content being copied where the file system can link them.

    Content and properties are the same, so the digest is too, and whatever was made from the one is up to date for the other.
    """
    shutil.copytree(artifact.path, folder, copy_function=_link, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
