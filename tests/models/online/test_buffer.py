"""Replay: who stays, who goes, what is drawn, and what really came."""

import numpy as np
import pytest

from models.online.buffer import ReplayBuffer, Sessions, hindsight_returns


def sessions(*names: int, length: int = 1) -> Sessions:
    """Sessions that are known by the one item that they repeat."""
    items = np.repeat(np.array(names, np.int32)[:, None], length, axis=1)
    return Sessions({"item_id": items}, np.full(len(names), length), {"session": np.array(names)})


def names(buffer: ReplayBuffer) -> list[int]:
    return buffer.in_order().facts["session"].tolist()


def test_returns_are_the_sums_of_what_came_after() -> None:
    reward = np.array([[1.0, 0.0, 2.0, 9.0], [0.5, 0.25, 0.0, 9.0]], np.float32)
    # Three steps and two; what is behind the end of a session does not count.
    assert hindsight_returns(reward, np.array([3, 2])).tolist() == [[3.0, 2.0, 2.0, 0.0], [0.75, 0.25, 0.0, 0.0]]
    # 1 + .5 * (0 + .5 * 2) = 1.5.
    assert hindsight_returns(reward, np.array([3, 2]), 0.5).tolist() == [[1.5, 1.0, 2.0, 0.0], [0.625, 0.25, 0.0, 0.0]]


def test_a_session_without_steps_has_no_returns() -> None:
    assert hindsight_returns(np.array([[7.0], [3.0]], np.float32), np.array([0, 1])).tolist() == [[0.0], [3.0]]


def test_the_first_in_is_the_first_out() -> None:
    buffer = ReplayBuffer(4, 3)
    buffer.add(sessions(1, 2, 3))
    assert names(buffer) == [1, 2, 3]
    buffer.add(sessions(4, 5))
    assert names(buffer) == [2, 3, 4, 5]
    buffer.add(sessions(6, 7, 8))
    assert names(buffer) == [5, 6, 7, 8]
    assert (len(buffer), buffer.num_added) == (4, 8)


def test_of_more_than_fit_the_last_ones_stay() -> None:
    buffer = ReplayBuffer(3, 2)
    buffer.add(sessions(1))
    buffer.add(sessions(2, 3, 4, 5, 6))
    assert names(buffer) == [4, 5, 6]
    buffer.add(sessions(7))
    assert names(buffer) == [5, 6, 7]


def test_nothing_is_left_of_a_longer_session_in_its_place() -> None:
    buffer = ReplayBuffer(1, 3)
    buffer.add(sessions(8, length=3))
    buffer.add(sessions(9))
    assert buffer.in_order().steps["item_id"].tolist() == [[9, 0, 0]]


def test_long_sessions_are_drawn_in_proportion_to_their_steps() -> None:
    buffer = ReplayBuffer(8, 4)
    buffer.add(sessions(1, length=1))
    buffer.add(sessions(2, length=4))
    by_length = buffer.draw(20_000, seed=0, number=0).facts["session"]
    # 4 of 5 steps; a standard error is .0028.
    assert np.mean(by_length == 2) == pytest.approx(0.8, abs=0.015)
    evenly = buffer.draw(20_000, seed=0, number=0, by_length=False).facts["session"]
    assert np.mean(evenly == 2) == pytest.approx(0.5, abs=0.018)


def test_a_draw_depends_on_seed_and_number_alone() -> None:
    buffer = ReplayBuffer(50, 1)
    buffer.add(sessions(*range(1, 51)))
    first = buffer.draw(30, seed=3, number=7).facts["session"].tolist()
    assert buffer.draw(30, seed=3, number=7).facts["session"].tolist() == first
    assert buffer.draw(30, seed=3, number=8).facts["session"].tolist() != first
    assert buffer.draw(30, seed=4, number=7).facts["session"].tolist() != first


def test_a_restored_buffer_goes_on_as_the_other() -> None:
    buffer, other = ReplayBuffer(3, 2), ReplayBuffer(3, 2)
    buffer.add(sessions(1, 2, 3, 4, length=2))
    other.set_state({name: values.copy() for name, values in buffer.get_state().items()})
    for each in (buffer, other):
        each.add(sessions(5))
    assert names(other) == names(buffer) == [3, 4, 5]
    np.testing.assert_array_equal(other.in_order().steps["item_id"], buffer.in_order().steps["item_id"])
    np.testing.assert_array_equal(other.draw(9, 1, 1).steps["item_id"], buffer.draw(9, 1, 1).steps["item_id"])


def test_nothing_can_be_drawn_of_nothing() -> None:
    buffer = ReplayBuffer(3, 2)
    with pytest.raises(ValueError, match="no session to draw"):
        buffer.draw(1, 0, 0)
    with pytest.raises(ValueError, match="room for at least one"):
        ReplayBuffer(0, 2)
