"""Intervals of an estimate over sessions, each with what it needs to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.ope.base import Bounds, Sums
from models.ope.quantiles import student_t as t_quantile
from models.ope.statistics import Statistics

Floats = npt.NDArray[np.float64]
Method = Literal["bootstrap", "student_t", "hoeffding", "empirical_bernstein"]

MAX_UNDEFINED = 0.05
"""Greatest share of resamples without a value."""


class NoIntervalError(ValueError):
    """What an interval needs is not there; the message says what."""


@dataclass(frozen=True)
class Interval:
    """A value between two limits.

    Attributes:
        method: How it was made.
        value: The estimate.
        low: Lower limit.
        high: Upper limit.
    """

    method: Method
    value: float
    low: float
    high: float


def bootstrap(statistics: Statistics, level: float = 0.95) -> Interval:
    """Percentiles of the resamples; right for many sessions, with an error of order one over the root of their number.

    References:
        Efron (1979); Chamandy et al. (2012) for Poisson weights.

    Raises:
        NoIntervalError: There are no resamples, or too many of them have no value.
    """
    if statistics.resampled is None:
        raise NoIntervalError(f"{statistics.estimator.key} was not resampled")
    return _percentiles(statistics.estimate(), statistics.resampled_values(), level)


def difference(one: Statistics, other: Statistics, level: float = 0.95) -> Interval:
    """How far one value is above another on the same sessions, such as that of a candidate above that of the deployed policy.

    Both were resampled with the same seed, so that the sessions of a resample are the same in both, and what they share cancels.

    Raises:
        NoIntervalError: There are no resamples, their numbers differ, or the sessions do.
    """
    if one.resampled is None or other.resampled is None or one.resampled.shape[0] != other.resampled.shape[0]:
        raise NoIntervalError("the two were not resampled alike")
    if (one.num_sessions, one.num_rounds) != (other.num_sessions, other.num_rounds):
        raise NoIntervalError(f"{one.num_sessions} and {other.num_sessions} sessions: a paired difference needs the same log")
    return _percentiles(one.estimate() - other.estimate(), one.resampled_values() - other.resampled_values(), level)


def _percentiles(value: float, resampled: Floats, level: float) -> Interval:
    found = resampled[np.isfinite(resampled)]
    if len(found) < (1.0 - MAX_UNDEFINED) * len(resampled):
        raise NoIntervalError(f"{len(resampled) - len(found)} of {len(resampled)} resamples have no weight left")
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(found, [tail, 100.0 - tail])
    # Resamples of a blend are not around it; see `Estimator.interval_coefficients`.
    return Interval("bootstrap", value, min(value, float(low)), max(value, float(high)))


def standard_error(statistics: Statistics) -> float:
    """Standard error over sessions by the delta method; see `base`.

    Raises:
        NoIntervalError: Products were not kept.
    """
    if statistics.products is None or statistics.estimator.products != "all":
        raise NoIntervalError(f"{statistics.estimator.key} keeps no products of its sums: take its bootstrap")
    if statistics.num_sessions < 2:
        raise NoIntervalError(f"{statistics.num_sessions} session: a variance needs two")
    sums = statistics.sums()
    gradient = _gradient(sums, statistics)
    assert sums.products is not None
    # The mean of the sessions' parts is 0, because ratios do not change when all sums are scaled.
    variance = gradient @ sums.products @ gradient * statistics.num_sessions / (statistics.num_sessions - 1)
    return math.sqrt(max(0.0, float(variance)))


def _gradient(sums: Sums, statistics: Statistics) -> Floats:
    """[C] how the value moves with each sum."""
    numerators, denominators = sums.total
    coefficients = np.broadcast_to(statistics.estimator.coefficients(sums), numerators.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        gradient: Floats = np.stack([coefficients / denominators, -coefficients * numerators / denominators**2]).ravel()
    return gradient


def student_t(statistics: Statistics, level: float = 0.95) -> Interval:
    """Value plus and minus t s / sqrt(S): for many sessions whose terms have a variance.

    Raises:
        NoIntervalError: Products were not kept, or there are fewer than two sessions.
    """
    half = standard_error(statistics) * t_quantile(0.5 + 0.5 * level, statistics.num_sessions - 1)
    value = statistics.estimate()
    return Interval("student_t", value, value - half, value + half)


def hoeffding_half_width(width: float, size: float, tail: float) -> float:
    """width sqrt(log(1 / tail) / (2 n)): what the mean of n independent terms exceeds with probability at most `tail`.

    References:
        Hoeffding (1963), theorem 2.
    """
    return width * math.sqrt(math.log(1.0 / tail) / (2.0 * size))


def bernstein_half_width(width: float, variance: float, size: int, tail: float) -> float:
    """sqrt(2 V log(2 / tail) / n) + 7 width log(2 / tail) / (3 (n - 1)), with V the sample variance over n - 1.

    References:
        Maurer and Pontil (2009), theorem 11, one-sided.
    """
    logarithm = math.log(2.0 / tail)
    return math.sqrt(2.0 * variance * logarithm / size) + 7.0 * width * logarithm / (3.0 * (size - 1))


def hoeffding(statistics: Statistics, known: Bounds, level: float = 0.95) -> Interval:
    """Holds for any number of sessions, if sessions are independent and the bounds are right.

    The mean over rounds of sessions with lengths n_s has the width of one term times sum n_s^2 / n^2 in place of 1 / n.

    Raises:
        NoIntervalError: The estimator is no mean of bounded terms, or the log breaks the bounds.
    """
    low, high = _term(statistics, known)
    size = statistics.num_sessions if statistics.estimator.sequential else statistics.num_rounds**2 / statistics.squared_lengths
    half = hoeffding_half_width(high - low, size, 0.5 * (1.0 - level))
    value = statistics.estimate()
    return Interval("hoeffding", value, value - half, value + half)


def empirical_bernstein(statistics: Statistics, known: Bounds, level: float = 0.95) -> Interval:
    """As `hoeffding`, and narrower where the variance is small against the bounds.

    Raises:
        NoIntervalError: As there, or products were not kept.
    """
    low, high = _term(statistics, known)
    sessions = statistics.num_sessions
    products = statistics.sums().products
    if products is None or sessions < 2:
        raise NoIntervalError(f"{statistics.estimator.key} over {sessions} sessions has no variance")
    width, scale = high - low, 1.0
    if not statistics.estimator.sequential and statistics.longest > 1:
        # Terms are sums over sessions; shorter ones reach less far, so that 0 lies between the limits.
        scale = sessions / statistics.num_rounds
        width = (max(high, 0.0) - min(low, 0.0)) * statistics.longest * scale
    value = statistics.estimate()
    variance = max(0.0, float(products[0, 0]) * scale**2 - sessions * value**2) / (sessions - 1)
    half = bernstein_half_width(width, variance, sessions, 0.5 * (1.0 - level))
    return Interval("empirical_bernstein", value, value - half, value + half)


def _term(statistics: Statistics, known: Bounds) -> tuple[float, float]:
    """Least and greatest term of the mean."""
    estimator = statistics.estimator
    term = estimator.bounds(known)
    if term is None:
        raise NoIntervalError(f"{estimator.key} is no mean of independent terms within bounds: take its bootstrap")
    if statistics.rewards[0] < known.low or statistics.rewards[1] > known.high:
        raise NoIntervalError(f"rewards run from {statistics.rewards[0]:g} to {statistics.rewards[1]:g}, outside of the stated bounds")
    if statistics.greatest_weight > known.weight:
        raise NoIntervalError(f"a weight of {statistics.greatest_weight:g} is above the stated bound {known.weight:g}")
    if estimator.sequential and statistics.longest > known.steps:
        raise NoIntervalError(f"a session of {statistics.longest} rounds is above the stated bound {known.steps}")
    return term
