"""The sections of the report that say why a model may be trusted: audit, estimated value, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.evaluator.blessing import CANDIDATE, LAST_BLESSED
from pipeline import charts
from pipeline.charts import Axis, Interval
from pipeline.local import RunResult

Section = dict[str, Any]

_WIDTH = 620.0
KINDS = {
    "event": ("Reward of an event", "reward of an event"),
    "return": ("Return from an event on, one decision made by the policy", "return from an event on"),
    "session": ("Return of a session, all decisions made by the policy", "return of a session"),
}
"""Caption and axis of each kind of value."""


def audit(result: RunResult) -> Section | None:
    """Every check for leaks with what it found."""
    artifact = result.output("leakage_audit", "audit")
    return None if artifact is None else {"checks": artifact.properties["checks"], "splits": artifact.properties["splits"]}


def value(result: RunResult) -> Section | None:
    """The estimated values beside those of what is deployed, and what the weights and propensities are like."""
    artifact = result.output("evaluator", "evaluation")
    found = artifact.properties.get("value") if artifact else None
    if not found:
        return None
    deployed = found.get("deployed", LAST_BLESSED)
    figures = [figure for kind in KINDS for figure in _forest(found, kind, deployed)]
    differences = [
        Interval(key, entry["interval"]["value"], entry["interval"]["low"], entry["interval"]["high"], key == found["decided_by"])
        for key, entry in found["differences"].items()
        if entry["interval"]
    ]
    # Sessions bring many times what an event brings: a scale of their own.
    for caption, rows in (
        ("event and return", [row for row in differences if not row.name.startswith("session/")]),
        ("session", [row for row in differences if row.name.startswith("session/")]),
    ):
        if rows:
            title = f"Candidate above the {deployed.replace('_', ' ')}, {caption}"
            figures.append((title, charts.interval_plot(title, rows, Axis("difference on the same resampled sessions"), 0.0, _WIDTH)))
    return {
        **found,
        "deployed": deployed,
        "figures": figures,
        "small_figures": [*_weights(found.get("weights") or []), *_reliability(found.get("calibration"))],
        "refused": _refused(found, deployed),
        "slice_figures": _value_slices(found, deployed),
    }


def _forest(found: Mapping[str, Any], kind: str, deployed: str) -> list[tuple[str, charts.Svg]]:
    """Values of one kind by every estimator, candidate above what is deployed."""
    rows = []
    for key, policies in found["values"].items():
        if not key.startswith(f"{kind}/"):
            continue
        for policy in (CANDIDATE, deployed):
            interval = (policies.get(policy) or {}).get("interval")
            if interval is not None:
                is_main = policy == CANDIDATE and key == found["decided_by"]
                label = f"{key.partition('/')[2]}, {policy.replace('_', ' ')}"
                rows.append(Interval(label, interval["value"], interval["low"], interval["high"], is_main))
    caption, axis = KINDS[kind]
    return [(caption, charts.interval_plot(caption, rows, Axis(f"{axis}, 95 % interval"), width=_WIDTH))] if rows else []


def _refused(found: Mapping[str, Any], deployed: str) -> list[tuple[str, list[str]]]:
    """Estimates that were refused, with the codes of the reasons."""
    return [
        (f"{key}, {policy.replace('_', ' ')}", [reason["code"].replace("_", " ") for reason in policies[policy]["reasons"]])
        for key, policies in found["values"].items()
        for policy in (CANDIDATE, deployed)
        if policies.get(policy) and policies[policy]["interval"] is None
    ]


def _value_slices(found: Mapping[str, Any], deployed: str) -> list[tuple[str, charts.Svg]]:
    """By how much the candidate is above what is deployed in every slice that supports it."""
    rows = []
    for name, entry in found.get("slices", {}).items():
        interval = entry["interval"]
        if interval:
            triple = (interval["value"], interval["low"], interval["high"])
            rows.append(_interval(name, triple, _tone(triple)))
    title = f"{found['decided_by']} above the {deployed.replace('_', ' ')}, by slice"
    return [(title, charts.interval_plot(title, rows, Axis("difference, same resampled sessions"), 0.0, _WIDTH))] if rows else []


def _weights(bins: Sequence[Sequence[float]]) -> list[tuple[str, charts.Svg]]:
    """Share of events and of weight at or above each weight."""
    points = []
    remaining = 1.0
    for upper, _, share in bins:
        points.append((upper / 2.0, max(0.0, remaining)))
        remaining -= share
    axes = Axis("weight, log scale", log=True), Axis("share of the sum of weights above it, %", from_zero=True, percent=True)
    return [("Weights", charts.line_chart("Share of all weight above a weight", points, *axes))] if len(points) > 1 else []


def _reliability(calibration: Mapping[str, Any] | None) -> list[tuple[str, charts.Svg]]:
    """Logged against predicted probabilities."""
    if not calibration:
        return []
    points = sorted((predicted, logged) for predicted, logged, _ in calibration["bins"])
    axes = Axis("predicted probability, log scale", log=True), Axis("logged share, log scale", log=True)
    return [("Reliability of the logging policy's model", charts.line_chart("Logged share by predicted probability", points, *axes))]


def slices(result: RunResult) -> Section | None:
    """The metric of the verdict in every slice."""
    artifact = result.output("evaluator", "evaluation")
    found = artifact.properties.get("slices") if artifact else None
    if not found:
        return None
    models = list(dict.fromkeys(model for entry in found.values() for model in entry["models"]))
    rows = [_interval(name, entry["models"][CANDIDATE]) for name, entry in found.items()]
    metric = result.config.evaluator.blessing.metric
    differences = [
        _interval(name, entry["models"]["difference"], _tone(entry["models"]["difference"]))
        for name, entry in found.items()
        if "difference" in entry["models"]
    ]
    figures = [(f"{metric} of the candidate", charts.interval_plot(metric, rows, Axis(f"{metric}, 95 % interval"), width=_WIDTH))]
    if differences:
        title = f"{metric} above the last blessed model"
        figures.append((title, charts.interval_plot(title, differences, Axis("difference, same resampled sessions"), 0.0, _WIDTH)))
    features = [table.name for table in result.config.evaluator.slices]
    return {"slices": found, "models": models, "metric": metric, "figures": figures, "features": features}


def _interval(name: str, entry: Sequence[float], tone: str = "") -> Interval:
    estimate, low, high = entry
    return Interval(name, estimate, low, high, tone=tone)


def _tone(difference: Sequence[float]) -> str:
    _, low, high = difference
    return "higher" if low > 0 else "lower" if high < 0 else ""
