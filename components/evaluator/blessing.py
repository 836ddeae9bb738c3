"""The verdict on a model, as reasons; pure functions of the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.evaluator.config import BlessingConfig

CANDIDATE = "candidate"
LAST_BLESSED = "last_blessed"


@dataclass(frozen=True)
class Check:
    """One condition and what came of it.

    Attributes:
        name: What was compared, machine-readable: `at_least/coverage@10`, `baseline/popularity`, `last_blessed`.
        passed: True when the condition holds.
        reason: The same in words, with both numbers.
    """

    name: str
    passed: bool
    reason: str


def judge(metrics: Mapping[str, Mapping[str, float]], config: BlessingConfig, unavailable: str | None = None) -> list[Check]:
    """Checks every condition.

    Args:
        metrics: Model name to metric to value.
        config: The conditions.
        unavailable: Why the last blessed model could not be ranked, if it could not.

    Returns:
        All checks; the model is blessed when all passed.
    """
    candidate = metrics[CANDIDATE]
    checks = [_at_least(candidate, name, least) for name, least in config.at_least.items()]
    value = candidate.get(config.metric)
    if value is None:
        known = ", ".join(candidate)
        return [*checks, Check("metric", False, f"evaluator.blessing.metric {config.metric!r} was not measured; known: {known}")]
    for name in config.not_below_baselines:
        bar = metrics[name][config.metric]
        relation = "reaches" if value >= bar else "is below"
        checks.append(Check(f"baseline/{name}", value >= bar, f"{config.metric} {value:.4f} {relation} {name}'s {bar:.4f}"))
    if not config.against_last_blessed:
        return checks
    if unavailable is not None:
        remedy = "evaluator.blessing.against_last_blessed=false blesses without it"
        checks.append(Check(LAST_BLESSED, False, f"the last blessed model could not be compared ({remedy}): {unavailable}"))
    elif LAST_BLESSED in metrics:
        before = metrics[LAST_BLESSED][config.metric]
        bar = before * (1.0 - config.max_drop)
        relation = "reaches" if value >= bar else "is below"
        text = f"{config.metric} {value:.4f} {relation} {bar:.4f}, the last blessed model's {before:.4f} less {config.max_drop:.1%}"
        checks.append(Check(LAST_BLESSED, value >= bar, text))
    return checks


def _at_least(candidate: Mapping[str, float], name: str, least: float) -> Check:
    value = candidate.get(name)
    if value is None:
        return Check(f"at_least/{name}", False, f"{name} was not measured; known: {', '.join(candidate)}")
    relation = "reaches" if value >= least else "is below"
    return Check(f"at_least/{name}", value >= least, f"{name} {value:.4f} {relation} {least:g}")
