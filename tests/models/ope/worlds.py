"""Small worlds whose every outcome can be written down, and logs of them; shared by the tests of off-policy evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.ope.log import SessionLog

Floats = npt.NDArray[np.float64]


def keys(count: int, begin: int = 0) -> npt.NDArray[np.uint64]:
    return np.arange(begin, begin + count, dtype=np.uint64)


def worked_bandit() -> SessionLog:
    """Four rounds with weights 2, .5, 1, 0."""
    behaviour = np.full(4, 0.4)
    return SessionLog.from_rounds(
        keys(4),
        reward=np.array([1.0, 0.0, 1.0, 1.0]),
        target=np.array([2.0, 0.5, 1.0, 0.0]) * behaviour,
        behaviour=behaviour,
        predicted=np.array([0.5, 0.2, 0.6, 0.4]),
        expected=np.array([0.45, 0.3, 0.55, 0.35]),
    )


def worked_sessions() -> SessionLog:
    """Three sessions of two steps with weights (1, 2), (.5, 1), (2, .75)."""
    behaviour = np.full(6, 0.4)
    return SessionLog.from_rounds(
        np.repeat(keys(3), 2),
        reward=np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        target=np.array([1.0, 2.0, 0.5, 1.0, 2.0, 0.75]) * behaviour,
        behaviour=behaviour,
        predicted=np.tile([1.0, 0.5], 3),
        expected=np.tile([0.8, 0.4], 3),
    )


def random_log(num_sessions: int, seed: int = 0, max_length: int = 4, begin: int = 0) -> SessionLog:
    """Sessions of 1 to `max_length` rounds, with a model that says anything."""
    rng = np.random.default_rng(seed)
    session = np.repeat(keys(num_sessions, begin), rng.integers(1, max_length + 1, num_sessions))
    size = len(session)
    return SessionLog.from_rounds(
        session,
        reward=rng.choice([0.0, 0.2, 1.0], size),
        target=rng.uniform(0.0, 1.0, size),
        behaviour=rng.uniform(0.1, 1.0, size),
        predicted=rng.uniform(0.0, 1.0, size),
        expected=rng.uniform(0.0, 1.0, size),
    )


CONTEXTS = np.array([2, 3]) / 5
BEHAVIOUR = np.array([[2, 1, 1], [1, 1, 2]]) / 4
TARGET = np.array([[0.1, 0.6, 0.3], [0.7, 0.3, 0.0]])
MEANS = np.array([[1, 2, 3], [2, 0, 1]]) / 4
"""Mean reward of each context and item; rewards are 0 or 1."""

BANDIT_VALUE = float((CONTEXTS[:, None] * TARGET * MEANS).sum())


def outcomes() -> Iterator[tuple[float, int, int, float]]:
    """Probability, context, item and reward of every round the bandit can log."""
    for x in range(2):
        for a in range(3):
            for reward in (0.0, 1.0):
                chance = CONTEXTS[x] * BEHAVIOUR[x, a] * (MEANS[x, a] if reward else 1.0 - MEANS[x, a])
                if chance > 0.0:
                    yield chance, x, a, reward


def bandit_log(x: npt.ArrayLike, a: npt.ArrayLike, reward: npt.ArrayLike, model: Floats) -> SessionLog:
    """A log of given rounds, one a session; `model` is [2, 3]."""
    x, a = np.asarray(x), np.asarray(a)
    return SessionLog.from_rounds(
        keys(len(x)), np.asarray(reward), TARGET[x, a], BEHAVIOUR[x, a], model[x, a], (TARGET * model).sum(axis=1)[x]
    )


def bandit_population(model: Floats) -> SessionLog:
    """Every outcome as often as its probability says: 80 rounds."""
    rows = list(outcomes())
    count = np.array([round(chance * 80) for chance, *_ in rows])
    assert count.sum() == 80
    columns = [np.repeat([row[k] for row in rows], count) for k in (1, 2, 3)]
    return bandit_log(*columns, model)


@dataclass(frozen=True)
class Chain:
    """A process of two states and two items that goes on with probability 1/2 after each step, three steps at most."""

    behaviour = np.array([[1, 3], [2, 2]]) / 4
    target = np.array([[0.6, 0.4], [0.3, 0.7]])
    rewards = np.array([[0.0, 1.0], [2.0, 0.5]])
    following = np.array([[0, 1], [1, 0]])
    steps = 3

    def values(self, discount: float) -> tuple[Floats, Floats]:
        """Q [steps, 2, 2] and V [steps + 1, 2] of the target policy."""
        q, v = np.zeros((self.steps, 2, 2)), np.zeros((self.steps + 1, 2))
        for step in reversed(range(self.steps)):
            q[step] = self.rewards + discount * 0.5 * v[step + 1][self.following]
            v[step] = (self.target * q[step]).sum(axis=1)
        return q, v

    def paths(self, state: int = 0, step: int = 0) -> Iterator[tuple[float, list[tuple[int, int]]]]:
        """Probability and (state, item) pairs of every session under the logging policy."""
        for item in range(2):
            chance, here = self.behaviour[state, item], [(state, item)]
            if step + 1 == self.steps:
                yield chance, here
                continue
            yield chance / 2, here
            for further, path in self.paths(int(self.following[state, item]), step + 1):
                yield chance / 2 * further, here + path

    def drawn(self, rng: np.random.Generator, count: int, q: Floats, v: Floats) -> SessionLog:
        """So many sessions by chance; q is [steps, 2, 2] and v [steps, 2], any."""
        paths = list(self.paths())
        chosen = rng.choice(len(paths), count, p=np.array([chance for chance, _ in paths]))
        return self._log([paths[place][1] for place in chosen], q, v)

    def population(self, q: Floats, v: Floats) -> SessionLog:
        """Every session as often as its probability says; q is [steps, 2, 2] and v [steps, 2], any."""
        sessions = []
        for chance, path in self.paths():
            count = chance * 256
            assert count == round(count)
            sessions += [path] * round(count)
        assert len(sessions) == 256
        return self._log(sessions, q, v)

    def _log(self, sessions: list[list[tuple[int, int]]], q: Floats, v: Floats) -> SessionLog:
        lengths = [len(path) for path in sessions]
        state, item = np.array([pair for path in sessions for pair in path]).T
        step = np.concatenate([np.arange(length) for length in lengths])
        return SessionLog.from_rounds(
            np.repeat(keys(len(sessions)), lengths),
            self.rewards[state, item],
            self.target[state, item],
            self.behaviour[state, item],
            q[step, state, item],
            v[step, state],
        )
