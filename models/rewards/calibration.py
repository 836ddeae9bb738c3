"""How far predicted probabilities and rewards can be believed: sums over events that merge, and what follows from them.

    calibration error  = sum over bins of count / n * |mean observed - mean predicted|
    brier              = mean (p - y)^2
    log_loss           = mean -[y log p + (1 - y) log(1 - p)]
    auc                = P(p of a positive > p of a negative) + 1/2 P(they are equal), over all pairs

References:
    Naeini, Cooper and Hauskrecht (2015) for the calibration error; Brier (1950); Mann and Whitney (1947) for the AUC as a share of pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_BINS = 15
_LEAST_PROBABILITY = 1e-7
"""A float32 probability cannot be told from 1 below this distance; the logarithm is taken of no less."""


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of equal width, beside what was observed.

    Attributes:
        low: Lower border of the first bin; what is below counts there.
        high: Upper border of the last bin; what is above counts there.
        count: [K] events of each bin.
        predicted: [K] sums of the predictions.
        observed: [K] sums of what was observed.
    """

    low: float
    high: float
    count: Ints
    predicted: Floats
    observed: Floats

    @classmethod
    def of(cls, predicted: Floats, observed: Floats, low: float = 0.0, high: float = 1.0, num_bins: int = NUM_BINS) -> Reliability:
        """The bins of n predictions [n] and observations [n]."""
        place = np.clip(((predicted - low) / (high - low) * num_bins).astype(np.int64), 0, num_bins - 1)
        return cls(
            low,
            high,
            np.bincount(place, minlength=num_bins).astype(np.int64),
            np.bincount(place, weights=predicted, minlength=num_bins).astype(np.float64),
            np.bincount(place, weights=observed, minlength=num_bins).astype(np.float64),
        )

    def merge(self, other: Reliability) -> Reliability:
        """The bins of both.

        Raises:
            ValueError: They have other borders.
        """
        if (self.low, self.high, len(self.count)) != (other.low, other.high, len(other.count)):
            raise ValueError(
                f"{len(self.count)} bins from {self.low:g} to {self.high:g} and {len(other.count)} from {other.low:g} to {other.high:g}"
            )
        count, predicted = self.count + other.count, self.predicted + other.predicted
        return Reliability(self.low, self.high, count, predicted, self.observed + other.observed)

    def error(self) -> float:
        """Mean distance between predicted and observed means, by events; NaN without any."""
        total = int(self.count.sum())
        return float(np.abs(self.observed - self.predicted).sum() / total) if total else float("nan")

    def greatest_error(self) -> float:
        """Greatest distance in a bin that has events."""
        filled = self.count > 0
        return float((np.abs(self.observed - self.predicted)[filled] / self.count[filled]).max()) if filled.any() else float("nan")

    def diagram(self) -> list[tuple[float, float, int]]:
        """(mean predicted, mean observed, events) of every bin that has events, in rising order."""
        rows = zip(self.predicted.tolist(), self.observed.tolist(), self.count.tolist(), strict=True)
        return [(predicted / count, observed / count, count) for predicted, observed, count in rows if count]


@dataclass(frozen=True)
class ScoreTable:
    """How many positives and negatives have each score.

    Attributes:
        score: [U] in rising order, each once.
        positive: [U].
        negative: [U].
    """

    score: Floats
    positive: Ints
    negative: Ints

    @classmethod
    def of(cls, score: Floats, label: npt.NDArray[np.bool_]) -> ScoreTable:
        """The table of n scores [n] and labels [n]."""
        return cls._summed(score, label.astype(np.int64), 1 - label.astype(np.int64))

    @classmethod
    def _summed(cls, score: Floats, positive: Ints, negative: Ints) -> ScoreTable:
        unique, inverse = np.unique(score, return_inverse=True)
        columns = [np.bincount(inverse, weights=column, minlength=len(unique)).astype(np.int64) for column in (positive, negative)]
        return cls(unique, *columns)

    def merge(self, other: ScoreTable) -> ScoreTable:
        """The table of both."""
        return self._summed(
            np.concatenate([self.score, other.score]),
            np.concatenate([self.positive, other.positive]),
            np.concatenate([self.negative, other.negative]),
        )

    def auc(self) -> float:
        """Share of pairs of a positive and a negative in the right order, ties counting half; NaN without both."""
        pairs = int(self.positive.sum()) * int(self.negative.sum())
        below = np.cumsum(self.negative) - self.negative
        # Twice the sum, in whole numbers, so that no order of adding matters.
        doubled = int((self.positive * (2 * below + self.negative)).sum())
        return doubled / 2 / pairs if pairs else float("nan")


