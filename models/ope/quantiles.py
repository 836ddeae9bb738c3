"""Quantiles of Student's t distribution, without SciPy."""

from __future__ import annotations

import math
from statistics import NormalDist

MANY_DEGREES = 20_000
"""Above, the incomplete beta function loses digits and the expansion around the normal distribution has gained them."""

_TINY = 1e-300


def student_t(probability: float, degrees: float) -> float:
    """The t with P(T <= t) = probability, to about 10 digits.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, above 0.

    References:
        Press et al. (2007), sections 6.4 and 6.14.8: the distribution as an incomplete beta function. Abramowitz and Stegun (1964),
        26.7.5: the expansion for many degrees of freedom.

    Raises:
        ValueError: Out of range.
    """
    if not 0.0 < probability < 1.0 or degrees <= 0.0:
        raise ValueError(f"Student's t has no quantile at {probability} with {degrees} degrees of freedom")
    if probability < 0.5:
        return -student_t(1.0 - probability, degrees)
    if degrees > MANY_DEGREES:
        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4.0 * degrees) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * degrees**2)
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
    """P(T > t) for t >= 0: half the regularised incomplete beta function I_x(degrees / 2, 1 / 2) at x = degrees / (degrees + t^2)."""
    if t <= 0.0:
        return 0.5
    a, b = 0.5 * degrees, 0.5
    complement = t * t / (degrees + t * t)
    x = 1.0 - complement
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log1p(-complement) + b * math.log(complement))
    if x < (a + 1.0) / (a + b + 2.0):
        return 0.5 * front * _fraction(x, a, b) / a
    return 0.5 * (1.0 - front * _fraction(complement, b, a) / b)


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
