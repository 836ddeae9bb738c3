"""A trained reward estimator as files: configuration, weights, the vocabulary it was trained on, and whether it may be used."""

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
from models.rewards.base import RewardEstimator
from models.rewards.registry import AnyEstimator, create_estimator
from schemas.config import Config, decode


class RewardModelConfig(Config):
    """Everything that says what a reward model is, but for its weights."""

    estimator: AnyEstimator
    max_steps: int
    """T, most events of a history."""


@dataclass(frozen=True)
class LoadedRewardModel:
    """An estimator and its items.

    Attributes:
        estimator: With its weights.
        config: What it is.
        vocabulary: Table with columns item and count; row i is id i + 1.
    """

    estimator: RewardEstimator
    config: RewardModelConfig
    vocabulary: pa.Table


def build_reward_model(config: RewardModelConfig, vocabulary: pa.Table, seed: int) -> RewardEstimator:
    """An estimator with fresh weights."""
    catalogue = Catalogue(vocabulary.num_rows + 1, config.max_steps, vocabulary[COUNT].to_numpy())
    return create_estimator(config.estimator, catalogue, seed)


def save_reward_model(folder: Path, estimator: RewardEstimator, config: RewardModelConfig, vocabulary_file: Path, blessed: bool) -> None:
    """Writes an estimator into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MODEL_FILE, config.model_dump(mode="json"))
    shutil.copyfile(vocabulary_file, folder / ITEMS_FILE)
    write_weights(estimator, folder / WEIGHTS)
    (folder / (BLESSED if blessed else NOT_BLESSED)).touch()


def load_reward_model(artifact: Artifact, must_be_blessed: bool = True, seed: int = 0) -> LoadedRewardModel:
    """Builds the estimator of an artifact and reads its weights.

    Args:
        artifact: What `reward_trainer` made.
        must_be_blessed: False takes one that missed its conditions, too.
        seed: Seed of what it draws.

    Raises:
        ComponentError: The step was off, or the model missed its conditions.
        ArtifactError: The artifact is no reward model, or its weights do not fit.
    """
    path = artifact.path / MODEL_FILE
    if not artifact.properties.get("enabled", True):
        raise ComponentError("there is no reward model: reward_trainer.estimator is null; name one, such as {name: din}")
    if not path.is_file():
        raise ArtifactError(f"{artifact.path}: not a reward model, it has no {MODEL_FILE}")
    if must_be_blessed and not (artifact.path / BLESSED).is_file():
        reasons = "; ".join(artifact.properties.get("reasons", ())) or "it is not marked as fit for use"
        raise ComponentError(f"{artifact.path}: the reward model may not be used: {reasons}")
    config = decode(RewardModelConfig, json.loads(path.read_text(encoding="utf-8")), str(path))
    vocabulary = pq.read_table(artifact.path / ITEMS_FILE).combine_chunks()
    estimator = build_reward_model(config, vocabulary, seed)
    read_weights(estimator, artifact.path / WEIGHTS)
    return LoadedRewardModel(estimator, config, vocabulary)
