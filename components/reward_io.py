"""A trained reward estimator as files."""

from __future__ import annotations

import pyarrow as pa

from components.judged_model import JudgedKind
from components.trajectory_gen.vocabulary import COUNT
from models.algorithms.base import Catalogue
from models.rewards.base import RewardEstimator
from models.rewards.registry import AnyEstimator, create_estimator
from schemas.config import Config


class RewardModelConfig(Config):
    """Everything that says what a reward model is, but for its weights."""

    estimator: AnyEstimator
    max_steps: int
    """T, most events of a history."""


def build_reward_model(config: RewardModelConfig, vocabulary: pa.Table, seed: int) -> RewardEstimator:
    """An estimator with fresh weights."""
    catalogue = Catalogue(vocabulary.num_rows + 1, config.max_steps, vocabulary[COUNT].to_numpy())
    return create_estimator(config.estimator, catalogue, seed)


REWARD_MODEL = JudgedKind(
    "reward model", RewardModelConfig, build_reward_model, "reward_trainer.estimator is null; name one, such as {name: din}"
)
"""What `reward_trainer` makes."""
