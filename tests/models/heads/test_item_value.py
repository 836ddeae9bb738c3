"""Values of items in a state."""

import numpy as np
import pytest

from models.frameworks import tf
from models.heads.item_value import ItemValueHead

NUM_ITEMS, WIDTH = 6, 3


@pytest.fixture
def head() -> ItemValueHead:
    rng = np.random.default_rng(0)
    layer = ItemValueHead(NUM_ITEMS, WIDTH)
    layer.table.assign(rng.normal(size=(NUM_ITEMS + 1, WIDTH)))
    layer.bias.assign(rng.normal(size=NUM_ITEMS + 1))
    return layer


@pytest.fixture
def states() -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).normal(size=(2, 4, WIDTH)), tf.float32)


def test_the_value_is_a_product_plus_a_bias(head: ItemValueHead, states: tf.Tensor):
    expected = states.numpy() @ head.table.numpy()[1:NUM_ITEMS].T + head.bias.numpy()[1:NUM_ITEMS]
    assert head(states).numpy() == pytest.approx(expected, abs=1e-5)


def test_all_items_one_item_and_some_items_have_the_same_values(head: ItemValueHead, states: tf.Tensor):
    everything = head(states).numpy()
    some = head.among(states, tf.constant([5, 1, 1])).numpy()
    assert some == pytest.approx(everything[:, :, [4, 0, 0]], abs=1e-5)
    items = np.array([[1, 2, 3, 4], [5, 5, 1, 2]])
    one = head.of(states, tf.constant(items)).numpy()
    assert one == pytest.approx(np.take_along_axis(everything, items[:, :, None] - 1, axis=2)[:, :, 0], abs=1e-5)


def test_padding_and_unknown_items_have_finite_values_that_are_not_ranked(head: ItemValueHead, states: tf.Tensor):
    assert np.isfinite(head.of(states, tf.constant([[0, NUM_ITEMS, 0, 0]] * 2)).numpy()).all()
    assert head(states).shape == (2, 4, NUM_ITEMS - 1)


def test_the_configuration_makes_the_same_layer(head: ItemValueHead):
    assert ItemValueHead.from_config(head.get_config()).get_config() == head.get_config()
