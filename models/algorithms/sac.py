"""Self-supervised actor-critic; not the soft actor-critic."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Phase, StepLosses
from models.algorithms.faithful import TwoModes
from models.algorithms.targeted import TargetedConfig
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import squared_td


class SACConfig(TargetedConfig):
    """SQN first; then the cross-entropy of every step is weighted by the value of its item."""

    name: Literal["sac"] = "sac"
    warm_up_steps: int = pydantic.Field(default=1_000, ge=0)
    """Training steps of the first phase, plain SQN."""
    recommend: Literal["policy", "values"] = "policy"
    """The head that recommends."""
    mode: Literal["fast", "faithful"] = "fast"
    """fast: all steps of a session in one pass, and a slow copy as target. faithful: as the published code, to compare with its
    tables; see `FaithfulSQN`."""


class SAC(TwoModes):
    """Second phase: loss = Q(s_t, a_t) * -log pi(a_t | s_t) + 1/2 (y_t - Q(s_t, a_t))^2, without gradient through the weight.

    References:
        Xin et al. (2020), eq. 9. Values below 0 are used as they are, as in their code.
    """

    config_class = SACConfig
    _config: SACConfig

    @property
    def recommender(self) -> str:
        return self._config.recommend

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("warm_up"), Phase("actor"))

    def phase(self, step: int) -> Phase:
        return self.phases[step >= self._config.warm_up_steps]

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool, phase: str = "actor") -> StepLosses:
        found = self.evaluate(batch, step, training)
        log_prob = self.log_prob(found.states, batch.item_id, self.negatives(step), training=training)
        best = self.double_q_best(batch, found)
        target = self.td_target(batch, best)
        weight = tf.stop_gradient(found.logged[..., 0]) if phase == "actor" else 1.0
        parts = {"cross_entropy": -weight * log_prob, "td": squared_td(found.logged, target)[..., 0]}
        return StepLosses(parts, self.target_mask(batch), self.health(batch, found, target, best))
