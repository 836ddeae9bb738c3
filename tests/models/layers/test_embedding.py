"""Item embeddings."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.layers.embedding import HideItems, ItemEmbedding


def test_padding_items_and_the_unknown_item_have_rows_of_their_own():
    layer = ItemEmbedding(num_items=5, width=3)
    vectors = layer(tf.constant([[0, 1, 4, 5]])).numpy()[0]
    assert vectors.shape == (4, 3)
    assert layer.table.shape == (6, 3)
    assert len({tuple(row) for row in vectors.tolist()}) == 4


def test_the_gradient_touches_the_rows_of_the_batch_only():
    layer = ItemEmbedding(num_items=5, width=3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[1, 4, 1]])))
    gradient = tape.gradient(loss, layer.table)
    assert isinstance(gradient, tf.IndexedSlices)
    # Item 1 occurs twice.
    assert tf.convert_to_tensor(gradient).numpy().tolist() == [[0] * 3, [2] * 3, [0] * 3, [0] * 3, [1] * 3, [0] * 3]


def test_weights_stay_in_float32_whatever_is_computed_in():
    layer = ItemEmbedding(num_items=5, width=3, dtype=keras.mixed_precision.Policy("mixed_bfloat16"))
    assert layer(tf.constant([[1]])).dtype == tf.bfloat16
    assert layer.table.dtype == tf.float32


def test_the_configuration_makes_the_same_layer():
    layer = ItemEmbedding(num_items=5, width=3, stddev=0.5)
    assert ItemEmbedding.from_config(layer.get_config()).get_config() == layer.get_config()
    keras.utils.set_random_seed(0)
    assert 0.2 < np.std(ItemEmbedding(num_items=500, width=3, stddev=0.5)(tf.range(501)).numpy()) < 0.8


# === Hiding items ===


def _hidden(rate: float, item_id: list[list[int]], training: bool = True) -> list[list[int]]:
    found: list[list[int]] = HideItems(num_items=5, rate=rate)(tf.constant(item_id), training=training).numpy().tolist()
    return found


def test_hidden_items_become_the_unknown_item_and_nothing_else_changes():
    keras.utils.set_random_seed(0)
    item_id = [[1, 2, 3, 4, 5, 0]] * 2000
    found = np.array(_hidden(0.3, item_id))
    assert (found[:, 5] == 0).all()
    assert (found[:, 4] == 5).all()
    changed = found[:, :4] != np.array(item_id)[:, :4]
    assert (found[:, :4][changed] == 5).all()
    # 8,000 items of which .3 are hidden: five standard deviations are .026.
    assert changed.mean() == pytest.approx(0.3, abs=0.026)


def test_nothing_is_hidden_outside_training_or_at_a_rate_of_zero():
    item_id = [[1, 2, 3, 4, 5, 0]] * 50
    assert _hidden(0.9, item_id, training=False) == item_id
    assert _hidden(0.0, item_id) == item_id


def test_a_compiled_step_hides_other_items_every_time():
    keras.utils.set_random_seed(0)
    keras.backend.experimental.enable_tf_random_generator()
    layer = HideItems(num_items=5, rate=0.5)
    compiled = tf.function(lambda item_id: layer(item_id, training=True), autograph=False)
    item_id = tf.constant([[1, 2, 3, 4]] * 20)
    assert compiled(item_id).numpy().tolist() != compiled(item_id).numpy().tolist()


def test_the_configuration_makes_the_same_hiding_layer():
    layer = HideItems(num_items=5, rate=0.25)
    assert HideItems.from_config(layer.get_config()).get_config() == layer.get_config()
