"""A trained user model as files."""

from __future__ import annotations

import pyarrow as pa

from components.judged_model import JudgedKind
from components.trajectory_gen.vocabulary import COUNT
from models.algorithms.base import Catalogue
from models.co_visitation import Neighbours
from models.user_model.model import UserModel, UserModelConfig
from schemas.config import Config


class SavedUserModelConfig(Config):
    """Everything that says what a user model is, but for its weights."""

    model: UserModelConfig
    max_steps: int
    """T, most events of a history."""


def build_user_model(config: SavedUserModelConfig, vocabulary: pa.Table, seed: int, neighbours: Neighbours | None = None) -> UserModel:
    """A user model with fresh weights."""
    catalogue = Catalogue(vocabulary.num_rows + 1, config.max_steps, vocabulary[COUNT].to_numpy(), neighbours)
    return UserModel(config.model, catalogue, seed)


USER_MODEL = JudgedKind(
    "user model", SavedUserModelConfig, build_user_model, "user_model_trainer.model is null; set it, such as {debiasing: snips}"
)
"""What `user_model_trainer` makes."""
