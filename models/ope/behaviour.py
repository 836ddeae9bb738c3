"""A model of the policy that logged, for logs without propensities: what is counted, mixed by how far the counts can be trusted.

    beta(a | h) = l_1 1[a = last] + l_2 share of a in h + l_3 transitions last -> a + l_4 / items
                  + sum_c m_c 1[a in class c] count(a) / counts in c

with weights l and m of their own for every level of how often transitions from the last item were seen. Classes c are of items with like
counts, those that were never counted among them, so that how much a count is worth is learned for great and small ones. The weights are
fitted by expectation maximisation on rounds whose whole session is left out of the counts they are predicted from, so that the model is
calibrated on sessions that it has not seen: visitors come back to the same items, and a session without one of its rounds still knows
that round. Whether it is calibrated, `CrossFittedBehaviour.check` says on other sessions still.

An item is counted where it comes up in a session: that visitors come back to it, its share of the history says.

References:
    Jelinek and Mercer (1980): deleted interpolation. Good (1953): what small counts, and none, are worth. Hanna, Niekum and Stone (2019):
    importance weights from an estimated policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.ope.diagnostics import NUM_BINS, Calibration, bins_of
from models.ope.exact import ExactSums
from models.ope.resampling import folds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_CLASSES = (1, 2, 3, 5, 9, 17, 33)
"""Counts from which a class of items begins; a class of its own is for those never counted."""
LAST, SEEN, NEXT, ANY, UNSEEN = range(5)
_PARTS = UNSEEN + 1 + len(_CLASSES)
"""Class c of the counts is part UNSEEN + c."""
_LEVELS = (0, 1, 4, 16, 64)
"""Transitions seen from the last item, from which a level begins; a level of its own is for the beginnings of sessions."""
_ROUNDS = 60
_PRIOR = 0.5
_CELLS = 1 << 20
"""Probabilities that are worked out at a time."""


LATEST_STEP = 20
"""Steps of a session from which on all count as one, because few sessions have them."""


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
    def is_fresh(self) -> npt.NDArray[np.bool_]:
        """[n] True where the logged item does not stand in the history."""
        fresh: npt.NDArray[np.bool_] = (self.history != self.item[:, None]).all(axis=1)
        return fresh

    @property
    def last(self) -> Ints:
        """[n] last item of each history, 0 where there is none."""
        length = (self.history > 0).sum(axis=1)
        last: Ints = np.where(length > 0, self.history[np.arange(len(length)), np.maximum(length, 1) - 1], 0)
        return last

    @property
    def step(self) -> Ints:
        """[n] items before each, at most `LATEST_STEP`."""
        step: Ints = np.minimum((self.history > 0).sum(axis=1), LATEST_STEP)
        return step

    def take(self, rows: npt.NDArray[np.generic]) -> Rounds:
        """Some of them."""
        return Rounds(self.history[rows], self.item[rows])


@dataclass(frozen=True)
class Counts:
    """How often items were logged, and after which; adds up with `+`.

    Attributes:
        fresh: [N] times each item was logged that did not stand in the history.
        first: [N+1] transitions from each last item, the unknown one and 0, which is the beginning, included.
        pair: [P] ascending keys last * (N + 1) + item.
        times: [P] how often each pair was logged.
    """

    fresh: Ints
    first: Ints
    pair: Keys | Ints
    times: Ints

    @classmethod
    def of(cls, rounds: Rounds, num_items: int) -> Counts:
        """Of n rounds; `num_items` is N, padding included."""
        return cls.of_pairs(rounds.last, rounds.item, rounds.is_fresh, num_items)

    @classmethod
    def of_pairs(cls, last: Ints, item: Ints, is_fresh: npt.NDArray[np.bool_], num_items: int) -> Counts:
        """Of items [n], each after another one [n], 0 at the beginning of a session; `is_fresh` where it did not stand there before."""
        pair, times = np.unique(last * (num_items + 1) + item, return_counts=True)
        first = np.bincount(last, minlength=num_items + 1)
        return cls(np.bincount(item[is_fresh], minlength=num_items), first, pair, times)

    def __add__(self, other: Counts) -> Counts:
        pair, place = np.unique(np.concatenate([self.pair, other.pair]), return_inverse=True)
        times = np.bincount(place, weights=np.concatenate([self.times, other.times]), minlength=len(pair)).astype(np.int64)
        return Counts(self.fresh + other.fresh, self.first + other.first, pair, times)

    def pairs(self, last: Ints, item: Ints) -> Ints:
        """How often pairs were logged; `last` and `item` of one shape."""
        if not len(self.pair):
            return np.zeros(last.shape, np.int64)
        key = last * len(self.first) + item
        place = np.minimum(np.searchsorted(self.pair, key), len(self.pair) - 1)
        return np.where(self.pair[place] == key, self.times[place], 0)


@dataclass(frozen=True)
class _LeftOut:
    """What the session of each of n rounds has in the counts, [n] each.

    Attributes:
        item: Those of the logged item.
        first: Its rounds from the last item.
        pair: Those that go on to the logged item.
        unseen: Items that nothing but it has counted.
    """

    item: Ints
    first: Ints
    pair: Ints
    unseen: Ints

    @classmethod
    def of(cls, session: Keys, rounds: Rounds, counts: Counts) -> _LeftOut:
        place = np.unique(session, return_inverse=True)[1].ravel()
        last, fresh = rounds.last, rounds.is_fresh
        pair = np.unique(last * len(counts.first) + rounds.item, return_inverse=True)[1].ravel()

        def same(column: Ints, weights: Floats | None = None) -> Ints:
            """How many rounds of each round's session have its value."""
            group = np.unique(place * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1].ravel()
            counted: Ints = np.bincount(group, weights=weights)[group].astype(np.int64)
            return counted

        item = same(rounds.item, fresh.astype(np.float64))
        # Of an item that comes up once in its session, that round stands for it.
        alone = fresh & (counts.fresh[rounds.item] == item)
        share = np.where(alone, 1.0 / np.maximum(item, 1), 0.0)
        group_total = np.bincount(place, weights=share, minlength=int(place.max(initial=0)) + 1)
        return cls(item, same(last), same(pair), np.rint(group_total[place]).astype(np.int64))


