"""Random ensemble mixture."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.targeted import TargetedConfig
from models.algorithms.value_based import ValueAlgorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import huber_td


class REMConfig(TargetedConfig):
    """Q-learning on random mixtures of many heads."""

    name: Literal["rem"] = "rem"
    num_heads: int = pydantic.Field(default=10, ge=1)
    """M, value heads on one state."""


class REM(ValueAlgorithm):
    """loss = Huber(Q_alpha(s_t, a_t) - y_t), Q_alpha = sum_m alpha_m Q_m with new weights for every batch, recommending from the mean.

    y_t = r_t + discount * max_a Q'_alpha(s_{t+1}, a), with the same weights. Heads are linear in the state, so a mixture costs
    what one head costs.

    References:
        Agarwal et al. (2020), An Optimistic Perspective on Offline Reinforcement Learning, eq. 5.
    """

    config_class = REMConfig
    has_policy = False
    heads = ("values",)
    _config: REMConfig

    def __init__(self, config: REMConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        self.num_value_heads = config.num_heads
        super().__init__(config, network, catalogue, seed)

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        mixture = self.mixture(step)
        found = self.evaluate(batch, step, training, mixture)
        best = self.best(batch, found, self.target.values.among(found.target_state, found.candidates, mixture)[:, :, 0], mixture)
        target = self.td_target(batch, best)
        parts = {"td": huber_td(found.logged, target)[..., 0]}
        return StepLosses(parts, self.target_mask(batch), self.health(batch, found, target, best))

    def mixture(self, step: tf.Tensor) -> tf.Tensor:
        """[M] weights of a batch: uniform numbers that are made to sum to 1."""
        uniform = tf.random.stateless_uniform([self._config.num_heads], self._seed.key(step))
        return uniform / tf.reduce_sum(uniform)

    def tables(self) -> dict[str, Any]:
        # The mean of linear heads is a linear head.
        mean = tf.fill([self._config.num_heads], 1.0 / self._config.num_heads)
        every = tf.range(self.catalogue.num_items + 1)
        return {"values": self.values.vectors(every, mean)[:, 0]}
