"""What was logged, session by session, with what the target policy and a reward model say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from models.ope.exact import MAX_TERMS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

MAX_CELLS = 1 << 20
"""About how many numbers of a part are worked on at a time; what stays in the cache is fastest."""


@dataclass(frozen=True)
class SessionLog:
    """n rounds of S sessions, each session's rounds side by side in the order of time.

    A round of a bandit log and a step of a trajectory are the same here: a state x, the logged item a and its reward. A session
    must be whole within one log: it is the unit that varies and that is resampled.

    Attributes:
        session: [S] keys, all different; see `resampling.session_keys`.
        offsets: [S+1] where each session begins, and n; no session is empty.
        reward: [n] r.
        target: [n] probability pi(a | x) of the logged item under the target policy.
        behaviour: [n] probability beta(a | x) under the policy that logged it, above 0.
        predicted: [n] predicted reward or return q(x, a) of the logged item; None without a model.
        expected: [n] its expectation over the target policy, v(x) = sum_a pi(a | x) q(x, a); None without a model.

    Raises:
        ValueError: Shapes do not fit, a session is empty, or a probability is none.
    """

    session: Keys
    offsets: Ints
    reward: Floats
    target: Floats
    behaviour: Floats
    predicted: Floats | None = None
    expected: Floats | None = None

    def __post_init__(self) -> None:
        num_rounds = len(self.reward)
        for name in ("target", "behaviour", "predicted", "expected"):
            column = getattr(self, name)
            if column is not None and column.shape != (num_rounds,):
                raise ValueError(f"{name} has shape {column.shape}; there are {num_rounds} rewards")
        if (self.predicted is None) != (self.expected is None):
            raise ValueError("predicted and expected come from one model: give both or neither")
        if self.offsets.shape != (len(self.session) + 1,) or self.offsets[0] != 0 or self.offsets[-1] != num_rounds:
            raise ValueError(f"offsets of {len(self.session)} sessions must run from 0 to {num_rounds}")
        if num_rounds and np.diff(self.offsets).min() < 1:
            raise ValueError("a session without rounds")
        if num_rounds and not (self.behaviour.min() > 0.0 and self.behaviour.max() <= 1.0):
            raise ValueError("behaviour holds something else than probabilities above 0: what was logged had a chance")
        if num_rounds and not (self.target.min() >= 0.0 and self.target.max() <= 1.0):
            raise ValueError("target holds something else than probabilities")

    @classmethod
    def from_rounds(
        cls,
        session: Keys,
        reward: Floats,
        target: Floats,
        behaviour: Floats,
        predicted: Floats | None = None,
        expected: Floats | None = None,
    ) -> SessionLog:
        """Gathers rounds by session; their order within a session stays.

        Args:
            session: [n] key of each round's session.
            reward: [n].
            target: [n].
            behaviour: [n].
            predicted: [n] or None.
            expected: [n] or None.
        """
        columns = [reward, target, behaviour, predicted, expected]
        session = session.astype(np.uint64, copy=False)
        if np.any(session[1:] < session[:-1]):
            order = np.argsort(session, kind="stable")
            session = session[order]
            columns = [None if column is None else column[order] for column in columns]
        begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(session)), bool), session[1:] != session[:-1]]))
        offsets = np.append(begins, len(session)).astype(np.int64)
        filled = [None if column is None else np.asarray(column, np.float64) for column in columns]
        first, second, third, predicted, expected = filled
        assert first is not None
        assert second is not None
        assert third is not None
        return cls(session[begins], offsets, first, second, third, predicted, expected)

    @property
    def num_sessions(self) -> int:
        return len(self.session)

    @property
    def num_rounds(self) -> int:
        return len(self.reward)

    @cached_property
    def lengths(self) -> Ints:
        """[S] rounds of each session."""
        return np.diff(self.offsets)

    @cached_property
    def _row(self) -> Ints:
        """[n] session of each round, counted from 0."""
        return np.repeat(np.arange(self.num_sessions), self.lengths)

    @cached_property
    def step(self) -> Ints:
        """[n] place of each round in its session, from 0."""
        return np.arange(self.num_rounds) - self.offsets[self._row]

    @cached_property
    def weight(self) -> Floats:
        """[n] importance weights pi(a | x) / beta(a | x)."""
        return self.target / self.behaviour

    def model(self) -> tuple[Floats, Floats]:
        """Predicted and expected, [n] each.

        Raises:
            ValueError: There is no model.
        """
        if self.predicted is None or self.expected is None:
            raise ValueError("this estimator needs a reward model: predicted and expected are not given")
        return self.predicted, self.expected

    def by_session(self, values: Floats) -> Floats:
        """[..., S] sums of values [..., n] over each session's rounds."""
        if self.num_sessions == self.num_rounds:
            return values
        sums: Floats = np.add.reduceat(values, self.offsets[:-1], axis=-1)
        return sums

    def padded(self, values: Floats, fill: float) -> Floats:
        """[S, T] values [n] by session and step; `fill` behind the last step of a session."""
        out = np.full((self.num_sessions, int(self.lengths.max(initial=1))), fill)
        out[self._row, self.step] = values
        return out

    def unpadded(self, values: Floats) -> Floats:
        """[n] values [S, T] of the rounds that are there; to be summed by session, without what was padded.

        Sums over padded rows would round differently beside longer sessions.
        """
        return values[self._row, self.step]

    def cumulative_weight(self) -> Floats:
        """[S, T] products of the weights up to and with each step; behind a session's end its last one is carried on."""
        return np.cumprod(self.padded(self.weight, 1.0), axis=1)

    def parts(self, width: int, power: int = 1) -> Iterator[SessionLog]:
        """Cuts the log into stretches of sessions that are worked on at a time.

        Args:
            width: Numbers that every session needs, however short.
            power: In which power of its steps a session needs numbers besides.
        """
        begin = 0
        while begin < self.num_sessions:
            # As wide as the longest so far, because sessions are padded to it.
            longest = np.maximum.accumulate(self.lengths[begin : begin + MAX_TERMS])
            cells = np.maximum(4 * longest**power, width) * np.arange(1, len(longest) + 1)
            end = begin + max(1, int(np.searchsorted(cells, MAX_CELLS, side="right")))
            yield self.select(begin, end)
            begin = end

    def select(self, begin: int, end: int) -> SessionLog:
        """The sessions from `begin` up to `end`."""
        first, last = int(self.offsets[begin]), int(self.offsets[end])
        return SessionLog(
            self.session[begin:end],
            self.offsets[begin : end + 1] - first,
            self.reward[first:last],
            self.target[first:last],
            self.behaviour[first:last],
            None if self.predicted is None else self.predicted[first:last],
            None if self.expected is None else self.expected[first:last],
        )
