"""The backbone of dilated convolutions against loops over steps and taps."""

import numpy as np
import pytest

from models.backbones.nextitnet import NextItNet, NextItNetConfig
from models.frameworks import keras, tf

WIDTH, STEPS = 4, 9


def _build(shaken: bool = True, steps: int = STEPS, **config) -> NextItNet:
    keras.utils.set_random_seed(0)
    backbone = NextItNet(NextItNetConfig(**config), WIDTH, steps)
    backbone(tf.zeros([1, 2, WIDTH]))
    if shaken:
        rng = np.random.default_rng(1)
        for variable in backbone.variables:
            variable.assign_add(rng.normal(0.0, 0.4, variable.shape).astype(np.float32))
    return backbone


@pytest.fixture
def embedded() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, STEPS, WIDTH)).astype(np.float32)


def _convolve(layer, inputs: np.ndarray, dilation: int) -> np.ndarray:
    kernel, bias = (weight.astype(np.float64) for weight in layer.get_weights())
    taps = len(kernel)
    outputs = np.tile(bias, (len(inputs), 1))
    for step in range(len(inputs)):
        for tap in range(taps):
            # The last tap is the step itself.
            source = step - (taps - 1 - tap) * dilation
            if source >= 0:
                outputs[step] += inputs[source] @ kernel[tap]
    return outputs


def _normalise(layer, inputs: np.ndarray) -> np.ndarray:
    gamma, beta = layer.get_weights()
    return gamma * (inputs - inputs.mean(axis=-1, keepdims=True)) / np.sqrt(inputs.var(axis=-1, keepdims=True) + 1e-8) + beta


def _slow(backbone: NextItNet, inputs: np.ndarray, dilations: tuple[int, ...], length: int | None = None) -> np.ndarray:
    """[T, D] states of one sequence [T, D] of which the first `length` are items; others are masked wherever they appear."""
    real = (np.arange(len(inputs)) < (len(inputs) if length is None else length))[:, None]
    inputs = inputs * real
    for block, dilation in zip(backbone.blocks, dilations, strict=True):
        inner = np.maximum(_normalise(block.near_norm, _convolve(block.near, inputs, dilation)), 0.0)
        inputs = (inputs + np.maximum(_normalise(block.far_norm, _convolve(block.far, inner, 2 * dilation)), 0.0)) * real
    return inputs


@pytest.mark.parametrize(("dilations", "kernel_size"), [((1, 2, 1, 2, 1, 2), 3), ((3,), 2), ((1, 4), 1)])
def test_states_follow_the_definition(dilations: tuple[int, ...], kernel_size: int, embedded: np.ndarray):
    backbone = _build(dilations=dilations, kernel_size=kernel_size)
    states = backbone(tf.constant(embedded)).numpy()
    for row in range(3):
        assert states[row] == pytest.approx(_slow(backbone, embedded[row], dilations), abs=3e-5)


def test_a_window_is_masked_and_read_at_its_last_item(embedded: np.ndarray):
    backbone = _build(dilations=(1, 2))
    for length in range(STEPS + 1):
        states = backbone.window(tf.constant(embedded), tf.fill([3], length)).numpy()
        for row in range(3):
            # Read at the first place where there is no item, as lengths are at least 1 in the published code.
            expected = _slow(backbone, embedded[row], (1, 2), length)[max(length, 1) - 1]
            assert states[row] == pytest.approx(expected, abs=1e-5), f"length {length}"


def test_the_state_of_an_empty_history_is_zero(embedded: np.ndarray):
    assert (_build().window(tf.constant(embedded), tf.zeros([3], tf.int32)).numpy() == 0.0).all()


def test_a_state_sees_as_far_as_stated():
    # Taps 1 and 2 back, then 2 and 4 back: 1 + 3 (3 - 1) 1 = 7 inputs, the own one included; steps 1..7 of state 7.
    backbone = _build(dilations=(1,))
    embedded = np.random.default_rng(3).normal(size=(1, STEPS, WIDTH)).astype(np.float32)
    states = backbone(tf.constant(embedded)).numpy()[0, 7]
    moved = []
    for step in range(STEPS):
        changed = embedded.copy()
        changed[0, step] *= -2.0
        moved.append(bool((backbone(tf.constant(changed)).numpy()[0, 7] != states).any()))
    assert moved == [False, True, True, True, True, True, True, True, False]


def test_the_published_network_has_twelve_convolutions_with_small_weights():
    backbone = _build(shaken=False)
    kernels = [variable.numpy() for variable in backbone.variables if len(variable.shape) == 3]
    assert [kernel.shape for kernel in kernels] == [(3, WIDTH, WIDTH)] * 12
    # A normal distribution cut off at two standard deviations has .88 of its standard deviation.
    assert np.concatenate([kernel.ravel() for kernel in kernels]).std() == pytest.approx(0.0176, abs=0.002)
    assert max(np.abs(kernel).max() for kernel in kernels) <= 0.04
    # Every one is drawn anew.
    assert len({kernel.tobytes() for kernel in kernels}) == 12
