"""Comparisons of agents with noisy, expected and noise-free rewards: what is run, and what follows from the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from models.agents.learning import LearningConfig, StabiliserConfig
from models.agents.registry import AnyAgent, name_of
from models.ope.quantiles import student_t
from models.simulators.noise import AnyNoise
from models.simulators.registry import AnySimulator
from schemas.config import Config

Measure = Literal["drawn_return", "mean_return"]
"""A session's return as the agent plays while it learns, with what it tries; or without that."""

Variant = Literal["noise_free", "raw", "srs", "srs2", "exact"]
"""Rewards without noise; with noise; expected by an estimator; expected by one whose vectors the agent shares; as they truly are on average
(the simulated shop alone)."""


class NoisyRewardsConfig(Config):
    """Agents in a world whose rewards have noise, each variant from the same seeds."""

    name: str = pydantic.Field(min_length=1)
    simulator: AnySimulator
    """The world; policies are measured in it as it is."""
    noise: AnyNoise | None = None
    """What is done to the rewards that are learned from, but for `noise_free`."""
    agents: tuple[AnyAgent, ...] = pydantic.Field(min_length=1)
    """Who learns."""
    variants: tuple[Variant, ...] = pydantic.Field(default=("noise_free", "raw", "srs", "srs2"), min_length=1)
    """What is learned from."""
    stabiliser: StabiliserConfig = StabiliserConfig()
    """The estimator of `srs` and `srs2`."""
    distortions: tuple[float, ...] = pydantic.Field(default=(), max_length=20)
    """Further rows: `srs` with a fixed error of each of these standard deviations in its estimates."""
    learning: LearningConfig = LearningConfig()
    seeds: tuple[int, ...] = pydantic.Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Each is a training of its own; variants are compared seed by seed."""
    measure: Measure = "drawn_return"
    """What is compared. Without what it tries, a policy shows one and the same item until something comes of it, and its return jumps
    with that item."""
    reference: Variant = "noise_free"
    """Whose gain the thresholds are shares of."""
    gain_shares: tuple[float, ...] = pydantic.Field(default=(0.25, 0.5, 0.8), min_length=1, max_length=10)
    """How many samples it takes to gain these shares of what the reference gains is compared."""
    window: int = pydantic.Field(default=3, ge=1)
    """Measurements whose mean has to reach a threshold, so that a single one does not by chance."""
    unit: Literal["sessions", "steps"] = "sessions"
    """What a sample is."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> NoisyRewardsConfig:
        names = [name_of(agent) for agent in self.agents]
        if len(set(names)) < len(names):
            raise ValueError(f"agents must differ by name, found {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ from each other, found {', '.join(map(str, self.seeds))}")
        if any(distortion <= 0.0 for distortion in self.distortions):
            raise ValueError("distortions are standard deviations above 0")
        if any(not 0.0 < share <= 1.0 for share in self.gain_shares):
            raise ValueError(f"gain_shares are above 0 and at most 1, found {', '.join(map(str, self.gain_shares))}")
        if self.reference not in self.variants:
            raise ValueError(f"reference: one of the variants ({', '.join(self.variants)}), found {self.reference}")
        return self

    def rows(self) -> dict[str, tuple[StabiliserConfig | None, bool]]:
        """What is compared of each agent: the estimator, and whether rewards have noise."""
        kinds: dict[str, tuple[StabiliserConfig | None, bool]] = {
            "noise_free": (None, False),
            "raw": (None, True),
            "srs": (self.stabiliser, True),
            "srs2": (self.stabiliser.model_copy(update={"shares_vectors": True}), True),
            "exact": (self.stabiliser.model_copy(update={"is_exact": True, "shares_vectors": False}), True),
        }
        found: dict[str, tuple[StabiliserConfig | None, bool]] = {variant: kinds[variant] for variant in self.variants}
        for distortion in self.distortions:
            found[f"srs, error {distortion:g}"] = (self.stabiliser.model_copy(update={"distortion": distortion}), True)
        return found


