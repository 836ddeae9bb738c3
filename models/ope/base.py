"""What every estimator is: a sum of ratios of sums over sessions.

With numerators N and denominators D of session i, J ratios at each of T steps (T = 1 where steps play no part), and coefficients
c that are all 1 but for blends,

    value = sum_jt c_jt (sum_i N_ijt) / (sum_i D_ijt)

So the sums are all that has to be kept, shards add up, a resample is the same with other counts, and the part of session i in the
error follows from the delta method: e_i = sum_jt c_jt (N_ijt - ratio_jt D_ijt) / sum_i D_ijt.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from models.ope.log import SessionLog
from schemas.config import Config

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """What is known before any data: without it no interval holds for certain.

    Attributes:
        low: Least reward of a round; the model predicts none below it.
        high: Greatest reward of a round; the model predicts none above it.
        weight: Greatest importance weight of a round: one over the least logging probability, or less.
        steps: Most rounds of a session, for estimators of sessions.
    """

    low: float
    high: float
    weight: float
    steps: int = 1


@dataclass(frozen=True)
class Sums:
    """Rounded sums over sessions that an estimator may look at.

    Attributes:
        total: [2, J, T] of numerators and denominators.
        products: [C, C] of their products, flattened; None where they are not kept.
        resampled: [R, 2, J, T] of every resample; None without resampling.
        num_sessions: S.
    """

    total: Floats
    products: Floats | None
    resampled: Floats | None
    num_sessions: int


class Estimator(Config):
    """An estimator with its settings; every one is its own configuration and says its name."""

    needs_model: ClassVar[bool] = False
    """True where the log must hold predictions of a reward model, or of a Q function."""
    uses_weights: ClassVar[bool] = True
    """False where the logging probabilities play no part."""
    sequential: ClassVar[bool] = False
    """True for the value of a session, the mean over sessions; False for that of a round, the mean over rounds."""
    products: ClassVar[Literal["all", "numerators", "none"]] = "all"
    """Which sums of products are kept: what the variance is made of, in the square of the number of sums."""
    needs_resampling: ClassVar[bool] = False
    """True where resamples are part of the estimate itself."""

    @property
    def key(self) -> str:
        """Name with every setting, as it stands in reports: `clipped_ips@10`."""
        settings = [f"{value:g}" if isinstance(value, float) else str(value) for field, value in self if field != "name"]
        return "@".join([str(getattr(self, "name", "")), *settings])

    @abstractmethod
    def columns(self, log: SessionLog) -> Floats:
        """[2, J, T, S] numerators and denominators of every session."""

    def coefficients(self, sums: Sums) -> Floats | float:
        """How much each ratio counts, [J, T]."""
        return 1.0

    def interval_coefficients(self, sums: Sums) -> Floats | float:
        """The same for resamples, whose spread is the interval; other than those of the estimate where its bias would not show."""
        return self.coefficients(sums)

    def bounds(self, known: Bounds) -> tuple[float, float] | None:
        """Least and greatest term of which the estimate is the plain mean; None where it is no mean of independent terms."""
        return None

    def value(self, sums: Floats, coefficients: Floats | float = 1.0) -> Floats:
        """Value [...] of sums [..., 2, J, T]; NaN where a denominator is 0 under a numerator that counts."""
        numerators, denominators = sums[..., 0, :, :], sums[..., 1, :, :]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = numerators / denominators
        # A blend may leave out steps in which no weight is left.
        terms = np.where(np.broadcast_to(coefficients, ratios.shape) == 0.0, 0.0, coefficients * ratios)
        values: Floats = terms.sum(axis=(-2, -1))
        return values


def stacked(*ratios: tuple[Floats, Floats]) -> Floats:
    """[2, J, 1, S] of J pairs of a numerator and a denominator, each [S]."""
    return np.stack([np.stack([numerator for numerator, _ in ratios]), np.stack([denominator for _, denominator in ratios])])[:, :, None]
