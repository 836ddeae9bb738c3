"""Sums of floats without rounding, so that shards, batches and orders of a log all give the same bits.

A float is an integer times a power of two. Cut into windows of 36 bits it is a few integers below 2**36, and integers add without
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

BITS = 36
SHIFT = 10
"""Window k holds the bits of 2**(36 k + 10) and above: then weights and rewards of usual sizes need the fewest windows."""

MAX_TERMS = 1 << 14
"""Most terms that are added in float64: this many integers below 2**36, each counted up to `MAX_WEIGHT` times, reach 2**53."""

MAX_WEIGHT = 8
LOWEST_WINDOW = -27
"""What is smaller than 2**-962 counts as nothing: one factor could not scale it up."""

_MASK = (1 << BITS) - 1
_NEARLY_FULL = 1 << 61


@dataclass(frozen=True)
class ExactSums:
    """An array of exact sums; `+` joins those of two shards and is exactly associative and commutative.

    Attributes:
        lowest: Window of the first row: row p counts in units of 2**(36 (lowest + p) + 10).
        windows: [P, *shape].
    """

    lowest: int
    windows: Ints

    @classmethod
    def zeros(cls, shape: Sequence[int]) -> ExactSums:
        """Sums of nothing."""
        return cls(0, np.zeros((1, *shape), np.int64))

    @classmethod
    def of(cls, values: Floats, weights: Floats | None = None) -> ExactSums:
        """Sums over the last axis, or the weighted ones; see `collect`."""
        totals, weighted = collect([values], weights)
        return totals[0] if weighted is None else weighted[0]

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
        # Carries keep every window but the signed topmost below 2**36, so that no number of shards overflows.
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
        exponent = BITS * self.lowest + SHIFT
        if exponent >= 0:
            return np.asarray(total * (1 << exponent), np.float64)
        # Python divides integers to the nearest float, however long they are.
        return np.asarray(total / (1 << -exponent), np.float64)


def collect(columns: Sequence[Floats], weights: Floats | None = None) -> tuple[list[ExactSums], list[ExactSums] | None]:
    """Exact sums of several arrays over their last axis; what occurs twice is summed once.

    Args:
        columns: [*shape, n] each, finite, n the same and up to `MAX_TERMS`.
        weights: [n, R] how often each term counts in each of R further sums, whole numbers from 0 to `MAX_WEIGHT`.

    Returns:
        Sums [*shape] of each array, and [R, *shape] with the weights, None without.

    Raises:
        ValueError: A value is not finite, or there are too many terms.
    """
    terms = columns[0].shape[-1]
    if terms > MAX_TERMS:
        raise ValueError(f"{terms} terms at a time; at most {MAX_TERMS}")
    flat = [row for values in columns for row in values.reshape(int(np.prod(values.shape[:-1])), terms)]
    places: dict[bytes, int] = {}
    place = np.array([places.setdefault(row.tobytes(), len(places)) for row in flat], np.int64)
    distinct = np.empty((len(places), terms))
    distinct[place] = flat
    cuts = list(_windows(distinct))
    # One product for all windows: BLAS is several times faster on many rows than on a few at a time.
    integers = np.concatenate([found for _, _, found in cuts]) if cuts else np.zeros((0, terms))
    shapes = [values.shape[:-1] for values in columns]
    totals = _placed(cuts, integers.sum(axis=1), place, shapes)
    return totals, None if weights is None else _placed(cuts, (integers @ weights).T, place, shapes)


def _placed(cuts: Sequence[tuple[int, Ints, Floats]], totals: Floats, place: Ints, shapes: Sequence[tuple[int, ...]]) -> list[ExactSums]:
    """Puts the sums [..., P] of all rows of all windows where they belong; `place` is the distinct row of each sum wanted."""
    outer = totals.shape[:-1]
    lowest = cuts[-1][0] if cuts else 0
    windows = np.zeros((cuts[0][0] - lowest + 1 if cuts else 1, *outer, int(place.max(initial=-1)) + 1), np.int64)
    begin = 0
    for window, rows, _ in cuts:
        windows[window - lowest][..., rows] = totals[..., begin : begin + len(rows)].astype(np.int64)
        begin += len(rows)
    found, begin = [], 0
    for shape in shapes:
        end = begin + int(np.prod(shape))
        found.append(ExactSums(lowest, windows[..., place[begin:end]].reshape(len(windows), *outer, *shape)))
        begin = end
    return found


def _windows(values: Floats) -> Iterator[tuple[int, Ints, Floats]]:
    """Cuts the values [C, n] into windows from the highest down: its number, the rows [c] that reach it, their integers [c, n]."""
    greatest = np.abs(values).max(initial=0.0)
    if not np.isfinite(greatest):
        raise ValueError("a value to be summed is not finite")
    rows = np.flatnonzero(values.any(axis=1))
    rest = values[rows]
    window = (int(np.frexp(greatest)[1]) - 1 - SHIFT) // BITS
    while len(rows) and window >= LOWEST_WINDOW:
        unit = 2.0 ** (BITS * window + SHIFT)
        integers = np.trunc(rest * (1.0 / unit))
        reached = integers.any(axis=1)
        if reached.any():
            yield window, rows[reached], integers[reached]
            # Exact: the difference is the low bits of a float.
            rest = rest - integers * unit
            left = rest.any(axis=1)
            rows, rest = rows[left], rest[left]
        window -= 1
