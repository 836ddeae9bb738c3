"""Embeddings of a return."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf


class LinearReturn(keras.layers.Layer):
    """embedding = R * vector + bias (Chen et al., 2021).

    Masking: none.

    Args:
        width: D.
    """

    def __init__(self, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.width = width
        self.dense = keras.layers.Dense(width, name="dense")

    def call(self, returns: tf.Tensor) -> tf.Tensor:
        """Scaled returns [...] -> [..., D]."""
        return self.dense(returns[..., None])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


class DiscretisedReturn(keras.layers.Layer):
    """A mixture of learned vectors whose weights are learned, too: embedding = softmax(V h + h) . buckets, h = leaky_relu(v R + c).

    Unlike with fixed bins, near returns have near embeddings, and no bin edges have to be chosen.

    Masking: none.

    References:
        Guo et al. (2021), An Embedding Learning Framework for Numerical Features in CTR Prediction, eq. 6 to 9; Zhao et al. (2023),
        User Retention-oriented Recommendation with Decision Transformer, use it for returns. The offset c is ours: without it
        all returns of one sign choose by their size alone.

    Args:
        width: D.
        buckets: Vectors that are mixed.
    """

    def __init__(self, width: int, buckets: int, **kwargs: Any):
        # In float32, as the choice is sharp.
        super().__init__(autocast=False, **kwargs)
        self.width = width
        self.buckets = buckets
        self.expand = keras.layers.Dense(buckets, name="expand", dtype="float32")
        self.mix = keras.layers.Dense(buckets, use_bias=False, name="mix", dtype="float32")

    def build(self, input_shape: Any) -> None:
        self.vectors = self.add_weight("vectors", (self.buckets, self.width), initializer=keras.initializers.RandomNormal(stddev=0.1))
        super().build(input_shape)

    def weights_of(self, returns: tf.Tensor) -> tf.Tensor:
        """Scaled returns [...] -> share of each bucket, [..., buckets] float32."""
        hidden = tf.nn.leaky_relu(self.expand(returns[..., None]), 0.01)
        return tf.nn.softmax(self.mix(hidden) + hidden)

    def call(self, returns: tf.Tensor) -> tf.Tensor:
        """Scaled returns [...] -> [..., D]."""
        return tf.tensordot(tf.cast(self.weights_of(returns), self.compute_dtype), tf.cast(self.vectors, self.compute_dtype), axes=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "buckets": self.buckets}
