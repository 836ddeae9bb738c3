"""Self-supervised Q-learning."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import StepLosses
from models.algorithms.faithful import TwoModes
from models.algorithms.targeted import TargetedConfig
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import squared_td


class SQNConfig(TargetedConfig):
    """Next-item prediction with a Q-learning head on the same states, which brings rewards and the long term in."""

    name: Literal["sqn"] = "sqn"
    q_weight: float = pydantic.Field(default=1.0, ge=0.0)
    """Weight of the temporal-difference loss against the cross-entropy."""
    recommend: Literal["policy", "values"] = "policy"
    """The head that recommends."""
    mode: Literal["fast", "faithful"] = "fast"
    """fast: all steps of a session in one pass, and a slow copy as target. faithful: as the published code, to compare with its
    tables; see `FaithfulSQN`."""


class SQN(TwoModes):
    """loss = -log pi(a_t | s_t) + 1/2 (y_t - Q(s_t, a_t))^2.

    y_t = r_t + discount * Q'(s_{t+1}, argmax_a Q(s_{t+1}, a)), and r_t at the session's last event.

    References:
        Xin et al. (2020), Self-Supervised Reinforcement Learning for Recommender Systems, eq. 7 and algorithm 1.
    """

    config_class = SQNConfig
    _config: SQNConfig

    @property
    def recommender(self) -> str:
        return self._config.recommend

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.evaluate(batch, step, training)
        log_prob = self.log_prob(found.states, batch.item_id, self.negatives(step), training=training)
        best = self.double_q_best(batch, found)
        target = self.td_target(batch, best)
        td = squared_td(found.logged, target)[..., 0]
        parts = {"cross_entropy": -log_prob, "td": self._config.q_weight * td}
        return StepLosses(parts, self.target_mask(batch), self.health(batch, found, target, best))
