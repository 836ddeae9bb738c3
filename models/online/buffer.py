"""Replay of whole sessions, first in, first out.

TF-Agents' replay buffers are not used here. Its uniform buffer holds steps: a session would have to be put together from it again, and
its returns are known only when it is over. Its episodic one draws from a generator that is part of no checkpoint. Here what is drawn
depends on a seed and the number of the draw alone, so that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.reward import discounted_returns

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Sessions(NamedTuple):
    """S sessions, padded on the right with zeros to T steps.

    Attributes:
        steps: Name to [S, T, ...] what there is of every step.
        length: [S] steps of each.
        facts: Name to [S, ...] what there is of every session.
    """

    steps: Mapping[str, Array]
    length: Ints
    facts: Mapping[str, Array]

    def take(self, rows: Array) -> Sessions:
        """The sessions `rows`."""
        return Sessions(
            {name: values[rows] for name, values in self.steps.items()},
            self.length[rows],
            {name: values[rows] for name, values in self.facts.items()},
        )

    def cut(self) -> Sessions:
        """With as many steps as the longest has, at least one."""
        longest = max(1, int(self.length.max(initial=0)))
        return self._replace(steps={name: values[:, :longest] for name, values in self.steps.items()})


def hindsight_returns(reward: Floats, length: Ints, discount: float = 1.0) -> Floats:
    """Returns-to-go of what really came, whatever was wanted.

    Args:
        reward: [S, T] rewards; what is behind the length of a session does not count.
        length: [S]
        discount: Factor of one step.

    Returns:
        [S, T], 0 behind the end.

    References:
        Zheng et al. (2022), Online Decision Transformer, section 4.2: hindsight return relabelling, after Andrychowicz et al. (2017).
    """
    inside = np.arange(reward.shape[1])[None, :] < length[:, None]
    returns = np.zeros(reward.shape, np.float32)
    returns[inside] = discounted_returns(reward[inside].astype(np.float32), length[length > 0], discount)
    return returns


class ReplayBuffer:
    """The last sessions.

    Args:
        capacity: C, sessions that are kept.
        max_steps: T, most steps of a session.

    Attributes:
        num_added: Sessions that ever came in.
    """

    def __init__(self, capacity: int, max_steps: int):
        if capacity < 1:
            raise ValueError(f"expected room for at least one session, found capacity = {capacity}")
        self._capacity = capacity
        self._max_steps = max_steps
        self._steps: dict[str, Array] = {}
        self._facts: dict[str, Array] = {}
        self._length = np.zeros(capacity, np.int64)
        self.num_added = 0

    def __len__(self) -> int:
        return min(self.num_added, self._capacity)

    @property
    def length(self) -> Ints:
        """[len] steps of the sessions, in no order."""
        return self._length[: len(self)]

    def add(self, sessions: Sessions) -> None:
        """Takes sessions in, the first one first; those that have been here longest go."""
        count = len(sessions.length)
        if not self._steps and count:
            self._make_room(sessions)
        # Of more than fit only the last ones stay.
        kept = np.arange(max(0, count - self._capacity), count)
        place = (self.num_added + kept) % self._capacity
        for name, values in sessions.steps.items():
            self._steps[name][place] = 0
            self._steps[name][place, : values.shape[1]] = values[kept]
        for name, values in sessions.facts.items():
            self._facts[name][place] = values[kept]
        self._length[place] = sessions.length[kept]
        self.num_added += count

    def _make_room(self, sessions: Sessions) -> None:
        shape = (self._capacity, self._max_steps)
        self._steps = {name: np.zeros((*shape, *values.shape[2:]), values.dtype) for name, values in sessions.steps.items()}
        self._facts = {name: np.zeros((self._capacity, *values.shape[1:]), values.dtype) for name, values in sessions.facts.items()}

    def in_order(self) -> Sessions:
        """All sessions, the one that goes next first."""
        first = self.num_added % self._capacity if self.num_added > self._capacity else 0
        return self._at((first + np.arange(len(self))) % self._capacity)

    def draw(self, count: int, seed: int, number: int, by_length: bool = True) -> Sessions:
        """Some sessions, with replacement.

        Args:
            count: How many.
            seed: Seed of all draws.
            number: Of this draw.
            by_length: A session is drawn in proportion to its steps, as by Zheng et al. (2022), algorithm 2; else evenly.

        Raises:
            ValueError: There is none, or none with a step.
        """
        weight = self.length if by_length else np.ones(len(self), np.int64)
        running = np.cumsum(weight)
        if not len(running) or running[-1] == 0:
            raise ValueError("there is no session to draw; nothing has been added, or nothing that has a step")
        drawn = np.random.default_rng([seed, number]).integers(0, running[-1], count)
        return self._at(np.searchsorted(running, drawn, side="right")).cut()

    def _at(self, place: Array) -> Sessions:
        return Sessions(self._steps, self._length, self._facts).take(place)

    def get_state(self) -> dict[str, Array]:
        """All there is as arrays by name, for `set_state` of a buffer of the same size."""
        rows = slice(len(self))
        return {
            "num_added": np.array(self.num_added),
            "length": self._length[rows],
            **{f"steps/{name}": values[rows] for name, values in self._steps.items()},
            **{f"facts/{name}": values[rows] for name, values in self._facts.items()},
        }

    def set_state(self, saved: Mapping[str, Array]) -> None:
        """Goes on from what `get_state` gave."""
        parts: dict[str, dict[str, Array]] = {"steps": {}, "facts": {}}
        for name, values in saved.items():
            kind, _, rest = name.partition("/")
            if rest:
                parts[kind][rest] = values
        found = Sessions(parts["steps"], saved["length"], parts["facts"])
        if parts["steps"]:
            self._make_room(found)
        rows = slice(len(found.length))
        for name, values in found.steps.items():
            self._steps[name][rows] = values
        for name, values in found.facts.items():
            self._facts[name][rows] = values
        self._length[rows] = found.length
        self.num_added = int(saved["num_added"])
