"""Batch-constrained Q-learning over the catalogue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from models.algorithms.base import StepLosses
from models.algorithms.targeted import TargetedConfig
from models.algorithms.value_based import ValueAlgorithm
from models.batch import TrajectoryBatch
from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.losses.td import huber_td
from models.numerics import IMPOSSIBLE
from models.ranking import LEAST, CatalogueScores
from models.sharding import rows_of


class BCQConfig(TargetedConfig):
    """Q-learning that considers only items a clone of the logged behaviour finds likely."""

    name: Literal["bcq"] = "bcq"
    threshold: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    """Least probability of an item under the clone, relative to its likeliest item. 0 is Q-learning, 1 is the clone itself."""
    logit_penalty: float = pydantic.Field(default=1e-2, ge=0.0)
    """Weight of the clone's mean squared logit of the logged item, which keeps it from growing certain."""
    recommend: Literal["values", "policy"] = "values"
    """The head that recommends: the values of what the clone finds likely, or the clone."""


class BCQ(ValueAlgorithm):
    """loss = Huber(Q(s_t, a_t) - y_t) - log G(a_t | s_t) + penalty.

    y_t = r_t + discount * Q'(s_{t+1}, a'), a' = argmax Q(s_{t+1}, a) over the items with G(a | s) / max_a G(a | s) > threshold.
    The policy head is the clone G.

    References:
        Fujimoto et al. (2019), Benchmarking Batch Deep Reinforcement Learning Algorithms, eq. 3 to 5.
    """

    config_class = BCQConfig
    heads = ("values", "policy")
    searchable_heads = ("policy",)
    _config: BCQConfig

    @property
    def recommender(self) -> str:
        return self._config.recommend

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.evaluate(batch, step, training)
        policy = self.policy(found.states, batch.item_id, training=training)
        table = self.encoder.embedding.table
        log_prob = self.policy.log_prob(policy, batch.item_id, table, self._sampler, self.negatives(step), training)
        likely = self.likely(self.policy.among(policy, found.candidates, table, training))
        best = self.best(batch, found, tf.where(likely, found.online[:, :, 0], IMPOSSIBLE))
        target = self.td_target(batch, best)
        parts = {
            "td": huber_td(found.logged, target)[..., 0],
            "cross_entropy": -log_prob,
            "logits": self._config.logit_penalty * tf.square(self._logged_logit(found.candidates, policy)),
        }
        return StepLosses(parts, self.target_mask(batch), self.health(batch, found, target, best))

    def likely(self, log_prob: tf.Tensor) -> tf.Tensor:
        """[..., A] True for items that may be chosen, from their log-probabilities under the clone; the likeliest always may."""
        return tf.stop_gradient(self._is_likely(log_prob, tf.reduce_max(log_prob, axis=-1, keepdims=True)))

    def _is_likely(self, log_prob: tf.Tensor, best: tf.Tensor) -> tf.Tensor:
        least = math.log(self._config.threshold) if self._config.threshold else IMPOSSIBLE
        return (log_prob - best > least) | (log_prob >= best)

    def _logged_logit(self, candidates: Any, policy: Any) -> tf.Tensor:
        table = self.policy.vectors(self.encoder.embedding.table)
        return candidates.logged_logits(policy.states, lambda item_id: rows_of(table, item_id)[..., None, :])[..., 0]

    def value_scores(self, state: Mapping[str, Any], history: tf.Tensor, tables: Mapping[str, Any]) -> CatalogueScores:
        values = super().value_scores(state, history, tables)
        clone = self.policy_scores(state["policy"], history, tables)
        by_catalogue = clone.offset + clone.logits.dense()
        has_own = (clone.own_id > 0) & (clone.own_id < self.catalogue.num_items)
        row = tf.broadcast_to(tf.range(tf.shape(history)[0])[:, None], tf.shape(has_own))[has_own]
        place = tf.stack([row, clone.own_id[has_own] - 1], axis=1)
        by_catalogue = tf.tensor_scatter_nd_update(by_catalogue, place, clone.own[has_own])
        best = _extreme(tf.reduce_max, by_catalogue)
        is_item = (history > 0) & (history < self.catalogue.num_items)
        # Whoever is in the session stands in the first columns.
        own = tf.where(is_item, clone.own[:, : tf.shape(history)[1]], IMPOSSIBLE)
        parts = [(values.logits.dense(), by_catalogue), (values.own, own)]
        likely = [self._is_likely(log_prob, best) for _, log_prob in parts]
        # Items that the clone finds too unlikely come after all others, the likeliest first.
        floors = [_extreme(tf.reduce_min, tf.where(is_in, value, -IMPOSSIBLE)) for (value, _), is_in in zip(parts, likely, strict=True)]
        floor = tf.minimum(*floors) - 1.0
        dense, own_score = (
            tf.where(is_in, value, floor + tf.maximum(log_prob - best, LEAST))
            for (value, log_prob), is_in in zip(parts, likely, strict=True)
        )
        return values._replace(logits=CatalogueLogits.of_scores(dense), own=own_score)


def _extreme(which: Any, scores: tf.Tensor) -> tf.Tensor:
    return which(scores, axis=1, keepdims=True)
