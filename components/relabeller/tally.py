"""What relabelling did to the returns: counts that add up, a sample for quantiles, and whether the outcome is to be believed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from components.relabeller.config import GateConfig

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_CURVE_POINTS = 101
_ROUNDING = 1e-5
"""Returns that differ by less than this, for each unit of their size, are the same number in 32 bits."""

Reals = npt.NDArray[np.float32]


@dataclass
class Tally:
    """What became of the events of a shard; JSON values, and shards add up with `total`.

    Attributes:
        records: Records written.
        sessions: Sessions.
        events: Events that are targets, each counted once.
        with_next_state: Those of them that do not end their session.
        replaced: Those of them whose next state is worth more than what came after.
        raised: Events whose return rose, by themselves or by a later event.
        not_finite: Values of states that are no numbers.
        reward: Sum of the rewards of all events.
        sum_before: Sum of the returns as logged.
        sum_after: The same of the relabelled ones.
        squares_before: Sum of the squares of the returns as logged.
        bounds: Least and greatest return as logged, least and greatest relabelled one, least and greatest value of a state.
        stride: Every how many events one is in the sample.
        before: Sample of the returns as logged.
        after: The relabelled returns of the same events.
    """

    records: int = 0
    sessions: int = 0
    events: int = 0
    with_next_state: int = 0
    replaced: int = 0
    raised: int = 0
    not_finite: int = 0
    reward: float = 0.0
    sum_before: float = 0.0
    sum_after: float = 0.0
    squares_before: float = 0.0
    bounds: list[float] = field(default_factory=lambda: [math.inf, -math.inf] * 3)
    stride: int = 1
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def add_returns(self, before: Reals, after: Reals, limit: int) -> None:
        """Adds events in their order; the sample never has more than `limit` of them, whatever the pieces they come in."""
        sampled = np.arange(-self.events % self.stride, len(before), self.stride)
        self.before += before[sampled].tolist()
        self.after += after[sampled].tolist()
        while len(self.before) > limit:
            self.before, self.after, self.stride = self.before[::2], self.after[::2], 2 * self.stride
        self.events += len(before)
        self.raised += int((after - before > tolerance(before)).sum())
        self.sum_before += float(before.sum(dtype=np.float64))
        self.sum_after += float(after.sum(dtype=np.float64))
        self.squares_before += float(np.square(before, dtype=np.float64).sum())
        self._widen(0, before)
        self._widen(2, after)

    def add_values(self, values: npt.NDArray[np.float64]) -> None:
        """Adds values of states."""
        finite = np.isfinite(values)
        self.not_finite += int((~finite).sum())
        self._widen(4, values[finite])

    def _widen(self, place: int, values: npt.NDArray[Any]) -> None:
        if len(values):
            self.bounds[place] = min(self.bounds[place], float(values.min()))
            self.bounds[place + 1] = max(self.bounds[place + 1], float(values.max()))


def tolerance(returns: Reals) -> Reals:
    """How far returns may be apart and still be the same."""
    bounds: Reals = _ROUNDING * (1.0 + np.abs(returns))
    return bounds


def total(tallies: Iterable[Tally]) -> dict[str, Any]:
    """All shards together, as the artifact states it; pairs are (as logged, relabelled)."""
    parts = [asdict(tally) for tally in tallies]
    sums = {entry.name: sum(part[entry.name] for part in parts) for entry in fields(Tally) if entry.type in ("int", "float")}
    events, bounds = max(1, sums["events"]), np.array([part["bounds"] for part in parts]).reshape(-1, 3, 2)
    least, greatest = bounds[:, :, 0].min(axis=0).tolist(), bounds[:, :, 1].max(axis=0).tolist()
    mean = [sums["sum_before"] / events, sums["sum_after"] / events]
    weights = np.repeat([part["stride"] for part in parts], [len(part["before"]) for part in parts])
    samples = [np.concatenate([part[name] for part in parts]) for name in ("before", "after")]
    counts = {name: sums[name] for name in ("records", "sessions", "events", "with_next_state", "replaced", "raised", "not_finite")}
    quantiles = [(at, [_quantile(values, weights, at) for values in samples]) for at in np.linspace(0.0, 1.0, _CURVE_POINTS)]
    return {
        **counts,
        "reward": round(sums["reward"], 3),
        "raised_share": sums["raised"] / events,
        "replaced_share": sums["replaced"] / max(1, sums["with_next_state"]),
        "mean": mean,
        "mean_raise_of_raised": (sums["sum_after"] - sums["sum_before"]) / max(1, sums["raised"]),
        "deviation": math.sqrt(max(0.0, sums["squares_before"] / events - mean[0] ** 2)),
        "least": least[:2],
        "greatest": greatest[:2],
        "value": [least[2], greatest[2]] if math.isfinite(least[2]) else None,
        "quantiles": [[at, *(_quantile(values, weights, at) for values in samples)] for at in _QUANTILES],
        "curve": [[round(float(at), 4), *pair] for at, pair in quantiles],
    }


def _quantile(values: npt.NDArray[np.float64], weights: npt.NDArray[np.int64], share: float) -> float:
    """The least value that at least this share of all does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][min(len(order) - 1, int(np.searchsorted(reached, share * reached[-1] - 1e-9)))])


def refusals(found: dict[str, Any], gate: GateConfig) -> list[str]:
    """What about relabelled returns cannot be believed, with numbers; empty when all is well."""
    reasons = []
    if found["not_finite"]:
        reasons.append(f"{found['not_finite']:,} values of states are no numbers")
    share, raise_ = found["replaced_share"], found["mean"][1] - found["mean"][0]
    stated = f"{share:.2%} of {found['with_next_state']:,} events are followed by less than their next state is said to be worth"
    if share > gate.max_replaced_share:
        reasons.append(f"{stated}, at most {gate.max_replaced_share:.2%} are plausible (gate.max_replaced_share): values are too high")
    if share < gate.min_replaced_share:
        reasons.append(f"{stated}, at least {gate.min_replaced_share:.2%} are expected (gate.min_replaced_share): values are too low")
    if raise_ > gate.max_mean_raise * found["deviation"]:
        reasons.append(
            f"the mean return rises from {found['mean'][0]:.4g} to {found['mean'][1]:.4g}, by more than {gate.max_mean_raise:g} standard "
            f"deviations of {found['deviation']:.4g} (gate.max_mean_raise)"
        )
    (least, _), (greatest, risen) = found["least"], found["greatest"]
    if risen - greatest > gate.max_excess * (greatest - least) + _ROUNDING * (1.0 + abs(greatest)):
        reasons.append(
            f"the greatest return rises from {greatest:.4g} to {risen:.4g}, by more than {gate.max_excess:g} times the range of the logged "
            f"returns, {greatest - least:.4g} (gate.max_excess)"
        )
    return reasons
