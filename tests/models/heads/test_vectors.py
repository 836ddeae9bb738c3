"""Item vectors whose last entry is a bias."""

import numpy as np
import pytest

from models.frameworks import tf
from models.heads.vectors import vectors_with_bias, with_one


@pytest.mark.parametrize("heads", [1, 3])
def test_fresh_vectors_are_small_and_their_biases_zero(heads: int):
    table = vectors_with_bias(4, heads)([5000, heads * 5], tf.float32).numpy().reshape(5000, heads, 5)
    assert (table[..., 4] == 0.0).all()
    # The deviation of 20,000 draws of one of .02 is known to half a percent.
    assert table[..., :4].std() == pytest.approx(0.02, rel=0.02)
    assert table[..., :4].mean() == pytest.approx(0.0, abs=0.001)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_one_stands_at_the_end_of_every_state(dtype: tf.DType):
    states = tf.cast(tf.reshape(tf.range(12), [2, 3, 2]), dtype)
    found = with_one(states)
    assert (found.shape, found.dtype) == ((2, 3, 3), dtype)
    assert np.array(found[..., 2], np.float32).tolist() == [[1.0] * 3] * 2
    assert np.array(found[..., :2], np.float32).tolist() == np.arange(12.0).reshape(2, 3, 2).tolist()
