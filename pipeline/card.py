"""Cards: what the report needs of a step, without the data. A cluster hands a small folder from step to step, not a data set."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.artifacts import MANIFEST, Artifact, ArtifactError, open_artifact, write_json

_EXECUTION_FILE = "execution.json"


@dataclass(frozen=True)
class Card:
    """What a step left for the report.

    Attributes:
        component: The step.
        run_id: The run that executed it.
        started: When, in seconds since 1970.
        seconds: How long it took.
        outputs: Its artifacts: manifests and the JSON files beside them.
    """

    component: str
    run_id: str
    started: float
    seconds: float
    outputs: Mapping[str, Artifact]


def write_card(folder: Path, card: Card) -> None:
    """Writes a card: of every output the manifest and the JSON files at its top."""
    for name, artifact in card.outputs.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for path in (artifact.path / MANIFEST, *artifact.path.glob("*.json")):
            shutil.copyfile(path, target / path.name)
    execution = {"component": card.component, "run_id": card.run_id, "started": card.started, "seconds": card.seconds}
    write_json(folder / _EXECUTION_FILE, execution)


def read_card(folder: Path) -> Card:
    """Reads a card.

    Raises:
        ArtifactError: The folder is no card.
    """
    try:
        execution = json.loads((folder / _EXECUTION_FILE).read_text(encoding="utf-8"))
        outputs = {path.name: open_artifact(path) for path in sorted(folder.iterdir()) if path.is_dir()}
        return Card(**execution, outputs=outputs)
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise ArtifactError(f"{folder}: not a step's card: {type(error).__name__}: {error}") from None
