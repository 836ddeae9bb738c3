"""A sequential test for a drop of reward, with a bound on false alarms over all the time it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TILTS = (0.5, 1.0, 2.0, 4.0)
"""Sizes of a drop, in standard errors of a round, that the test is best at; their mean is good at all of them."""


@dataclass
class DropTest:
    """Sounds an alarm when the mean return falls below what the policy had before.

    Nothing is to be shown as long as every round's mean return is at least `floor`: the lower confidence bound of the earlier
    policy's return, less the share that may be lost. The alarm is a sum over all rounds at which a drop may have begun,

        E_t = sum_j 1/R * mean_l prod_{i=j..t} exp(-l z_i - l^2 / 2) + (1 - t/R),   z_i = (mean of round i - floor) / its standard error

    and it sounds when E_t reaches 2 / alpha. While nothing has dropped E_t is a supermartingale that begins at 1, so by Ville's
    inequality it ever does so with probability alpha / 2 at most; the other half is for the confidence bound. Both rest on means of
    rounds being normal, which rounds of a hundred sessions are nearly. A sum that began with the first round alone (a confidence
    sequence of the mean of all rounds) would have to use up what went well before it saw a late drop.

    References:
        Shiryaev (1963) and Roberts (1966) for the sum over beginnings, Shin, Ramdas & Rinaldo (2023), E-detectors, for the form;
        Ville (1939).

    Attributes:
        num_rounds: R, rounds that will be looked at; later ones are still tested, and no drop is thought to begin there.
        false_alarm_rate: alpha, greatest probability of an alarm while nothing has dropped.
        tolerated_drop: Share of the earlier return that may be lost.
        floor: Mean return below which a round counts against the policy; set by `fit`.
        evidence: E_t.
        num_seen: t.
    """

    num_rounds: int
    false_alarm_rate: float = 0.05
    tolerated_drop: float = 0.05
    floor: float = -np.inf
    evidence: float = 1.0
    num_seen: int = 0
    _begun: list[float] = field(default_factory=lambda: [0.0] * len(_TILTS))

    def fit(self, returns: Floats) -> None:
        """Takes returns [S] of the earlier policy under the same exploration."""
        error = float(returns.std(ddof=1)) / len(returns) ** 0.5
        low = float(returns.mean()) - NormalDist().inv_cdf(1.0 - self.false_alarm_rate / 2.0) * error
        self.floor = low - self.tolerated_drop * abs(low)

    def update(self, returns: Floats) -> bool:
        """Takes the returns [S] of a round; True where the alarm sounds."""
        error = float(returns.std(ddof=1)) / len(returns) ** 0.5
        distance = float(returns.mean()) - self.floor
        # Returns that are all alike say on which side they are, and no more.
        z = distance / error if error > 0.0 else float(np.sign(distance)) * max(_TILTS)
        entering = 1.0 / self.num_rounds if self.num_seen < self.num_rounds else 0.0
        self.num_seen += 1
        factors = np.exp(np.clip([-tilt * z - tilt**2 / 2.0 for tilt in _TILTS], -700.0, 300.0))
        self._begun = [min((before + entering) * float(factor), 1e300) for before, factor in zip(self._begun, factors, strict=True)]
        waiting = max(0.0, 1.0 - self.num_seen / self.num_rounds)
        self.evidence = float(np.mean(self._begun)) + waiting
        return self.evidence >= 2.0 / self.false_alarm_rate

    def get_state(self) -> dict[str, Any]:
        """All there is, as JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, saved: dict[str, Any]) -> DropTest:
        """The test that `get_state` was of."""
        return cls(**saved)
