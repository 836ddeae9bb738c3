"""Work of pusher."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import BLESSED, INFRA_BLESSED, SERVING_FOLDER, Artifact, file_digest, publish, write_json
from components.base import ComponentError, Context, Properties
from components.pusher.bundle import stable_in, write_bundle
from components.pusher.config import PusherConfig
from components.pusher.model_card import as_html, as_markdown, model_card
from schemas.serving import CANARY, EXAMPLES_FOLDER, MODELS_FILE, SAVED_MODEL_FILE

PUSHED_FILE = "pushed.json"
EXTRA_FOLDER = "assets.extra"
"""What servers leave alone in a SavedModel, but for warm-up requests."""
CARD_PREFIX = "model_card."


def execute(
    config: PusherConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    reasons = _objections(inputs)
    properties: dict[str, object] = {"pushed": 0, "reasons": reasons, "version": None, "path": None}
    if not reasons:
        model = inputs["serving_model"].path / SERVING_FOLDER
        with context.progress.task("push"):
            card = model_card(inputs)
            texts = {
                "model_card.md": as_markdown(card),
                "model_card.html": as_html(card),
                "model_card.json": json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n",
            }
            destination = (context.root / config.destination).resolve()
            if config.label == CANARY:
                # Before the version, which some servers would follow as soon as it is there.
                stable_in(destination / MODELS_FILE)
            version, path = push(model, destination, texts)
        # After the version, so that nothing names what is not there.
        write_bundle(path.parent, version, config, inputs["serving_model"].path / EXAMPLES_FOLDER)
        properties = {"pushed": 1, "reasons": [], "version": version, "path": str(path)}
        context.progress.log(f"pushed version {version} to {path}")
    else:
        context.progress.log("not pushed: " + "; ".join(reasons))
    write_json(outputs["pushed_model"] / PUSHED_FILE, properties)
    return {"pushed_model": properties}


def _objections(inputs: Mapping[str, Artifact]) -> list[str]:
    """Why the model must not be pushed; the files decide, as for any other tool that reads the artifacts."""
    model, blessing, infra_blessing = inputs["serving_model"], inputs["blessing"], inputs["infra_blessing"]
    objections = []
    if not (blessing.path / BLESSED).is_file():
        objections += [f"the model is not blessed: {reason}" for reason in _reasons(blessing)]
    elif blessing.properties["current_model"] != model.properties["model"]:
        objections.append(f"the blessing in {blessing.path} is that of another model; run the evaluator again")
    if not (infra_blessing.path / INFRA_BLESSED).is_file():
        objections += [f"the exported model does not pass: {reason}" for reason in _reasons(infra_blessing)]
    elif infra_blessing.properties["serving_model"] != model.digest:
        objections.append(f"the verdict in {infra_blessing.path} is that of another export; run the infra_validator again")
    return objections


def _reasons(verdict: Artifact) -> list[str]:
    return list(verdict.properties["reasons"]) or [f"{verdict.path} states no reason"]


def push(model: Path, destination: Path, texts: Mapping[str, str] | None = None) -> tuple[int, Path]:
    """Copies a SavedModel to `destination/<version>`, texts beside it in its `assets.extra`; a server sees all of it or nothing.

    The version is the time in seconds, or one more than the greatest there is. A model that is the greatest version already is
    not copied again.

    Raises:
        ComponentError: The destination cannot be written.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        versions = sorted(int(path.name) for path in destination.iterdir() if path.name.isdigit())
        if versions and _same(model, destination / str(versions[-1])):
            return versions[-1], destination / str(versions[-1])
        for leftover in destination.glob(".pushing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        version = max(int(time.time()), versions[-1] + 1 if versions else 0)
        # Beside its place and under a name that is no integer, which servers pass over.
        temporary = destination / f".pushing-{version}-{os.getpid()}"
        shutil.copytree(model, temporary, ignore=shutil.ignore_patterns(SAVED_MODEL_FILE))
        for name, text in (texts or {}).items():
            (temporary / EXTRA_FOLDER).mkdir(exist_ok=True)
            (temporary / EXTRA_FOLDER / name).write_text(text, encoding="utf-8")
        # Last, for those who look into the folder while it fills.
        shutil.copy2(model / SAVED_MODEL_FILE, temporary / SAVED_MODEL_FILE)
        final = destination / str(version)
        publish(temporary, final)
    except OSError as error:
        raise ComponentError(f"pusher.destination: cannot push to {destination}: {error}") from None
    return version, final


def _same(model: Path, pushed: Path) -> bool:
    """True when both folders hold the same files."""
    return _contents(model) == _contents(pushed)


def _contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(CARD_PREFIX)
    }
