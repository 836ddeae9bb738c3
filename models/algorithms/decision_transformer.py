"""Decision transformer."""

from __future__ import annotations

from typing import Literal

from models.algorithms.base import StepLosses
from models.algorithms.sequence_model import SequenceConfig, SequenceModel
from models.batch import TrajectoryBatch
from models.frameworks import tf


class DecisionTransformerConfig(SequenceConfig):
    """What was done by those who got this much; asked for more than usual, it does what was done when more came."""

    name: Literal["decision_transformer"] = "decision_transformer"


class DecisionTransformer(SequenceModel):
    """loss = -log pi(a_t | R_0, s_0, a_0, ..., R_t, s_t).

    Items instead of the continuous actions of the paper, so likelihood instead of a squared error, as in its Atari experiments.

    References:
        Chen et al. (2021), Decision Transformer: Reinforcement Learning via Sequence Modeling, algorithm 1. Depth, heads,
        activation, dropout and context are its settings for continuous control.
    """

    config_class = DecisionTransformerConfig

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.predict(batch, step, training)
        return StepLosses({"cross_entropy": -found.log_prob}, self.target_mask(batch), self.health_of(batch, found))
