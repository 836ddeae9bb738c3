"""What algorithms with item values share: the value network, its slow copy, and the values of candidates under both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from models.algorithms.base import Algorithm, Catalogue, Condition, Encoder, NetworkConfig
from models.algorithms.targeted import Parts, TargetedAlgorithm, TargetedConfig
from models.batch import TrajectoryBatch
from models.candidates import Candidates
from models.clustered import logits_of
from models.frameworks import tf
from models.losses.health import value_health
from models.losses.td import bootstrap
from models.module import Module
from models.ranking import CatalogueScores, sum_by_item
from models.sampling import NegativeSampler, Seed


class ValueNetwork(Module):
    """States and item values with weights of their own.

    Args:
        network: Configuration of the networks.
        catalogue: The items.
        heads: H.
    """

    def __init__(self, network: NetworkConfig, catalogue: Catalogue, heads: int):
        self.encoder = Encoder(network, catalogue)
        self.values = value_head(self.encoder, network, catalogue, heads)


def value_head(encoder: Encoder, network: NetworkConfig, catalogue: Catalogue, heads: int) -> Any:
    """A value head on the states of an encoder."""
    from models.heads.item_value import ItemValueHead

    return ItemValueHead(catalogue.num_items, encoder.output_width, catalogue.max_steps, network.copy_head, heads, name="values")


class Values(NamedTuple):
    """Values of a batch.

    Attributes:
        states: [B, T+1, D] of the online network, with gradient.
        state: The online value head's state.
        candidates: What is compared in every state.
        logged: [B, T, H] online values of the logged items, with gradient.
        online: [B, T+1, H, A] online values of the candidates, with gradient.
        target_state: The state of the target network's value head.
    """

    states: tf.Tensor
    state: Any
    candidates: Candidates
    logged: tf.Tensor
    online: tf.Tensor
    target_state: Any


class Best(NamedTuple):
    """Values of the item that is best in every state, without gradient.

    Attributes:
        online: [B, T+1, H] under the online network.
        target: [B, T+1, H] under the target network.
    """

    online: tf.Tensor
    target: tf.Tensor


class ValueRanking(Algorithm):
    """Base of the algorithms that can recommend from item values: they have `values`, a value head on the encoder's states."""

    searchable_heads: ClassVar[tuple[str, ...]] = ("policy", "values")
    values: Any

    def head_states(self, states: tf.Tensor, item_id: tf.Tensor, condition: Condition | None = None) -> dict[str, Any]:
        policy = super().head_states(states, item_id, condition) if self.has_policy else {}
        return {**policy, "values": self.values(states, item_id)}

    def tables(self) -> dict[str, Any]:
        policy = super().tables() if self.has_policy else {}
        return {**policy, "values": self.values.table}

    def scores(
        self, state: Mapping[str, Any], history: tf.Tensor, head: str | None = None, tables: Mapping[str, Any] | None = None
    ) -> CatalogueScores:
        tables = tables or self.tables()
        if (head or self.recommender) == "policy":
            return super().scores(state, history, head, tables)
        return self.value_scores(state, history, tables)

    def value_scores(self, state: Mapping[str, Any], history: tf.Tensor, tables: Mapping[str, Any]) -> CatalogueScores:
        """Values of M states as ranking takes them; for one head, or a table that is a mixture of several."""
        values = state["values"]
        logits = logits_of(values.states, tables["values"], self.catalogue.num_items)
        own = logits.of_items(history, self.catalogue.num_items)
        own += tf.reduce_mean(values.bonus, axis=-1, keepdims=True) * sum_by_item(history, values.copy_weights)
        return CatalogueScores(logits, tf.zeros([tf.shape(own)[0], 1]), history, own, num_falling=tf.shape(history)[1])

    def state_values(self, item_id: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """V(s) = max_a Q(s, a) over the whole catalogue.

        Args:
            item_id: [B, T] int32 events, padded on the right.
            mask: [B, T+1] True for the M states that are wanted; state t comes before event t, state T after the last.

        Returns:
            [M] float32 in the order of rows and steps.
        """
        states, history = self.evaluation_states(item_id, mask)
        return self.rank(states, history, 1, head="values").score[:, 0]


class ValueAlgorithm(ValueRanking, TargetedAlgorithm):
    """Base of the algorithms that learn item values beside or instead of a policy.

    Deviations from the published codes, on purpose: the target network follows the online one (Polyak), sees no dropout, and
    all steps of a session are trained in one pass. Where the catalogue is sampled, maxima are over the negatives, the
    session's own items and the logged one.
    """

    heads: ClassVar[tuple[str, ...]] = ("policy", "values")
    num_value_heads: int = 1
    target: ValueNetwork

    def __init__(self, config: TargetedConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        self._config = config
        self.values = value_head(self.encoder, network, catalogue, self.num_value_heads)
        self.target = ValueNetwork(network, catalogue, self.num_value_heads)

    def online(self) -> Module:
        return Parts(encoder=self.encoder, values=self.values)

    def evaluate(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool, mix: tf.Tensor | None = None) -> Values:
        """Values of a batch; with `mix` [H] of the weighted sum of the heads, then H is 1."""
        candidates = Candidates(batch.item_id, self.catalogue.num_items, self._sampler, self.negatives(step))
        states = self.encoder(batch.item_id, training=training)
        state = self.values(states, batch.item_id)
        target_state = self.target.values(self.target.encoder(batch.item_id), batch.item_id)
        logged, online = self.values.logged(state, candidates, mix), self.values.among(state, candidates, mix)
        return Values(states, state, candidates, logged, online, target_state)

    def values_of(self, found: Values, batch: TrajectoryBatch, items: tf.Tensor) -> tf.Tensor:
        """[B, T, S] online values of the same items [S] in every state, with gradient; for one head."""
        return self.values.of_items(found.state, batch.item_id, items)[:, :-1, 0]

    def best(self, batch: TrajectoryBatch, found: Values, scores: tf.Tensor, mix: tf.Tensor | None = None) -> Best:
        """Values of the best candidate of every state, which `scores` [B, T+1, A] decide.

        The target network is asked about that one item alone: a pass over all candidates would cost as much as the online one.
        """
        chosen = found.candidates.items(tf.argmax(scores, axis=-1, output_type=tf.int32))
        online = self.values.of_one(found.state, batch.item_id, chosen, mix)
        target = self.target.values.of_one(found.target_state, batch.item_id, chosen, mix)
        return Best(tf.stop_gradient(online), tf.stop_gradient(target))

    def double_q_best(self, batch: TrajectoryBatch, found: Values) -> Best:
        """Values of the item that the online network finds best; for one head.

        References:
            van Hasselt et al. (2016), eq. 4.
        """
        return self.best(batch, found, found.online[:, :, 0])

    def td_target(self, batch: TrajectoryBatch, best: Best) -> tf.Tensor:
        """[B, T, H] targets of double Q-learning, without gradient."""
        return bootstrap(batch.reward, batch.done(), self._config.discount, best.target[:, 1:])

    def health(self, batch: TrajectoryBatch, found: Values, target: tf.Tensor, best: Best) -> Mapping[str, tf.Tensor]:
        """How the values are doing; see `models.losses.health`."""
        mask, discount = self.target_mask(batch), self._config.discount
        return value_health(found.logged, target, best.online[:, :-1], batch.reward, mask, discount, best.target[:, :-1])


class UniformNegatives:
    """Items that were not chosen, drawn uniformly, the same for a whole batch.

    The published codes draw some for each transition; drawn for the batch they cost a matrix product, and a mean over more of
    them has less noise.

    Args:
        num_items: N, padding included.
        count: S.
        seed: Seed of the draws.
    """

    def __init__(self, num_items: int, count: int, seed: Seed):
        import numpy as np

        self._sampler = NegativeSampler(np.ones(num_items - 1, np.int64), 0.0, count, seed, purpose=104_729)

    def draw(self, step: tf.Tensor) -> tf.Tensor:
        """[S] int32 item ids."""
        return self._sampler.draw(step)

    @staticmethod
    def usable(item_id: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
        """[B, T, S] float32, 0 where a negative is the logged item."""
        return tf.cast(tf.not_equal(item_id[:, :, None], negatives[None, None, :]), tf.float32)

    @staticmethod
    def mean(values: tf.Tensor, usable: tf.Tensor) -> tf.Tensor:
        """[B, T] average over the negatives of [B, T, S]."""
        return tf.reduce_sum(values * usable, axis=-1) / tf.maximum(tf.reduce_sum(usable, axis=-1), 1.0)
