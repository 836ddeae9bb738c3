"""The transformer over returns, states and actions: what sees what."""

import numpy as np
import pytest

from models.frameworks import tf
from models.layers.cache import AttentionCache, Reach
from models.layers.decision import DecisionLayer
from models.layers.returns import DiscretisedReturn

STEPS, WIDTH = 6, 4


def _layer(context_length: int, num_blocks: int = 1) -> DecisionLayer:
    layer = DecisionLayer(STEPS, context_length, num_blocks, num_heads=2, expansion=1, dropout=0.3)
    layer(*_tokens())
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign_add(rng.normal(0.0, 0.4, weight.shape))
    return layer


def _tokens() -> list[tf.Tensor]:
    return [tf.constant(np.random.default_rng(seed).normal(size=(2, STEPS, WIDTH)), tf.float32) for seed in (1, 2, 3)]


def _seen(layer: DecisionLayer, kind: int) -> np.ndarray:
    """[state, step] True where the state depends on the token of a kind of a step."""
    plain, seen = layer(*_tokens()).numpy(), np.zeros((STEPS, STEPS), bool)
    for step in range(STEPS):
        tokens = _tokens()
        changed = tokens[kind].numpy()
        # Not along a vector of ones, which a normalised token would not show.
        changed[:, step, 0] += 1.0
        tokens[kind] = tf.constant(changed)
        seen[:, step] = np.abs(layer(*tokens).numpy() - plain).max(axis=(0, 2)) > 1e-5
    return seen


@pytest.mark.parametrize("context_length", [1, 2, 3, STEPS])
def test_a_state_sees_its_return_itself_and_earlier_actions_of_the_last_steps(context_length: int):
    layer = _layer(context_length)
    step = np.arange(STEPS)
    back = step[:, None] - step[None, :]
    near = (back >= 0) & (back < context_length)
    assert (_seen(layer, 0) == near).all()
    assert (_seen(layer, 1) == near).all()
    # What is done at a step comes after its state.
    assert (_seen(layer, 2) == (near & (back > 0))).all()


def test_blocks_reach_further_together():
    back = np.arange(STEPS)[:, None] - np.arange(STEPS)[None, :]
    assert (_seen(_layer(2, num_blocks=3), 1) == ((back >= 0) & (back <= 3))).all()


def test_dropout_is_for_training_alone():
    layer = _layer(3)
    assert (layer(*_tokens()).numpy() == layer(*_tokens()).numpy()).all()
    assert np.abs(layer(*_tokens(), training=True).numpy() - layer(*_tokens()).numpy()).max() > 1e-3


@pytest.mark.parametrize("context_length", [1, 2, STEPS])
def test_steps_one_by_one_are_the_whole_pass(context_length: int):
    layer = _layer(context_length, num_blocks=2)
    returns, states, actions = _tokens()
    whole, caches = layer(returns, states, actions).numpy(), layer.begin(2)
    for step in range(STEPS):
        action = actions[:, step - 1] if step else tf.fill([2, WIDTH], 1e6)
        found, caches = layer.extend(action, returns[:, step], states[:, step], tf.fill([2], step), caches)
        assert found.numpy() == pytest.approx(whole[:, step], abs=1e-5)
    assert caches[0].key.shape[2] == min(3 * (context_length + 1), 3 * STEPS)


def test_a_new_token_takes_the_place_of_the_oldest():
    cache = AttentionCache.empty(1, 2, 1, 1)
    for order in range(3):
        value = tf.fill([1, 1, 1, 1], float(order))
        cache = cache.write(value, 10.0 * value, tf.constant([[order]]))
    assert cache.order.numpy().tolist() == [[2, 1]]
    assert cache.key.numpy().ravel().tolist() == [2.0, 1.0]
    assert cache.value.numpy().ravel().tolist() == [20.0, 10.0]
    left_out = cache.write(tf.fill([1, 1, 1, 1], 7.0), tf.fill([1, 1, 1, 1], 7.0), tf.constant([[-1]]))
    assert left_out.key.numpy().ravel().tolist() == [2.0, 1.0]


def test_reach_counts_in_steps():
    order = tf.range(9)
    seen = Reach(2, 3).sees(order[:, None], order[None, :]).numpy()
    assert np.flatnonzero(seen[7]).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(Reach().sees(order[:, None], order[None, :]).numpy()[7]).tolist() == list(range(8))


def test_near_returns_are_mixed_alike_and_far_ones_are_not():
    layer = DiscretisedReturn(5, 10)
    layer(tf.zeros([1]))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.normal(0.0, 1.0, weight.shape))
    weights = layer.weights_of(tf.constant([1.0, 1.001, -3.0])).numpy()
    assert weights.sum(axis=-1) == pytest.approx(np.ones(3), rel=1e-5)
    assert np.abs(weights[0] - weights[1]).max() < 0.01
    assert np.abs(weights[0] - weights[2]).max() > 0.1
    assert layer(tf.constant([1.0])).numpy() == pytest.approx(weights[:1] @ layer.vectors.numpy(), rel=1e-5)


@pytest.mark.parametrize("layer", [DecisionLayer(4, 2, activation="gelu"), DiscretisedReturn(5, 10)], ids=["decision", "returns"])
def test_a_configuration_rebuilds_its_layer(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
