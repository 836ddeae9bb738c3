"""Double deep Q-learning over the catalogue."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.targeted import TargetedConfig
from models.algorithms.value_based import UniformNegatives, ValueAlgorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import squared_td


class DQNConfig(TargetedConfig):
    """Values alone; the control that shows what the supervised head is worth."""

    name: Literal["dqn"] = "dqn"
    num_negatives: int = pydantic.Field(default=0, ge=0)
    """Items that were not chosen, weighed like this many, and pulled to the negative reward; 0 for none."""
    negative_reward: float = -1.0
    """Reward of an item that was not chosen."""
    shared_negatives: int = pydantic.Field(default=64, ge=1)
    """Negatives drawn for a batch, whose mean stands for each of them."""


class DQN(ValueAlgorithm):
    """loss = 1/2 (y_t - Q(s_t, a_t))^2 + sum over negatives of 1/2 (r_n - Q(s_t, a_n))^2, recommending from Q.

    References:
        Mnih et al. (2015); van Hasselt et al. (2016) for the target. Negatives as in the DQN-NS baseline of Xin et al. (2022).
    """

    config_class = DQNConfig
    has_policy = False
    heads = ("values",)
    _config: DQNConfig

    def __init__(self, config: DQNConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        self._uniform = UniformNegatives(catalogue.num_items, config.shared_negatives, self._seed)

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.evaluate(batch, step, training)
        best = self.double_q_best(batch, found)
        target = self.td_target(batch, best)
        parts = {"td": squared_td(found.logged, target)[..., 0]}
        if self._config.num_negatives:
            negatives = self._uniform.draw(step)
            value = self.values_of(found, batch, negatives)
            loss = squared_td(value, tf.fill(tf.shape(value), self._config.negative_reward))
            usable = self._uniform.usable(batch.item_id, negatives)
            parts["negatives"] = self._config.num_negatives * self._uniform.mean(loss, usable)
        return StepLosses(parts, self.target_mask(batch), self.health(batch, found, target, best))
