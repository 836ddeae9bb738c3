"""Orders that are drawn, and the probabilities that are said of them."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from models.exploration import explored, uniform_of
from models.frameworks import tf

SCORES, TEMPERATURE, EPSILON = [0.0, 1.0, -1.0], 1.0, 0.2


def _weights() -> np.ndarray:
    share = np.exp(np.array(SCORES) / TEMPERATURE)
    return (1 - EPSILON) * share / share.sum() + EPSILON / len(SCORES)


def test_orders_come_as_often_as_their_propensities_say():
    count = 20_000
    rows = [[value] * count for value in SCORES]
    uniform = uniform_of(tf.constant([f"request {number}" for number in range(count)]), 3)
    found = explored(
        tf.transpose(tf.constant(rows)), tf.fill([count, 3], True), tf.fill([count], TEMPERATURE), tf.fill([count], EPSILON), uniform
    )
    place, propensity = found.place.numpy(), found.propensity.numpy()
    seen = Counter(map(tuple, place.tolist()))
    weight = _weights()
    for order in permutations(range(3)):
        # Plackett and Luce: one after the other, in proportion to the weights of those that are left.
        expected = np.prod([weight[item] / weight[list(order[number:])].sum() for number, item in enumerate(order)])
        # Four standard deviations of a share of 20,000.
        assert seen[order] / count == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / count))
        said = propensity[(place == order).all(axis=1)]
        assert np.allclose(said.prod(axis=1), expected, rtol=1e-4)


def test_empty_places_come_last_and_have_no_propensity():
    is_item = tf.constant([[False, True, False, True], [False] * 4])
    found = explored(tf.zeros([2, 4]), is_item, tf.ones([2]), tf.zeros([2]), uniform_of(tf.constant(["a", "b"]), 4))
    assert set(found.place.numpy()[0, :2].tolist()) == {1, 3}
    assert found.propensity.numpy().tolist() == [[0.5, 1.0, 0.0, 0.0], [0.0] * 4]


def test_scores_that_are_far_apart_leave_no_chance_and_no_nonsense():
    score = tf.constant([[0.0, -1e6, -1e30]])
    found = explored(score, tf.constant([[True, True, False]]), tf.constant([1e-3]), tf.constant([0.0]), uniform_of(tf.constant([""]), 3))
    assert found.place.numpy().tolist() == [[0, 1, 2]]
    assert found.propensity.numpy()[0].tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_numbers_are_even_never_0_or_1_and_those_of_their_text():
    numbers = uniform_of(tf.constant([str(number) for number in range(5000)]), 4).numpy()
    assert 0.0 < numbers.min() < numbers.max() < 1.0
    assert numbers.mean(axis=0) == pytest.approx([0.5] * 4, abs=0.02)
    assert numbers.std(axis=0) == pytest.approx([12**-0.5] * 4, abs=0.02)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.06
    assert (uniform_of(tf.constant(["7", "8"]), 4).numpy() == numbers[7:9]).all()
