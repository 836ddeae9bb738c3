"""The Gaussian head against closed forms and numerical integrals."""

from statistics import NormalDist

import numpy as np
import pytest

from models.frameworks import tf
from models.heads.gaussian import GaussianHead, GaussianState

MEAN = np.array([[0.3, -1.2], [2.0, 0.0]], np.float32)
LOG_DEVIATION = np.array([[-0.5, 0.4], [-2.0, 1.0]], np.float32)


def _normal(row: int, column: int) -> NormalDist:
    return NormalDist(float(MEAN[row, column]), float(np.exp(LOG_DEVIATION[row, column])))


def _integral(values: np.ndarray | list[float], at: np.ndarray) -> float:
    """By trapezia."""
    values = np.asarray(values, np.float64)
    return float((0.5 * (values[1:] + values[:-1]) * np.diff(at)).sum())


def _state() -> GaussianState:
    return GaussianState(tf.constant(MEAN), tf.constant(LOG_DEVIATION))


def test_the_density_of_a_plain_action_is_that_of_independent_normals():
    action = np.array([[0.1, 0.5], [2.3, -4.0]], np.float32)
    expected = [sum(np.log(_normal(row, column).pdf(action[row, column])) for column in (0, 1)) for row in (0, 1)]
    assert GaussianHead(2, squashed=False).log_prob(_state(), tf.constant(action)).numpy() == pytest.approx(expected, rel=1e-5)


def test_the_entropy_of_a_plain_action_is_the_closed_form():
    # Half the logarithm of 2 pi e times the variance, for each dimension.
    expected = (0.5 * np.log(2 * np.pi * np.e * np.exp(LOG_DEVIATION) ** 2)).sum(axis=-1)
    assert GaussianHead(2, squashed=False).entropy(_state()).numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.5), (0.7, 0.3), (-0.4, 1.5)])
def test_the_density_of_a_squashed_action_is_one_over_all_actions(mean: float, deviation: float):
    head = GaussianHead(1)
    state = GaussianState(tf.constant([[mean]]), tf.constant([[np.log(deviation)]], tf.float32))
    # Evenly spaced before the tanh, so that the edges are not missed.
    action = np.tanh(np.linspace(-6.0, 6.0, 20_001))
    density = np.exp(head.log_prob(state, tf.constant(action[:, None], tf.float32)).numpy())
    assert _integral(density, action) == pytest.approx(1.0, abs=2e-3)
    # The chance to stay below an action is that of the normal below its inverse.
    below = action <= 0.4
    assert _integral(density[below], action[below]) == pytest.approx(NormalDist(mean, deviation).cdf(np.arctanh(0.4)), abs=2e-3)


def test_the_entropy_of_a_squashed_action_is_estimated_without_bias():
    head, rng = GaussianHead(1), np.random.default_rng(0)
    draws = 200_000
    state = GaussianState(tf.fill([draws, 1], 0.4), tf.fill([draws, 1], np.float32(np.log(0.6))))
    found = head.entropy(state, tf.constant(rng.standard_normal((draws, 1)), tf.float32)).numpy()
    # Entropy of u plus the mean of the logarithm of the slope of tanh.
    raw = np.linspace(-5.0, 6.0, 20_001)
    slope = _integral([NormalDist(0.4, 0.6).pdf(u) * np.log(1 - np.tanh(u) ** 2) for u in raw], raw)
    expected = 0.5 * np.log(2 * np.pi * np.e * 0.6**2) + slope
    assert found.mean() == pytest.approx(expected, abs=5 * found.std() / np.sqrt(draws))
    with pytest.raises(ValueError, match="`noise` is needed"):
        head.entropy(state)


def test_samples_have_the_stated_distribution_and_stay_inside():
    noise = np.random.default_rng(1).standard_normal((50_000, 2, 2)).astype(np.float32)
    state = GaussianState(*(tf.broadcast_to(part, noise.shape) for part in _state()))
    plain = GaussianHead(2, squashed=False).sample(state, tf.constant(noise)).numpy()
    assert plain.mean(axis=0) == pytest.approx(MEAN, abs=0.06)
    assert plain.std(axis=0) == pytest.approx(np.exp(LOG_DEVIATION), rel=0.02)
    squashed = GaussianHead(2).sample(state, tf.constant(noise)).numpy()
    assert squashed == pytest.approx(np.tanh(plain), abs=1e-6)


def test_deviations_stay_in_their_range_and_keep_a_gradient():
    head = GaussianHead(3)
    states = tf.constant(np.random.default_rng(2).normal(0.0, 3.0, (5, 4)), tf.float32)
    # Fresh deviations are in the middle of their range, whatever the state: e^-1.5.
    assert head(states).log_deviation.numpy() == pytest.approx(np.full((5, 3), -1.5))
    head.log_deviation.kernel.assign(np.random.default_rng(3).normal(0.0, 0.5, (4, 3)))
    with tf.GradientTape() as tape:
        state = head(states)
        total = tf.reduce_sum(state.log_deviation)
    assert (state.log_deviation.numpy() >= -5.0).all()
    assert (state.log_deviation.numpy() <= 2.0).all()
    assert np.abs(tape.gradient(total, head.log_deviation.kernel).numpy()).min() > 0.0
    assert head.mode(state).numpy() == pytest.approx(np.tanh(head.mean(states).numpy()), abs=1e-6)
    # Fresh means are small and orthogonal: columns of length .1.
    kernel = head.mean.kernel.numpy()
    assert kernel.T @ kernel == pytest.approx(0.01 * np.eye(3), abs=1e-6)


def test_a_density_at_the_edge_is_finite():
    head = GaussianHead(1)
    state = GaussianState(tf.zeros([2, 1]), tf.zeros([2, 1]))
    assert np.isfinite(head.log_prob(state, tf.constant([[1.0], [-1.0]])).numpy()).all()


def test_the_configuration_of_the_head_rebuilds_it():
    head = GaussianHead(3, squashed=False, least_log_deviation=-4.0)
    again = GaussianHead.from_config(head.get_config())
    assert again.get_config() == head.get_config()
