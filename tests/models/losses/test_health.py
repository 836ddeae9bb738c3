"""The numbers that tell whether values grow out of bounds."""

import pytest

from models.frameworks import tf
from models.losses.health import value_health


def _health(discount: float = 0.5, **changes: tf.Tensor) -> dict[str, float]:
    """Two steps that count and one that does not, with one head."""
    plain = {
        "logged": tf.constant([[[1.0], [-3.0], [99.0]]]),
        "target": tf.constant([[[1.5], [-1.0], [0.0]]]),
        "greatest": tf.constant([[[2.0], [4.0], [99.0]]]),
        "reward": tf.constant([[0.2, -1.0, 0.0]]),
        "mask": tf.constant([[1.0, 1.0, 0.0]]),
    }
    return {name: float(value) for name, value in value_health(**{**plain, **changes}, discount=discount).items()}


def test_means_are_over_the_steps_that_count():
    # Values 1 and -3: mean -1, mean size 2. Errors .5 and 2. Greatest values 2 and 4.
    found = _health()
    assert found["q_mean"] == pytest.approx(-1.0)
    assert found["q_scale"] == pytest.approx(2.0)
    assert found["td_error"] == pytest.approx(1.25)
    assert found["q_max"] == pytest.approx(3.0)


def test_the_drift_is_the_distance_of_the_greatest_values():
    # Greatest values 2 and 4; the target network says 1.5 and 6 of the same items: .5 and 2.
    found = _health(frozen=tf.constant([[[1.5], [6.0], [0.0]]]))
    assert found["target_drift"] == pytest.approx(1.25)
    assert "target_drift" not in _health()


def test_means_are_over_the_heads_too():
    # The second head says 3 and 1: mean of all four (1 - 3 + 3 + 1) / 4 = .5, mean size 2; one target for both heads.
    found = _health(
        logged=tf.constant([[[1.0, 3.0], [-3.0, 1.0], [99.0, 99.0]]]), greatest=tf.constant([[[2.0, 0.0], [4.0, 2.0], [99.0, 99.0]]])
    )
    assert found["q_mean"] == pytest.approx(0.5)
    assert found["q_scale"] == pytest.approx(2.0)
    # Errors .5 and 1.5 in the first step, 2 and 2 in the second.
    assert found["td_error"] == pytest.approx(1.5)
    assert found["q_max"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("discount", "expected"),
    # The greatest reward has a size of 1; three steps. 1 / (1 - .5) = 2; 1 / (1 - .9) = 10, but there are only three steps.
    [(0.0, 1.0), (0.5, 2.0), (0.9, 3.0), (1.0, 3.0)],
)
def test_no_return_passes_the_bound(discount: float, expected: float):
    assert _health(discount)["q_bound"] == pytest.approx(expected)


def test_nothing_that_counts_gives_zeros():
    found = _health(mask=tf.zeros([1, 3]))
    assert [found[name] for name in ("q_mean", "q_scale", "td_error", "q_max")] == [0.0] * 4


def test_health_has_no_gradient():
    logged = tf.Variable([[[1.0], [-3.0]]])
    with tf.GradientTape() as tape:
        found = value_health(logged, logged * 2.0, logged, tf.ones([1, 2]), tf.ones([1, 2]), 0.5)
        total = tf.add_n([value for name, value in found.items() if name != "q_bound"])
    assert tape.gradient(total, logged) is None
