"""Worked examples of the double-Q target and the TD loss."""

import numpy as np
import pytest

from models.frameworks import tf
from models.losses.td import bootstrap, double_q_value, huber_td, squared_td

# One step: r = .2, discount .5, Q(s, a) = .4, the online network says [.3, .1, .5] of the next state, the target network
# [.2, .9, .6]. The online network chooses item 2, the target network values it at .6.
NEXT_ONLINE, NEXT_TARGET = [[[0.3, 0.1, 0.5]]], [[[0.2, 0.9, 0.6]]]


def _double_q_target(reward: tf.Tensor, done: tf.Tensor, discount: float, next_online: tf.Tensor, next_target: tf.Tensor) -> tf.Tensor:
    return bootstrap(reward, done, discount, double_q_value(next_online, next_target))


def _target(done: float) -> tf.Tensor:
    return _double_q_target(tf.constant([[0.2]]), tf.constant([[done]]), 0.5, tf.constant(NEXT_ONLINE), tf.constant(NEXT_TARGET))


def test_the_target_network_values_the_item_that_the_online_network_chooses():
    # .2 + .5 * .6 = .5, where the target network's own maximum would give .2 + .5 * .9 = .65.
    assert _target(done=0.0).numpy() == pytest.approx(np.array([[0.5]]))


def test_the_loss_of_the_worked_example_is_half_the_squared_difference():
    # .5 * (.5 - .4)^2 = .005
    assert squared_td(tf.constant([[0.4]]), _target(done=0.0)).numpy() == pytest.approx(np.array([[0.005]]), rel=1e-5)


def test_the_last_event_of_a_session_is_worth_its_reward():
    # y = .2, loss .5 * (.2 - .4)^2 = .02
    target = _target(done=1.0)
    assert target.numpy() == pytest.approx(np.array([[0.2]]))
    assert squared_td(tf.constant([[0.4]]), target).numpy() == pytest.approx(np.array([[0.02]]), rel=1e-5)


def test_every_step_of_every_session_has_its_own_target():
    # Two sessions of two steps; items chosen: 0, 1 | 1, 0; discount 1 and no reward leave the target's value of them.
    online = tf.constant([[[2.0, 1.0], [0.0, 5.0]], [[-1.0, 0.0], [3.0, -3.0]]])
    target = tf.constant([[[10.0, 11.0], [20.0, 21.0]], [[30.0, 31.0], [40.0, 41.0]]])
    zero = tf.zeros([2, 2])
    assert _double_q_target(zero, zero, 1.0, online, target).numpy().tolist() == [[10.0, 21.0], [31.0, 40.0]]


def test_equal_values_choose_the_first_candidate():
    # The more popular item has the lower id, and comes first.
    equal, target = tf.constant([[[1.0, 1.0]]]), tf.constant([[[3.0, 4.0]]])
    assert _double_q_target(tf.zeros([1, 1]), tf.zeros([1, 1]), 1.0, equal, target).numpy().item() == 3.0


def test_neither_the_target_nor_its_networks_get_a_gradient():
    online, target_values, value = tf.Variable(NEXT_ONLINE), tf.Variable(NEXT_TARGET), tf.Variable([[0.4]])
    with tf.GradientTape() as tape:
        target = _double_q_target(tf.constant([[0.2]]), tf.zeros([1, 1]), 0.5, online, target_values)
        loss = squared_td(value, target)
    gradients = tape.gradient(loss, [online, target_values, value])
    assert gradients[:2] == [None, None]
    # d/dq .5 (y - q)^2 = q - y = -.1
    assert gradients[2].numpy() == pytest.approx(np.array([[-0.1]]), rel=1e-5)


def test_the_loss_stops_the_gradient_of_a_target_that_was_not_stopped():
    target = tf.Variable([[0.5]])
    with tf.GradientTape() as tape:
        loss = squared_td(tf.constant([[0.4]]), target)
    assert tape.gradient(loss, target) is None


