"""Self-supervised negative Q-learning."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.faithful import TwoModes
from models.algorithms.targeted import TargetedConfig
from models.algorithms.value_based import Best, UniformNegatives, Values
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.td import squared_td


class NegativeQConfig(TargetedConfig):
    """Settings that SNQN and SA2C share."""

    q_weight: float = pydantic.Field(default=1.0, ge=0.0)
    """Weight of the temporal-difference losses against the cross-entropy."""
    num_negatives: int = pydantic.Field(default=10, ge=1)
    """Items that were not chosen count like this many against the one that was."""
    negative_reward: float = 0.0
    """Reward of an item that was not chosen."""
    shared_negatives: int = pydantic.Field(default=64, ge=1)
    """Negatives drawn for a batch, whose mean stands for each of them."""
    recommend: Literal["policy", "values"] = "policy"
    """The head that recommends."""
    mode: Literal["fast", "faithful"] = "fast"
    """fast: all steps of a session in one pass, and a slow copy as target. faithful: as the published code, to compare with its
    tables; see `FaithfulSQN`."""


class SNQNConfig(NegativeQConfig):
    """SQN whose values also learn from items that were not chosen."""

    name: Literal["snqn"] = "snqn"


class NegativeQAlgorithm(TwoModes):
    """Base of SNQN and SA2C: Q-learning from the logged item and from negatives.

    A negative leaves the state as it is, so its target is r_n + discount * Q'(s_t, argmax_a Q(s_t, a)), at the session's end, too.
    """

    _config: NegativeQConfig

    def __init__(self, config: NegativeQConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        self._uniform = UniformNegatives(catalogue.num_items, config.shared_negatives, self._seed)

    @property
    def recommender(self) -> str:
        return self._config.recommend

    def negative_values(self, batch: TrajectoryBatch, found: Values, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[B, T, S] values of the negatives and 1 where they count."""
        negatives = self._uniform.draw(step)
        return self.values_of(found, batch, negatives), self._uniform.usable(batch.item_id, negatives)

    def negative_td(self, best: Best, value: tf.Tensor, usable: tf.Tensor) -> tf.Tensor:
        """[B, T] sum of the losses of the negatives."""
        loss = squared_td(value, self._config.negative_reward + self._config.discount * best.target[:, :-1])
        return self._config.num_negatives * self._uniform.mean(loss, usable)


class SNQN(NegativeQAlgorithm):
    """loss = -log pi(a_t | s_t) + TD of the logged item + sum of the TD losses of the negatives.

    References:
        Xin et al. (2022), Supervised Advantage Actor-Critic for Recommender Systems, eq. 6.
    """

    config_class = SNQNConfig

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.evaluate(batch, step, training)
        log_prob = self.log_prob(found.states, batch.item_id, self.negatives(step), training=training)
        best = self.double_q_best(batch, found)
        target = self.td_target(batch, best)
        td = squared_td(found.logged, target)[..., 0]
        td += self.negative_td(best, *self.negative_values(batch, found, step))
        parts = {"cross_entropy": -log_prob, "td": self._config.q_weight * td}
        return StepLosses(parts, self.target_mask(batch), self.health(batch, found, target, best))
