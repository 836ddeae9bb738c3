"""Whole sessions of TF-Agents' policies, side by side, and the replay that agents learn from.

TF-Agents' drivers begin a row's next session at once and write a step between the two, which not every agent leaves out; a replay would
have to be cleaned of them. Here sessions are numbered, what chance does to a session depends on its number, and only steps are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.frameworks import tf
from models.simulators.base import Simulator, Space
from models.simulators.chance import BEGIN, STEP, Chance

# TF-Agents imports TensorFlow by itself; the package has chosen Keras 2 by now.
from tf_agents.trajectories import time_step as ts  # isort: skip
from tf_agents.trajectories import trajectory  # isort: skip

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PlayedSessions:
    """S sessions of at most T steps.

    Attributes:
        observation: Arrays [S, T+1, ...] in the observation's structure; what is behind a session's end repeats its last one.
        action: [S, T, ...]
        policy_info: Arrays [S, T, ...] in the structure of what the policy notes.
        reward: [S, T] float32.
        length: [S] steps.
        is_cut: [S] True where the session might have gone on.
    """

    observation: Any
    action: Array
    policy_info: Any
    reward: Array
    length: Ints
    is_cut: npt.NDArray[np.bool_]

    @property
    def num_steps(self) -> int:
        """Steps of all sessions."""
        return int(self.length.sum())

    def inside(self) -> npt.NDArray[np.bool_]:
        """[S, T] True for steps."""
        return np.arange(self.reward.shape[1])[None, :] < self.length[:, None]

    def returns(self, discount: float = 1.0) -> Array:
        """[S] discounted sums of rewards."""
        found: Array = (self.reward * discount ** np.arange(self.reward.shape[1])).sum(axis=1)
        return found

    def as_trajectories(self) -> Any:
        """Trajectories [S, T+1], as agents that learn from whole episodes take them: behind a session's end are boundary steps."""
        steps = self.reward.shape[1] + 1
        place, length = np.arange(steps)[None, :], self.length[:, None]
        inside = place < length
        step_type = np.where(inside, np.where(place == 0, ts.StepType.FIRST, ts.StepType.MID), ts.StepType.LAST)
        next_step_type = np.where(place == length - 1, ts.StepType.LAST, np.where(inside, ts.StepType.MID, ts.StepType.FIRST))
        goes_on = np.where(place == length - 1, self.is_cut[:, None], inside)
        return trajectory.Trajectory(
            step_type=tf.constant(step_type, tf.int32),
            observation=tf.nest.map_structure(tf.constant, self.observation),
            action=tf.constant(self._repeated(self.action)),
            policy_info=tf.nest.map_structure(lambda values: tf.constant(self._repeated(values)), self.policy_info),
            next_step_type=tf.constant(next_step_type, tf.int32),
            reward=tf.constant(np.pad(self.reward, [(0, 0), (0, 1)])),
            discount=tf.constant(goes_on, tf.float32),
        )

    def _repeated(self, values: Array) -> Array:
        """[S, T, ...] -> [S, T+1, ...]; behind a session's end its last step is repeated.

        Agents weight these steps by 0, but they do compute with them: an action must be one, and a distribution without width would
        make everything NaN.
        """
        place = np.minimum(np.arange(self.reward.shape[1] + 1)[None, :], self.length[:, None] - 1)
        found: Array = values[np.arange(len(self.length))[:, None], place]
        return found


Act = Callable[[Any], Any]
"""A policy's `action`, compiled or not: time step -> policy step."""


def compiled(policy: Any) -> Act:
    """`action` of a stateless policy as one function for any number of rows."""
    found: Act = tf.function(lambda step: policy.action(step), autograph=False, reduce_retracing=True)
    return found


