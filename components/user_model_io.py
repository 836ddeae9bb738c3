"""A trained user model as files: configuration, weights, the vocabulary it was trained on, and whether it may be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import BLESSED, NOT_BLESSED, Artifact, ArtifactError, write_json
from components.base import ComponentError
from components.model_io import MODEL_FILE, WEIGHTS, read_weights, write_weights
from components.trajectory_gen.vocabulary import COUNT, ITEMS_FILE
from models.algorithms.base import Catalogue
from models.co_visitation import Neighbours
from models.user_model.model import UserModel, UserModelConfig
from schemas.config import Config, decode


class SavedUserModelConfig(Config):
    """Everything that says what a user model is, but for its weights."""

    model: UserModelConfig
    max_steps: int
    """T, most events of a history."""


@dataclass(frozen=True)
class LoadedUserModel:
    """A user model and its items.

    Attributes:
        model: With its weights.
        config: What it is.
        vocabulary: Table with columns item and count; row i is id i + 1.
    """

    model: UserModel
    config: SavedUserModelConfig
    vocabulary: pa.Table


def build_user_model(config: SavedUserModelConfig, vocabulary: pa.Table, seed: int, neighbours: Neighbours | None = None) -> UserModel:
    """A user model with fresh weights."""
    catalogue = Catalogue(vocabulary.num_rows + 1, config.max_steps, vocabulary[COUNT].to_numpy(), neighbours)
    return UserModel(config.model, catalogue, seed)


def save_user_model(folder: Path, model: UserModel, config: SavedUserModelConfig, vocabulary_file: Path, blessed: bool) -> None:
    """Writes a user model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MODEL_FILE, config.model_dump(mode="json"))
    shutil.copyfile(vocabulary_file, folder / ITEMS_FILE)
    write_weights(model, folder / WEIGHTS)
    (folder / (BLESSED if blessed else NOT_BLESSED)).touch()


def load_user_model(artifact: Artifact, must_be_blessed: bool = True, seed: int = 0) -> LoadedUserModel:
    """Builds the user model of an artifact and reads its weights.

    Args:
        artifact: What `user_model_trainer` made.
        must_be_blessed: False takes one that missed its conditions, too.
        seed: Seed of what it draws.

    Raises:
        ComponentError: The step was off, or the model missed its conditions.
        ArtifactError: The artifact is no user model, or its weights do not fit.
    """
    path = artifact.path / MODEL_FILE
    if not artifact.properties.get("enabled", True):
        raise ComponentError("there is no user model: user_model_trainer.model is null; set it, such as {debiasing: snips}")
    if not path.is_file():
        raise ArtifactError(f"{artifact.path}: not a user model, it has no {MODEL_FILE}")
    if must_be_blessed and not (artifact.path / BLESSED).is_file():
        reasons = "; ".join(artifact.properties.get("reasons", ())) or "it is not marked as fit for use"
        raise ComponentError(f"{artifact.path}: the user model may not be used: {reasons}")
    config = decode(SavedUserModelConfig, json.loads(path.read_text(encoding="utf-8")), str(path))
    vocabulary = pq.read_table(artifact.path / ITEMS_FILE).combine_chunks()
    model = build_user_model(config, vocabulary, seed)
    read_weights(model, artifact.path / WEIGHTS)
    return LoadedUserModel(model, config, vocabulary)
