"""What the weights of a log and the model of its logging policy say about an estimate, before any number is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.ope.exact import MAX_TERMS, ExactSums
from models.ope.log import SessionLog

Floats = npt.NDArray[np.float64]

NUM_LARGEST = 1000
"""Largest weights that are kept."""


@dataclass(frozen=True)
class WeightStatistics:
    """Sums and largest of M importance weights.

    Attributes:
        size: M.
        num_zero: How many are 0: logged items that the target policy never shows.
        sums: [2] of the weights and of their squares.
        largest: [K] the largest, descending, at most `NUM_LARGEST`.
    """

    size: int
    num_zero: int
    sums: ExactSums
    largest: Floats

    @classmethod
    def of(cls, weight: Floats) -> WeightStatistics:
        """Of weights [M], any number."""
        sums = ExactSums.zeros((2,))
        for begin in range(0, len(weight), MAX_TERMS):
            part = weight[begin : begin + MAX_TERMS]
            sums = sums + ExactSums.of(np.stack([part, part * part]))
        return cls(len(weight), int((weight == 0.0).sum()), sums, _largest(weight))

    @classmethod
    def of_rounds(cls, log: SessionLog) -> WeightStatistics:
        """Of every round, for estimators of a round."""
        return cls.of(log.weight)

    @classmethod
    def of_sessions(cls, log: SessionLog) -> WeightStatistics:
        """Of every session's cumulative weight at its end, for estimators of a session."""
        return cls.of(np.concatenate([part.cumulative_weight()[:, -1] for part in log.parts(1)] or [np.zeros(0)]))

    def merge(self, other: WeightStatistics) -> WeightStatistics:
        """Of both."""
        return WeightStatistics(
            self.size + other.size,
            self.num_zero + other.num_zero,
            self.sums + other.sums,
            _largest(np.concatenate([self.largest, other.largest])),
        )

    def effective_size(self) -> float:
        """(sum w)^2 / sum w^2: how many equal weights would say as much; 0 without weight.

        References:
            Kish (1965); Kong (1992).
        """
        total, squares = self.sums.value()
        return float(total * total / squares) if squares > 0.0 else 0.0

    def mean(self) -> float:
        """Mean weight, 1 in expectation if the logging policy is known and covers the target policy; less by what it leaves out."""
        return float(self.sums.value()[0]) / self.size if self.size else math.nan

    def mean_error(self) -> float:
        """Standard error of the mean weight, as of independent weights."""
        if self.size < 2:
            return math.inf
        total, squares = self.sums.value()
        return math.sqrt(max(0.0, squares - total * total / self.size) / (self.size - 1) / self.size)

    def largest_share(self) -> float:
        """Share of the largest weight in all."""
        total = float(self.sums.value()[0])
        return float(self.largest[0]) / total if total > 0.0 else 1.0

    def tail_index(self) -> float:
        """Hill's estimate of a with P(w > x) ~ x^-a from the root of M largest; infinite for equal ones, NaN for fewer than 3.

        At 2 and below weights have no variance, at 1 and below no mean.

        References:
            Hill (1975).
        """
        count = min(math.isqrt(self.size), len(self.largest) - 1)
        if count < 2 or self.largest[count] <= 0.0:
            return math.nan
        excess = float(np.log(self.largest[:count] / self.largest[count]).mean())
        return 1.0 / excess if excess > 0.0 else math.inf


def _largest(weight: Floats) -> Floats:
    if len(weight) > NUM_LARGEST:
        weight = np.partition(weight, len(weight) - NUM_LARGEST)[-NUM_LARGEST:]
    return np.sort(weight)[::-1]