class CountBehaviour:
    """The model.

    Args:
        counts: What was logged.
        rounds: Rounds that are in the counts, by which the weights are fitted; sessions are whole.
        session: [n] key of each round's session.
    """

    def __init__(self, counts: Counts, rounds: Rounds, session: Keys):
        self._counts = counts
        self._num_items = len(counts.fresh)
        self._class = np.searchsorted(_CLASSES, counts.fresh, side="right")
        sizes = np.where(self._class > 0, counts.fresh, 1)
        sizes[0] = 0
        self._totals = np.bincount(self._class, weights=sizes, minlength=len(_CLASSES) + 1)
        self._share = sizes / np.maximum(self._totals, 1.0)[self._class]
        # [levels + 1, parts]; the last level is that of beginnings.
        self._weights = self._possible() / self._possible().sum(axis=1, keepdims=True)
        last, left_out = rounds.last, _LeftOut.of(session, rounds, counts)
        parts = self._parts(rounds.history, last, rounds.item[:, None], left_out)[:, 0]
        level = self._level(last, left_out.first)
        for _ in range(_ROUNDS):
            joint = self._weights[level] * parts
            shares = joint / joint.sum(axis=1, keepdims=True)
            sums = np.stack([np.bincount(level, weights=shares[:, part], minlength=len(self._weights)) for part in range(_PARTS)], axis=1)
            kept = sums + _PRIOR * self._possible()
            self._weights = kept / kept.sum(axis=1, keepdims=True)

    def probabilities(self, history: Ints, item: Ints) -> Floats:
        """[n, K] probabilities of items [n, K] after histories [n, L]."""
        last = Rounds(history, item[:, 0]).last
        found = np.empty(item.shape)
        # What the parts say takes `_PARTS` numbers for each of them.
        size = max(1, _CELLS // max(1, item.shape[1]))
        for begin in range(0, len(item), size):
            rows = slice(begin, begin + size)
            parts = self._parts(history[rows], last[rows], item[rows])
            found[rows] = (parts * self._weights[self._level(last[rows])][:, None]).sum(axis=2)
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
        popular = np.argsort(-counts.fresh[1:], kind="stable")[:k] + 1
        candidates = np.concatenate([history, after, np.broadcast_to(popular, (len(history), len(popular)))], axis=1)
        candidates = np.sort(np.where(candidates < self._num_items, candidates, 0), axis=1)
        candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = 0
        chance = np.where(candidates > 0, self.probabilities(history, candidates), -1.0)
        chosen = np.argsort(-chance, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(candidates, chosen, axis=1)

    def _possible(self) -> Floats:
        """[levels + 1, parts] 1 where a part can have a weight."""
        possible = np.ones((len(_LEVELS) + 1, _PARTS))
        possible[-1, [LAST, SEEN]] = 0.0
        possible[0, NEXT] = 0.0
        possible[:, UNSEEN:] = self._totals > 0.0
        return possible

    def _level(self, last: Ints, left_out: Ints | int = 0) -> Ints:
        seen = np.maximum(self._counts.first[last] - left_out, 0)
        return np.where(last > 0, np.searchsorted(_LEVELS, seen, side="right") - 1, len(_LEVELS))

    def _parts(self, history: Ints, last: Ints, item: Ints, left_out: _LeftOut | None = None) -> Floats:
        """[n, K, parts] what each part says; with `left_out`, K = 1, without the rounds of the same session."""
        counts = self._counts
        present = (history > 0).sum(axis=1)[:, None]
        parts = np.zeros((*item.shape, _PARTS))
        parts[..., LAST] = (item == last[:, None]) & (last > 0)[:, None]
        seen = np.zeros(item.shape)
        for step in range(history.shape[1]):
            seen += (history[:, step, None] == item) & (item > 0)
        parts[..., SEEN] = seen / np.maximum(present, 1)
        first, pairs = counts.first[last][:, None], counts.pairs(np.broadcast_to(last[:, None], item.shape), item)
        times, group, share = counts.fresh[item], self._class[item], self._share[item]
        if left_out is not None:
            first, pairs = first - left_out.first[:, None], pairs - left_out.pair[:, None]
            times = np.maximum(times - left_out.item[:, None], 0)
            group = np.searchsorted(_CLASSES, times, side="right")
            # What nothing but the session has counted belongs to what was never counted; other classes are too large for it to matter.
            totals = np.where(group > 0, self._totals[group], self._totals[0] + left_out.unseen[:, None])
            share = np.where(group > 0, times, 1) / np.maximum(totals, 1.0)
        parts[..., NEXT] = np.where(first > 0, np.maximum(pairs, 0) / np.maximum(first, 1), 0.0)
        parts[..., ANY] = 1.0 / max(1, self._num_items - 1)
        np.put_along_axis(parts, UNSEEN + group[..., None], (share * (item > 0))[..., None], axis=2)
        return parts

    def check(self, history: Ints, item: Ints, floor: float = 0.0) -> tuple[Calibration, float]:
        """Whether the probabilities of all items are right on average, on rounds the model has not seen.

        Most items have the probability that popularity gives them at the level of the last item; those are binned once for each level,
        and only what a history changes is looked at round by round.

        Args:
            history: [n, L] items so far.
            item: [n] what was logged.
            floor: Least probability that is support.

        Returns:
            Calibration, and the sum over rounds of the share of the catalogue below the floor.
        """
        size = self._num_items
        base = self._weights[:, UNSEEN + self._class[1:]] * self._share[1:] + self._weights[:, [ANY]] / max(1, size - 1)
        bins, wide = bins_of(base), len(self._weights)
        keys = (np.arange(wide)[:, None] * NUM_BINS + bins).ravel()
        pairs = np.bincount(keys, minlength=wide * NUM_BINS).reshape(wide, NUM_BINS).astype(np.float64)
        sums = np.bincount(keys, weights=base.ravel(), minlength=wide * NUM_BINS).reshape(wide, NUM_BINS)
        below = (base < floor).sum(axis=1)
        level = self._level(Rounds(history, item).last)
        rounds_of = np.bincount(level, minlength=wide).astype(np.float64)
        found = np.stack([rounds_of @ pairs, rounds_of @ sums, np.zeros(NUM_BINS)])
        outside = float(rounds_of @ below)
        loss = 0.0
        for begin, end in self._stretches(history):
            rows = slice(begin, end)
            place, changed, more = self._changes(history[rows])
            was = base[level[rows][place], changed - 1]
            now = was + more
            for sign, values in ((-1.0, was), (1.0, now)):
                found[0] += sign * np.bincount(bins_of(values), minlength=NUM_BINS)
                found[1] += sign * np.bincount(bins_of(values), weights=values, minlength=NUM_BINS)
                outside += sign * float((values < floor).sum())
            chance = self.probabilities(history[rows], item[rows, None])[:, 0]
            found[2] += np.bincount(bins_of(chance), minlength=NUM_BINS)
            loss -= float(np.log(np.maximum(chance, np.finfo(np.float64).tiny)).sum())
        # What was taken away again leaves rounding errors where nothing is.
        found[1:] = np.where(found[0] > 0.5, np.maximum(found[1:], 0.0), 0.0)
        calibration = Calibration(len(item), ExactSums.of(found[..., None]), ExactSums.of(np.array([[loss]])))
        return calibration, outside / max(1, size - 1)

    def num_changes(self, history: Ints) -> Ints:
        """[n] about how many items a history changes the probability of."""
        begins, ends = self._followers(Rounds(history, history[:, 0]).last)
        changed: Ints = ends - begins + history.shape[1]
        return changed

    def _stretches(self, history: Ints) -> Iterator[tuple[int, int]]:
        """Stretches of rounds in which histories change about `_CELLS` probabilities."""
        changes = np.cumsum(self.num_changes(history))
        begin = 0
        while begin < len(history):
            before = int(changes[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(changes, before + _CELLS, side="right")))
            yield begin, end
            begin = end

    def _followers(self, last: Ints) -> tuple[Ints, Ints]:
        """[n] where the pairs of each last item begin and end."""
        width = len(self._counts.first)
        return np.searchsorted(self._counts.pair, last * width), np.searchsorted(self._counts.pair, (last + 1) * width)

    def _changes(self, history: Ints) -> tuple[Ints, Ints, Floats]:
        """What histories [n, L] add to probabilities: [m] row, item and how much, each pair of row and item once."""
        counts, size = self._counts, self._num_items
        last = Rounds(history, history[:, 0]).last
        weights = self._weights[self._level(last)]
        present = np.maximum((history > 0).sum(axis=1), 1)
        row, step = np.nonzero((history > 0) & (history < size))
        stood = np.flatnonzero((last > 0) & (last < size))
        begins, ends = self._followers(last)
        followed = np.repeat(np.arange(len(history)), ends - begins)
        place = np.arange(len(followed)) - np.repeat(np.cumsum(ends - begins) - (ends - begins), ends - begins) + begins[followed]
        after = (counts.pair[place] % len(counts.first)).astype(np.int64)
        rows = np.concatenate([row, stood, followed])
        items = np.concatenate([history[row, step], last[stood], after])
        more = [
            weights[row, SEEN] / present[row],
            weights[stood, LAST],
            weights[followed, NEXT] * counts.times[place] / np.maximum(counts.first[last[followed]], 1),
        ]
        keys, group = np.unique(rows * size + items, return_inverse=True)
        added = np.bincount(group.ravel(), weights=np.concatenate(more), minlength=len(keys)).astype(np.float64)
        return keys // size, keys % size, added


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
            self.models.append(CountBehaviour(total, rounds.take(rows), session[rows]))

    def check(self, session: Keys, rounds: Rounds, floor: float = 0.0, max_cells: int = 50_000_000) -> tuple[Calibration, float]:
        """Whether the models are calibrated on the sessions that they have not seen, and the mean share of the catalogue below a floor.

        Args:
            session: [n] keys.
            rounds: n rounds that were fitted.
            floor: Least probability that is support.
            max_cells: About how many probabilities are worked out; rounds are spread evenly where they have more.
        """
        fold = folds(session, self._num_folds, self._seed)
        total, outside, count = Calibration(0, ExactSums.zeros((3, NUM_BINS)), ExactSums.zeros((1,))), 0.0, 0
        for number, model in enumerate(self.models):
            rows = np.flatnonzero(fold == number)
            cells = int(model.num_changes(rounds.history[rows]).sum()) * self._num_folds
            if cells > max_cells:
                rows = rows[np.unique(np.linspace(0, len(rows) - 1, max(1, len(rows) * max_cells // cells)).astype(np.int64))]
            found, below = model.check(rounds.history[rows], rounds.item[rows], floor)
            total, outside, count = total.merge(found), outside + below, count + len(rows)
        return total, outside / max(1, count)

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
