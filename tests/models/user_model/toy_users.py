"""A user model whose answers are known, on the catalogue of the toy shop."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models.frameworks import tf
from models.ranking import Ranking
from models.rewards.deepfm import DeepFMConfig
from models.rewards.fm import FMConfig
from models.rewards.outcomes import Prediction
from models.user_model.model import Answer, Situation, UserModel, UserModelConfig

sys.path.append(str(Path(__file__).parents[1]))
toy = import_module("toy_shop")


def config(**changes: Any) -> UserModelConfig:
    """Small models."""
    small = {
        "rewards": DeepFMConfig(width=6, hidden=(8,), outcome="continuous", has_variance=True, members=2, unknown_rate=0.0),
        "behaviour": toy.network(),
        "leaving": FMConfig(width=6, outcome="binary", unknown_rate=0.0),
        "imputation": FMConfig(width=6, outcome="continuous", unknown_rate=0.0),
    }
    return UserModelConfig(**{**small, **changes})


def fresh(**changes: Any) -> UserModel:
    """Untrained."""
    toy.seed_everything()
    return UserModel(config(**changes), toy.catalogue())


class Known(UserModel):
    """Item i earns i / 10 with a doubt of .25, and ends the session with one chance for all items; the logs show items 2 and 5 next."""

    def __init__(self, leaving: float, **changes: Any):
        toy.seed_everything()
        super().__init__(config(**changes), toy.catalogue())
        self._leaving = leaving
        self.behaviour.rank = lambda states, history, k, *rest: self._shown(tf.shape(history)[0])  # type: ignore[method-assign]

    def answer(self, situation: Situation, item: tf.Tensor) -> Answer:
        mean = tf.cast(item, tf.float32) / 10.0
        reward = Prediction(mean, 0.5 * tf.ones_like(mean), 0.25 * tf.ones_like(mean), mean[:, None][:, :0])
        return Answer(reward, tf.cast(item % 2, tf.int32), self._leaving * tf.ones_like(mean))

    def what_comes(self, situation: Situation, k: int) -> Ranking:
        return self._shown(tf.shape(situation.length)[0])

    @staticmethod
    def _shown(count: tf.Tensor) -> Ranking:
        one = Ranking(tf.constant([[2, 5]]), tf.constant(np.log([[0.75, 0.25]]), tf.float32))
        return Ranking(*(tf.repeat(part, count, axis=0) for part in one))
