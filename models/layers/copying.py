"""Attention over the session's own items."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.frameworks import keras, tf
from models.numerics import IMPOSSIBLE
from schemas.trajectory import PAD_ITEM_ID

_MOST_COUNTED = 4

_NEAR = 2
"""Distances up to this one have counts of their own: what was just there twice was bought, what was there twice long ago is liked."""

_BIAS_SCALE = 10.0
"""Adam moves every weight by about the learning rate; these few numbers have further to go than the entries of a matrix."""


class CopyAttention(keras.layers.Layer):
    """Distribution over the items the session already has, at every step.

    The score of an earlier event is the product of the present state and the event's state, plus learned terms for how long
    ago it was and how often its item has occurred by now, nearby and farther off. Beside the distribution, the mass of all
    scores says whether there is anything worth repeating: what was just bought is not bought again, however short the session.
    Shops live on such repetition (view, cart, buy), and a softmax over a large catalogue spends its capacity on learning it. The
    term for distance starts as a fall with the square of it, so that the untrained head repeats the last items.

    Masking: only events before the step and only items the vocabulary knows; where there are none the weights are all zero.

    References:
        Ren et al. (2019), RepeatNet, is the published relative; a pointer over states is Vinyals et al. (2015).

    Args:
        num_items: N, padding included; ids from N on are unknown items.
        max_steps: T, most events of a session.
    """

    def __init__(self, num_items: int, max_steps: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.max_steps = max_steps

    def build(self, input_shape: Any) -> None:
        width = int(input_shape[-1])
        self.query = keras.layers.Dense(width, use_bias=False, kernel_initializer="zeros", name="query", dtype="float32")
        distance = -2.0 * np.log(np.arange(1, self.max_steps + 1))
        self.distance_bias = self.add_weight(
            "distance_bias", (self.max_steps,), tf.float32, initializer=keras.initializers.Constant(distance / _BIAS_SCALE)
        )
        self.count_bias = self.add_weight("count_bias", (_NEAR + 1, _MOST_COUNTED + 1), tf.float32, initializer="zeros")
        super().build(input_shape)

    def call(self, states: tf.Tensor, item_id: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Weights of all earlier events at every step.

        Args:
            states: [B, T+1, D]; state t comes before event t.
            item_id: [B, T] int, padded on the right.

        Returns:
            Weights [B, T+1, T] float32; row t sums to 1, or to 0 where there is nothing to copy. Logarithm of the mass of the
            scores [B, T+1] float32, `IMPOSSIBLE` where there is nothing to copy.
        """
        states = tf.cast(states, tf.float32)
        steps = tf.shape(item_id)[1]
        scale = float(states.shape[-1]) ** -0.5
        scores = tf.matmul(self.query(states), states[:, 1:], transpose_b=True) * scale
        present, event = tf.range(steps + 1)[:, None], tf.range(steps)[None, :]
        distance = tf.clip_by_value(present - event - 1, 0, self.max_steps - 1)
        scores += _BIAS_SCALE * tf.gather(self.distance_bias, distance)
        earlier = event < present
        same = tf.cast(tf.equal(item_id[:, :, None], item_id[:, None, :]), tf.float32)
        count = tf.einsum("te,bef->btf", tf.cast(earlier, tf.float32), same)
        # One index for both, because gathers of pairs are slow.
        place = tf.minimum(distance, _NEAR)[None] * (_MOST_COUNTED + 1) + tf.minimum(tf.cast(count, tf.int32), _MOST_COUNTED)
        scores += _BIAS_SCALE * tf.gather(tf.reshape(self.count_bias, [-1]), place)
        usable = earlier[None] & (item_id != PAD_ITEM_ID)[:, None, :] & (item_id < self.num_items)[:, None, :]
        usable_float = tf.cast(usable, tf.float32)
        scores = tf.where(usable, scores, IMPOSSIBLE)
        # Rows without a usable event would come out uniform over nothing.
        scores = tf.ensure_shape(scores, [None, None, None])
        log_mass = tf.where(tf.reduce_any(usable, axis=-1), tf.reduce_logsumexp(scores, axis=-1), IMPOSSIBLE)
        return tf.nn.softmax(scores) * usable_float, log_mass

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "max_steps": self.max_steps}
