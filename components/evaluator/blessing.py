"""The verdict on a model, as reasons; pure functions of the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        found: What was measured, where it is one number.
        bound: What it was compared with.
        codes: Why an estimate was refused, by the names of `models.ope.support.Code`.
    """

    name: str
    passed: bool
    reason: str
    found: float | None = None
    bound: float | None = None
    codes: tuple[str, ...] = ()


def judge_value(value: Mapping[str, Any] | None, config: BlessingConfig) -> list[Check]:
    """The estimated value against that of what is deployed, by the lower bound of the difference.

    Args:
        value: What `components.evaluator.value.estimate_value` found, or None where nothing was estimated.
        config: The conditions.
    """
    if config.value_gate == "off":
        return []
    if value is None:
        required = config.value_gate == "required"
        return [Check("value/support", not required, "no value was estimated (evaluator.ope.enabled)", codes=("not_estimated",))]
    difference = value["difference"]
    interval, reasons = difference["interval"], difference["reasons"]
    if interval is None:
        codes = tuple(dict.fromkeys(reason["code"] for reason in reasons))
        words = "; ".join(dict.fromkeys(_in_words(reason) for reason in reasons))
        passed = config.value_gate == "if_supported"
        text = f"the log does not support a value of the candidate{', which is passed over' if passed else ''}: {words}"
        return [Check("value/support", passed, text, codes=codes)]
    bar = -config.max_value_loss * abs(difference["deployed_value"])
    low, relation = interval["low"], "reaches" if interval["low"] >= bar else "is below"
    name = value["deployed"].replace("_", " ")
    text = (
        f"{value['key']} value by {value['decided_by']} is {interval['value']:+.4f} above the {name}'s "
        f"{difference['deployed_value']:.4f}; the lower bound {low:+.4f} {relation} {bar:+.4f}"
    )
    return [
        Check("value/support", True, f"the log supports the value, propensities are {value['propensities']}"),
        Check("value/lower_bound", low >= bar, text, low, bar),
    ]


def _in_words(reason: Mapping[str, Any]) -> str:
    numbers = "" if reason.get("found") is None else f" {reason['found']:.4g}, bound {reason['bound']:.4g}"
    return f"{reason['code'].replace('_', ' ')}{numbers}" + (f" ({reason['text']})" if "text" in reason else "")


def judge_slices(slices: Mapping[str, Mapping[str, Any]], config: BlessingConfig) -> list[Check]:
    """Slices in which the candidate has certainly lost more than it may against the last blessed model."""
    if config.max_slice_drop is None:
        return []
    checks = []
    for name, found in slices.items():
        models = found["models"]
        if "difference" not in models:
            continue
        before, (value, low, high) = models[LAST_BLESSED][0], models["difference"]
        bar = -config.max_slice_drop * before
        text = f"{config.metric} of {name} is {value:+.4f} ({low:+.4f} to {high:+.4f}) against the last blessed model's {before:.4f}"
        checks.append(Check(f"slice/{name}", high >= bar, text, high, bar))
    return checks


def judge(metrics: Mapping[str, Mapping[str, float]], config: BlessingConfig, unavailable: str | None = None) -> list[Check]:
    """Checks every condition on ranking metrics.

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
