"""A model of the policy that logged, for logs without propensities: what is counted, mixed by how far the counts can be trusted.

    beta(a | h) = l_1 1[a = last] + l_2 share of a in h + l_3 transitions last -> a + l_4 popularity of a + l_5 / items

with weights l of their own for every level of how often transitions from the last item were seen. The weights are fitted by
expectation maximisation on events that are left out of the counts they are predicted from, so that the model is calibrated on what
it has not seen; whether it is, `diagnostics.Calibration` says on other sessions still.

References:
    Jelinek and Mercer (1980): deleted interpolation. Hanna, Niekum and Stone (2019): importance weights from an estimated policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.ope.resampling import folds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

LAST, SEEN, NEXT, POPULAR, ANY = range(5)
_PARTS = 5
_LEVELS = (0, 1, 4, 16, 64)
"""Transitions seen from the last item, from which a level begins; a level of its own is for the beginnings of sessions."""
_ROUNDS = 60
_PRIOR = 0.5


@dataclass(frozen=True)
class Rounds:
    """n decisions of a log.

    Attributes:
        history: [n, L] items so far, oldest first, 0 behind the last.
        item: [n] logged item, 1 to N - 1.
    """

    history: Ints
    item: Ints

    @property
    def last(self) -> Ints:
        """[n] last item of each history, 0 where there is none."""
        length = (self.history > 0).sum(axis=1)
        last: Ints = np.where(length > 0, self.history[np.arange(len(length)), np.maximum(length, 1) - 1], 0)
        return last

    def take(self, rows: npt.NDArray[np.generic]) -> Rounds:
        """Some of them."""
        return Rounds(self.history[rows], self.item[rows])


@dataclass(frozen=True)
class Counts:
    """How often items were logged, and after which; adds up with `+`.

    Attributes:
        item: [N] times each item was logged.
        first: [N+1] transitions from each last item, the unknown one and 0, which is the beginning, included.
        pair: [P] ascending keys last * (N + 1) + item.
        times: [P] how often each pair was logged.
    """

    item: Ints
    first: Ints
    pair: Keys | Ints
    times: Ints

    @classmethod
    def of(cls, rounds: Rounds, num_items: int) -> Counts:
        """Of n rounds; `num_items` is N, padding included."""
        last = rounds.last
        pair, times = np.unique(last * (num_items + 1) + rounds.item, return_counts=True)
        first = np.bincount(last, minlength=num_items + 1)
        return cls(np.bincount(rounds.item, minlength=num_items), first, pair, times)

    def __add__(self, other: Counts) -> Counts:
        pair, place = np.unique(np.concatenate([self.pair, other.pair]), return_inverse=True)
        times = np.bincount(place, weights=np.concatenate([self.times, other.times]), minlength=len(pair)).astype(np.int64)
        return Counts(self.item + other.item, self.first + other.first, pair, times)

    def pairs(self, last: Ints, item: Ints) -> Ints:
        """How often pairs were logged; `last` and `item` of one shape."""
        if not len(self.pair):
            return np.zeros(last.shape, np.int64)
        key = last * len(self.first) + item
        place = np.minimum(np.searchsorted(self.pair, key), len(self.pair) - 1)
        return np.where(self.pair[place] == key, self.times[place], 0)


class CountBehaviour:
    """The model.

    Args:
        counts: What was logged.
        rounds: Rounds that are in the counts, by which the weights are fitted.
    """

    def __init__(self, counts: Counts, rounds: Rounds):
        self._counts = counts
        self._num_items = len(counts.item)
        self._weights = np.full((len(_LEVELS) + 1, _PARTS), 1.0 / _PARTS)
        last = rounds.last
        parts = self._parts(rounds.history, last, rounds.item[:, None], left_out=1)[:, 0]
        level = self._level(last, left_out=1)
        for _ in range(_ROUNDS):
            joint = self._weights[level] * parts
            shares = joint / joint.sum(axis=1, keepdims=True)
            sums = np.stack([np.bincount(level, weights=shares[:, part], minlength=len(self._weights)) for part in range(_PARTS)], axis=1)
            kept = sums + _PRIOR * self._possible()
            self._weights = kept / kept.sum(axis=1, keepdims=True)

    @property
    def weights(self) -> Floats:
        """[levels + 1, 5] weights of the parts; the last level is that of beginnings."""
        return self._weights

    def probabilities(self, history: Ints, item: Ints) -> Floats:
        """[n, K] probabilities of items [n, K] after histories [n, L]."""
        last = Rounds(history, item[:, 0]).last
        found: Floats = (self._parts(history, last, item, left_out=0) * self._weights[self._level(last, 0)][:, None]).sum(axis=2)
        return found

    def table(self, history: Ints) -> Floats:
        """[n, N-1] probabilities of all items 1 to N - 1; rows have sum 1 up to what unknown items took."""
        return self.probabilities(history, np.broadcast_to(np.arange(1, self._num_items), (len(history), self._num_items - 1)))

    def best(self, history: Ints, k: int) -> Ints:
        """[n, k] likeliest items after histories [n, L], from what stood there lately, what followed and what is popular; 0 behind them."""
        counts, last = self._counts, Rounds(history, history[:, 0]).last
        order = np.lexsort((counts.pair, -counts.times, counts.pair // len(counts.first)))
        begins = np.concatenate([[0], np.cumsum(np.bincount(counts.pair // len(counts.first), minlength=len(counts.first)))])
        places = begins[last][:, None] + np.arange(k)
        follows = places < begins[last + 1][:, None]
        after = np.where(follows, counts.pair[order[np.minimum(places, max(0, len(order) - 1))]] % len(counts.first), 0)
        popular = np.argsort(-counts.item[1:], kind="stable")[:k] + 1
        candidates = np.concatenate([history, after, np.broadcast_to(popular, (len(history), len(popular)))], axis=1)
        candidates = np.sort(np.where(candidates < self._num_items, candidates, 0), axis=1)
        candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = 0
        chance = np.where(candidates > 0, self.probabilities(history, candidates), -1.0)
        chosen = np.argsort(-chance, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(candidates, chosen, axis=1)

    def _possible(self) -> Floats:
        """[levels + 1, 5] 1 where a part can have a weight."""
        possible = np.ones_like(self._weights)
        possible[-1, [LAST, SEEN]] = 0.0
        possible[0, NEXT] = 0.0
        return possible

    def _level(self, last: Ints, left_out: int) -> Ints:
        seen = np.maximum(self._counts.first[last] - left_out, 0)
        return np.where(last > 0, np.searchsorted(_LEVELS, seen, side="right") - 1, len(_LEVELS))

    def _parts(self, history: Ints, last: Ints, item: Ints, left_out: int) -> Floats:
        """[n, K, 5] what each part says; `left_out` is 1 to take the round itself out of the counts."""
        counts = self._counts
        present = (history > 0).sum(axis=1)[:, None]
        parts = np.zeros((*item.shape, _PARTS))
        parts[..., LAST] = (item == last[:, None]) & (last > 0)[:, None]
        seen = np.zeros(item.shape)
        for step in range(history.shape[1]):
            seen += (history[:, step, None] == item) & (item > 0)
        parts[..., SEEN] = seen / np.maximum(present, 1)
        first = np.maximum(counts.first[last] - left_out, 0)[:, None]
        pairs = counts.pairs(np.broadcast_to(last[:, None], item.shape), item) - left_out
        parts[..., NEXT] = np.where(first > 0, np.maximum(pairs, 0) / np.maximum(first, 1), 0.0)
        total = max(1, int(counts.item.sum()) - left_out)
        parts[..., POPULAR] = np.maximum(counts.item[item] - left_out, 0) / total
        parts[..., ANY] = 1.0 / max(1, self._num_items - 1)
        return parts


class CrossFittedBehaviour:
    """One model for each fold of sessions, counted on all other folds and on other sessions besides.

    Args:
        num_items: N.
        num_folds: At least 2.
        seed: Of the folds.
    """

    def __init__(self, num_items: int, num_folds: int = 3, seed: int = 0):
        self._num_items = num_items
        self._num_folds = num_folds
        self._seed = seed
        self.models: list[CountBehaviour] = []

    def fit(self, session: Keys, rounds: Rounds, other: Counts | None = None) -> None:
        """Fits all models.

        Args:
            session: [n] key of each round's session.
            rounds: n rounds.
            other: Counts of sessions that are not among them, such as those of the train split.

        Raises:
            ValueError: A fold or all others are empty.
        """
        fold = folds(session, self._num_folds, self._seed)
        counted = [Counts.of(rounds.take(np.flatnonzero(fold == number)), self._num_items) for number in range(self._num_folds)]
        self.models = []
        for number in range(self._num_folds):
            rows = np.flatnonzero(fold != number)
            if not len(rows) or len(rows) == len(fold):
                raise ValueError(f"{len(np.unique(session))} sessions are too few for {self._num_folds} folds")
            counts = [part for place, part in enumerate(counted) if place != number]
            total = counts[0] if other is None else counts[0] + other
            for part in counts[1:]:
                total = total + part
            self.models.append(CountBehaviour(total, rounds.take(rows)))

    def probabilities(self, session: Keys, history: Ints, item: Ints) -> Floats:
        """[n, K] probabilities of items [n, K] by the model that has not seen the session."""
        fold = folds(session, self._num_folds, self._seed)
        found = np.zeros(item.shape)
        for number, model in enumerate(self.models):
            rows = np.flatnonzero(fold == number)
            if len(rows):
                found[rows] = model.probabilities(history[rows], item[rows])
        return found

    def best(self, session: Keys, history: Ints, k: int) -> Ints:
        """[n, k] likeliest items by the model that has not seen the session, 0 behind them."""
        fold = folds(session, self._num_folds, self._seed)
        found = np.zeros((len(history), k), np.int64)
        for number, model in enumerate(self.models):
            rows = np.flatnonzero(fold == number)
            if len(rows):
                best = model.best(history[rows], k)
                found[rows, : best.shape[1]] = best
        return found

    def table(self, session: Keys, history: Ints) -> Floats:
        """[n, N-1] probabilities of all items 1 to N - 1."""
        item = np.broadcast_to(np.arange(1, self._num_items), (len(history), self._num_items - 1))
        return self.probabilities(session, history, item)
