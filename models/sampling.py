"""Negatives drawn by popularity, with the exact expectation of every draw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.frameworks import tf


class NegativeSampler:
    """Draws item ids with replacement, with probability proportional to count to a power.

    Args:
        counts: [N-1] events of items 1..N-1 in the train split.
        power: 1 draws as items occur, 0 draws uniformly.
        num_sampled: S, draws each time.
        seed: Seed of all draws; a draw depends on it and the step alone.
    """

    def __init__(self, counts: npt.NDArray[np.int64], power: float, num_sampled: int, seed: int):
        weights = np.maximum(counts, 1).astype(np.float64) ** power
        probabilities = weights / weights.sum()
        self._expected = tf.constant(np.concatenate([[0.0], probabilities * num_sampled, [0.0]]), tf.float32)
        # Float64, because in float32 the running sum over millions of items stops growing.
        self._running = tf.constant(np.cumsum(probabilities), tf.float64)
        self._num_sampled = num_sampled
        self._seed = seed

    def draw(self, step: tf.Tensor) -> tf.Tensor:
        """[S] int32 item ids for a training step."""
        uniform = tf.random.stateless_uniform(
            [self._num_sampled], tf.stack([tf.cast(self._seed, tf.int64), tf.cast(step, tf.int64)]), dtype=tf.float64
        )
        index = tf.searchsorted(self._running, uniform * self._running[-1], side="right")
        return tf.minimum(index, tf.shape(self._running)[0] - 1) + 1

    def expected(self, item_id: tf.Tensor) -> tf.Tensor:
        """Expected number of draws of each item among the S; same shape as `item_id`."""
        return tf.gather(self._expected, item_id)
