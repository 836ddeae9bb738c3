"""The recurrent backbone against the recurrence written out."""

import numpy as np
import pytest

from models.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from models.frameworks import keras, tf

WIDTH, STEPS = 5, 7


def _build(shaken: bool = True, **config) -> GRU4Rec:
    keras.utils.set_random_seed(0)
    backbone = GRU4Rec(GRU4RecConfig(**config), WIDTH, STEPS)
    backbone(tf.zeros([1, 2, WIDTH]))
    if shaken:
        rng = np.random.default_rng(1)
        for variable in backbone.variables:
            variable.assign_add(rng.normal(0.0, 0.4, variable.shape).astype(np.float32))
    return backbone


@pytest.fixture
def embedded() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, STEPS, WIDTH)).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _slow(backbone: GRU4Rec, inputs: np.ndarray) -> np.ndarray:
    """[T, D] states of one sequence [T, D], one step and layer after the other."""
    for layer in backbone.recurrent:
        kernel, recurrent, bias = (weight.astype(np.float64) for weight in layer.get_weights())
        (wz, wr, wh), (uz, ur, uh) = np.split(kernel, 3, axis=1), np.split(recurrent, 3, axis=1)
        bz, br, bh = np.split(bias, 3)
        hidden, states = np.zeros(WIDTH), []
        for x in inputs:
            update = _sigmoid(x @ wz + hidden @ uz + bz)
            reset = _sigmoid(x @ wr + hidden @ ur + br)
            candidate = np.tanh(x @ wh + (reset * hidden) @ uh + bh)
            hidden = update * hidden + (1.0 - update) * candidate
            states.append(hidden)
        inputs = np.array(states)
    return inputs


@pytest.mark.parametrize("num_layers", [1, 2])
def test_states_follow_the_recurrence(num_layers: int, embedded: np.ndarray):
    backbone = _build(num_layers=num_layers)
    states = backbone(tf.constant(embedded)).numpy()
    for row in range(3):
        assert states[row] == pytest.approx(_slow(backbone, embedded[row]), abs=1e-5)


def test_the_state_of_a_window_is_that_after_its_last_item(embedded: np.ndarray):
    backbone = _build()
    length = np.array([2, 1, STEPS], np.int32)
    states = backbone.window(tf.constant(embedded), tf.constant(length)).numpy()
    for row in range(3):
        assert states[row] == pytest.approx(_slow(backbone, embedded[row, : length[row]])[-1], abs=1e-5)


def test_an_empty_history_reads_the_padding_once(embedded: np.ndarray):
    backbone = _build()
    states = backbone.window(tf.constant(embedded), tf.zeros([3], tf.int32)).numpy()
    for row in range(3):
        assert states[row] == pytest.approx(_slow(backbone, embedded[row, :1])[0], abs=1e-5)


def test_gates_start_open():
    # Biases 1, 1 and 0. With kernels of zero: update gate sigmoid(1) = .7311, candidate tanh(0) = 0, so nothing comes in; and
    # with a candidate kernel of the identity the first state is (1 - .7311) tanh(x) = .2689 tanh(x).
    backbone = _build(shaken=False)
    layer = backbone.recurrent[0]
    _, recurrent, bias = layer.get_weights()
    assert bias.tolist() == [1.0] * (2 * WIDTH) + [0.0] * WIDTH
    layer.set_weights([np.hstack([np.zeros((WIDTH, 2 * WIDTH)), np.eye(WIDTH)]), 0.0 * recurrent, bias])
    x = np.linspace(-1.0, 1.0, WIDTH, dtype=np.float32)
    assert backbone(tf.constant(x[None, None])).numpy()[0, 0] == pytest.approx(0.2689 * np.tanh(x), abs=1e-4)


def test_every_layer_has_weights_and_dropout_of_its_own(embedded: np.ndarray):
    # Each: kernel and recurrent kernel D x 3 D, bias 3 D.
    backbone = _build(num_layers=2, dropout=0.5)
    assert [tuple(variable.shape) for variable in backbone.trainable_variables] == [(5, 15), (5, 15), (15,)] * 2
    # Half of the last layer's output is zero, and would be so no matter what the first layer drops.
    dropped = backbone(tf.constant(embedded), training=True).numpy() == 0.0
    assert 0.25 < dropped.mean() < 0.75
