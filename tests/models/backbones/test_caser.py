"""The convolutional backbone against loops over windows, filters and places."""

import numpy as np
import pytest

from models.backbones.caser import Caser, CaserConfig
from models.frameworks import keras, tf
from schemas.config import ConfigError, decode

WIDTH, WINDOW, STEPS = 5, 4, 9


def _build(shaken: bool = True, width: int = WIDTH, **config) -> Caser:
    keras.utils.set_random_seed(0)
    backbone = Caser(CaserConfig(**{"window": WINDOW, "heights": (2, 3), "num_filters": 3, "dropout": 0.0, **config}), width, STEPS)
    backbone(tf.zeros([1, 2, width]))
    if shaken:
        rng = np.random.default_rng(1)
        for variable in backbone.variables:
            variable.assign_add(rng.normal(0.0, 0.4, variable.shape).astype(np.float32))
    return backbone


@pytest.fixture
def embedded() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, STEPS, WIDTH)).astype(np.float32)


def _slow(backbone: Caser, window: np.ndarray) -> np.ndarray:
    """State of one window [W, D], filter by filter and place by place."""
    features = []
    for convolution in backbone.features.horizontal:
        kernel, bias = convolution.get_weights()
        height = kernel.shape[0]
        for number in range(kernel.shape[2]):
            found = [(window[place : place + height] * kernel[:, :, number]).sum() for place in range(len(window) - height + 1)]
            features.append(max(max(value + bias[number], 0.0) for value in found))
    vertical, bias = backbone.features.vertical.numpy(), backbone.features.vertical_bias.numpy()
    for entry in range(window.shape[1]):
        features += [max(window[:, entry] @ vertical[:, number] + bias[number], 0.0) for number in range(vertical.shape[1])]
    if backbone.projection is None:
        return np.array(features)
    kernel, bias = backbone.projection.get_weights()
    return np.array(features) @ kernel + bias


CONFIGS = [{}, {"project": False}, {"num_vertical": 2, "heights": (1, 4)}]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_state_is_that_of_the_last_items_with_zeros_before_the_first(config: dict, embedded: np.ndarray):
    backbone = _build(**config)
    states = backbone(tf.constant(embedded)).numpy()
    for row in range(3):
        padded = np.vstack([np.zeros((WINDOW - 1, WIDTH)), embedded[row]])
        for step in range(STEPS):
            assert states[row, step] == pytest.approx(_slow(backbone, padded[step : step + WINDOW]), abs=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_window_has_its_zeros_after_the_items(config: dict, embedded: np.ndarray):
    backbone = _build(**config)
    for length in range(WINDOW + 1):
        states = backbone.window(tf.constant(embedded[:, :WINDOW]), tf.fill([3], length)).numpy()
        for row in range(3):
            window = np.where(np.arange(WINDOW)[:, None] < length, embedded[row, :WINDOW], 0.0)
            assert states[row] == pytest.approx(_slow(backbone, window), abs=1e-5), f"length {length}"


def test_a_full_window_has_the_state_of_the_causal_pass(embedded: np.ndarray):
    backbone = _build()
    states = backbone(tf.constant(embedded)).numpy()
    for step in range(WINDOW - 1, STEPS):
        window = embedded[:, step - WINDOW + 1 : step + 1]
        assert backbone.window(tf.constant(window), tf.fill([3], WINDOW)).numpy() == pytest.approx(states[:, step], abs=1e-6)


def test_features_worked_out_by_hand():
    # One entry, windows of two, a horizontal filter of height 1 and weight 2, a vertical filter (1, 10), no biases.
    # Inputs 1 3 2 make the windows (0 1), (1 3), (3 2): maxima 2, 6, 6; sums 0 + 10, 1 + 30, 3 + 20.
    backbone = _build(width=1, window=2, heights=(1,), num_filters=1, project=False)
    backbone.features.set_weights([np.array([[1.0], [10.0]]), np.zeros(1), np.array([[[2.0]]]), np.zeros(1)])
    states = backbone(tf.constant([[[1.0], [3.0], [2.0]]])).numpy()
    assert states.tolist() == [[[2.0, 10.0], [6.0, 31.0], [6.0, 23.0]]]
    # The same without a history before 3: items 3, then a zero, make 6 and 3 + 0.
    assert backbone.window(tf.constant([[[3.0], [7.0]]]), tf.constant([1])).numpy().tolist() == [[6.0, 3.0]]


def test_a_window_of_another_size_counts_its_last_items(embedded: np.ndarray):
    backbone = _build()
    length = np.array([STEPS, 6, 2], np.int32)
    states = backbone.window(tf.constant(embedded), tf.constant(length)).numpy()
    for row in range(3):
        items = embedded[row, max(length[row] - WINDOW, 0) : length[row]]
        window = np.vstack([items, np.zeros((WINDOW - len(items), WIDTH))])
        assert states[row] == pytest.approx(_slow(backbone, window), abs=1e-5)
    # Narrower than the filters.
    short = backbone.window(tf.constant(embedded[:, :1]), tf.ones([3], tf.int32)).numpy()
    assert short[0] == pytest.approx(_slow(backbone, np.vstack([embedded[0, :1], np.zeros((WINDOW - 1, WIDTH))])), abs=1e-5)


def test_an_empty_history_is_a_window_of_zeros_whatever_the_padding(embedded: np.ndarray):
    backbone = _build(project=False)
    states = backbone.window(tf.constant(embedded[:, :WINDOW]), tf.zeros([3], tf.int32)).numpy()
    biases = np.concatenate([convolution.bias.numpy() for convolution in backbone.features.horizontal])
    expected = np.maximum(np.concatenate([biases, np.repeat(backbone.features.vertical_bias.numpy(), WIDTH)]), 0.0)
    assert states == pytest.approx(np.tile(expected, (3, 1)), abs=1e-6)


def test_the_published_network_has_112_features_and_small_weights():
    # 3 heights x 16 filters + 64 entries x 1 vertical filter.
    keras.utils.set_random_seed(0)
    backbone = Caser(CaserConfig(project=False), 64, 11)
    assert backbone.output_width == 112
    assert backbone(tf.zeros([1, 2, 64])).shape == (1, 2, 112)
    # A normal distribution cut off at two standard deviations has .88 of its standard deviation.
    kernels = np.concatenate([convolution.kernel.numpy().ravel() for convolution in backbone.features.horizontal])
    assert kernels.std() == pytest.approx(0.088, abs=0.003)
    assert np.abs(kernels).max() <= 0.2
    assert np.abs(backbone.features.vertical.numpy()).max() <= 0.2
    biases = [*(convolution.bias for convolution in backbone.features.horizontal), backbone.features.vertical_bias]
    assert np.concatenate([bias.numpy() for bias in biases]).tolist() == pytest.approx([0.1] * 49)
    assert Caser(CaserConfig(), 64, 11).output_width == 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"window": 3}, "a filter of height 4 does not fit into a window of 3 items"),
        ({"heights": []}, "heights: .*at least 1 item"),
        ({"heights": [0, 2]}, "heights.*greater than 0"),
    ],
)
def test_filters_that_do_not_fit_are_an_error(config: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        decode(CaserConfig, {"name": "caser", **config}, "test")