def play_sessions(simulator: Simulator, act: Act, number: Ints, seed: int, max_turns: int) -> PlayedSessions:
    """Plays sessions to their ends, or to T turns.

    Args:
        simulator: The world.
        act: Who acts.
        number: [S] numbers of the sessions; the world's chance depends on them and the seed.
        seed: Seed of the world's chance.
        max_turns: T.
    """
    chance, count = Chance(seed), len(number)
    state = simulator.begin(chance.uniform(BEGIN, number, 0, simulator.num_begin_draws))
    alive, length, is_cut = np.arange(count), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    reward = np.zeros((count, max_turns), np.float32)
    seen, done, noted = simulator.observe(state), None, None
    observed = tf.nest.map_structure(lambda values: np.zeros((count, max_turns + 1, *values.shape[1:]), values.dtype), seen)
    turn = 0
    while len(alive) and turn < max_turns:
        _write(observed, alive, turn, seen)
        step = act(_time_step(seen, len(alive), turn))
        action = np.asarray(step.action)
        info = tf.nest.map_structure(np.asarray, step.info)
        if done is None:
            make = lambda values: np.zeros((count, max_turns, *values.shape[1:]), values.dtype)  # noqa: E731
            done, noted = make(action), tf.nest.map_structure(make, info)
        done[alive, turn] = action
        _write(noted, alive, turn, info)
        shown = _within(simulator.action_space, action)
        simulator.check(shown, len(alive))
        earned, ended, state = simulator.step(state, shown, chance.uniform(STEP, number[alive], turn, simulator.num_step_draws))
        reward[alive, turn] = earned
        length[alive] += 1
        turn += 1
        seen = simulator.observe(state)
        over = ended | (turn == max_turns)
        is_cut[alive[over]] = ~ended[over]
        for rest in range(turn, max_turns + 1):
            _write(observed, alive[over], rest, tf.nest.map_structure(lambda values, over=over: values[over], seen))
        alive = alive[~over]
        state = {name: values[~over] for name, values in state.items()}
        seen = tf.nest.map_structure(lambda values, over=over: values[~over], seen)
    assert done is not None
    cut = lambda values: values[:, :turn]  # noqa: E731
    return PlayedSessions(
        tf.nest.map_structure(lambda values: values[:, : turn + 1], observed),
        cut(done),
        tf.nest.map_structure(cut, noted),
        cut(reward),
        length,
        is_cut,
    )


def _within(space: Space, action: Array) -> Array:
    """The nearest numbers within the bounds of actions of numbers; items are left as they are.

    What PPO tries is not clipped by TF-Agents, because it needs the probability of what was drawn: that is kept, this is done.
    """
    return np.clip(action, space.low, space.high) if space.dtype is np.float32 else action


def _write(arrays: Any, rows: Ints, turn: int, values: Any) -> None:
    for array, value in zip(tf.nest.flatten(arrays), tf.nest.flatten(values), strict=True):
        array[rows, turn] = value


def _time_step(seen: Any, count: int, turn: int) -> Any:
    kind = ts.StepType.FIRST if turn == 0 else ts.StepType.MID
    return ts.TimeStep(
        step_type=tf.fill([count], tf.constant(kind, tf.int32)),
        reward=tf.zeros([count]),
        discount=tf.ones([count]),
        observation=tf.nest.map_structure(tf.constant, seen),
    )


class StepReplay:
    """The last steps of all sessions, first in, first out.

    Args:
        capacity: Most steps.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._arrays: list[Array] = []
        self._structure: Any = None
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def add(self, played: PlayedSessions) -> None:
        """Adds all steps."""
        inside = played.inside()
        goes_on = np.ones(played.reward.shape, np.float32)
        last = np.arange(len(played.length)), played.length - 1
        goes_on[last] = played.is_cut
        before = tf.nest.map_structure(lambda values: values[:, :-1][inside], played.observation)
        after = tf.nest.map_structure(lambda values: values[:, 1:][inside], played.observation)
        is_last = np.zeros(played.reward.shape, np.bool_)
        is_last[last] = True
        rows = (before, after, played.action[inside], played.reward[inside], goes_on[inside], is_last[inside])
        flat = tf.nest.flatten(rows)
        if not self._arrays:
            self._structure = rows
            self._arrays = [np.zeros((self._capacity, *values.shape[1:]), values.dtype) for values in flat]
        # Of more than there is room for, the last ones stay.
        kept = min(len(flat[0]), self._capacity)
        place = (self._count + np.arange(len(flat[0]) - kept, len(flat[0]))) % self._capacity
        for array, values in zip(self._arrays, flat, strict=True):
            array[place] = values[len(values) - kept :]
        self._count += len(flat[0])

    def draw(self, count: int, rng: np.random.Generator) -> Any:
        """Trajectories [B, 2] of steps drawn evenly with what was seen after them; the second of the two is a boundary without meaning."""
        rows = rng.integers(0, len(self), count)
        before, after, action, reward, goes_on, is_last = tf.nest.pack_sequence_as(self._structure, [array[rows] for array in self._arrays])
        twice = lambda values: tf.constant(np.stack([values, values], axis=1))  # noqa: E731
        end, middle = int(ts.StepType.LAST), int(ts.StepType.MID)
        return trajectory.Trajectory(
            step_type=tf.constant(np.tile(np.array([[middle, end]], np.int32), (count, 1))),
            observation=tf.nest.map_structure(lambda one, two: tf.constant(np.stack([one, two], axis=1)), before, after),
            action=twice(action),
            policy_info=(),
            next_step_type=tf.constant(np.stack([np.where(is_last, end, middle), np.zeros(count)], axis=1).astype(np.int32)),
            reward=tf.constant(np.stack([reward, np.zeros_like(reward)], axis=1)),
            discount=tf.constant(np.stack([goes_on, np.ones_like(goes_on)], axis=1)),
        )
