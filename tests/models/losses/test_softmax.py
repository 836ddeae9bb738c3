"""The full and the sampled log-probability against closed forms."""

import numpy as np
import pytest

from models.frameworks import tf
from models.losses.softmax import full_log_prob, sampled_log_prob


def _full(logits: np.ndarray, target: int) -> float:
    """log softmax(logits)[target - 1] through states and vectors that give just these logits."""
    states = tf.constant(logits[None, None, :], tf.float32)
    return float(full_log_prob(states, tf.eye(len(logits)), tf.constant([[target]])))


def _sampled_steps(states: tf.Tensor, table: tf.Tensor, target: np.ndarray, negatives: np.ndarray, expected: np.ndarray) -> tf.Tensor:
    """The sampled form; `negatives` are ids, `expected` counts draws of items 1..N-1."""
    return sampled_log_prob(
        states,
        tf.gather(table, target - 1),
        tf.constant(target, tf.int32),
        tf.gather(table, negatives - 1),
        tf.constant(negatives, tf.int32),
        tf.constant(expected[negatives - 1], tf.float32),
    )


def _sampled(logits: np.ndarray, target: int, negatives: np.ndarray, expected: np.ndarray) -> float:
    """The sampled form of one step through states and vectors that give just these logits."""
    states, table = tf.constant(logits[None, None, :], tf.float32), tf.eye(len(logits))
    return float(_sampled_steps(states, table, np.array([[target]]), np.array(negatives), np.array(expected)))


def test_the_full_log_probability_is_that_of_a_softmax():
    # softmax(log [1, 2, 5]) = [1/8, 2/8, 5/8]
    logits = np.log([1.0, 2.0, 5.0])
    assert [np.exp(_full(logits, target)) for target in (1, 2, 3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], rel=1e-5)


def test_full_log_probabilities_of_all_items_sum_to_one():
    rng = np.random.default_rng(0)
    states, table = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)
    total = sum(np.exp(full_log_prob(states, table, tf.fill([2, 3], item)).numpy()) for item in range(1, 8))
    assert total == pytest.approx(np.ones((2, 3)), rel=1e-5)


@pytest.mark.parametrize("target", [0, 4, 5])
def test_a_target_that_is_no_item_gives_a_finite_value(target: int):
    # Padding and unknown items are masked later; NaN times a mask would still be NaN.
    assert np.isfinite(_full(np.log([1.0, 2.0, 5.0]), target))


def test_a_large_logit_does_not_overflow():
    assert _full(np.array([1000.0, 0.0, 0.0]), 1) == pytest.approx(0.0)
    assert _full(np.array([1000.0, 0.0, 0.0]), 2) == pytest.approx(-1000.0)


@pytest.mark.parametrize("target", [1, 2, 3, 4])
def test_a_sample_of_every_item_once_is_the_full_softmax(target: int):
    logits = np.array([0.3, -1.0, 0.7, 0.1])
    sampled = _sampled(logits, target, np.arange(1, 5), np.ones(4))
    assert sampled == pytest.approx(_full(logits, target), abs=1e-5)


@pytest.mark.parametrize("target", [1, 2, 3])
def test_a_sample_of_every_item_as_often_as_expected_is_the_full_softmax(target: int):
    # 6 draws: item 1 three times, item 2 twice, item 3 once. Each draw of an item counts 1 / expected, so each item counts once.
    logits, expected = np.array([0.3, -1.0, 0.7]), np.array([3.0, 2.0, 1.0])
    sampled = _sampled(logits, target, np.array([1, 1, 1, 2, 2, 3]), expected)
    assert sampled == pytest.approx(_full(logits, target), abs=1e-5)


def test_the_estimated_normaliser_is_unbiased():
    # exp(logit - log-probability) estimates the sum of exp(logit) over the catalogue. 40 items, 8 draws: an item is expected
    # .1 to .4 times. The standard error over 1,000 samples is about 1 %, five of them are allowed.
    rng = np.random.default_rng(0)
    logits, weights, target = rng.normal(size=40), np.linspace(1.0, 4.0, 40), 7
    probability = weights / weights.sum()
    expected = 8 * probability
    draws = rng.choice(np.arange(1, 41), size=(1000, 8), p=probability)
    estimates = [np.exp(logits[target - 1] - _sampled(logits, target, negatives, expected)) for negatives in draws]
    true = np.exp(logits).sum()
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert error < 0.02 * true
    assert abs(np.mean(estimates) - true) < 5 * error


def test_a_negative_that_is_the_target_has_no_effect():
    logits, expected = np.array([2.0, -1.0, 0.7]), np.ones(3)
    without = _sampled(logits, 1, np.array([2, 3]), expected)
    for hits in (1, 50):
        assert _sampled(logits, 1, np.array([2, 3] + [1] * hits), expected) == pytest.approx(without, abs=1e-6)


def test_a_hit_of_one_step_is_a_negative_of_the_others():
    # Both steps see negatives {1, 2}; item 1 is the first step's target and not the second's.
    states = tf.constant(np.tile(np.log([1.0, 2.0, 5.0]), (1, 2, 1)), tf.float32)
    found = _sampled_steps(states, tf.eye(3), np.array([[1, 3]]), np.array([1, 2]), np.ones(3))
    # First step: 1 / (1 + 2). Second: 5 / (5 + 1 + 2).
    assert np.exp(found.numpy()) == pytest.approx(np.array([[1 / 3, 5 / 8]]), rel=1e-5)


def test_a_draw_of_a_rare_item_counts_more_than_that_of_a_common_one():
    # Expected .5 and 1 draws: exp(logit) counts twice and once, so 4 / (4 + 2 * 1 + 1 * 3) for a target that is always there.
    logits, expected = np.log([1.0, 3.0, 4.0]), np.array([0.5, 1.0, 1.0])
    assert np.exp(_sampled(logits, 3, np.array([1, 2]), expected)) == pytest.approx(4 / 9, rel=1e-5)


def test_hits_push_no_gradient_into_the_target():
    # Every negative is the target: the probability is 1 whatever the logit, and nothing is left to learn.
    vectors = tf.Variable(tf.eye(2))
    with tf.GradientTape() as tape:
        found = _sampled_steps(tf.constant([[[1.0, 0.0]]]), vectors, np.array([[1]]), np.array([1, 1]), np.ones(2))
    assert float(found) == pytest.approx(0.0, abs=1e-6)
    assert np.abs(tf.convert_to_tensor(tape.gradient(found, vectors)).numpy()).max() < 1e-6


def test_an_item_that_is_never_drawn_gives_a_finite_value():
    # The expectation of padding and of unknown items is 0; they are masked later.
    assert np.isfinite(_sampled(np.array([0.3, -1.0, 0.7]), 1, np.array([2, 3]), np.array([0.0, 1.0, 1.0])))
