"""MAGIC: the blend of importance sampling and model that promises the least squared error."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic

from models.ope.base import Sums
from models.ope.log import SessionLog
from models.ope.sequential import SequentialEstimator, by_step

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_STEPS = 512
"""Most steps of a session; products take 32 T^2 bytes for each window of the sums."""


class MAGIC(SequentialEstimator):
    """Model and guided importance sampling combined: x . g, where g_j is WDR for steps up to j and the model from there on.

        g_j = sum_{t<=j} g^t w_t (r_t - Q_t) + sum_{t<=j+1} g^t w_{t-1} V_t,    w_t = rho_t / sum_i rho_t
        x   = argmin x' (Omega + b b') x over x >= 0, sum x = 1

    j = -1 is the model alone and the last j is WDR. Omega is the covariance of the g_j from the parts that sessions have in them,
    b_j the distance of g_j from a bootstrap interval of WDR. Because each w_t is a weight over a sum, products of the unnormalised
    parts, [2T, 2T], suffice, and the estimate needs one pass over the log, not one for the normalisers and one for the covariance.
    Its interval is that of WDR, widened to hold the estimate: a blend that trusts a wrong model is narrow and beside the truth.

    References:
        Thomas and Brunskill (2016), section 7; COBS (Voloshin et al., 2021) spreads the lengths j in the same way.
    """

    name: Literal["magic"] = "magic"
    num_lengths: int = pydantic.Field(default=25, ge=2)
    """Most lengths j that are blended, spread evenly between the model and WDR."""
    level: float = pydantic.Field(default=0.9, gt=0.0, lt=1.0)
    """Of the interval of WDR outside of which a g_j counts as biased."""

    needs_model = True
    needs_resampling = True
    products = "numerators"

    def columns(self, log: SessionLog) -> Floats:
        if log.lengths.max(initial=1) > MAX_STEPS:
            raise ValueError(f"a session of {log.lengths.max()} rounds; magic keeps products of all steps, at most {MAX_STEPS} of them")
        return by_step(*self.corrections(log), log.cumulative_weight())

    def coefficients(self, sums: Sums) -> Floats:
        """How much each correction counts, [2, T]: the blended lengths that reach it.

        Raises:
            ValueError: There are no resamples or products.
        """
        if sums.resampled is None or sums.products is None:
            raise ValueError("magic needs resamples of the log and products of its sums")
        steps = sums.total.shape[-1]
        reached = reaches(lengths(steps - 1, self.num_lengths), steps)
        with np.errstate(invalid="ignore", divide="ignore"):
            # A length is spared the steps behind it in which no weight is left.
            values = np.where(reached > 0.0, sums.total[0] / sums.total[1], 0.0).sum(axis=(1, 2))
            parts = np.where(reached > 0.0, 1.0 / sums.total[1], 0.0).reshape(len(values), -1)
            wdr = (sums.resampled[:, 0] / sums.resampled[:, 1]).sum(axis=(1, 2))
        wdr = wdr[np.isfinite(wdr)]
        usable = np.isfinite(values)
        if not len(wdr) or not usable.all():
            # WDR, against which bias is measured, does not exist: the longest that does.
            blend = np.eye(len(values))[np.flatnonzero(usable)[-1]] if usable.any() else np.full(len(values), np.nan)
        else:
            centred = sums.products - np.outer(sums.total[0], sums.total[0]) / sums.num_sessions
            # Parts of one session add up to g, so its covariance is the sum of theirs, not the mean.
            covariance = parts @ centred @ parts.T * (sums.num_sessions / max(1, sums.num_sessions - 1))
            tail = 50.0 * (1.0 - self.level)
            low, high = np.percentile(wdr, [tail, 100.0 - tail])
            bias = np.maximum(0.0, np.maximum(values - high, low - values))
            blend = least_on_simplex(covariance + np.outer(bias, bias))
        coefficients: Floats = np.tensordot(blend, reached, axes=1)
        return coefficients

    def interval_coefficients(self, sums: Sums) -> Floats:
        return np.ones(sums.total.shape[-2:])


def lengths(steps: int, count: int) -> Ints:
    """Up to `count` lengths j from -1 to T - 1, both included."""
    return np.unique(np.linspace(-1, steps - 1, min(count, steps + 1)).round().astype(np.int64))


def reaches(length: Ints, steps: int) -> Floats:
    """[L, 2, T] 1 where the correction of a step counts in g_j: steps up to j, and of what the model says one more."""
    step = np.arange(steps)
    return np.stack([step <= length[:, None], step <= length[:, None] + 1], axis=1).astype(np.float64)


def least_on_simplex(matrix: Floats) -> Floats:
    """x [L] with the least x' A x among x >= 0 with sum 1, for a positive semidefinite A [L, L].

    An active set: the minimum on the support, where it leaves the simplex the way there is cut and an entry dropped, and the entry
    with the steepest descent is taken up until there is none.

    References:
        Wolfe (1976), "Finding the nearest point in a polytope".
    """
    size = len(matrix)
    scale = float(np.trace(matrix)) / size
    if scale <= 0.0:
        # Nothing varies and nothing is biased: the longest, which assumes least of the model.
        return np.eye(size)[-1]
    # The ridge makes the answer unique where lengths agree, and is far below what the sums tell apart.
    regular = matrix / scale + 1e-10 * np.eye(size)
    x = np.zeros(size)
    x[int(np.argmin(np.diag(regular)))] = 1.0
    for _ in range(100 * size):
        gradient = regular @ x
        slack = gradient - x @ gradient
        entering = int(np.argmin(slack))
        if slack[entering] >= -1e-12 * max(1.0, float(np.abs(gradient).max())):
            break
        support = np.flatnonzero((x > 0.0) | (np.arange(size) == entering))
        while True:
            ahead = np.linalg.solve(regular[np.ix_(support, support)], np.ones(len(support)))
            ahead /= ahead.sum()
            if (ahead > 0.0).all():
                x[support] = ahead
                break
            now = x[support]
            falling = ahead <= 0.0
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(falling, now / (now - ahead), np.inf)
            cut = int(np.argmin(share))
            x[support] = now + share[cut] * (ahead - now)
            x[support[cut]] = 0.0
            support = np.delete(support, cut)
    return x / x.sum()
