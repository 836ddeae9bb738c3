"""The copy head's weights over the session's events."""

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.layers.copying import CopyAttention

NUM_ITEMS, MAX_STEPS, WIDTH = 10, 7, 4
UNKNOWN = NUM_ITEMS


def _weights(layer: CopyAttention, items: list[list[int]], seed: int = 0) -> np.ndarray:
    states = np.random.default_rng(seed).normal(size=(len(items), len(items[0]) + 1, WIDTH)).astype(np.float32)
    return layer(tf.constant(states), tf.constant(items))[0].numpy()


@pytest.fixture
def trained() -> CopyAttention:
    """A layer whose every weight has been moved."""
    keras.utils.set_random_seed(0)
    layer = CopyAttention(NUM_ITEMS, MAX_STEPS)
    _weights(layer, [[1, 2]])
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape).astype(np.float32))
    return layer


ITEMS = [[3, 5, 3, 9, 1], [UNKNOWN, 2, UNKNOWN, 2, 0], [UNKNOWN, UNKNOWN, 4, 0, 0], [UNKNOWN, UNKNOWN, UNKNOWN, 0, 0], [0, 0, 0, 0, 0]]


def test_weights_of_a_step_sum_to_one_or_to_zero(trained: CopyAttention):
    total = _weights(trained, ITEMS).sum(axis=-1)
    # A step has something to copy once a known item came before it.
    expected = [[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0] * 6, [0] * 6]
    assert total == pytest.approx(np.array(expected, float), abs=1e-6)


def test_weights_are_never_negative(trained: CopyAttention):
    assert (_weights(trained, ITEMS) >= 0).all()


def test_only_earlier_events_get_weight(trained: CopyAttention):
    weights = _weights(trained, ITEMS)
    for step in range(6):
        assert (weights[:, step, step:] == 0).all()


def test_every_earlier_event_of_a_known_item_gets_weight(trained: CopyAttention):
    weights = _weights(trained, ITEMS)
    assert (weights[0, 5] > 0).all()


def test_unknown_and_padded_events_get_no_weight(trained: CopyAttention):
    weights, items = _weights(trained, ITEMS), np.array(ITEMS)
    nothing = (items == UNKNOWN) | (items == 0)
    assert (weights.transpose(0, 2, 1)[nothing] == 0).all()


def test_an_untrained_layer_prefers_the_latest_event():
    keras.utils.set_random_seed(0)
    weights = _weights(CopyAttention(NUM_ITEMS, MAX_STEPS), [[1, 2, 3, 4, 5, 6]])
    for step in range(2, 7):
        assert (np.diff(weights[0, step, :step]) > 0).all(), f"step {step}"


def test_an_untrained_layer_does_not_look_at_the_states():
    keras.utils.set_random_seed(0)
    layer = CopyAttention(NUM_ITEMS, MAX_STEPS)
    assert _weights(layer, ITEMS, seed=0) == pytest.approx(_weights(layer, ITEMS, seed=1), abs=1e-7)


def test_a_trained_layer_looks_at_the_states(trained: CopyAttention):
    assert np.abs(_weights(trained, ITEMS, seed=0) - _weights(trained, ITEMS, seed=1)).max() > 0.01


def test_padding_on_the_right_changes_nothing(trained: CopyAttention):
    items = np.array([[3, 5, 3], [UNKNOWN, 2, 2]])
    states = np.random.default_rng(0).normal(size=(2, 6, WIDTH)).astype(np.float32)
    short = trained(tf.constant(states[:, :4]), tf.constant(items))[0].numpy()
    long = trained(tf.constant(states), tf.constant(np.pad(items, [(0, 0), (0, 2)])))[0].numpy()
    assert long[:, :4, :3] == pytest.approx(short, abs=1e-6)


def test_later_events_do_not_change_earlier_weights(trained: CopyAttention):
    # Item 3 comes back later; how often it has occurred by step 2 stays the same.
    states = np.random.default_rng(0).normal(size=(1, 6, WIDTH)).astype(np.float32)
    changed = states.copy()
    changed[:, 3:] += 5.0
    one = trained(tf.constant(states), tf.constant([[3, 5, 1, 2, 4]]))[0].numpy()
    other = trained(tf.constant(changed), tf.constant([[3, 5, 3, 3, 3]]))[0].numpy()
    assert other[:, :3] == pytest.approx(one[:, :3], abs=1e-6)


def test_more_events_than_the_layer_was_made_for_count_as_far_ago(trained: CopyAttention):
    weights = _weights(trained, [list(range(1, 10))])
    assert np.isfinite(weights).all()
    assert weights[0, -1].sum() == pytest.approx(1.0, abs=1e-6)


def test_steps_without_anything_to_copy_give_no_gradient_that_is_not_finite(trained: CopyAttention):
    with tf.GradientTape() as tape:
        weights, log_mass = trained(tf.ones([len(ITEMS), 6, WIDTH]), tf.constant(ITEMS))
        loss = tf.reduce_sum(weights * tf.random.stateless_uniform(tf.shape(weights), [1, 2])) + tf.reduce_sum(tf.sigmoid(log_mass))
    for gradient in tape.gradient(loss, trained.trainable_variables):
        assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()


def test_the_mass_is_that_of_the_scores():
    # Untrained, the score of an event d steps ago is -2 log d: masses 1, 1 + 1/4, 1 + 1/4 + 1/9; nothing at first.
    keras.utils.set_random_seed(0)
    _, log_mass = CopyAttention(NUM_ITEMS, MAX_STEPS)(tf.ones([1, 4, WIDTH]), tf.constant([[1, 2, 3]]))
    assert np.exp(log_mass.numpy()) == pytest.approx(np.array([[0.0, 1.0, 5 / 4, 49 / 36]]), rel=1e-5)


def test_what_was_there_twice_can_lose_its_mass_where_nothing_else_is_there():
    # The term for two occurrences at -10, on the scale of ten: whatever was there once keeps its mass.
    keras.utils.set_random_seed(0)
    layer = CopyAttention(NUM_ITEMS, MAX_STEPS)
    layer(tf.ones([1, 2, WIDTH]), tf.constant([[1]]))
    layer.count_bias.assign([[0.0, 0.0, -1.0, 0.0, 0.0]] * 3)
    _, log_mass = layer(tf.ones([1, 3, WIDTH]), tf.constant([[1, 1]]))
    assert log_mass.numpy()[0, 1] == pytest.approx(0.0, abs=1e-5)
    assert log_mass.numpy()[0, 2] == pytest.approx(np.log(5 / 4) - 10.0, abs=1e-4)
