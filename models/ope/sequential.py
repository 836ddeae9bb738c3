"""Estimators of the discounted return of a session, under a policy whose items change what comes next.

Notation: rho_t = prod of pi / beta up to and with step t, rho_{-1} = 1, g the discount, r_t the reward, Q and V = E_pi Q a model of
the return from a state on; mean over the S sessions. Behind its end a session has reward and values 0 and keeps its last rho, so
that a normaliser is the same sum over all sessions at every step, whatever their lengths; leaving ended sessions out instead would
compare long sessions with each other alone. All assume what those of a bandit do, of every step.

A normaliser of its own at every step needs no second pass: sums by step are kept, and divided when the estimate is read.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic

from models.ope.base import Bounds, Estimator, stacked
from models.ope.log import SessionLog

Floats = npt.NDArray[np.float64]


class SequentialEstimator(Estimator):
    """Base of the estimators of a session."""

    sequential = True
    discount: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """g, of the reward one step later."""

    def discounts(self, steps: int) -> Floats:
        """[T] powers of the discount, each from the one before, whatever T."""
        factors = np.full(steps, self.discount)
        factors[:1] = 1.0
        return np.cumprod(factors)

    def discounted_steps(self, steps: int) -> float:
        """Sum of the discounts of the first steps."""
        return float(self.discounts(steps).sum())

    def rewards(self, log: SessionLog) -> Floats:
        """[n] discounted rewards."""
        return self.discounts(int(log.lengths.max(initial=1)))[log.step] * log.reward

    def returns(self, log: SessionLog) -> Floats:
        """[S] discounted sums of rewards."""
        return log.by_session(self.rewards(log))

    def corrections(self, log: SessionLog) -> tuple[Floats, Floats]:
        """What the model leaves over and what it says, [S, T] each: g^t rho_t (r_t - Q_t) and g^t rho_{t-1} V_t."""
        predicted, expected = log.model()
        weight = log.cumulative_weight()
        discounts = self.discounts(weight.shape[1])
        left_over = discounts * weight * (log.padded(log.reward, 0.0) - log.padded(predicted, 0.0))
        return left_over, discounts * before(weight) * log.padded(expected, 0.0)


def before(weight: Floats) -> Floats:
    """[S, T] weights one step earlier; 1 in front."""
    return np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)


class TIS(SequentialEstimator):
    """Trajectory importance sampling: mean rho_T sum_t g^t r_t.

    Unbiased; its variance grows exponentially with the length of sessions.

    References:
        Precup, Sutton and Singh (2000), section 3.
    """

    name: Literal["tis"] = "tis"

    def columns(self, log: SessionLog) -> Floats:
        return stacked((log.cumulative_weight()[:, -1] * self.returns(log), np.ones(log.num_sessions)))

    def bounds(self, known: Bounds) -> tuple[float, float] | None:
        reach = max(1.0, known.weight) ** known.steps * self.discounted_steps(known.steps)
        return min(0.0, known.low * reach), max(0.0, known.high * reach)


class SNTIS(SequentialEstimator):
    """Weighted (self-normalised) trajectory importance sampling: sum rho_T G / sum rho_T with the return G.

    Consistent, within the range of returns.

    References:
        Precup, Sutton and Singh (2000), section 3.
    """

    name: Literal["sntis"] = "sntis"

    def columns(self, log: SessionLog) -> Floats:
        weight = log.cumulative_weight()[:, -1]
        return stacked((weight * self.returns(log), weight))


class PDIS(SequentialEstimator):
    """Per-decision importance sampling: mean sum_t g^t rho_t r_t.

    Unbiased; a reward is weighted only by what came before it.

    References:
        Precup, Sutton and Singh (2000), section 4.
    """

    name: Literal["pdis"] = "pdis"

    def columns(self, log: SessionLog) -> Floats:
        weight = log.unpadded(log.cumulative_weight())
        return stacked((log.by_session(weight * self.rewards(log)), np.ones(log.num_sessions)))

    def bounds(self, known: Bounds) -> tuple[float, float] | None:
        growth = known.weight ** np.arange(1.0, known.steps + 1.0)
        reach = float((self.discounts(known.steps) * growth).sum())
        return min(0.0, known.low * reach), max(0.0, known.high * reach)


class SNPDIS(SequentialEstimator):
    """Weighted (self-normalised) per-decision importance sampling: sum_t g^t (sum_i rho_it r_it) / (sum_i rho_it).

    Consistent. Its statistics are two sums for each step.

    References:
        Precup, Sutton and Singh (2000), section 4; Thomas (2015), section 3.8, for the normaliser by step.
    """

    name: Literal["snpdis"] = "snpdis"
    products = "none"

    def columns(self, log: SessionLog) -> Floats:
        weight = log.cumulative_weight()
        gained = self.discounts(weight.shape[1]) * weight * log.padded(log.reward, 0.0)
        return np.stack([gained, weight])[:, None].transpose(0, 1, 3, 2)


class SequentialDR(SequentialEstimator):
    """Doubly robust: mean sum_t g^t [rho_t (r_t - Q_t) + rho_{t-1} V_t].

    Unbiased if the propensities are right, whatever the model, as long as its V is the expectation of its Q over the target policy;
    the better the model, the less its variance.

    References:
        Jiang and Li (2016), equation 10; Thomas and Brunskill (2016), section 4.
    """

    name: Literal["sequential_dr"] = "sequential_dr"
    needs_model = True

    def columns(self, log: SessionLog) -> Floats:
        left_over, said = self.corrections(log)
        return stacked((log.by_session(log.unpadded(left_over + said)), np.ones(log.num_sessions)))


class WDR(SequentialEstimator):
    """Weighted doubly robust: DR with rho_t divided by its mean over sessions at every step.

    Consistent, biased in small samples. Its statistics are three sums for each step, one of them kept twice: those of the two
    corrections and of rho, at the step itself and one step earlier.

    References:
        Thomas and Brunskill (2016), section 5.
    """

    name: Literal["wdr"] = "wdr"
    needs_model = True
    products = "none"

    def columns(self, log: SessionLog) -> Floats:
        return by_step(*self.corrections(log), log.cumulative_weight())


def by_step(left_over: Floats, said: Floats, weight: Floats) -> Floats:
    """[2, 2, T+1, S] of the two corrections over the weights that normalise them, all [S, T].

    One step more than the longest session has: there the weight one step earlier is the last one too, and can be carried on.
    """
    nothing = np.zeros((len(weight), 1))
    left_over, said = (np.concatenate([values, nothing], axis=1) for values in (left_over, said))
    weight = np.concatenate([weight, weight[:, -1:]], axis=1)
    return np.stack([np.stack([left_over, said]), np.stack([weight, before(weight)])]).transpose(0, 1, 3, 2)
