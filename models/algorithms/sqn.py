"""Self-supervised Q-learning."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Algorithm, AlgorithmConfig, Catalogue, Encoder, NetworkConfig, StepLosses
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import double_q_target, squared_td
from models.module import Module
from models.numerics import IMPOSSIBLE
from models.targets import copy_variables, follow


class SQNConfig(AlgorithmConfig):
    """Next-item prediction with a Q-learning head on the same states, which brings rewards and the long term in."""

    name: Literal["sqn"] = "sqn"
    discount: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    """Factor of one step in the Q-values."""
    q_weight: float = pydantic.Field(default=1.0, ge=0.0)
    """Weight of the temporal-difference loss against the cross-entropy."""
    target_rate: float = pydantic.Field(default=0.005, gt=0.0, le=1.0)
    """Share by which the target network follows in one step."""
    target_period: int = pydantic.Field(default=10, ge=1)
    """Steps between its moves, each as far as that many single ones."""


class _QNetwork(Module):
    """States and item values with weights of their own."""

    def __init__(self, network: NetworkConfig, catalogue: Catalogue):
        from models.heads.item_value import ItemValueHead

        self.encoder = Encoder(network, catalogue)
        self.values = ItemValueHead(catalogue.num_items, network.width, name="values")


class SQN(Algorithm):
    """loss = -log pi(a_t | s_t) + 1/2 (y_t - Q(s_t, a_t))^2, recommending from pi.

    y_t = r_t + discount * Q'(s_{t+1}, argmax_a Q(s_{t+1}, a)), and r_t at the session's last event. All steps of a session are
    trained in one pass.

    Deviations from the published code, on purpose: the target network follows the online one (Polyak) where theirs are two
    copies that take turns, and sees no dropout. Where the catalogue is sampled, the maximum is over the negatives and the
    next logged item.

    References:
        Xin et al. (2020), Self-Supervised Reinforcement Learning for Recommender Systems, eq. 7 and algorithm 1.
    """

    config_class = SQNConfig

    def __init__(self, config: SQNConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        from models.heads.item_value import ItemValueHead

        super().__init__(config, network, catalogue, seed)
        self._config: SQNConfig = config
        self.values = ItemValueHead(catalogue.num_items, network.width, name="values")
        self.target = _QNetwork(network, catalogue)

    def after_build(self) -> None:
        self.target.freeze()
        copy_variables(self._online(), self.target)

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        negatives = self.negatives(step)
        states = self.encoder(batch.item_id, training=training)
        log_prob = self.log_prob(states, batch.item_id, negatives)

        value = self.values.of(states[:, :-1], batch.item_id)
        next_online, next_target = self._next_values(states, batch, negatives)
        target = double_q_target(batch.reward, batch.done(), self._config.discount, next_online, next_target)
        parts = {"cross_entropy": -log_prob, "td": self._config.q_weight * squared_td(value, target)}
        return StepLosses(parts, self.target_mask(batch))

    def after_update(self, step: tf.Tensor) -> None:
        period = self._config.target_period
        rate = 1.0 - (1.0 - self._config.target_rate) ** period

        def move() -> tf.Tensor:
            follow(self._online(), self.target, rate)
            return tf.constant(True)

        tf.cond(tf.equal(step % period, period - 1), move, lambda: tf.constant(False))

    def _online(self) -> Module:
        """The parts of the network that the target copies."""
        online = Module()
        online.encoder = self.encoder  # type: ignore[attr-defined]
        online.values = self.values  # type: ignore[attr-defined]
        return online

    def _next_values(self, states: tf.Tensor, batch: TrajectoryBatch, negatives: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Values of the candidates of every next state, under the online and the target network."""
        next_online = tf.stop_gradient(states[:, 1:])
        next_target = self.target.encoder(batch.item_id)[:, 1:]
        if negatives is None:
            return tf.stop_gradient(self.values(next_online)), self.target.values(next_target)
        # Past the record's end the next item is padding, which must not win the maximum.
        following = tf.pad(batch.item_id[:, 1:], [[0, 0], [0, 1]])
        absent = tf.where((following > 0) & (following < self.catalogue.num_items), 0.0, IMPOSSIBLE)
        online = tf.concat(
            [self.values.among(next_online, negatives), (self.values.of(next_online, following) + absent)[..., None]], axis=-1
        )
        target = tf.concat(
            [self.target.values.among(next_target, negatives), self.target.values.of(next_target, following)[..., None]], axis=-1
        )
        return tf.stop_gradient(online), target
