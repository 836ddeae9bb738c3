"""A small network on a state and an item."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.heads.item_conditioned import ItemConditionedHead

HIDDEN, OUTPUTS, WIDTH, ITEM_WIDTH = 5, 3, 4, 2


@pytest.fixture
def head() -> ItemConditionedHead:
    keras.utils.set_random_seed(0)
    layer = ItemConditionedHead(HIDDEN, OUTPUTS)
    layer(tf.zeros([1, 1, WIDTH]), tf.zeros([1, 1, ITEM_WIDTH]))
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign_add(rng.normal(0.0, 0.5, variable.shape).astype(np.float32))
    return layer


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def test_the_output_is_that_of_one_hidden_layer_on_state_and_item(head: ItemConditionedHead):
    # One matrix on [state; item] is the two of the layer below each other.
    matrix = np.concatenate([head.from_state.kernel.numpy(), head.from_item.kernel.numpy()])
    states, items = _random(2, 3, WIDTH), _random(2, 3, ITEM_WIDTH)
    hidden = np.maximum(np.concatenate([states, items], axis=-1) @ matrix + head.from_state.bias.numpy(), 0.0)
    assert (hidden == 0.0).any()
    expected = hidden @ head.contract.kernel.numpy() + head.contract.bias.numpy()
    assert head(tf.constant(states), tf.constant(items)).numpy() == pytest.approx(expected, abs=1e-5)


def test_many_items_in_every_state_are_each_item_in_every_state(head: ItemConditionedHead):
    states, items = _random(2, 3, WIDTH), _random(6, ITEM_WIDTH)
    together = head.among(tf.constant(states), tf.constant(items)).numpy()
    assert together.shape == (2, 3, 6, OUTPUTS)
    for number, item in enumerate(items):
        alone = head(tf.constant(states), tf.constant(np.broadcast_to(item, (2, 3, ITEM_WIDTH)))).numpy()
        assert together[:, :, number] == pytest.approx(alone, abs=1e-5)


def test_the_output_is_float32_in_mixed_precision():
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = ItemConditionedHead(HIDDEN, OUTPUTS)
        found = layer(tf.zeros([1, 1, WIDTH], tf.bfloat16), tf.zeros([1, 1, ITEM_WIDTH], tf.bfloat16))
        assert found.dtype == tf.float32
        assert layer.from_state.compute_dtype == "bfloat16"
    finally:
        keras.mixed_precision.set_global_policy(before)


def test_there_is_one_bias_in_each_layer(head: ItemConditionedHead):
    shapes = sorted(tuple(variable.shape) for variable in head.trainable_variables)
    assert shapes == sorted([(WIDTH, HIDDEN), (HIDDEN,), (ITEM_WIDTH, HIDDEN), (HIDDEN, OUTPUTS), (OUTPUTS,)])


def test_the_configuration_makes_the_same_layer(head: ItemConditionedHead):
    assert ItemConditionedHead.from_config(head.get_config()).get_config() == head.get_config()
