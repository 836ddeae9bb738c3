"""The head that recommends: a catalogue softmax mixed with a copy of the session's own items and with their neighbours."""

from __future__ import annotations

from typing import Any

from models.candidates import Candidates, occurred
from models.frameworks import keras, tf
from models.heads.vectors import vectors_with_bias, with_one
from models.numerics import IMPOSSIBLE, TINY
from models.ranking import PolicyState
from models.sampling import NegativeSampler
from models.sharding import rows_of


class PolicyHead(keras.layers.Layer):
    """p(item) = g_catalogue * softmax(state . vectors)[item] + g_neighbours * sum of weight * similarity to the last events, or
    g_copy * sum of the copy weights of its events if it has any.

    With a copy part the softmax is over the items that are not in the session: whether something is repeated is decided by the
    gates and the copy weights alone. A tied softmax would always give the last item much, bought or not, because its vector is
    what the state was made from. The explore and repeat modes of RepeatNet (Ren et al., 2019) part in the same way.

    Gates are a softmax of logits of the state; to that of copying the logarithm of the mass of the copy scores is added, to that of
    the neighbours the logarithm of theirs. Without `copy` the catalogue's softmax is over everything.

    Masking: a step without usable history has no copy part and no neighbours.

    Args:
        num_items: N, padding included.
        max_steps: T, most events of a session.
        copy: True mixes the copy part in.
        tied: True scores with the embedding's vectors, False with vectors and biases of its own.
        num_neighbours: M, neighbours of each item that take part; 0 is none.
    """

    CATALOGUE, COPY, NEIGHBOURS = 0, 1, 2

    @property
    def item_weights(self) -> tuple[str, ...]:
        """Weights with one row for every id."""
        return () if self.tied else ("table",)

    def __init__(self, num_items: int, max_steps: int, copy: bool = True, tied: bool = True, num_neighbours: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_neighbours = num_neighbours
        self.num_items = num_items
        self.max_steps = max_steps
        self.copy = copy
        self.tied = tied

    def build(self, input_shape: Any) -> None:
        from models.layers.copying import CopyAttention
        from models.layers.neighbours import NeighbourAttention

        if self.copy:
            self.copying = CopyAttention(self.num_items, self.max_steps, name="copying", dtype="float32")
        if self.num_neighbours:
            self.neighbours = NeighbourAttention(self.num_items, self.num_neighbours, name="neighbours", dtype="float32")
        if self.copy or self.num_neighbours:
            parts = 1 + self.copy + bool(self.num_neighbours)
            self.gate = keras.layers.Dense(parts, kernel_initializer="zeros", name="gate", dtype="float32")
        if not self.tied:
            self.table = self.add_weight(
                "table",
                (self.num_items + 1, int(input_shape[-1]) + 1),
                tf.float32,
                vectors_with_bias(int(input_shape[-1])),
                experimental_autocast=False,
            )
        super().build(input_shape)

    def call(self, states: tf.Tensor, item_id: tf.Tensor, training: bool = False) -> PolicyState:
        """states [B, T+1, D], item_id [B, T] -> the head's state at every step, [B, T+1, ...].

        `training` says that the sessions are among those whose neighbours were counted; see `NeighbourAttention`.
        """
        shape, steps = tf.shape(states), tf.shape(item_id)[1]
        nothing, never = tf.zeros([shape[0], shape[1], steps]), tf.fill([shape[0], shape[1]], IMPOSSIBLE)
        copy_weights, copy_mass = self.copying(states, item_id) if self.copy else (nothing, never)
        neighbour_weights, neighbour_mass = self.neighbours(item_id, training=training) if self.num_neighbours else (nothing, never)
        masses = tf.stack([tf.zeros_like(never), copy_mass, neighbour_mass], axis=-1)
        log_gates = tf.nn.log_softmax(tf.maximum(self._gate_logits(states) + masses, IMPOSSIBLE))
        return PolicyState(states if self.tied else with_one(states), log_gates, copy_weights, neighbour_weights)

    def _gate_logits(self, states: tf.Tensor) -> tf.Tensor:
        """[B, T+1, 3] of catalogue, copy and neighbours; 0 for parts that are not there."""
        if not (self.copy or self.num_neighbours):
            return tf.zeros(tf.concat([tf.shape(states)[:2], [3]], axis=0))
        logits = self.gate(tf.cast(states, tf.float32))
        if self.copy and self.num_neighbours:
            return logits
        missing = tf.zeros_like(logits[..., :1])
        parts = [logits[..., :1], logits[..., 1:], missing] if self.copy else [logits[..., :1], missing, logits[..., 1:]]
        return tf.concat(parts, axis=-1)

    def vectors(self, embedding: tf.Tensor) -> tf.Tensor:
        """[N+1, D] scoring vectors by item id; [N+1, D+1] of a head that is not tied, whose last entry is the bias."""
        return embedding if self.tied else self.table

    def among(self, state: PolicyState, candidates: Candidates, embedding: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, T+1, A] log-probability of every candidate in every state; `IMPOSSIBLE` where there is none."""
        table = self.vectors(embedding)

        def vectors(item_id: tf.Tensor | None) -> tf.Tensor:
            return (table[1 : self.num_items] if item_id is None else rows_of(table, item_id))[..., None, :]

        logits = candidates.logits(state.states, vectors)
        in_session = candidates.in_session(logits[:, :, 0])
        if self.copy:
            logits = tf.where(in_session[:, :, None], IMPOSSIBLE, logits)
        log_gates = state.log_gates
        log_prob = (logits - candidates.log_sum_exp(logits)[..., None])[:, :, 0] + log_gates[..., :1]
        if self.num_neighbours:
            near = candidates.reach(state.neighbour_weights, self.neighbours, training)
            mixed = _log_sum(log_prob, log_gates[..., self.NEIGHBOURS :], near)
            log_prob = tf.where(in_session, log_prob, mixed)
        if self.copy:
            copied = candidates.spread(state.copy_weights)
            copy = log_gates[..., self.COPY : self.COPY + 1] + tf.math.log(tf.maximum(copied, TINY))
            log_prob = tf.where(in_session, copy, log_prob)
        return candidates.usable(log_prob[:, :, None])[:, :, 0]

    def log_prob(
        self,
        state: PolicyState,
        item_id: tf.Tensor,
        embedding: tf.Tensor,
        sampler: NegativeSampler | None,
        negatives: tf.Tensor | None,
        training: bool = False,
    ) -> tf.Tensor:
        """Log-probability of each event, given the events before it.

        Args:
            state: The head's state, [B, T+1, ...].
            item_id: [B, T] int32 events.
            embedding: [N+1, D] table of the item embedding.
            sampler: Where negatives come from; None uses the whole catalogue.
            negatives: [S] int32 negatives of this step.
            training: As in `call`.

        Returns:
            [B, T] float32; to be masked where the item is padding or unknown.
        """
        from models.losses.softmax import full_log_prob, sampled_log_prob

        steps = tf.shape(item_id)[1]
        states = state.states[:, :steps]
        table = self.vectors(embedding)
        earlier = tf.range(steps)[None, :] < tf.range(steps)[:, None]
        if sampler is None or negatives is None:
            items = tf.cast(table[1 : self.num_items], states.dtype)
            left_out = self._seen_items(item_id) if self.copy else None
            catalogue = full_log_prob(states, items, item_id, left_out)
        else:
            catalogue = sampled_log_prob(
                states,
                tf.cast(rows_of(table, item_id), states.dtype),
                item_id,
                tf.cast(rows_of(table, negatives), states.dtype),
                negatives,
                sampler.expected(negatives),
                occurred(item_id, negatives, earlier) if self.copy else None,
            )
        log_gates = state.log_gates[:, :steps]
        log_prob = log_gates[..., self.CATALOGUE] + catalogue
        same = tf.equal(item_id[:, :, None], item_id[:, None, :])
        seen = tf.reduce_any(same & earlier[None], axis=-1)
        if self.num_neighbours:
            near = tf.einsum("btj,bjt->bt", state.neighbour_weights[:, :steps], self.neighbours.between(item_id, training))
            log_prob = tf.where(seen, log_prob, _log_sum(log_prob, log_gates[..., self.NEIGHBOURS], near))
        if self.copy:
            copied = tf.reduce_sum(state.copy_weights[:, :steps] * tf.cast(same, tf.float32), axis=-1)
            # The floor keeps the logarithm and its gradient finite.
            log_prob = tf.where(seen, log_gates[..., self.COPY] + tf.math.log(tf.maximum(copied, TINY)), log_prob)
        return log_prob

    def _seen_items(self, item_id: tf.Tensor) -> tf.Tensor:
        """[B, T, N-1] True for items that were there before each event."""
        candidates = Candidates(item_id, self.num_items)
        return candidates.in_session(item_id)[:, :-1]

    def get_config(self) -> dict[str, Any]:
        config = {"num_items": self.num_items, "max_steps": self.max_steps, "copy": self.copy, "tied": self.tied}
        return {**super().get_config(), **config, "num_neighbours": self.num_neighbours}


def _log_sum(log_prob: tf.Tensor, log_gate: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """log(exp(log_prob) + exp(log_gate) * share), where the share may be 0."""
    is_some = share > 0
    other = log_gate + tf.math.log(tf.where(is_some, share, 1.0))
    return tf.where(is_some, tf.reduce_logsumexp(tf.stack([log_prob, tf.where(is_some, other, log_prob)]), axis=0), log_prob)
