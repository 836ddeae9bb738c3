"""Returns, importance weights and the multiplier of sets against closed forms."""

import numpy as np
import pytest

from models.frameworks import tf
from models.losses.policy_gradient import discounted_sums, importance_weights, top_k_multiplier

# === Returns ===


@pytest.mark.parametrize(
    ("discount", "expected"),
    # Rewards 1, 2, 4.
    [(0.0, [1.0, 2.0, 4.0]), (0.5, [3.0, 4.0, 4.0]), (1.0, [7.0, 6.0, 4.0])],
)
def test_returns_are_discounted_sums_of_what_is_to_come(discount: float, expected: list[float]):
    assert discounted_sums(tf.constant([[1.0, 2.0, 4.0]]), discount).numpy() == pytest.approx(np.array([expected]))


@pytest.mark.parametrize("discount", [0.3, 0.9, 0.99])
def test_returns_obey_their_recursion(discount: float):
    reward = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    found = discounted_sums(tf.constant(reward), discount).numpy()
    assert found[:, -1] == pytest.approx(reward[:, -1])
    assert found[:, :-1] == pytest.approx(reward[:, :-1] + discount * found[:, 1:], abs=1e-5)


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_a_constant_reward_is_a_geometric_series(discount: float):
    # (1 - discount^n) / (1 - discount) with n steps to come.
    found = discounted_sums(tf.ones([1, 20]), discount).numpy()[0]
    assert found == pytest.approx((1 - discount ** np.arange(20, 0, -1)) / (1 - discount), rel=1e-5)


def test_sessions_have_returns_of_their_own():
    found = discounted_sums(tf.constant([[1.0, 1.0], [0.0, 5.0]]), 0.5).numpy()
    assert found == pytest.approx(np.array([[1.5, 1.0], [2.5, 5.0]]))


# === Importance weights ===


def _weights(probability: list[float], behaviour: list[float], mask: list[float], cap: float, self_normalised: bool = False) -> np.ndarray:
    logs = (tf.math.log(tf.constant([values])) for values in (probability, behaviour))
    found: np.ndarray = importance_weights(*logs, tf.constant([mask]), cap, self_normalised).numpy()[0]
    return found


def test_weights_are_ratios_up_to_the_cap():
    # .5 / .25 = 2, .1 / .4 = .25, .9 / .001 = 900 is cut to 7.389.
    found = _weights([0.5, 0.1, 0.9], [0.25, 0.4, 0.001], [1.0, 1.0, 1.0], 7.389)
    assert found == pytest.approx([2.0, 0.25, 7.389], rel=1e-5)


def test_normalised_weights_have_a_mean_of_one_over_the_steps_that_count():
    # Capped they are 2, .25, 4 and 4; the last does not count: their mean is 25 / 12.
    found = _weights([0.5, 0.1, 0.9, 0.9], [0.25, 0.4, 0.001, 0.001], [1.0, 1.0, 1.0, 0.0], 4.0, self_normalised=True)
    assert found == pytest.approx(np.array([2.0, 0.25, 4.0, 4.0]) * 12 / 25, rel=1e-5)
    assert found[:3].mean() == pytest.approx(1.0)


def test_nothing_that_counts_gives_finite_weights():
    assert np.isfinite(_weights([0.5], [0.25], [0.0], 4.0, self_normalised=True)).all()


@pytest.mark.parametrize("self_normalised", [False, True])
def test_a_behaviour_that_is_all_but_impossible_does_not_overflow(self_normalised: bool):
    found = importance_weights(tf.zeros([1, 2]), tf.constant([[-1e30, 0.0]]), tf.ones([1, 2]), 3.0, self_normalised).numpy()[0]
    assert found == pytest.approx([1.5, 0.5] if self_normalised else [3.0, 1.0])


# === Sets ===


@pytest.mark.parametrize(
    ("k", "probability", "expected"),
    [
        (16, 0.01, 13.7609),
        (16, 0.1, 3.29426),
        (16, 0.5, 4.8828e-4),
        (2, 0.3, 1.4),
        (1, 0.01, 1.0),
        (1, 1.0, 1.0),
        (16, 1.0, 0.0),
    ],
)
def test_the_multiplier_of_a_set_has_the_published_values(k: int, probability: float, expected: float):
    found = top_k_multiplier(tf.math.log(tf.constant([[probability]])), k).numpy().item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_multiplier_is_the_derivative_of_the_chance_to_be_in_the_set():
    # 1 - (1 - p)^K is the chance to be among K draws.
    for k in (1, 3, 16):
        probability = tf.Variable([0.001, 0.05, 0.4, 0.9])
        with tf.GradientTape() as tape:
            chance = 1.0 - (1.0 - probability) ** k
        expected = tape.gradient(chance, probability).numpy()
        assert top_k_multiplier(tf.math.log(probability), k).numpy() == pytest.approx(expected, rel=1e-3)


def test_a_probability_a_little_above_one_is_one():
    # Sums of float32 numbers may be.
    for k in (1, 4):
        found = top_k_multiplier(tf.constant([1e-6]), k).numpy()
        assert found.tolist() == [1.0 if k == 1 else 0.0]


def test_nothing_here_has_a_gradient():
    log_prob = tf.Variable([[-0.3, -2.0]])
    with tf.GradientTape(persistent=True) as tape:
        weight = importance_weights(log_prob, log_prob - 0.2, tf.ones([1, 2]), 3.0, True)
        multiplier = top_k_multiplier(log_prob, 4)
    assert tape.gradient(weight, log_prob) is None
    assert tape.gradient(multiplier, log_prob) is None
