"""Layers that convolve over time; the backbones' tests have their formulas."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.layers.convolution import DilatedBlock, WindowFeatures


@pytest.mark.parametrize(
    "layer",
    [DilatedBlock(2, kernel_size=2), WindowFeatures(3, (1, 2), 4, num_vertical=2)],
    ids=["dilated", "window"],
)
def test_the_configuration_makes_the_same_layer(layer: keras.layers.Layer):
    again = type(layer).from_config(layer.get_config())
    states = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    layer(states), again(states)
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    assert again(states).numpy() == pytest.approx(layer(states).numpy(), abs=1e-6)


def test_a_dilated_block_of_zero_weights_adds_nothing():
    layer = DilatedBlock(1)
    states = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    layer(states)
    for convolution in (layer.near, layer.far):
        convolution.set_weights([np.zeros_like(weight) for weight in convolution.get_weights()])
    assert layer(states).numpy().tolist() == states.tolist()


def test_every_window_is_seen_once():
    # Five inputs have three windows of three.
    layer = WindowFeatures(3, (2,), 4)
    assert layer(tf.zeros([2, 5, 6])).shape == (2, 3, 4 + 6)
