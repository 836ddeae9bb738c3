"""Returns: what the logs say of them, and what is left of one."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.frameworks import tf
from models.returns import Returns

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")

NAN = float("nan")


def _wide(discount: float = 1.0) -> Returns:
    """Returns of a log in which all between -100 and 100 occurred."""
    returns = Returns(8, discount)
    returns.least.assign([-100.0])
    returns.greatest.assign([100.0])
    return returns


def _along(returns: Returns, start: float, reward: list[float]) -> list[float]:
    found: list[float] = returns.along(tf.constant([start]), tf.constant([reward], tf.float32)).numpy()[0].tolist()
    return found


def test_what_is_left_is_the_target_minus_the_rewards_so_far():
    # The returns-to-go of these rewards, when their sum was asked for.
    assert _along(_wide(), 2.0, [0, 1, 0, 1]) == pytest.approx([2, 2, 1, 1, 0])
    assert _along(_wide(), 5.0, [0, 1, 0, 1]) == pytest.approx([5, 5, 4, 4, 3])


def test_discounted_returns_grow_by_the_discount_when_a_reward_is_taken_off():
    # G_2 = 4, G_1 = 1 + .5 * 4 = 3, G_0 = 2 + .5 * 3 = 3.5.
    assert _along(_wide(0.5), 3.5, [2, 1, 4]) == pytest.approx([3.5, 3, 4, 0])


def test_the_logged_rewards_give_the_logged_returns_of_any_session():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(5, 7)).astype(np.float32)
    expected = np.cumsum(reward[:, ::-1], axis=1)[:, ::-1]
    found = _wide().along(tf.constant(expected[:, 0]), tf.constant(reward)).numpy()
    assert found[:, :-1] == pytest.approx(expected, abs=1e-5)
    assert found[:, -1] == pytest.approx(np.zeros(5), abs=1e-5)


def test_what_is_left_stays_within_what_was_logged_or_asked_for():
    returns = Returns(8, 1.0)  # of a log with returns from 0 to 1
    assert _along(returns, 3.0, [-1, 2, 2, 2]) == pytest.approx([3, 3, 1, 0, 0])


def test_no_events_leave_the_whole_return():
    assert _along(_wide(), 3.0, []) == [3.0]


def test_unknown_rewards_leave_the_usual_share():
    returns = _wide()
    returns.share.assign([1.0, 0.8, 0.5, 0.5, 0.2, 0.0, 0.0, 0.0, 0.0])
    assert _along(returns, 10.0, [NAN] * 4) == pytest.approx([10, 8, 5, 5, 2])
    # A known reward counts as it is: 8 - 6 is left, and the next event takes .3 of the whole again.
    assert _along(returns, 10.0, [NAN, 6, NAN, NAN]) == pytest.approx([10, 8, 2, 2, -1])


def test_unknown_rewards_of_discounted_returns_leave_the_usual_share_too():
    returns = _wide(0.5)
    returns.share.assign([1.0, 0.8, 0.5, 0.5, 0.2, 0.0, 0.0, 0.0, 0.0])
    assert _along(returns, 10.0, [NAN] * 4) == pytest.approx([10, 8, 5, 5, 2], rel=1e-5)


def test_one_event_at_a_time_gives_the_same():
    returns = toy.shake(_wide())
    start, reward = tf.constant([2.0, -1.0]), np.array([[0.5, NAN, 0.1], [NAN, NAN, 3.0]], np.float32)
    whole = returns.along(start, tf.constant(reward)).numpy()
    left = start
    for step in range(3):
        usual = returns.usual_reward(start, tf.fill([2], step))
        left = returns.after(left, tf.where(np.isnan(reward[:, step]), usual, reward[:, step]), start)
        assert left.numpy() == pytest.approx(whole[:, step + 1], abs=1e-5)


@pytest.mark.parametrize("nothing", [NAN, float("inf"), float("-inf")])
def test_a_target_that_is_no_number_is_the_default(nothing: float):
    returns = _wide()
    returns.target.assign([7.0])
    assert returns.start(tf.constant([nothing, 2.0])).numpy().tolist() == [7.0, 2.0]


def test_the_log_says_scale_target_shares_and_range():
    # 30 sessions of two events with returns 1..30 and half of it; the first event of the last session is context.
    first = np.arange(1.0, 31.0)
    sessions = [[1, 2]] * 30
    batch = toy.batch(sessions, [[value / 2, value / 2] for value in first], num_context=[*[0] * 29, 1])
    returns = Returns(4, 1.0)
    returns.fit([batch], 0.5)
    assert returns.target.numpy() == pytest.approx([15.0])  # the median of 1..29
    assert returns.share.numpy() == pytest.approx([1.0, 7.75 / 15, 7.75 / 15, 7.75 / 15, 7.75 / 15])
    targets = np.concatenate([first[:-1], first / 2])
    assert returns.scale.numpy() == pytest.approx([np.sqrt(np.mean(targets**2))])
    assert (returns.least.numpy(), returns.greatest.numpy()) == (pytest.approx([0.5]), pytest.approx([29.0]))


def test_a_log_without_returns_changes_nothing_that_is_divided_by():
    returns = Returns(4, 1.0)
    returns.fit([], 0.9)
    returns.fit([toy.batch([[1, 2]], [[0.0, 0.0]])], 0.9)
    assert returns.scale.numpy() == [1.0]
    assert returns.share.numpy().tolist() == [1.0] * 5
    assert returns.target.numpy() == [0.0]


def test_networks_see_returns_by_their_scale_and_nothing_beyond_reason():
    returns = Returns(4, 1.0)
    returns.scale.assign([4.0])
    assert returns.scaled(tf.constant([2.0, -8.0])).numpy().tolist() == [0.5, -2.0]
    assert returns.unscaled(tf.constant([0.5, -2.0])).numpy().tolist() == [2.0, -8.0]
    assert np.isfinite(np.square(returns.scaled(tf.constant([1e38, -3e38])).numpy())).all()
