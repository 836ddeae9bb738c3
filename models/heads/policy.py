"""The head that recommends: a catalogue softmax mixed with a copy of the session's own items."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf
from models.numerics import IMPOSSIBLE, TINY
from models.ranking import PolicyState
from models.sampling import NegativeSampler


class PolicyHead(keras.layers.Layer):
    """p(item) = g_catalogue * softmax(state . vectors)[item] + g_copy * sum of the copy weights of the item's events.

    Gates are a softmax of the state. Without `copy` the catalogue has everything.

    Masking: a step without usable history has no copy part.

    Args:
        num_items: N, padding included.
        max_steps: T, most events of a session.
        copy: True mixes the copy part in.
        tied: True scores with the embedding's vectors, False with vectors of its own.
    """

    CATALOGUE, COPY = 0, 1

    @property
    def item_weights(self) -> tuple[str, ...]:
        """Weights with one row for every id."""
        return () if self.tied else ("table",)

    def __init__(self, num_items: int, max_steps: int, copy: bool = True, tied: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.max_steps = max_steps
        self.copy = copy
        self.tied = tied

    def build(self, input_shape: Any) -> None:
        from models.layers.copying import CopyAttention

        if self.copy:
            self.copying = CopyAttention(self.num_items, self.max_steps, name="copying", dtype="float32")
            self.gate = keras.layers.Dense(2, kernel_initializer="zeros", name="gate", dtype="float32")
        if not self.tied:
            shape = (self.num_items + 1, int(input_shape[-1]))
            self.table = self.add_weight(
                "table", shape, tf.float32, keras.initializers.RandomNormal(stddev=0.02), experimental_autocast=False
            )
        super().build(input_shape)

    def call(self, states: tf.Tensor, item_id: tf.Tensor) -> PolicyState:
        """states [B, T+1, D], item_id [B, T] -> the head's state at every step, [B, T+1, ...]."""
        if not self.copy:
            shape = tf.shape(states)
            gates = tf.concat([tf.zeros([shape[0], shape[1], 1]), tf.fill([shape[0], shape[1], 1], IMPOSSIBLE)], axis=-1)
            return PolicyState(states, gates, tf.zeros([shape[0], shape[1], tf.shape(item_id)[1]]))
        weights = self.copying(states, item_id)
        gate_logits = self.gate(tf.cast(states, tf.float32))
        has_history = tf.reduce_sum(weights, axis=-1, keepdims=True) > 0
        copy_logit = tf.where(has_history, gate_logits[..., self.COPY :], IMPOSSIBLE)
        gates = tf.nn.log_softmax(tf.concat([gate_logits[..., : self.COPY], copy_logit], axis=-1))
        return PolicyState(states, gates, weights)

    def vectors(self, embedding: tf.Tensor) -> tf.Tensor:
        """[N+1, D] scoring vectors, by item id."""
        return embedding if self.tied else self.table

    def log_prob(
        self, state: PolicyState, item_id: tf.Tensor, embedding: tf.Tensor, sampler: NegativeSampler | None, negatives: tf.Tensor | None
    ) -> tf.Tensor:
        """Log-probability of each event, given the events before it.

        Args:
            state: The head's state, [B, T+1, ...].
            item_id: [B, T] int32 events.
            embedding: [N+1, D] table of the item embedding.
            sampler: Where negatives come from; None uses the whole catalogue.
            negatives: [S] int32 negatives of this step.

        Returns:
            [B, T] float32; to be masked where the item is padding or unknown.
        """
        from models.losses.softmax import full_log_prob, sampled_log_prob

        steps = tf.shape(item_id)[1]
        states = state.states[:, :steps]
        table = self.vectors(embedding)
        if sampler is None or negatives is None:
            items = tf.cast(table[1 : self.num_items], states.dtype)
            catalogue = full_log_prob(states, items, item_id)
        else:
            catalogue = sampled_log_prob(
                states,
                tf.cast(tf.gather(table, item_id), states.dtype),
                item_id,
                tf.cast(tf.gather(table, negatives), states.dtype),
                negatives,
                sampler.expected(negatives),
            )
        log_gates = state.log_gates[:, :steps]
        if not self.copy:
            return catalogue
        same = tf.cast(tf.equal(item_id[:, :, None], item_id[:, None, :]), tf.float32)
        copied = tf.reduce_sum(state.copy_weights[:, :steps] * same, axis=-1)
        # An item that was not there cannot be copied; the floor keeps the logarithm and its gradient finite.
        copy = tf.where(copied > 0, tf.math.log(tf.maximum(copied, TINY)), IMPOSSIBLE)
        return tf.reduce_logsumexp(tf.stack([log_gates[..., 0] + catalogue, log_gates[..., 1] + copy], axis=-1), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "max_steps": self.max_steps, "copy": self.copy, "tied": self.tied}