@dataclass(frozen=True)
class Calibration:
    """All that is kept of events with a yes or no and its predicted probability.

    Attributes:
        count: n.
        positives: How often it was yes.
        squares: Sum of (p - y)^2.
        surprise: Sum of -log of the probability of what happened.
        reliability: Bins.
        scores: Table of scores.
    """

    count: int
    positives: int
    squares: float
    surprise: float
    reliability: Reliability
    scores: ScoreTable

    @classmethod
    def of(cls, probability: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.bool_], num_bins: int = NUM_BINS) -> Calibration:
        """Of n probabilities [n] and what happened [n]."""
        p, y = probability.astype(np.float64), label.astype(np.float64)
        happened = np.clip(np.where(label, p, 1.0 - p), _LEAST_PROBABILITY, 1.0)
        reliability, scores = Reliability.of(p, y, num_bins=num_bins), ScoreTable.of(p, label)
        return cls(len(p), int(y.sum()), float(np.square(p - y).sum()), float(-np.log(happened).sum()), reliability, scores)

    def merge(self, other: Calibration) -> Calibration:
        """Of both sets of events; raises as `Reliability.merge` does."""
        return Calibration(
            self.count + other.count,
            self.positives + other.positives,
            self.squares + other.squares,
            self.surprise + other.surprise,
            self.reliability.merge(other.reliability),
            self.scores.merge(other.scores),
        )

    def values(self) -> dict[str, float]:
        """Every number that exists: a constant label has no AUC, and without events there is none."""
        if not self.count:
            return {}
        rate = self.positives / self.count
        entropy = -sum(share * np.log(share) for share in (rate, 1.0 - rate) if share > 0.0)
        log_loss = self.surprise / self.count
        found = {
            "auc": self.scores.auc(),
            "log_loss": log_loss,
            "explained": 1.0 - log_loss / entropy if entropy else float("nan"),
            "brier": self.squares / self.count,
            "calibration_error": self.reliability.error(),
            "greatest_calibration_error": self.reliability.greatest_error(),
            "rate": rate,
        }
        # A sum of no surprises is -0; it reads as 0.
        return {name: float(value) + 0.0 for name, value in found.items() if np.isfinite(value)}


@dataclass(frozen=True)
class RewardSums:
    """All that is kept of events with a reward and its expectation.

    Attributes:
        count: n.
        total: Sum of the rewards.
        squares: Sum of their squares.
        expected: Sum of the expectations.
        errors: Sum of (r - expectation)^2.
        reliability: Bins of the expectations.
    """

    count: int
    total: float
    squares: float
    expected: float
    errors: float
    reliability: Reliability

    @classmethod
    def none(cls, low: float, high: float) -> RewardSums:
        """Of no events, with bins between two bounds."""
        return cls.of(np.zeros(0), np.zeros(0), low, high)

    @classmethod
    def of(cls, expected: npt.NDArray[np.floating[Any]], reward: npt.NDArray[np.floating[Any]], low: float, high: float) -> RewardSums:
        """Of n expectations [n] and rewards [n], with bins between two bounds."""
        e, r = expected.astype(np.float64), reward.astype(np.float64)
        reliability = Reliability.of(e, r, low, high)
        return cls(len(r), float(r.sum()), float((r * r).sum()), float(e.sum()), float(np.square(r - e).sum()), reliability)

    def merge(self, other: RewardSums) -> RewardSums:
        """Of both sets of events; raises as `Reliability.merge` does."""
        return RewardSums(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.expected + other.expected,
            self.errors + other.errors,
            self.reliability.merge(other.reliability),
        )

    def values(self) -> dict[str, float]:
        """Every number that exists; rewards that are all alike leave nothing to explain."""
        if not self.count:
            return {}
        variance = self.squares / self.count - (self.total / self.count) ** 2
        error = self.errors / self.count
        found = {
            "reward_squared_error": error,
            "reward_bias": (self.expected - self.total) / self.count,
            "reward_calibration_error": self.reliability.error(),
        }
        return {**found, "reward_explained": 1.0 - error / variance} if variance > 1e-12 else found


def popularity_buckets(counts: Ints, num_buckets: int = 3) -> Ints:
    """A bucket for every item id: 0 for the most popular items, which hold the first share of the events, and so on.

    Args:
        counts: [N-1] events of items 1..N-1 in the train split.
        num_buckets: Buckets, each with about as many events.

    Returns:
        [N+1]; padding and the unknown item are in bucket -1.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    bucket = np.empty(len(counts), np.int64)
    bucket[order] = np.minimum(before * num_buckets // max(1, int(counts.sum())), num_buckets - 1)
    return np.r_[-1, bucket, -1].astype(np.int64)


def by_group(
    probability: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.bool_], group: Ints, names: Iterable[str]
) -> dict[str, Calibration]:
    """Calibration of the events of each group that has any; events in group i are those of the i-th name."""
    members = {name: group == number for number, name in enumerate(names)}
    return {name: Calibration.of(probability[inside], label[inside]) for name, inside in members.items() if inside.any()}


def merged(one: Mapping[str, Calibration], other: Mapping[str, Calibration]) -> dict[str, Calibration]:
    """Group by group."""
    names = dict.fromkeys([*one, *other])
    return {name: one[name].merge(other[name]) if name in one and name in other else (one.get(name) or other[name]) for name in names}
