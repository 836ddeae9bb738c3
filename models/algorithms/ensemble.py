"""An ensemble of value heads that is careful where its members differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig, StepLosses
from models.algorithms.targeted import TargetedConfig
from models.algorithms.value_based import ValueAlgorithm
from models.batch import TrajectoryBatch
from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.losses.td import bootstrap, squared_td
from models.numerics import IMPOSSIBLE
from models.ranking import CatalogueScores, sum_by_item


class EnsembleConfig(TargetedConfig):
    """Several value heads; the spread between them is taken off what they promise."""

    name: Literal["ensemble"] = "ensemble"
    num_heads: int = pydantic.Field(default=5, ge=2)
    """M, value heads on one state, each with weights and targets of its own."""
    form: Literal["bound", "scaled"] = "bound"
    """bound: mean - kappa * deviation; scaled: mean / (1 + kappa * deviation), which is cautious only where values are positive."""
    kappa: float = 1.0
    """How much the spread counts. Negative is optimistic, an upper bound, for exploration."""
    bootstrap_rate: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Share of the sessions that each head learns from, drawn once for all by session; 1 is all of them."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> EnsembleConfig:
        if self.form == "scaled" and self.kappa < 0:
            raise ValueError(
                f"kappa = {self.kappa:g} is negative, and the scaled form has no optimistic kind: 1 + kappa * deviation may be 0; "
                "use form: bound"
            )
        return self


class Ensemble(ValueAlgorithm):
    """loss = mean over heads of 1/2 (y_t - Q_m(s_t, a_t))^2, recommending from the cautious value.

    y_t = r_t + discount * C'(s_{t+1}, argmax_a C(s_{t+1}, a)), C the cautious value of the heads.

    References:
        Osband et al. (2016) for bootstrapped heads; the bound is that of pessimism in offline learning (e.g. An et al., 2021), the
        scaled form that of value-penalised Q-learning (Gao et al., 2022).
    """

    config_class = EnsembleConfig
    has_policy = False
    heads = ("values",)
    searchable_heads = ()
    _config: EnsembleConfig

    def __init__(self, config: EnsembleConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        self.num_value_heads = config.num_heads
        super().__init__(config, network, catalogue, seed)

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.evaluate(batch, step, training)
        best = self.best(batch, found, self.cautious(found.online, axis=2))
        next_value = self.cautious(best.target[:, 1:], axis=2)
        target = bootstrap(batch.reward, batch.done(), self._config.discount, next_value)[..., None]
        weight = self.bootstrap_weights(batch.session)
        mask = self.target_mask(batch)
        parts = {"td": tf.reduce_mean(weight[:, None, :] * squared_td(found.logged, target), axis=-1)}
        spread = tf.math.reduce_std(tf.stop_gradient(found.logged), axis=-1)
        health = {**self.health(batch, found, target, best), "q_deviation": StepLosses({"spread": spread}, mask).mean("spread")}
        return StepLosses(parts, mask, health)

    def cautious(self, values: tf.Tensor, axis: int) -> tf.Tensor:
        """Takes the heads out of `values`; what is no candidate stays none."""
        is_one = values > IMPOSSIBLE / 2
        values = tf.where(is_one, values, 0.0)  # the deviation of such numbers overflows
        mean, deviation = tf.reduce_mean(values, axis=axis), tf.math.reduce_std(values, axis=axis)
        scaled = self._config.form == "scaled"
        cautious = mean / (1.0 + self._config.kappa * deviation) if scaled else mean - self._config.kappa * deviation
        return tf.where(tf.reduce_all(is_one, axis=axis), cautious, IMPOSSIBLE)

    def bootstrap_weights(self, session: tf.Tensor) -> tf.Tensor:
        """[B, M] 1 / rate where a head learns from a session, else 0; the same whenever the session comes."""
        rate = self._config.bootstrap_rate
        if rate == 1.0:
            return tf.ones([tf.shape(session)[0], self._config.num_heads])
        draws = tf.stack([self._seed.uniform_of(session, head) for head in range(self._config.num_heads)], axis=1)
        return tf.cast(draws < rate, tf.float32) / rate

    def value_scores(self, state: Mapping[str, Any], history: tf.Tensor, tables: Mapping[str, Any]) -> CatalogueScores:
        values, width = state["values"], tf.shape(state["values"].states)[-1]
        repetition = sum_by_item(history, values.copy_weights)
        dense, own = [], []
        for head in range(self._config.num_heads):
            table = tables["values"][1 : self.catalogue.num_items, head * width : (head + 1) * width]
            logits = CatalogueLogits(values.states, table)
            dense.append(logits.dense())
            own.append(logits.of_items(history, self.catalogue.num_items) + values.bonus[:, head : head + 1] * repetition)
        scores = CatalogueLogits.of_scores(self.cautious(tf.stack(dense), axis=0))
        cautious = self.cautious(tf.stack(own), axis=0)
        return CatalogueScores(scores, tf.zeros([tf.shape(cautious)[0], 1]), history, cautious, num_falling=tf.shape(history)[1])
