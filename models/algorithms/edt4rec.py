"""Maximum-entropy decision transformer for recommendation."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.sequence_model import SequenceConfig, SequenceModel
from models.batch import TrajectoryBatch
from models.frameworks import tf


class EDT4RecConfig(SequenceConfig):
    """A decision transformer that goes on trying things: its entropy has a lower bound."""

    name: Literal["edt4rec"] = "edt4rec"
    entropy_share: float | None = pydantic.Field(default=0.3, gt=0.0, lt=1.0)
    """Least mean entropy as a share of that of a uniform choice; null sets no bound, which leaves a plain decision transformer."""
    initial_temperature: float = pydantic.Field(default=0.1, gt=0.0)
    """Weight of the entropy at first; afterwards it rises while the entropy is below its bound, and falls above it."""
    exploration_factor: float = pydantic.Field(default=2.0, gt=0.0)
    """Online, exploration asks for the usual target return times this."""


class EDT4Rec(SequenceModel):
    """min J - lambda * H over the policy and lambda * (H - beta) over lambda > 0, which is: min J subject to H >= beta.

    J is the mean of -log pi(a_t | ...) and H the mean entropy of the policy, both over all steps of all sessions; lambda = exp of a
    trained variable. Each side sees the other one as a constant, and one update moves both: Adam treats every variable on its own,
    so that is as good as an optimiser for each.

    Deviations: the paper's actions are item features under a Gaussian, and its bound is minus their number; here actions are
    items, and the bound is a share of log(N - 1). In a sampled catalogue the entropy is an estimate. Relabelled returns are no
    matter of the policy: they come with the trajectories.

    References:
        Chen et al. (2024), Maximum-Entropy Regularized Decision Transformer with Reward Relabelling for Dynamic Recommendation,
        after Zheng et al. (2022), Online Decision Transformer, eq. 5 to 8.
    """

    config_class = EDT4RecConfig
    _config: EDT4RecConfig

    def __init__(self, config: EDT4RecConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        self.log_temperature = None
        if config.entropy_share is not None:
            self.log_temperature = tf.Variable([math.log(config.initial_temperature)], dtype=tf.float32)

    @property
    def least_entropy(self) -> float:
        """beta in nats; minus infinity where there is no bound."""
        share = self._config.entropy_share
        return -math.inf if share is None else share * float(np.log(self.catalogue.num_items - 1))

    @property
    def exploration_target(self) -> tf.Tensor:
        """[1] target return of online exploration."""
        return self.returns.target * self._config.exploration_factor

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.predict(batch, step, training)
        mask, health = self.target_mask(batch), self.health_of(batch, found)
        parts = {"cross_entropy": -found.log_prob}
        if self.log_temperature is not None:
            temperature = tf.exp(self.log_temperature)
            parts["entropy"] = -tf.stop_gradient(temperature) * found.entropy
            parts["temperature"] = temperature * (tf.stop_gradient(found.entropy) - self.least_entropy) * mask
            health["temperature"] = tf.stop_gradient(temperature[0])
        return StepLosses(parts, mask, health)
