"""Item vectors with a bias: the bias is the last column, and states end with a 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.frameworks import tf

_STDDEV = 0.02


def vectors_with_bias(width: int, heads: int = 1) -> Callable[..., tf.Tensor]:
    """Initialiser of a table [rows, heads * (width + 1)]: small vectors, biases of 0."""
    spread = np.tile(np.r_[np.full(width, _STDDEV), 0.0], heads)

    def initial(shape: Any, dtype: Any = None, **_: Any) -> tf.Tensor:
        return tf.random.normal(shape, dtype=dtype) * tf.constant(spread, dtype)

    return initial


def with_one(states: tf.Tensor) -> tf.Tensor:
    """[..., D] -> [..., D+1]."""
    return tf.concat([states, tf.ones_like(states[..., :1])], axis=-1)
