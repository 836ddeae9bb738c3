"""How far logging probabilities may be off before an estimate says something else.

A model of the logging policy leaves out what it did not see. If every probability that the log was made with lies within a factor of the
modelled one, each weight lies within bounds, and the self-normalised estimate between a least and a greatest value: weights are at their
upper bounds where rewards are above some threshold and at their lower ones below it, or the other way round.

References:
    Zhao, Small and Bhattacharya (2019), section 4: the bounds as a linear fractional programme. Kallus and Zhou (2021).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MAX_FACTOR = 16.0
"""What is robust against this factor is robust."""
_HALVINGS = 40


def ratio_bounds(low: Floats, high: Floats, reward: Floats) -> tuple[float, float]:
    """Least and greatest sum w r / sum w over all weights w between their bounds.

    Args:
        low: [n] least weights, not all 0.
        high: [n] greatest weights.
        reward: [n] r.
    """
    order = np.argsort(reward, kind="stable")
    low, high, reward = low[order], high[order], reward[order]

    def best(first: Floats, last: Floats) -> Floats:
        """[n+1] ratios with the first k weights from one bound and the others from the other one."""
        tops = np.concatenate([[0.0], np.cumsum(first * reward)]) + np.concatenate([np.cumsum((last * reward)[::-1])[::-1], [0.0]])
        bottoms = np.concatenate([[0.0], np.cumsum(first)]) + np.concatenate([np.cumsum(last[::-1])[::-1], [0.0]])
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios: Floats = tops / bottoms
        return ratios

    return float(np.nanmin(best(high, low))), float(np.nanmax(best(low, high)))


def tipping_factor(chosen: Floats, kept: float, reward: Floats) -> float | None:
    """The factor by which logging probabilities may be off before a policy may be no better than the one that logged.

    Args:
        chosen: [n] parts of the weights that have the modelled probability below them.
        kept: Part of every weight that has not: the share of decisions that stay as they were logged.
        reward: [n].

    Returns:
        From 1 on, at most `MAX_FACTOR`; None where the policy is not above the logging policy's mean reward to begin with.
    """

    def above(factor: float) -> bool:
        return ratio_bounds(kept + chosen / factor, kept + chosen * factor, reward)[0] > bar

    bar = float(reward.mean()) if len(reward) else 0.0
    if not len(reward) or kept + float(chosen.sum()) <= 0.0 or not above(1.0):
        return None
    if above(MAX_FACTOR):
        return MAX_FACTOR
    low, high = 0.0, float(np.log(MAX_FACTOR))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if above(float(np.exp(middle))) else (low, middle)
    return float(np.exp(low))
