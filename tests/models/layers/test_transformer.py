"""The causal transformer block."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.layers.transformer import CausalSelfAttention, PublishedTransformerBlock, TransformerBlock, causal_bias


@pytest.fixture
def states() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)


def _shaken(layer: keras.layers.Layer, states: np.ndarray) -> keras.layers.Layer:
    layer(states)
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign_add(rng.normal(0.0, 0.3, variable.shape).astype(np.float32))
    return layer


@pytest.mark.parametrize("kind", [CausalSelfAttention, TransformerBlock, PublishedTransformerBlock])
def test_later_steps_do_not_change_earlier_ones(kind: type, states: np.ndarray):
    layer = _shaken(kind(num_heads=2), states)
    changed = states.copy()
    changed[:, 3:] += 10.0
    before, after = layer(states).numpy(), layer(changed).numpy()
    assert after[:, :3] == pytest.approx(before[:, :3], abs=1e-5)
    assert np.abs(after[:, 3:] - before[:, 3:]).max() > 0.1


@pytest.mark.parametrize("kind", [CausalSelfAttention, TransformerBlock, PublishedTransformerBlock])
def test_earlier_steps_change_later_ones(kind: type, states: np.ndarray):
    layer = _shaken(kind(num_heads=2), states)
    changed = states.copy()
    changed[:, 0] *= -3.0
    assert (np.abs(layer(changed).numpy() - layer(states).numpy())[:, 1:].max(axis=-1) > 1e-4).all()


def test_attention_is_the_average_of_what_came_before_when_all_scores_are_equal(states: np.ndarray):
    # No projection of queries and keys: every score is 0, so step t is the mean of the values of steps 0..t, put through the
    # output projection. Identity projections leave the running mean of the inputs.
    layer = CausalSelfAttention(num_heads=2)
    layer(states)
    kernel = np.zeros((8, 24), np.float32)
    kernel[:, 16:] = np.eye(8)
    layer.projection.kernel.assign(kernel)
    layer.output_projection.kernel.assign(np.eye(8))
    running = np.cumsum(states, axis=1) / np.arange(1, 6)[None, :, None]
    assert layer(states).numpy() == pytest.approx(running, abs=1e-5)


def test_attention_follows_the_formula(states: np.ndarray):
    # softmax(q k' / sqrt(width of a head)) v, head by head.
    layer = _shaken(CausalSelfAttention(num_heads=2), states)
    projected = states @ layer.projection.kernel.numpy() + layer.projection.bias.numpy()
    q, k, v = (part.reshape(2, 5, 2, 4) for part in np.split(projected, 3, axis=-1))
    expected = np.zeros((2, 5, 2, 4))
    for row in range(2):
        for head in range(2):
            for step in range(5):
                score = np.exp(k[row, : step + 1, head] @ q[row, step, head] / np.sqrt(4.0))
                expected[row, step, head] = (score / score.sum()) @ v[row, : step + 1, head]
    expected = expected.reshape(2, 5, 8) @ layer.output_projection.kernel.numpy() + layer.output_projection.bias.numpy()
    assert layer(states).numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", [CausalSelfAttention, PublishedTransformerBlock])
def test_heads_that_do_not_divide_the_width_are_an_error_with_both_numbers(kind: type, states: np.ndarray):
    with pytest.raises(ValueError, match=r"Received: `num_heads` = 3, width = 8"):
        kind(num_heads=3)(states)


@pytest.mark.parametrize("kind", [TransformerBlock, PublishedTransformerBlock])
def test_dropout_acts_in_training_only(kind: type, states: np.ndarray):
    keras.utils.set_random_seed(0)
    layer = _shaken(kind(num_heads=2, dropout=0.5), states)
    calm = layer(states).numpy()
    assert layer(states).numpy().tolist() == calm.tolist()
    assert np.abs(layer(states, training=True).numpy() - calm).max() > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_not_allowed_gets_no_weight_in_any_float_type(dtype: str):
    bias = causal_bias(tf.constant(4), tf.as_dtype(dtype))
    scores = tf.fill([4, 4], tf.cast(-100.0, bias.dtype)) + bias
    weights = tf.cast(tf.nn.softmax(scores), tf.float32).numpy()
    assert np.isfinite(weights).all()
    assert weights == pytest.approx(np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None], abs=0.01)
    assert (np.triu(weights, 1) == 0).all()


@pytest.mark.parametrize(
    "layer",
    [
        CausalSelfAttention(num_heads=2, dropout=0.1),
        TransformerBlock(num_heads=4, expansion=3, dropout=0.2, activation="gelu"),
        PublishedTransformerBlock(num_heads=4, expansion=3, dropout=0.2),
    ],
    ids=["attention", "block", "published block"],
)
def test_the_configuration_makes_the_same_layer(layer: keras.layers.Layer):
    again = type(layer).from_config(layer.get_config())
    states = np.ones((1, 3, 8), np.float32)
    layer(states), again(states)
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    assert again(states).numpy() == pytest.approx(layer(states).numpy(), abs=1e-6)
