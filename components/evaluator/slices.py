"""Metrics of parts of the evaluated events, so that a win on average hides no loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components.evaluation import Decisions
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED
from models.metrics.ranking import RankedSteps, bootstrap, difference, intervals, sum_by_session

Bools = npt.NDArray[np.bool_]

MIN_SESSIONS = 30
"""Slices of fewer sessions say nothing."""


def slice_masks(decisions: Decisions, num_items: int) -> dict[str, Bools]:
    """[M] members of every slice, by its name: place in the session, popularity of the item, activity of the session.

    Args:
        decisions: The evaluated states.
        num_items: N; ids are in order of popularity.
    """
    step = (decisions.history > 0).sum(axis=1)
    _, place, counts = np.unique(decisions.session, return_inverse=True, return_counts=True)
    length = counts[place.ravel()]
    head, middle = max(1, (num_items - 1) // 100), max(2, (num_items - 1) // 10)
    known = decisions.target < num_items
    return {
        "step/1-2": step <= 2,
        "step/3-9": (step > 2) & (step < 10),
        "step/10+": step >= 10,
        "item/top 1%": known & (decisions.target <= head),
        "item/next 9%": known & (decisions.target > head) & (decisions.target <= middle),
        "item/tail": known & (decisions.target > middle),
        "session/1-3 events": length <= 3,
        "session/4-9 events": (length > 3) & (length < 10),
        "session/10+ events": length >= 10,
    }


def measure_slices(
    ranked: Mapping[str, RankedSteps], masks: Mapping[str, Bools], metric: str, num_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The metric of every model in every slice, and how far the candidate is above the last blessed model there.

    Args:
        ranked: Ranks by model, over the same states.
        masks: Members of every slice.
        metric: Key of a ranking metric.
        num_resamples: Bootstrap resamples of sessions.
        seed: Of the resamples.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, mask in masks.items():
        sessions = len(np.unique(ranked[CANDIDATE].session[mask]))
        if sessions < MIN_SESSIONS:
            continue
        sums = {model: sum_by_session(_rows(steps, mask)) for model, steps in ranked.items()}
        if LAST_BLESSED in sums:
            sums["difference"] = difference(sums[CANDIDATE], sums[LAST_BLESSED])
        values = {}
        for (model, total), resampled in zip(sums.items(), bootstrap(list(sums.values()), num_resamples, seed), strict=True):
            estimate = intervals(total, resampled).get(metric)
            if estimate is not None:
                values[model] = [estimate.value, estimate.low, estimate.high]
        if CANDIDATE in values:
            found[name] = {"events": int(mask.sum()), "sessions": sessions, "models": values}
    return found


def _rows(steps: RankedSteps, mask: Bools) -> RankedSteps:
    return RankedSteps(steps.rank[mask], steps.role[mask], steps.reward[mask], steps.session[mask], steps.known[mask], {})
