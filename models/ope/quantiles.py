"""Quantiles of Student's t distribution, without SciPy."""

from __future__ import annotations

import math
from statistics import NormalDist

_TINY = 1e-300


def student_t(probability: float, degrees: float) -> float:
    """The t with P(T <= t) = probability, to about 12 digits.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, above 0.

    References:
        Press et al. (2007), sections 6.4 and 6.14.8: the distribution as an incomplete beta function.

    Raises:
        ValueError: Out of range.
    """
    if not 0.0 < probability < 1.0 or degrees <= 0.0:
        raise ValueError(f"Student's t has no quantile at {probability} with {degrees} degrees of freedom")
    if probability < 0.5:
        return -student_t(1.0 - probability, degrees)
    tail = 1.0 - probability
    low, high = 0.0, max(1.0, NormalDist().inv_cdf(probability))
    while upper_tail(high, degrees) > tail:
        low, high = high, 2.0 * high
    # Halving needs no derivative, which vanishes far out in the tail.
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if upper_tail(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def upper_tail(t: float, degrees: float) -> float:
    """P(T > t) for t >= 0."""
    return 0.5 * incomplete_beta(degrees / (degrees + t * t), t * t / (degrees + t * t), 0.5 * degrees, 0.5)


def incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b).

    Args:
        x: From 0 to 1.
        complement: 1 - x, given apart because near x = 1 the difference has lost its digits.
        a: Above 0.
        b: Above 0.
    """
    if x <= 0.0 or complement <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    front = math.exp(logarithm)
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(complement, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function by Lentz's method."""
    c, d = 1.0, 1.0 / _apart(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 10_000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / _apart(1.0 + factor * d)
            c = _apart(1.0 + factor / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return value


def _apart(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
