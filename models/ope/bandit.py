"""Estimators of the mean reward of a round, for contextual bandits and for the positions of a slate.

Notation: w = pi(a | x) / beta(a | x), r the reward, q(x, a) a model of it, v(x) = sum_a pi(a | x) q(x, a), mean over the n rounds.
All assume that what decides about the logged item is in x, and, but for the direct method, that beta is right and above 0 wherever
pi is. None assumes that rounds of one session are independent: a session is one unit.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic

from models.ope.base import Bounds, Estimator, stacked
from models.ope.log import SessionLog

Floats = npt.NDArray[np.float64]


class BanditEstimator(Estimator):
    """Base of the estimators of a round."""

    @abstractmethod
    def columns(self, log: SessionLog) -> Floats:
        """[2, J, 1, S] numerators and denominators of every session."""

    def _mean(self, log: SessionLog, values: Floats) -> tuple[Floats, Floats]:
        """Numerator and denominator of the mean of values [n] over rounds."""
        return log.by_session(values), log.lengths.astype(np.float64)


class DirectMethod(BanditEstimator):
    """DM: mean v(x).

    As good as its model: a wrong q is a wrong value, and no interval shows it. Low variance, needs no propensities.

    References:
        Beygelzimer and Langford (2009), "The offset tree for learning with partial labels".
    """

    name: Literal["dm"] = "dm"
    needs_model = True
    uses_weights = False

    def columns(self, log: SessionLog) -> Floats:
        return stacked(self._mean(log, log.model()[1]))

    def bounds(self, known: Bounds) -> tuple[float, float] | None:
        return known.low, known.high


class Weighted(BanditEstimator):
    """Base of mean w' r with a transformed weight w'."""

    def transformed(self, weight: Floats) -> Floats:
        """[n] transformed weights."""
        return weight

    def greatest(self, known: Bounds) -> float:
        """Greatest transformed weight."""
        return known.weight

    def columns(self, log: SessionLog) -> Floats:
        return stacked(self._mean(log, self.transformed(log.weight) * log.reward))

    def bounds(self, known: Bounds) -> tuple[float, float] | None:
        weight = self.greatest(known)
        return min(0.0, known.low * weight), max(0.0, known.high * weight)


class IPS(Weighted):
    """Inverse propensity scoring: mean w r.

    Unbiased; its variance grows with the square of the greatest weights.

    References:
        Horvitz and Thompson (1952); Strehl, Langford, Li and Kakade (2010).
    """

    name: Literal["ips"] = "ips"


class ClippedIPS(Weighted):
    """IPS with a cap: mean min(w, cap) r.

    Biased towards 0 by what is cut off, and bounded by the cap whatever the propensities.

    References:
        Bottou et al. (2013), section 4.3.
    """

    name: Literal["clipped_ips"] = "clipped_ips"
    cap: float = pydantic.Field(default=10.0, gt=0.0)
    """Greatest weight."""

    def transformed(self, weight: Floats) -> Floats:
        return np.minimum(weight, self.cap)

    def greatest(self, known: Bounds) -> float:
        return min(known.weight, self.cap)


class SubGaussianIPS(Weighted):
    """IPS with weights w / (1 - s + s w), the harmonic mean of 1 and w.

    Bounded by 1 / s; s = 0 is IPS, s = 1 the mean logged reward. Biased by the order of s.

    References:
        Metelli, Russo and Restelli (2021), equation 7 with exponent -1.
    """

    name: Literal["sub_gaussian_ips"] = "sub_gaussian_ips"
    smoothing: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """s, the share of 1 in the mean."""

    def transformed(self, weight: Floats) -> Floats:
        return sub_gaussian(weight, self.smoothing)

    def greatest(self, known: Bounds) -> float:
        return known.weight / (1.0 - self.smoothing + self.smoothing * known.weight)


class SNIPS(BanditEstimator):
    """Self-normalised IPS: sum w r / sum w.

    Consistent with a bias of order 1/n, always within the range of rewards, and moves along when all rewards are shifted.

    References:
        Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning".
    """

    name: Literal["snips"] = "snips"

    def columns(self, log: SessionLog) -> Floats:
        return stacked((log.by_session(log.weight * log.reward), log.by_session(log.weight)))


class Corrected(BanditEstimator):
    """Base of mean v(x) + w' (r - q(x, a)) with a transformed weight w'."""

    needs_model = True

    def transformed(self, weight: Floats) -> Floats:
        """[n] transformed weights."""
        return weight

    def greatest(self, known: Bounds) -> float:
        """Greatest transformed weight."""
        return known.weight

    def columns(self, log: SessionLog) -> Floats:
        predicted, expected = log.model()
        return stacked(self._mean(log, expected + self.transformed(log.weight) * (log.reward - predicted)))

    def bounds(self, known: Bounds) -> tuple[float, float] | None:
        reach = self.greatest(known) * (known.high - known.low)
        return known.low - reach, known.high + reach


class DR(Corrected):
    """Doubly robust: mean v(x) + w (r - q(x, a)).

    Unbiased if the propensities are right, whatever the model, given that the model has not seen the round (cross-fitting);
    consistent if either is right.

    References:
        Dudik, Langford and Li (2011).
    """

    name: Literal["dr"] = "dr"


class SNDR(BanditEstimator):
    """Self-normalised DR: mean v(x) + sum w (r - q(x, a)) / sum w.

    References:
        Robins, Sued, Lei-Gomez and Rotnitzky (2007); Kallus and Uehara (2019).
    """

    name: Literal["sndr"] = "sndr"
    needs_model = True

    def columns(self, log: SessionLog) -> Floats:
        predicted, expected = log.model()
        residual = log.weight * (log.reward - predicted)
        return stacked(self._mean(log, expected), (log.by_session(residual), log.by_session(log.weight)))


class SwitchDR(Corrected):
    """DR where the weight is at most a threshold, the direct method elsewhere: mean v(x) + w 1[w <= threshold] (r - q(x, a)).

    Threshold 0 is the direct method, a large one DR. The bias is that of the model where weights are great.

    References:
        Wang, Agarwal and Dudik (2017), section 4, in its doubly robust form.
    """

    name: Literal["switch_dr"] = "switch_dr"
    threshold: float = pydantic.Field(default=10.0, ge=0.0)
    """Greatest weight that is used."""

    def transformed(self, weight: Floats) -> Floats:
        return np.where(weight <= self.threshold, weight, 0.0)

    def greatest(self, known: Bounds) -> float:
        return min(known.weight, self.threshold)


class OptimisticShrinkageDR(Corrected):
    """DR with the weights s w / (w^2 + s), which never exceed sqrt(s) / 2.

    s = 0 is the direct method, a large one DR; shrinks most where it matters least to a bound on the squared error.

    References:
        Su, Dimakopoulou, Krishnamurthy and Dudik (2020), section 4.1.
    """

    name: Literal["dr_os"] = "dr_os"
    shrinkage: float = pydantic.Field(default=100.0, ge=0.0)
    """s, in squared weights."""

    def transformed(self, weight: Floats) -> Floats:
        if self.shrinkage == 0.0:
            return np.zeros_like(weight)
        # Halves of the formula divided by s, so that a large s does not overflow.
        return weight / (weight * weight / self.shrinkage + 1.0)

    def greatest(self, known: Bounds) -> float:
        return min(known.weight, self.shrinkage**0.5 / 2.0)


class SubGaussianDR(Corrected):
    """DR with the weights w / (1 - s + s w); see `SubGaussianIPS`.

    References:
        Metelli, Russo and Restelli (2021).
    """

    name: Literal["sub_gaussian_dr"] = "sub_gaussian_dr"
    smoothing: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """s, the share of 1 in the mean."""

    def transformed(self, weight: Floats) -> Floats:
        return sub_gaussian(weight, self.smoothing)

    def greatest(self, known: Bounds) -> float:
        return known.weight / (1.0 - self.smoothing + self.smoothing * known.weight)


def sub_gaussian(weight: Floats, smoothing: float) -> Floats:
    """[n] weighted harmonic mean of 1 and each weight; the share of 1 is `smoothing`, and 0 stays 0 below a share of 1."""
    if smoothing == 1.0:
        return np.ones_like(weight)
    shrunk: Floats = weight / (1.0 - smoothing + smoothing * weight)
    return shrunk
