"""The verdict on a model, as reasons; pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from components.evaluator.config import BlessingConfig

CANDIDATE = "candidate"
LAST_BLESSED = "last_blessed"

_COVERAGE = "coverage@10"
_WRONG_PROPENSITIES = "mean_weight_off"
_WRONG_MODEL = "uncalibrated_behaviour"
_TAIL = 0.025
"""Of an interval of 95 %, on either side."""


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
        text = f"{config.metric} {value:.4f} {_relation(value, bar)} {name}'s {bar:.4f}"
        checks.append(Check(f"baseline/{name}", value >= bar, text, value, bar))
    if not config.against_last_blessed:
        return checks
    if unavailable is not None:
        remedy = "evaluator.blessing.against_last_blessed=false blesses without it"
        checks.append(Check(LAST_BLESSED, False, f"the last blessed model could not be compared ({remedy}): {unavailable}"))
    elif LAST_BLESSED in metrics:
        before = metrics[LAST_BLESSED][config.metric]
        bar = before * (1.0 - config.max_drop)
        text = (
            f"{config.metric} {value:.4f} {_relation(value, bar)} {bar:.4f}, the last blessed model's {before:.4f} less "
            f"{config.max_drop:.1%}"
        )
        checks.append(Check(LAST_BLESSED, value >= bar, text, value, bar))
    return checks


def _at_least(candidate: Mapping[str, float], name: str, least: float) -> Check:
    value = candidate.get(name)
    if value is None:
        return Check(f"at_least/{name}", False, f"{name} was not measured; known: {', '.join(candidate)}")
    return Check(f"at_least/{name}", value >= least, f"{name} {value:.4f} {_relation(value, least)} {least:g}", value, least)


def _relation(value: float, bar: float) -> str:
    return "reaches" if value >= bar else "is below"


def judge_spread(metrics: Mapping[str, Mapping[str, float]], config: BlessingConfig) -> list[Check]:
    """Whether the recommendations still depend on who is asked: the coverage of the catalogue beside popularity's and the last one's."""
    key = next((key for key in (_COVERAGE, f"seen_removed/{_COVERAGE}") if key in metrics[CANDIDATE]), None)
    if key is None:
        return []
    value, checks = metrics[CANDIDATE][key], []
    popularity = metrics.get("popularity", {}).get(key)
    if config.min_coverage_ratio is not None and popularity is not None:
        # Ten items of a handful are all of it.
        bar = min(config.min_coverage_ratio * popularity, 0.5)
        text = f"{key} {value:.4f} {_relation(value, bar)} {bar:.4f}; popularity, the same for everybody, has {popularity:.4f}"
        checks.append(Check("coverage/popularity", value >= bar, text, value, bar))
    if config.max_coverage_drop is not None and config.against_last_blessed and LAST_BLESSED in metrics:
        before = metrics[LAST_BLESSED][key]
        bar = before * (1.0 - config.max_coverage_drop)
        less = f"{before:.4f} less {config.max_coverage_drop:.0%}"
        text = f"{key} {value:.4f} {_relation(value, bar)} {bar:.4f}, the last blessed model's {less}"
        checks.append(Check(f"coverage/{LAST_BLESSED}", value >= bar, text, value, bar))
    return checks


def judge_health(health: Mapping[str, float] | None, config: BlessingConfig) -> list[Check]:
    """Whether learned values are ones that the rewards allow.

    Args:
        health: Last numbers of the training; None or without values for a method that learns none.
        config: The conditions.
    """
    if config.max_value_size is None or not health or not health.get("q_bound") or "q_scale" not in health:
        return []
    share, bar = health["q_scale"] / health["q_bound"], config.max_value_size
    text = (
        f"the mean size of learned values is {health['q_scale']:.4g}, {share:.0%} of the greatest return that the rewards allow; "
        f"{bar:.0%} may be"
    )
    return [Check("health/value_size", share <= bar, text, share, bar)]


def judge_value(value: Mapping[str, Any] | None, config: BlessingConfig) -> list[Check]:
    """The estimated value against that of what is deployed, by the lower bound of the difference.

    Args:
        value: What `components.evaluator.value.estimate_value` found, or None where nothing was estimated.
        config: The conditions.
    """
    if config.value_gate == "off":
        return []
    required = config.value_gate == "required"
    if value is None:
        return [Check("value/support", not required, "no value was estimated (evaluator.ope.enabled)", codes=("not_estimated",))]
    difference = value["difference"]
    interval, reasons = difference["interval"], difference["reasons"]
    if interval is None:
        codes = tuple(dict.fromkeys(reason["code"] for reason in reasons))
        words = "; ".join(dict.fromkeys(_in_words(reason) for reason in reasons))
        wrong = _contradicts(value, reasons, config.max_mean_weight)
        passed = not (required or wrong)
        passing = ", which is passed over" if passed else ", whose propensities contradict it" if wrong else ""
        return [Check("value/support", passed, f"the log does not support a value of the candidate{passing}: {words}", codes=codes)]
    bar = -config.max_value_loss * abs(difference["deployed_value"])
    low = interval["low"]
    text = (
        f"{value['key']} {value['decided_by']} is {interval['value']:+.4f} above the {_spoken(value['deployed'])}'s "
        f"{difference['deployed_value']:.4f}; the lower bound {low:+.4f} {_relation(low, bar)} {bar:+.4f}"
    )
    return [
        Check("value/support", True, f"the log supports the value, propensities are {value['propensities']}"),
        Check("value/lower_bound", low >= bar, text, low, bar),
    ]


def _contradicts(value: Mapping[str, Any], reasons: Sequence[Mapping[str, Any]], max_mean_weight: float) -> bool:
    """Whether the log says that its propensities are wrong, which is more than saying too little."""
    if value.get("propensities") == "logged":
        return any(reason["code"] == _WRONG_PROPENSITIES and reason["found"] > max_mean_weight for reason in reasons)
    calibration = value.get("calibration")
    if calibration is None:
        return False
    # A few hundred events have such an error by chance.
    return any(reason["code"] == _WRONG_MODEL and reason["found"] > reason["bound"] + calibration["chance_error"] for reason in reasons)


def _in_words(reason: Mapping[str, Any]) -> str:
    numbers = "" if reason.get("found") is None else f" {reason['found']:.4g}, bound {reason['bound']:.4g}"
    return f"{reason['code'].replace('_', ' ')}{numbers}" + (f" ({reason['text']})" if "text" in reason else "")


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def judge_slices(slices: Mapping[str, Mapping[str, Any]], value: Mapping[str, Any] | None, config: BlessingConfig) -> list[Check]:
    """Slices in which the candidate has certainly lost more than it may, in the ranking or in the estimated value.

    Args:
        slices: What `components.evaluator.slices.measure_slices` found.
        value: What `components.evaluator.value.estimate_value` found, or None.
        config: The conditions.

    Returns:
        A check for each slice that can be compared; together they fail by chance as often as one interval of 95 % does.
    """
    if config.max_slice_drop is None:
        return []
    compared: list[tuple[str, str, float, tuple[float, float, float]]] = []
    for name, found in slices.items() if config.against_last_blessed else ():
        models = found["models"]
        if "difference" in models:
            compared.append((f"slice/{name}", f"{config.metric} of {name}", models[LAST_BLESSED][0], tuple(models["difference"])))
    deployed = _spoken(LAST_BLESSED) + " model"
    for name, found in (value or {}).get("slices", {}).items() if config.value_gate != "off" else ():
        interval = found["interval"]
        if interval is not None:
            triple = (interval["value"], interval["low"], interval["high"])
            compared.append((f"value_slice/{name}", f"{(value or {})['decided_by']} of {name}", found["deployed_value"], triple))
    checks = []
    for key, what, before, (middle, low, high) in compared:
        # As wide as all of them together need it (Bonferroni), from the spread that the resamples have.
        wider = NormalDist().inv_cdf(1.0 - _TAIL / len(compared)) / NormalDist().inv_cdf(1.0 - _TAIL)
        reach = middle + wider * (high - middle)
        bar = -config.max_slice_drop * abs(before)
        whose = _spoken((value or {})["deployed"]) if key.startswith("value_slice/") else deployed
        text = f"{what} is {middle:+.4f} ({low:+.4f} to {high:+.4f}) against the {whose}'s {before:.4f}"
        checks.append(Check(key, reach >= bar, text, reach, bar))
    return checks
