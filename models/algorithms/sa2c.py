"""Supervised advantage actor-critic."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, Phase, StepLosses
from models.algorithms.snqn import NegativeQAlgorithm, NegativeQConfig
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import squared_td


class SA2CConfig(NegativeQConfig):
    """SNQN first; then the cross-entropy of every step is weighted by how much better its item was than the average."""

    name: Literal["sa2c"] = "sa2c"
    warm_up_steps: int = pydantic.Field(default=1_000, ge=0)
    """Training steps of the first phase, plain SNQN."""
    second_learning_rate: float | None = pydantic.Field(default=None, gt=0.0)
    """Learning rate of the second phase, which starts with fresh moments; null keeps the trainer's."""
    advantage_floor: float | None = 0.0
    """Least advantage; steps at the floor of 0 teach the policy nothing. null does not clip."""
    advantage_ceiling: float = pydantic.Field(default=10.0, gt=0.0)
    smoothing: float = pydantic.Field(default=0.0, ge=0.0, le=1.0)
    """Exponent of the off-policy correction pi(a | s) / popularity(a), clipped to .1 to 10; 0 does not correct."""


class SA2C(NegativeQAlgorithm):
    """Second phase: loss = A_t * rho_t * -log pi(a_t | s_t) + TD losses as in SNQN.

    A_t = Q(s_t, a_t) - mean of Q over the logged item and the negatives, clipped and without gradient;
    rho_t = clip(pi(a_t | s_t) / popularity(a_t), .1, 10)^smoothing.

    References:
        Xin et al. (2022), eq. 8 to 12; the clipping of the advantage is that of their code.
    """

    config_class = SA2CConfig
    _config: SA2CConfig

    def __init__(self, config: SA2CConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        # Counted on the train split alone.
        popularity = np.maximum(catalogue.counts, 1) / np.maximum(catalogue.counts, 1).sum()
        self._log_popularity = tf.constant(np.log(np.concatenate([[1.0], popularity, [1.0]])), tf.float32)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("warm_up"), Phase("advantage", "second", self._config.second_learning_rate))

    def phase(self, step: int) -> Phase:
        return self.phases[step >= self._config.warm_up_steps]

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool, phase: str = "advantage") -> StepLosses:
        found = self.evaluate(batch, step, training)
        log_prob = self.log_prob(found.states, batch.item_id, self.negatives(step), training=training)
        best = self.double_q_best(batch, found)
        target = self.td_target(batch, best)
        value, usable = self.negative_values(batch, found, step)
        td = squared_td(found.logged, target)[..., 0] + self.negative_td(best, value, usable)
        advantage = self.advantage(found.logged[..., 0], self._uniform.mean(value, usable))
        weight = advantage * self.correction(log_prob, batch.item_id) if phase == "advantage" else 1.0
        parts = {"cross_entropy": -weight * log_prob, "td": self._config.q_weight * td}
        mask = self.target_mask(batch)
        health = {**self.health(batch, found, target, best), "advantage": StepLosses({"advantage": advantage}, mask).mean("advantage")}
        return StepLosses(parts, mask, health)

    def advantage(self, logged: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
        """A_t without gradient, [B, T], from the value of the logged item and the mean of those of the negatives."""
        count = self._config.num_negatives
        average = (logged + count * negatives) / (count + 1.0)
        advantage = tf.stop_gradient(logged - average)
        floor = self._config.advantage_floor
        return advantage if floor is None else tf.clip_by_value(advantage, floor, self._config.advantage_ceiling)

    def correction(self, log_prob: tf.Tensor, item_id: tf.Tensor) -> tf.Tensor:
        """rho_t without gradient, [B, T]."""
        if not self._config.smoothing:
            return tf.ones_like(log_prob)
        ratio = tf.clip_by_value(tf.exp(tf.stop_gradient(log_prob) - tf.gather(self._log_popularity, item_id)), 0.1, 10.0)
        return tf.pow(ratio, self._config.smoothing)