_END = 0.25
"""Share of a curve's measurements, its last ones, that is what was learned in the end."""


@dataclass(frozen=True)
class Curve:
    """What a policy earned as it learned.

    Attributes:
        samples: [M] sessions or steps before each measurement, rising.
        value: [M] mean of the last measurements up to each.
        end: Mean of the last quarter of the measurements.
    """

    samples: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    end: float

    @classmethod
    def of(cls, rows: list[dict[str, Any]], measure: Measure, unit: Literal["sessions", "steps"] = "sessions", window: int = 1) -> Curve:
        """The curve of rows of `Measured.as_row`."""
        found = np.array([row[measure] for row in rows], np.float64)
        value = np.array([found[max(0, place + 1 - window) : place + 1].mean() for place in range(len(found))])
        num_last = max(1, round(_END * len(found)))
        return cls(np.array([row[unit] for row in rows], np.float64), value, float(found[-num_last:].mean()))

    def samples_to(self, threshold: float) -> float | None:
        """Samples after which a threshold was first reached, between the two measurements around it by a line; None where it never was."""
        reached = np.flatnonzero(self.value >= threshold)
        if not len(reached):
            return None
        place = int(reached[0])
        if place == 0:
            return float(self.samples[0])
        (before, after), (low, high) = self.value[place - 1 : place + 1], self.samples[place - 1 : place + 1]
        return float(low + (threshold - before) / (after - before) * (high - low))


def thresholds(reference: list[Curve], gain_shares: tuple[float, ...]) -> list[float]:
    """Returns that are shares of what a reference gains: its mean over seeds at the end, less that at the beginning.

    Raises:
        ValueError: The reference gains nothing.
    """
    begin, end = float(np.mean([curve.value[0] for curve in reference])), float(np.mean([curve.end for curve in reference]))
    if end <= begin:
        raise ValueError(f"the reference gains nothing: {begin:.3f} at the beginning, {end:.3f} in the end")
    return [begin + share * (end - begin) for share in gain_shares]


@dataclass(frozen=True)
class Ratio:
    """How many times more samples one needs than another, over pairs of seeds.

    Attributes:
        ratio: Geometric mean.
        low: Lower end of its 95 % interval, by Student's t on logarithms; None for fewer than two pairs.
        high: Upper end.
        num_pairs: Pairs.
        never_slow: Of them, those in which the slow one never got there; what it was given then stands for it, so the ratio is greater.
        never_fast: Of them, those in which the fast one never did; the ratio is smaller then.
    """

    ratio: float
    low: float | None
    high: float | None
    num_pairs: int
    never_slow: int
    never_fast: int

    @property
    def sign(self) -> str:
        """`>` where the ratio is a lower bound, `<` where it is an upper one, `?` where it may be either, else nothing."""
        if self.never_slow and self.never_fast:
            return "?"
        return ">" if self.never_slow else "<" if self.never_fast else ""


def paired_ratio(slow: list[float | None], fast: list[float | None], given: float) -> Ratio:
    """Samples of one over samples of the other.

    Args:
        slow: Samples to the threshold of each seed; None where it was never reached.
        fast: Those of the other for the same seeds.
        given: Samples that each was given in all.
    """
    pairs = list(zip(slow, fast, strict=True))
    if not pairs:
        raise ValueError("a ratio needs at least one pair of seeds")
    logs = np.array([np.log(max(one or given, 1.0) / max(other or given, 1.0)) for one, other in pairs])
    never_slow, never_fast = (sum(found is None for found in side) for side in zip(*pairs, strict=True))
    if len(logs) < 2:
        return Ratio(float(np.exp(logs.mean())), None, None, len(logs), never_slow, never_fast)
    reach = student_t(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    low, high = float(np.exp(logs.mean() - reach)), float(np.exp(logs.mean() + reach))
    return Ratio(float(np.exp(logs.mean())), low, high, len(logs), never_slow, never_fast)
