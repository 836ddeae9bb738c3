"""Conservative Q-learning over the catalogue."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.targeted import TargetedConfig
from models.algorithms.value_based import ValueAlgorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import squared_td


class CQLConfig(TargetedConfig):
    """Double Q-learning that pushes the values of items down which the log does not show."""

    name: Literal["cql"] = "cql"
    conservatism: float = pydantic.Field(default=1.0, ge=0.0)
    """alpha, weight of the push against the temporal-difference loss."""


class CQL(ValueAlgorithm):
    """loss = alpha * (log sum_a exp Q(s_t, a) - Q(s_t, a_t)) + 1/2 (y_t - Q(s_t, a_t))^2, recommending from Q.

    Where the catalogue is sampled, the sum is estimated without bias; see `models.candidates`.

    References:
        Kumar et al. (2020), Conservative Q-Learning for Offline Reinforcement Learning, eq. 4, the form with entropy.
    """

    config_class = CQLConfig
    has_policy = False
    heads = ("values",)
    _config: CQLConfig

    def __init__(self, config: CQLConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        # Read when compiled functions run; no part of the weights.
        self._conservatism = tf.Variable(config.conservatism, dtype=tf.float32, trainable=False)

    def relax(self, share: float) -> None:
        """Lowers alpha to a share of the configured one, where what is done can be seen to come out."""
        self._conservatism.assign(share * self._config.conservatism)

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.evaluate(batch, step, training)
        best = self.double_q_best(batch, found)
        target = self.td_target(batch, best)
        gap = (found.candidates.log_sum_exp(found.online)[:, :-1] - found.logged)[..., 0]
        parts = {"conservative": tf.cast(self._conservatism, gap.dtype) * gap, "td": squared_td(found.logged, target)[..., 0]}
        mask = self.target_mask(batch)
        health = {**self.health(batch, found, target, best), "conservative_gap": StepLosses({"gap": gap}, mask).mean("gap")}
        return StepLosses(parts, mask, health)
