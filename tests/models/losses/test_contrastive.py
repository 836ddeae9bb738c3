"""The contrastive loss against its closed form."""

import numpy as np
import pytest

from models.frameworks import tf
from models.losses.contrastive import info_nce

# Unit vectors at angles to the first axis, so that cosines can be read off.
NEAR, RIGHT_ANGLE, AWAY = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def _loss(predicted: list[float], positive: list[float], instead: list[list[float]], usable: list[float], temperature: float) -> float:
    arguments = (tf.constant(value)[None, None] for value in (predicted, positive, instead, usable))
    return float(info_nce(*arguments, temperature).numpy().item())


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_the_loss_is_that_of_a_softmax_over_cosines(temperature: float):
    # Cosines 1 for what happened, 0 and -1 for what did not.
    found = _loss(NEAR, NEAR, [RIGHT_ANGLE, AWAY], [1.0, 1.0], temperature)
    scores = np.exp(np.array([1.0, 0.0, -1.0]) / temperature)
    assert found == pytest.approx(-np.log(scores[0] / scores.sum()), rel=1e-4, abs=1e-6)


def test_worked_numbers():
    # Temperature 1, a prediction at a right angle and one that is right: -log(e^0 / (e^0 + e^1)) = log(1 + e) = 1.31326.
    assert _loss(RIGHT_ANGLE, NEAR, [NEAR], [1.0], 1.0) == pytest.approx(1.31326, abs=1e-5)


def test_a_negative_that_is_what_happened_does_not_count():
    one, other = (_loss(NEAR, NEAR, [RIGHT_ANGLE, second], [1.0, 0.0], 0.5) for second in (AWAY, NEAR))
    assert one == pytest.approx(other)
    assert one == pytest.approx(_loss(NEAR, NEAR, [RIGHT_ANGLE], [1.0], 0.5), rel=1e-5)


def test_without_a_negative_there_is_nothing_to_tell_apart():
    assert _loss(RIGHT_ANGLE, NEAR, [AWAY], [0.0], 0.5) == pytest.approx(0.0, abs=1e-6)


def test_lengths_do_not_matter():
    one = _loss(NEAR, RIGHT_ANGLE, [AWAY, NEAR], [1.0, 1.0], 0.5)
    long = _loss([7.0, 0.0], [0.0, 0.1], [[-30.0, 0.0], [0.5, 0.0]], [1.0, 1.0], 0.5)
    assert long == pytest.approx(one, rel=1e-5)


def test_as_good_a_prediction_as_all_others_has_the_loss_of_chance():
    # log of 1 + the number of negatives.
    assert _loss(NEAR, RIGHT_ANGLE, [NEAR] * 9, [1.0] * 9, 0.3) == pytest.approx(np.log(10.0), rel=1e-5)


def test_every_step_is_compared_with_its_own_next_state():
    rng = np.random.default_rng(0)
    predicted, positive = (rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(2))
    instead = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    usable = (rng.random((2, 3, 5)) > 0.3).astype(np.float32)
    found = info_nce(*(tf.constant(value) for value in (predicted, positive, instead, usable)), 0.4).numpy()
    for row, step in np.ndindex(2, 3):
        expected = _loss(
            predicted[row, step].tolist(), positive[row, step].tolist(), instead[row, step].tolist(), usable[row, step].tolist(), 0.4
        )
        assert found[row, step] == pytest.approx(expected, rel=1e-4)


def test_a_state_of_zero_gives_a_finite_loss_and_gradient():
    predicted = tf.Variable([[[0.0, 0.0]]])
    with tf.GradientTape() as tape:
        loss = info_nce(predicted, tf.zeros([1, 1, 2]), tf.zeros([1, 1, 3, 2]), tf.ones([1, 1, 3]), 0.1)
    assert np.isfinite(loss.numpy()).all()
    assert np.isfinite(tape.gradient(loss, predicted).numpy()).all()