@dataclass(frozen=True)
class Overlap:
    """How much of the target policy the logging policy could have shown, from whole distributions.

    Attributes:
        num_rounds: n.
        outside: [1] sum over rounds of pi's probability on items that beta shows with less than the floor.
    """

    num_rounds: int
    outside: ExactSums

    @classmethod
    def of(cls, target: Floats, behaviour: Floats, floor: float = 0.0) -> Overlap:
        """Of policies [n, A] with n up to `MAX_TERMS`.

        Args:
            target: pi.
            behaviour: beta.
            floor: Least probability that counts as support; at 0 any above it does.
        """
        unsupported = (behaviour <= 0.0) | (behaviour < floor)
        return cls(len(target), ExactSums.of(np.where(unsupported, target, 0.0).sum(axis=1)[None]))

    def merge(self, other: Overlap) -> Overlap:
        """Of both."""
        return Overlap(self.num_rounds + other.num_rounds, self.outside + other.outside)

    def unsupported_mass(self) -> float:
        """Mean probability of the target policy on what was not supported, from 0 to 1."""
        return float(self.outside.value()[0]) / self.num_rounds if self.num_rounds else 1.0


NUM_BINS = 64


def bins_of(probabilities: Floats) -> npt.NDArray[np.int64]:
    """Bin of each probability, by halvings: 0 from .5 to 1, 1 from .25; what is 0 is in the last one."""
    with np.errstate(divide="ignore"):
        bins = np.clip(-np.frexp(probabilities)[1].astype(np.int64) + 1, 0, NUM_BINS - 1)
    return np.where(probabilities <= 0.0, NUM_BINS - 1, bins)


@dataclass(frozen=True)
class Calibration:
    """Whether a model of the logging policy is right on average wherever it says the same: sums by binned probability.

    Bins are halvings, 2^-63 to 1, because propensities are divided by: a bin at .001 matters as much as one at .5.

    Attributes:
        num_rounds: n.
        sums: [3, bins] of pairs of round and item: how many, predicted probabilities, items logged.
        log_loss: [1] sum of -log beta of the logged items.
    """

    num_rounds: int
    sums: ExactSums
    log_loss: ExactSums

    @classmethod
    def of(cls, behaviour: Floats, item: npt.NDArray[np.int64]) -> Calibration:
        """Of predicted probabilities [n, A] and logged items [n] from 0 to A - 1, n up to `MAX_TERMS`."""
        flat = behaviour.ravel()
        bins = bins_of(flat)
        logged = np.zeros(behaviour.shape)
        rows = np.arange(len(item))
        logged[rows, item] = 1.0
        total = ExactSums.zeros((3, NUM_BINS))
        for found in np.unique(bins):
            member = bins == found
            columns = np.stack([np.ones(int(member.sum())), flat[member], logged.ravel()[member]])
            for begin in range(0, columns.shape[1], MAX_TERMS):
                placed = ExactSums.of(columns[:, begin : begin + MAX_TERMS])
                windows = np.zeros((len(placed.windows), 3, NUM_BINS), np.int64)
                windows[:, :, found] = placed.windows
                total = total + ExactSums(placed.lowest, windows)
        with np.errstate(divide="ignore"):
            loss = -np.log(np.maximum(behaviour[rows, item], np.finfo(np.float64).tiny))
        return cls(len(item), total, ExactSums.of(loss[None]))

    def merge(self, other: Calibration) -> Calibration:
        """Of both."""
        return Calibration(self.num_rounds + other.num_rounds, self.sums + other.sums, self.log_loss + other.log_loss)

    def error(self) -> float:
        """Expected calibration error over rounds: sum over bins of |predicted - logged| / (2 n), from 0 to 1.

        Half, because what one bin says too much another says too little: it is a distance of distributions.

        References:
            Naeini, Cooper and Hauskrecht (2015), with bins by halvings.
        """
        if not self.num_rounds:
            return math.nan
        _, predicted, logged = self.sums.value()
        return float(np.abs(predicted - logged).sum()) / (2.0 * self.num_rounds)

    def chance_error(self) -> float:
        """About the `error` of true probabilities on as many rounds.

        A bin of m expected events is off by E|Poisson(m) - m|, about sqrt(2 m / pi).
        """
        if not self.num_rounds:
            return math.nan
        _, predicted, _ = self.sums.value()
        return float(np.sqrt(2.0 * np.maximum(predicted, 0.0) / math.pi).sum()) / (2.0 * self.num_rounds)

    def mean_log_loss(self) -> float:
        """Mean of -log beta of the logged items, in nats."""
        return float(self.log_loss.value()[0]) / self.num_rounds if self.num_rounds else math.nan
