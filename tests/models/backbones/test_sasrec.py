"""The attentive backbone: the published variant against NumPy, and what the two variants share."""

import numpy as np
import pytest

from models.backbones.sasrec import SASRec, SASRecConfig
from models.frameworks import keras, tf

WIDTH, STEPS = 6, 7


def _build(shaken: bool = True, **config) -> SASRec:
    keras.utils.set_random_seed(0)
    plain = {"variant": "published", "num_blocks": 1, "num_heads": 1, "expansion": 1, "dropout": 0.0}
    backbone = SASRec(SASRecConfig(**{**plain, **config}), WIDTH, STEPS)
    backbone(tf.zeros([1, 2, WIDTH]))
    if shaken:
        rng = np.random.default_rng(1)
        for variable in backbone.variables:
            variable.assign_add(rng.normal(0.0, 0.4, variable.shape).astype(np.float32))
    return backbone


@pytest.fixture
def embedded() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, STEPS, WIDTH)).astype(np.float32)


def _normalise(layer, inputs: np.ndarray) -> np.ndarray:
    gamma, beta = layer.get_weights()
    return gamma * (inputs - inputs.mean(axis=-1, keepdims=True)) / np.sqrt(inputs.var(axis=-1, keepdims=True) + 1e-8) + beta


def _dense(layer, inputs: np.ndarray) -> np.ndarray:
    kernel, *bias = layer.get_weights()
    return inputs @ kernel.astype(np.float64) + (bias[0] if bias else 0.0)


def _slow_block(block, states: np.ndarray, real: np.ndarray) -> np.ndarray:
    normalised = _normalise(block.attention_norm, states)
    query, key, value = _dense(block.query, normalised), _dense(block.key, states), _dense(block.value, states)
    attended = np.zeros_like(states)
    for head in np.split(np.arange(WIDTH), block.num_heads):
        for step in range(len(states)):
            seen = [other for other in range(step + 1) if real[other]]
            if seen and real[step]:
                score = np.exp(key[np.ix_(seen, head)] @ query[step, head] / np.sqrt(len(head)))
                attended[step, head] = score / score.sum() @ value[np.ix_(seen, head)]
    inputs = _normalise(block.feed_forward_norm, normalised + attended)
    return (inputs + _dense(block.contract, np.maximum(_dense(block.expand, inputs), 0.0))) * real[:, None]


def _slow(backbone: SASRec, inputs: np.ndarray, length: int | None = None) -> np.ndarray:
    """[T, D] states of one sequence [T, D] of which the first `length` are items."""
    real = np.arange(len(inputs)) < (len(inputs) if length is None else length)
    states = (inputs + backbone.positions.get_weights()[0][: len(inputs)]) * real[:, None]
    for block in backbone.blocks:
        states = _slow_block(block, states, real)
    return _normalise(backbone.norm, states)


CONFIGS = [{}, {"num_blocks": 2, "num_heads": 3, "expansion": 2}]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_published_states_follow_the_definition(config: dict, embedded: np.ndarray):
    backbone = _build(**config)
    states = backbone(tf.constant(embedded)).numpy()
    for row in range(3):
        assert states[row] == pytest.approx(_slow(backbone, embedded[row]), abs=3e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_published_window_is_masked_and_read_at_its_last_item(config: dict, embedded: np.ndarray):
    backbone = _build(**config)
    for length in range(STEPS + 1):
        states = backbone.window(tf.constant(embedded), tf.fill([3], length)).numpy()
        for row in range(3):
            # Read at the first place where there is no item, as lengths are at least 1 in the published code.
            expected = _slow(backbone, embedded[row], length)[max(length, 1) - 1]
            assert states[row] == pytest.approx(expected, abs=3e-5), f"length {length}"


def test_an_empty_published_history_is_what_the_last_normalisation_makes_of_zero(embedded: np.ndarray):
    backbone = _build()
    states = backbone.window(tf.constant(embedded), tf.zeros([3], tf.int32)).numpy()
    assert states == pytest.approx(np.tile(backbone.norm.beta.numpy(), (3, 1)), abs=1e-6)
    untrained = _build(shaken=False)
    assert (untrained.window(tf.constant(embedded), tf.zeros([3], tf.int32)).numpy() == 0.0).all()


def test_an_empty_history_leaves_the_gradient_finite(embedded: np.ndarray):
    # The slope of the normalisation at zero is 1 / sqrt(1e-8) = 10,000.
    backbone = _build()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone.window(tf.constant(embedded), tf.constant([0, 0, 3])) ** 2)
    for gradient in tape.gradient(loss, backbone.trainable_variables):
        value = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(value).all()
        assert np.abs(value).max() < 1e3


def test_a_window_of_the_other_variant_has_the_state_of_the_causal_pass(embedded: np.ndarray):
    backbone = _build(variant="prenorm", num_blocks=2, num_heads=2)
    length = np.array([0, 4, STEPS], np.int32)
    states = backbone.window(tf.constant(embedded), tf.constant(length)).numpy()
    causal = backbone(tf.constant(embedded)).numpy()
    assert states == pytest.approx(causal[np.arange(3), [0, 3, STEPS - 1]], abs=1e-6)


def test_the_variants_start_as_stated():
    published, prenorm = _build(shaken=False), _build(shaken=False, variant="prenorm")
    assert published.positions.embeddings.numpy().std() == pytest.approx(0.01, rel=0.3)
    assert prenorm.positions.embeddings.numpy().std() == pytest.approx(0.02, rel=0.3)
    assert (published.norm.epsilon, prenorm.norm.epsilon) == (1e-8, 1e-6)


def test_checkpoints_of_the_default_variant_keep_their_names():
    # Positions; of a block two normalisations with two weights and four matrices with biases; the last normalisation.
    backbone = _build(variant="prenorm", num_blocks=2)
    names = [name for name in backbone.named_variables() if not name.startswith("dropout")]
    blocks = [f"blocks_{block}/{number}" for block in range(2) for number in range(12)]
    assert names == ["positions/0", *blocks, "norm/0", "norm/1"]
