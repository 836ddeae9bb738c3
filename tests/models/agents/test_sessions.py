"""Sessions of policies: what is kept of them, and what agents are given."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.agents.sessions import PlayedSessions, StepReplay, play_sessions

sys.path.append(str(Path(__file__).parents[1] / "simulators"))
toys = import_module("toy_worlds")

pytestmark = pytest.mark.usefixtures("eagerly")


def two_sessions() -> PlayedSessions:
    """A session of two steps that ended, and one of three that was cut off; observation 10 s + t is that of step t in session s."""
    observation = np.array([[0, 1, 2, 2], [10, 11, 12, 13]], np.float32)[..., None]
    reward = np.array([[1, 2, 0], [3, 4, 5]], np.float32)
    action = np.array([[7, 8, 0], [4, 5, 6]], np.int32)
    return PlayedSessions(observation, action, (), reward, np.array([2, 3]), np.array([False, True]))


def test_whole_sessions_end_in_boundary_steps() -> None:
    found = two_sessions().as_trajectories()
    first, middle, last = 0, 1, 2
    assert found.step_type.numpy().tolist() == [[first, middle, last, last], [first, middle, middle, last]]
    assert found.next_step_type.numpy().tolist() == [[middle, last, first, first], [middle, middle, last, first]]
    assert found.is_boundary().numpy().tolist() == [[False, False, True, True], [False, False, False, True]]
    # Discount 0 where a session has ended, 1 where it was only cut off; boundaries bootstrap from nothing.
    assert found.discount.numpy().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert found.reward.numpy().tolist() == [[1, 2, 0, 0], [3, 4, 5, 0]]
    # What was done last is repeated: agents compute with these steps before they weight them by 0.
    assert found.action.numpy().tolist() == [[7, 8, 8, 8], [4, 5, 6, 6]]


def test_returns_are_discounted_sums() -> None:
    # 1 + 2 / 2; 3 + 4 / 2 + 5 / 4.
    assert two_sessions().returns(0.5).tolist() == [2.0, 6.25]


def test_a_replay_holds_steps_with_what_came_after_them() -> None:
    replay = StepReplay(100)
    replay.add(two_sessions())
    assert len(replay) == 5
    batch = replay.draw(200, np.random.default_rng(0))
    rows = {
        (float(seen[0, 0]), float(seen[1, 0]), int(action[0]), float(reward[0]), float(discount[0]), int(kind[0]))
        for seen, action, reward, discount, kind in zip(
            batch.observation.numpy(),
            batch.action.numpy(),
            batch.reward.numpy(),
            batch.discount.numpy(),
            batch.next_step_type.numpy(),
            strict=True,
        )
    }
    assert rows == {
        (0.0, 1.0, 7, 1.0, 1.0, 1),
        (1.0, 2.0, 8, 2.0, 0.0, 2),
        (10.0, 11.0, 4, 3.0, 1.0, 1),
        (11.0, 12.0, 5, 4.0, 1.0, 1),
        (12.0, 13.0, 6, 5.0, 1.0, 2),
    }
    assert batch.is_boundary().numpy().tolist() == [[False, True]] * 200


def test_a_full_replay_keeps_the_last_steps() -> None:
    replay = StepReplay(3)
    for _ in range(3):
        replay.add(two_sessions())
    assert len(replay) == 3
    assert set(replay.draw(50, np.random.default_rng(0)).action.numpy()[:, 0].tolist()) == {4, 5, 6}


def test_played_sessions_are_those_of_the_simulator() -> None:
    max_turns = 5
    simulator: Any = toys.simulator("session_shop")
    action = lambda step: type("Step", (), {"action": np.full(len(step.reward), 3, np.int32), "info": ()})()  # noqa: E731
    played = play_sessions(simulator, action, np.arange(40), 1, max_turns)
    again = play_sessions(simulator, action, np.arange(20, 40), 1, max_turns)
    # Chance depends on a session's number: others beside it change nothing.
    np.testing.assert_array_equal(played.reward[20:, : again.reward.shape[1]], again.reward)
    np.testing.assert_array_equal(played.length[20:], again.length)
    assert played.length.min() >= 1
    assert played.length.max() <= max_turns
    assert played.is_cut.any()
    assert not played.is_cut.all()
    inside = played.inside()
    assert not played.reward[~inside].any()
    # Item 3 is item id 4: it is in the history as often as it was clicked or bought, until four places are full.
    events = (played.reward > 0).sum(axis=1)
    np.testing.assert_array_equal(played.observation["length"][:, -1], np.minimum(events, 4))
    assert set(played.observation["item_history"].ravel().tolist()) <= {0, 4}
    for row in range(40):
        end = played.length[row]
        np.testing.assert_array_equal(played.observation["length"][row, end:], played.observation["length"][row, end])


def test_numbers_beyond_their_bounds_are_kept_and_the_nearest_ones_done() -> None:
    simulator: Any = toys.simulator("virtual_taobao")
    size = simulator.action_space.shape[0]

    def always(number: float) -> Any:
        return lambda step: type("Step", (), {"action": np.full((len(step.reward), size), number, np.float32), "info": ()})()

    beyond, at_the_bound = (play_sessions(simulator, always(number), np.arange(30), 2, 6) for number in (3.0, 1.0))
    np.testing.assert_array_equal(beyond.reward, at_the_bound.reward)
    assert set(beyond.action[beyond.inside()].ravel().tolist()) == {3.0}
    # What is no number at all has no nearest one, and there is no item beside the last.
    with pytest.raises(ValueError, match=r"expected values from -1\.0 to 1\.0, found nan"):
        play_sessions(simulator, always(float("nan")), np.arange(3), 2, 6)
    shop: Any = toys.simulator("session_shop")
    with pytest.raises(ValueError, match="item: expected values from 0 to "):
        play_sessions(
            shop, lambda step: type("Step", (), {"action": np.full(len(step.reward), 10_000, np.int32), "info": ()})(), np.arange(3), 2, 6
        )