# === Several heads ===


def test_every_head_chooses_for_itself():
    # Head 0 chooses item 2 and gets 30, head 1 chooses item 0 and gets 11.
    online = tf.constant([[[[1.0, 0.0, 3.0], [5.0, 4.0, 0.0]]]])
    target = tf.constant([[[[10.0, 20.0, 30.0], [11.0, 21.0, 31.0]]]])
    assert double_q_value(online, target).numpy().tolist() == [[[30.0, 11.0]]]
    # r = 1, discount .5; the second batch row ends its session.
    reward, done = tf.constant([[1.0], [1.0]]), tf.constant([[0.0], [1.0]])
    found = _double_q_target(reward, done, 0.5, tf.tile(online, [2, 1, 1, 1]), tf.tile(target, [2, 1, 1, 1]))
    assert found.numpy().tolist() == [[[16.0, 6.5]], [[1.0, 1.0]]]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (2, 3, 5, 4)])
def test_the_value_of_the_chosen_item_is_that_of_a_slow_computation(shape: tuple[int, ...]):
    rng = np.random.default_rng(len(shape))
    online, target = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    found = double_q_value(tf.constant(online), tf.constant(target)).numpy()
    assert found.shape == shape[:-1]
    for place in np.ndindex(shape[:-1]):
        assert found[place] == target[place][online[place].argmax()]


def test_the_worked_example_chooses_item_three():
    assert double_q_value(tf.constant(NEXT_ONLINE), tf.constant(NEXT_TARGET)).numpy() == pytest.approx(np.array([[0.6]]))


# === Bootstraps ===


@pytest.mark.parametrize(("discount", "expected"), [(0.0, [0.2, 1.0]), (0.5, [2.2, 1.0]), (1.0, [4.2, 1.0])])
def test_a_bootstrap_adds_what_comes_after_but_for_the_last_event(discount: float, expected: list[float]):
    # Two steps with rewards .2 and 1 and values of 4 and 7 after them; the second ends its session.
    found = bootstrap(tf.constant([[0.2, 1.0]]), tf.constant([[0.0, 1.0]]), discount, tf.constant([[4.0, 7.0]]))
    assert found.numpy() == pytest.approx(np.array([expected]))


def test_a_bootstrap_of_several_heads_has_one_target_for_each():
    found = bootstrap(tf.constant([[0.2, 1.0]]), tf.constant([[0.0, 1.0]]), 0.5, tf.constant([[[4.0, -4.0], [7.0, 9.0]]]))
    assert found.numpy() == pytest.approx(np.array([[[2.2, -1.8], [1.0, 1.0]]]))


def test_a_bootstrap_stops_the_gradient():
    value = tf.Variable([[4.0]])
    with tf.GradientTape() as tape:
        found = bootstrap(tf.constant([[0.2]]), tf.zeros([1, 1]), 0.5, value)
    assert tape.gradient(found, value) is None


# === Huber ===


@pytest.mark.parametrize(
    ("error", "loss", "slope"),
    [(0.0, 0.0, 0.0), (0.5, 0.125, 0.5), (-0.5, 0.125, -0.5), (1.0, 0.5, 1.0), (-1.0, 0.5, -1.0), (3.0, 2.5, 1.0), (-3.0, 2.5, -1.0)],
)
def test_the_huber_loss_is_a_square_up_to_one_and_linear_beyond(error: float, loss: float, slope: float):
    value = tf.Variable([2.0 + error])
    with tf.GradientTape() as tape:
        found = huber_td(value, tf.constant([2.0]))
    assert found.numpy() == pytest.approx([loss])
    assert tape.gradient(found, value).numpy() == pytest.approx([slope])


def test_the_huber_loss_stops_the_gradient_of_its_target():
    target = tf.Variable([[0.5]])
    with tf.GradientTape() as tape:
        loss = huber_td(tf.constant([[3.0]]), target)
    assert tape.gradient(loss, target) is None
