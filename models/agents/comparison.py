"""Comparisons of agents with noisy, expected and noise-free rewards: what is run, and what follows from the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic

from models.agents.learning import LearningConfig, StabiliserConfig
from models.agents.registry import AGENTS, AnyAgent
from models.simulators.noise import AnyNoise
from models.simulators.registry import AnySimulator
from schemas.config import Config

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
    threshold: float
    """Mean return of a session; how many samples it takes to reach it is compared."""
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


def name_of(agent: Any) -> str:
    """The `name` that tells configurations of agents apart."""
    return next(name for name, kind in AGENTS.items() if isinstance(agent, kind))


def samples_to(rows: list[dict[str, Any]], threshold: float, unit: Literal["sessions", "steps"] = "sessions") -> float | None:
    """Samples after which a policy's return first reached a threshold, between the two measurements around it by a line.

    Args:
        rows: `Measured.as_row` in order.
        threshold: Mean return.
        unit: What is counted.

    Returns:
        None where it never did.
    """
    for before, after in zip([None, *rows], rows, strict=False):
        if after["mean_return"] >= threshold:
            if before is None:
                return float(after[unit])
            share = (threshold - before["mean_return"]) / (after["mean_return"] - before["mean_return"])
            return float(before[unit] + share * (after[unit] - before[unit]))
    return None


@dataclass(frozen=True)
class Ratio:
    """How many times more samples one needs than another, over pairs of seeds.

    Attributes:
        ratio: Geometric mean.
        low: Lower end of its 95 % interval, by Student's t on logarithms; None for fewer than two pairs.
        high: Upper end.
        num_pairs: Pairs.
        num_censored: Of them, those in which one never got there; what it was given then stands for it, which makes the ratio smaller
            where it was the slower one.
    """

    ratio: float
    low: float | None
    high: float | None
    num_pairs: int
    num_censored: int


_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at .975 for 1 to 9 degrees of freedom."""


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
    censored = sum(one is None or other is None for one, other in pairs)
    if len(logs) < 2:
        return Ratio(float(np.exp(logs.mean())), None, None, len(logs), censored)
    reach = _T_975[min(len(logs) - 1, len(_T_975)) - 1] * logs.std(ddof=1) / len(logs) ** 0.5
    low, high = float(np.exp(logs.mean() - reach)), float(np.exp(logs.mean() + reach))
    return Ratio(float(np.exp(logs.mean())), low, high, len(logs), censored)
