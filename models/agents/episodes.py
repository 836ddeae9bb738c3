"""Sessions of continuous actions: who acts, what is written down, and rounds of playing and learning.

A TF-Agents driver with a `PyTFEagerPolicy` would do for the sessions themselves. It would not do for the rest: a decision transformer
is told the reward of its last action, keeps a cache of each session, and learns from whole sessions whose returns are known at their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from models.agents.gaussian_transformer import EpisodeBatch, GaussianTransformer
from models.frameworks import tf
from models.online.buffer import ReplayBuffer, Sessions, hindsight_returns
from models.simulators.base import Simulator
from models.simulators.chance import BEGIN, POLICY, STEP, Chance
from schemas.trajectory import RETURN_TO_GO, REWARD

Floats = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

OBSERVATION, ACTION = "observation", "action"


class Actor(Protocol):
    """What acts in sessions side by side."""

    def begin(self, count: int, normal: Callable[[int], Floats]) -> None:
        """Begins sessions; `normal` draws [count, n] standard normal numbers."""

    def act(self, observation: Floats, normal: Callable[[int], Floats]) -> Floats:
        """Actions [M, A] on observations [M, O]; `normal` draws [M, n]."""

    def told(self, reward: Floats, goes_on: npt.NDArray[np.bool_]) -> None:
        """Rewards [M] of the last actions, and which sessions go on; the others are no longer asked."""


class GaussianBehaviour:
    """A policy to make logs with: each session has a vector of its own, and every action is that vector with noise.

    So sessions differ in their returns and actions within one are alike, as those of a shop that tries settings.

    Args:
        num_dimensions: A.
        between: Standard deviation of the sessions' vectors.
        within: Standard deviation of an action about its session's vector.
    """

    def __init__(self, num_dimensions: int, between: float = 0.3, within: float = 0.2):
        self._num_dimensions, self._between, self._within = num_dimensions, between, within
        self._center = np.zeros((0, num_dimensions))

    def begin(self, count: int, normal: Callable[[int], Floats]) -> None:
        self._center = self._between * normal(self._num_dimensions)

    def act(self, observation: Floats, normal: Callable[[int], Floats]) -> Floats:
        return np.clip(self._center + self._within * normal(self._num_dimensions), -1.0, 1.0).astype(np.float32)

    def told(self, reward: Floats, goes_on: npt.NDArray[np.bool_]) -> None:
        self._center = self._center[goes_on]


class TransformerActor:
    """A `GaussianTransformer`, from what it keeps of each session.

    Args:
        model: The policy; its weights are read when it acts.
        explores: True draws, and asks for the return of exploration; False plays the mode and asks for the usual one.
    """

    def __init__(self, model: GaussianTransformer, num_dimensions: int, explores: bool = False):
        self._model, self._num_dimensions, self._explores = model, num_dimensions, explores
        self._memory: Any = None
        self._act = tf.function(model.act, autograph=False, reduce_retracing=True)

    def begin(self, count: int, normal: Callable[[int], Floats]) -> None:
        target = self._model.exploration_target if self._explores else self._model.returns.target
        self._memory = self._model.begin(tf.repeat(target, count))

    def act(self, observation: Floats, normal: Callable[[int], Floats]) -> Floats:
        noise = tf.constant(normal(self._num_dimensions), tf.float32) if self._explores else None
        action, self._memory = self._act(self._memory, tf.constant(observation), noise)
        found: Floats = action.numpy()
        return found

    def told(self, reward: Floats, goes_on: npt.NDArray[np.bool_]) -> None:
        told = self._model.told(self._memory, tf.constant(reward, tf.float32))
        self._memory = told.take(tf.constant(np.flatnonzero(goes_on), tf.int32))


def collect(simulator: Simulator, actor: Actor, number: Ints, seed: int, max_steps: int, discount: float = 1.0) -> Sessions:
    """Plays sessions to their ends, or to T steps.

    Args:
        simulator: A world whose observations and actions are vectors.
        actor: Who acts.
        number: [S] numbers of the sessions; chance depends on them and the seed.
        seed: Seed of all chance.
        max_steps: T.
        discount: Factor of one step in the returns-to-go.
    """
    chance, count = Chance(seed), len(number)
    state = simulator.begin(chance.uniform(BEGIN, number, 0, simulator.num_begin_draws))
    alive, length, reward = np.arange(count), np.zeros(count, np.int64), np.zeros((count, max_steps), np.float32)
    seen: dict[str, Floats] = {}
    # Turn 0 of the policy's chance is for the beginning.
    actor.begin(count, lambda size: _normal(chance, number, 0, size))
    for turn in range(max_steps):
        observation = np.asarray(simulator.observe(state))
        action = actor.act(observation, lambda size, turn=turn, alive=alive: _normal(chance, number[alive], turn + 1, size))  # type: ignore[misc]
        simulator.check(action, len(alive))
        earned, ended, state = simulator.step(state, action, chance.uniform(STEP, number[alive], turn, simulator.num_step_draws))
        for name, values in ((OBSERVATION, observation), (ACTION, action)):
            seen.setdefault(name, np.zeros((count, max_steps, values.shape[1]), np.float32))[alive, turn] = values
        reward[alive, turn] = earned
        length[alive] += 1
        actor.told(earned, ~ended)
        alive, state = alive[~ended], {name: values[~ended] for name, values in state.items()}
        if not len(alive):
            break
    return Sessions({**seen, REWARD: reward, RETURN_TO_GO: hindsight_returns(reward, length, discount)}, length, {"number": number})


def _normal(chance: Chance, number: Ints, turn: int, size: int) -> Floats:
    """[M, size] standard normal numbers (Box and Muller, 1958)."""
    uniform = chance.uniform(POLICY, number, turn, 2 * size)
    normal: Floats = np.sqrt(-2.0 * np.log1p(-uniform[:, :size])) * np.cos(2.0 * np.pi * uniform[:, size:])
    return normal


def as_episodes(sessions: Sessions) -> EpisodeBatch:
    """Sessions as a batch."""
    steps = sessions.cut().steps
    length = tf.constant(sessions.length.astype(np.int32))
    return EpisodeBatch(tf.constant(steps[OBSERVATION]), tf.constant(steps[ACTION]), tf.constant(steps[RETURN_TO_GO]), length)


def best_of(logs: Sessions, count: int) -> Sessions:
    """The sessions with the greatest returns, the best one last."""
    return logs.take(np.argsort(logs.steps[REWARD].sum(axis=1), kind="stable")[-count:])


class Round(NamedTuple):
    """What a round of online learning says of itself.

    Attributes:
        number: From 0.
        returns: [S] of its sessions, under exploration.
        losses: What the last training step returned.
    """

    number: int
    returns: Floats
    losses: Any


def tune(
    model: GaussianTransformer,
    train: Callable[[EpisodeBatch, int], Any],
    simulator: Simulator,
    buffer: ReplayBuffer,
    num_rounds: int,
    sessions_per_round: int,
    updates_per_round: int,
    batch_size: int,
    seed: int = 0,
) -> Iterator[Round]:
    """Rounds of playing and learning; Zheng et al. (2022), algorithm 1, with many sessions a round.

    Args:
        model: What is tuned.
        train: Updates its weights: batch and number of the update.
        simulator: Where it acts.
        buffer: Replay, which holds the best of the logs.
        num_rounds: How many.
        sessions_per_round: Played at once.
        updates_per_round: Updates after them.
        batch_size: Sessions of a batch.
        seed: Seed of sessions and batches.
    """
    actor = TransformerActor(model, simulator.action_space.shape[0], explores=True)
    for number in range(num_rounds):
        first = number * sessions_per_round
        played = collect(simulator, actor, first + np.arange(sessions_per_round), seed, model.max_steps, model.discount)
        buffer.add(played)
        losses = None
        for update in range(number * updates_per_round, (number + 1) * updates_per_round):
            losses = train(as_episodes(buffer.draw(batch_size, seed, update)), update)
        yield Round(number, played.steps[REWARD].sum(axis=1), losses)
