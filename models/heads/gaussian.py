"""A distribution over continuous actions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from models.frameworks import keras, tf

_EDGE = 1e-6
"""Squashed actions are kept this far from -1 and 1, where their logarithms have no end."""


class GaussianState(NamedTuple):
    """A Gaussian with independent dimensions, before it is squashed.

    Attributes:
        mean: [..., A] float32.
        log_deviation: [..., A] float32 logarithm of the standard deviation.
    """

    mean: tf.Tensor
    log_deviation: tf.Tensor


class GaussianHead(keras.layers.Layer):
    """Actions tanh(u), or u itself, with u ~ N(mean(s), deviation(s)^2), each dimension on its own.

    The logarithm of the deviation is a tanh of what the network says, mapped on its range, so that it has a gradient everywhere.

    Masking: none.

    References:
        Zheng et al. (2022), Online Decision Transformer: two linear heads and the range of the deviations. Their kernels are orthogonal.
        Haarnoja et al. (2018), Soft Actor-Critic, appendix C, for the density of a squashed action.

    Args:
        num_dimensions: A, of an action.
        squashed: True has actions between -1 and 1.
        least_log_deviation: Lower end of the range.
        greatest_log_deviation: Upper end of the range.
    """

    def __init__(
        self,
        num_dimensions: int,
        squashed: bool = True,
        least_log_deviation: float = -5.0,
        greatest_log_deviation: float = 2.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_dimensions = num_dimensions
        self.squashed = squashed
        self.least_log_deviation = least_log_deviation
        self.greatest_log_deviation = greatest_log_deviation
        # Deviations begin in the middle of their range. With full-sized kernels some begin at its ends, where the tanh has no gradient.
        small = keras.initializers.Orthogonal(gain=0.1)
        self.mean = keras.layers.Dense(num_dimensions, kernel_initializer=small, name="mean", dtype="float32")
        self.log_deviation = keras.layers.Dense(num_dimensions, kernel_initializer="zeros", name="log_deviation", dtype="float32")

    def call(self, states: tf.Tensor) -> GaussianState:
        """states [..., D] -> the distribution in each."""
        place = 0.5 * (tf.tanh(self.log_deviation(states)) + 1.0)
        spread = self.greatest_log_deviation - self.least_log_deviation
        return GaussianState(self.mean(states), self.least_log_deviation + spread * place)

    def mode(self, state: GaussianState) -> tf.Tensor:
        """[..., A] the action that is played when nothing is to be tried."""
        return tf.tanh(state.mean) if self.squashed else state.mean

    def sample(self, state: GaussianState, noise: tf.Tensor) -> tf.Tensor:
        """[..., A] actions from standard normal noise [..., A], with a gradient into the distribution."""
        raw = state.mean + tf.exp(state.log_deviation) * noise
        return tf.tanh(raw) if self.squashed else raw

    def log_prob(self, state: GaussianState, action: tf.Tensor) -> tf.Tensor:
        """[...] logarithm of the density of actions [..., A], summed over dimensions."""
        if not self.squashed:
            return self._log_density(state, action)
        return self._log_density(state, tf.atanh(tf.clip_by_value(action, -1.0 + _EDGE, 1.0 - _EDGE)))

    def entropy(self, state: GaussianState, noise: tf.Tensor | None = None) -> tf.Tensor:
        """[...] entropy in nats, summed over dimensions.

        Args:
            state: The distribution.
            noise: [..., A] standard normal noise. A squashed distribution has no closed form: its entropy is estimated without bias
                from the one action that the noise makes. Unused otherwise.

        Raises:
            ValueError: The distribution is squashed and there is no noise.
        """
        if not self.squashed:
            return tf.reduce_sum(state.log_deviation + 0.5 * math.log(2.0 * math.pi * math.e), axis=-1)
        if noise is None:
            raise ValueError("`noise` is needed for the entropy of a squashed distribution. Received: `noise` = None.")
        return -self._log_density(state, state.mean + tf.exp(state.log_deviation) * noise)

    def _log_density(self, state: GaussianState, raw: tf.Tensor) -> tf.Tensor:
        """[...] logarithm of the density of the action that u = `raw` [..., A] makes."""
        distance = (raw - state.mean) * tf.exp(-state.log_deviation)
        density = -0.5 * tf.square(distance) - state.log_deviation - 0.5 * math.log(2.0 * math.pi)
        if self.squashed:
            # log(1 - tanh(u)^2) without cancellation.
            density -= 2.0 * (math.log(2.0) - raw - tf.nn.softplus(-2.0 * raw))
        return tf.reduce_sum(density, axis=-1)

    def get_config(self) -> dict[str, Any]:
        names = ("num_dimensions", "squashed", "least_log_deviation", "greatest_log_deviation")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
