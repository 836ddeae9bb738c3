"""Causal decision transformer for recommendation."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.sequence_model import SequenceConfig, SequenceModel
from models.batch import TrajectoryBatch
from models.frameworks import tf


class CDT4RecConfig(SequenceConfig):
    """A decision transformer that also learns what an item in a state earns."""

    name: Literal["cdt4rec"] = "cdt4rec"
    reward_weight: float = pydantic.Field(default=1.0, gt=0.0)
    """Weight of the loss of the estimated reward."""


class CDT4Rec(SequenceModel):
    """loss = -log pi(a_t | ...) + lambda * ((r(s_t, a_t) - r_t) / scale)^2.

    The reward is a function of state and item alone, not of the return that was wanted: it is what the item causes. So it also
    stands for rewards that nobody reports when the policy is served, and the return goes down by it.

    Deviations: the published text is known to us through others, and the one code we know does not optimise the estimate. The
    square of the error and its weight are our reconstruction; the scale, which is that of the returns, makes it one for any unit
    of reward.

    References:
        Wang et al. (2023), Causal Decision Transformer for Recommender Systems via Offline Reinforcement Learning.
    """

    config_class = CDT4RecConfig
    _config: CDT4RecConfig

    def __init__(self, config: CDT4RecConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        from models.heads.item_conditioned import ItemConditionedHead

        super().__init__(config, network, catalogue, seed)
        self.reward = ItemConditionedHead(network.width, 1, name="reward")

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.predict(batch, step, training)
        mask = self.target_mask(batch)
        error = (self._scaled_reward(found.states[:, :-1], batch.item_id) - self.returns.scaled(batch.reward)) * mask
        parts = {"cross_entropy": -found.log_prob, "reward": self._config.reward_weight * tf.square(error)}
        mean_error = tf.reduce_sum(tf.abs(error)) / tf.maximum(tf.reduce_sum(mask), 1.0)
        health = {**self.health_of(batch, found), "reward_error": tf.stop_gradient(self.returns.unscaled(mean_error)[0])}
        return StepLosses(parts, mask, health)

    def estimated_reward(self, state: tf.Tensor, item_id: tf.Tensor) -> tf.Tensor | None:
        return self.returns.unscaled(self._scaled_reward(state, item_id))

    def _scaled_reward(self, states: tf.Tensor, item_id: tf.Tensor) -> tf.Tensor:
        """[B, T] from states [B, T, D] and items [B, T]."""
        return self.reward(states, self.encoder.embedding(item_id))[..., 0]
