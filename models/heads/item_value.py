"""A value for every item in a state."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf


class ItemValueHead(keras.layers.Layer):
    """Q(s, item) = state . vector[item] + bias[item], with vectors of its own.

    Masking: none; values of padding and of the unknown item exist and must be masked by the caller.

    Args:
        num_items: N, padding included.
        width: D.
    """

    item_weights = ("table", "bias")

    def __init__(self, num_items: int, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.width = width
        # Here and not in `build`, because `of` and `among` are called without `call`.
        self.table = self.add_weight(
            "table", (num_items + 1, width), tf.float32, keras.initializers.RandomNormal(stddev=0.02), experimental_autocast=False
        )
        self.bias = self.add_weight("bias", (num_items + 1,), tf.float32, "zeros", experimental_autocast=False)

    def call(self, states: tf.Tensor) -> tf.Tensor:
        """Values of items 1..N-1: states [B, T, D] -> [B, T, N-1] float32."""
        items = tf.cast(self.table[1 : self.num_items], states.dtype)
        return tf.cast(tf.einsum("btd,nd->btn", states, items), tf.float32) + self.bias[1 : self.num_items]

    def of(self, states: tf.Tensor, item_id: tf.Tensor) -> tf.Tensor:
        """Values of one item a step: states [B, T, D], item_id [B, T] -> [B, T] float32."""
        vectors = tf.cast(tf.gather(self.table, item_id), states.dtype)
        return tf.cast(tf.reduce_sum(states * vectors, axis=-1), tf.float32) + tf.gather(self.bias, item_id)

    def among(self, states: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Values of the same candidates at every step: states [B, T, D], candidates [S] -> [B, T, S] float32."""
        vectors = tf.cast(tf.gather(self.table, candidates), states.dtype)
        return tf.cast(tf.einsum("btd,sd->bts", states, vectors), tf.float32) + tf.gather(self.bias, candidates)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "width": self.width}
