"""Sums of floats without rounding, so that shards, batches and orders of a log all give the same bits.

A float is an integer times a power of two. Cut into windows of 32 bits it is a few integers below 2**32, and integers add without
rounding: in float64, where BLAS multiplies them by small counts, as long as a sum stays below 2**53, and in int64 between
batches. Only reading a sum rounds, once.

References:
    Demmel and Nguyen (2015): reproducible summation by binning. Neal (2015): exact sums with small superaccumulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BITS = 32
MAX_TERMS = 1 << 16
"""Most terms that are added in float64: this many integers below 2**32, each counted up to `MAX_WEIGHT` times, stay below 2**53."""

MAX_WEIGHT = 8
LOWEST_WINDOW = -31
"""What is smaller than 2**-992 counts as nothing: one factor could not scale it up."""

_MASK = (1 << BITS) - 1
_NEARLY_FULL = 1 << 61


@dataclass(frozen=True)
class ExactSums:
    """An array of exact sums; `+` joins those of two shards and is exactly associative and commutative.

    Attributes:
        lowest: Window of the first row: row p counts in units of 2**(32 (lowest + p)).
        windows: [P, *shape].
    """

    lowest: int
    windows: Ints

    @classmethod
    def zeros(cls, shape: Sequence[int]) -> ExactSums:
        """Sums of nothing."""
        return cls(0, np.zeros((1, *shape), np.int64))

    @classmethod
    def of(cls, values: Floats) -> ExactSums:
        """Sums over the last axis.

        Args:
            values: [*shape, n] finite, n up to `MAX_TERMS`.

        Raises:
            ValueError: A value is not finite, or there are too many.
        """
        return cls._collect(values, None)

    @classmethod
    def weighted(cls, values: Floats, weights: Floats) -> ExactSums:
        """Sums over the last axis in which each term counts several times; [R, *shape].

        Args:
            values: [*shape, n] finite, n up to `MAX_TERMS`.
            weights: [n, R] whole numbers from 0 to `MAX_WEIGHT`.

        Raises:
            ValueError: A value is not finite, or there are too many.
        """
        return cls._collect(values, weights)

    @classmethod
    def _collect(cls, values: Floats, weights: Floats | None) -> ExactSums:
        shape, terms = values.shape[:-1], values.shape[-1]
        if terms > MAX_TERMS:
            raise ValueError(f"{terms} terms at a time; at most {MAX_TERMS}")
        outer = () if weights is None else (weights.shape[1],)
        found: dict[int, Ints] = {}
        for window, rows, integers in _windows(values.reshape(int(np.prod(shape)), terms)):
            total = integers.sum(axis=1) if weights is None else (integers @ weights).T
            row = np.zeros((*outer, int(np.prod(shape))), np.int64)
            row[..., rows] = total.astype(np.int64)
            found[window] = row
        if not found:
            return cls.zeros((*outer, *shape))
        lowest, highest = min(found), max(found)
        empty = np.zeros((*outer, int(np.prod(shape))), np.int64)
        stacked = np.stack([found.get(window, empty) for window in range(lowest, highest + 1)])
        return cls(lowest, stacked.reshape(-1, *outer, *shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.windows.shape[1:]

    def __add__(self, other: ExactSums) -> ExactSums:
        if self.shape != other.shape:
            raise ValueError(f"sums of shapes {self.shape} and {other.shape}")
        lowest = min(self.lowest, other.lowest)
        size = max(sums.lowest + len(sums.windows) for sums in (self, other)) - lowest
        joined = np.zeros((size, *self.shape), np.int64)
        for sums in (self, other):
            start = sums.lowest - lowest
            joined[start : start + len(sums.windows)] += sums.windows
        # Carries keep every window but the signed topmost below 2**32, so that no number of shards overflows.
        for row in range(size - 1):
            joined[row + 1] += joined[row] >> BITS
            joined[row] &= _MASK
        if np.abs(joined[-1]).max(initial=0) > _NEARLY_FULL:
            joined = np.concatenate([joined, joined[-1:] >> BITS])
            joined[-2] &= _MASK
        return ExactSums(lowest, joined)

    def value(self) -> Floats:
        """Every sum [*shape] as the nearest float."""
        total = np.zeros(self.shape, object)
        for row in reversed(range(len(self.windows))):
            total = total * (1 << BITS) + self.windows[row].astype(object)
        if self.lowest >= 0:
            return np.asarray(total * (1 << BITS * self.lowest), np.float64)
        # Python divides integers to the nearest float, however long they are.
        return np.asarray(total / (1 << -BITS * self.lowest), np.float64)


def _windows(values: Floats) -> Iterator[tuple[int, Ints, Floats]]:
    """Cuts the values [C, n] into windows from the highest down: its number, the rows [c] that reach it, their integers [c, n]."""
    greatest = np.abs(values).max(initial=0.0)
    if not np.isfinite(greatest):
        raise ValueError("a value to be summed is not finite")
    rows = np.flatnonzero(values.any(axis=1))
    rest = values[rows]
    window = (int(np.frexp(greatest)[1]) - 1) // BITS
    while len(rows) and window >= LOWEST_WINDOW:
        integers = np.trunc(rest * 2.0 ** (-BITS * window))
        reached = integers.any(axis=1)
        if reached.any():
            yield window, rows[reached], integers[reached]
            # Exact: the difference is the low bits of a float.
            rest = rest - integers * 2.0 ** (BITS * window)
            left = rest.any(axis=1)
            rows, rest = rows[left], rest[left]
        window -= 1
