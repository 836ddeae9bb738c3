"""Whether a log supports an estimate; where it does not, the estimate is refused with reasons that a program can read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pydantic

from models.ope.diagnostics import Calibration, Overlap, WeightStatistics
from models.ope.intervals import Interval
from models.ope.statistics import Statistics
from schemas.config import Config

Code = Literal[
    "too_few_sessions",
    "low_effective_size",
    "low_effective_share",
    "dominant_weight",
    "heavy_tail",
    "mean_weight_off",
    "unsupported_mass",
    "uncalibrated_behaviour",
    "unknown_support",
    "too_long_sessions",
    "no_value",
    "no_interval",
]


class Requirements(Config):
    """What a log must offer before a value is given."""

    min_sessions: int = pydantic.Field(default=100, ge=1)
    """Least number of sessions."""
    min_effective_size: float = pydantic.Field(default=100.0, ge=0.0)
    """Least effective number of weights."""
    min_effective_share: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    """Least effective number of weights as a share of all."""
    max_weight_share: float = pydantic.Field(default=0.05, gt=0.0, le=1.0)
    """Greatest share of one weight in all."""
    min_tail_index: float = pydantic.Field(default=2.0, ge=0.0)
    """Least tail index; at 2 and below there is no variance that an interval could show."""
    max_mean_errors: float = pydantic.Field(default=4.0, gt=0.0)
    """Greatest distance of the mean weight from 1, in standard errors: further off, propensities are wrong or support is missing."""
    max_unsupported_mass: float = pydantic.Field(default=0.02, ge=0.0, le=1.0)
    """Greatest probability of the target policy on what was never logged."""
    max_calibration_error: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """Greatest calibration error of an estimated logging policy."""


@dataclass(frozen=True)
class Reason:
    """Why an estimate is refused.

    Attributes:
        code: Which requirement.
        found: What the log has.
        bound: What is required.
    """

    code: Code
    found: float | None
    bound: float | None


@dataclass(frozen=True)
class Evidence:
    """What is known about support.

    Attributes:
        weights: Of rounds for estimators of a round, of sessions for those of a session.
        overlap: From whole distributions; None where only logged items have probabilities.
        calibration: Of an estimated logging policy; None where the log holds the true propensities.
        behaviour_is_estimated: True where propensities come from a model, which then must have been calibrated.
    """

    weights: WeightStatistics
    overlap: Overlap | None = None
    calibration: Calibration | None = None
    behaviour_is_estimated: bool = False


@dataclass(frozen=True)
class Verdict:
    """An estimate, or why there is none.

    Attributes:
        key: Of the estimator.
        interval: Value and limits; None where refused.
        reasons: Empty where given.
        effective_size: Effective number of weights.
        behaviour_is_estimated: True where propensities come from a model; such a value says so.
    """

    key: str
    interval: Interval | None
    reasons: tuple[Reason, ...]
    effective_size: float
    behaviour_is_estimated: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a report; never NaN."""
        return asdict(self)


def refuse(statistics: Statistics, evidence: Evidence, required: Requirements | None = None) -> tuple[Reason, ...]:
    """Reasons against giving the value; none when the log supports it.

    The direct method has no weights, but where the logging policy never went its model has seen nothing either: support is asked
    of every estimator, the behaviour of weights only of those that use them.
    """
    required = required or Requirements()
    weights = evidence.weights
    found: list[Reason] = []

    def need(code: Code, holds: bool, value: float, bound: float) -> None:
        if not holds:
            found.append(Reason(code, value if math.isfinite(value) else None, bound))

    need("too_few_sessions", statistics.num_sessions >= required.min_sessions, statistics.num_sessions, required.min_sessions)
    if evidence.overlap is not None:
        mass = evidence.overlap.unsupported_mass()
        need("unsupported_mass", mass <= required.max_unsupported_mass, mass, required.max_unsupported_mass)
    if evidence.behaviour_is_estimated:
        if evidence.calibration is None:
            found.append(Reason("unknown_support", None, None))
        else:
            error = evidence.calibration.error()
            need("uncalibrated_behaviour", error <= required.max_calibration_error, error, required.max_calibration_error)
    off = abs(weights.mean() - 1.0)
    slack = required.max_mean_errors * weights.mean_error()
    # Weights without any spread have an error of 0 but for rounding.
    need("mean_weight_off", off <= max(slack, 1e-9), weights.mean(), 1.0)
    if statistics.estimator.uses_weights:
        size = weights.effective_size()
        need("low_effective_size", size >= required.min_effective_size, size, required.min_effective_size)
        share = size / weights.size if weights.size else 0.0
        need("low_effective_share", share >= required.min_effective_share, share, required.min_effective_share)
        need("dominant_weight", weights.largest_share() <= required.max_weight_share, weights.largest_share(), required.max_weight_share)
        tail = weights.tail_index()
        need("heavy_tail", not tail < required.min_tail_index, tail, required.min_tail_index)
    if not math.isfinite(statistics.estimate()):
        found.append(Reason("no_value", None, None))
    return tuple(found)


def judge(statistics: Statistics, interval: Interval | None, evidence: Evidence, required: Requirements | None = None) -> Verdict:
    """The interval, or None with the reasons; without an interval a value is refused too."""
    reasons = refuse(statistics, evidence, required)
    if interval is None:
        reasons = (*reasons, Reason("no_interval", None, None))
    given = None if reasons else interval
    return Verdict(statistics.estimator.key, given, reasons, evidence.weights.effective_size(), evidence.behaviour_is_estimated)
