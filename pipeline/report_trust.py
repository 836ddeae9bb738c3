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


def audit(result: RunResult) -> Section | None:
    """Every check for leaks with what it found."""
    artifact = result.output("leakage_audit", "audit")
    return None if artifact is None else {"checks": artifact.properties["checks"], "splits": artifact.properties["splits"]}


def value(result: RunResult) -> Section | None:
    """The estimated value beside that of what is deployed, and what its weights and propensities are like."""
    artifact = result.output("evaluator", "evaluation")
    found = artifact.properties.get("value") if artifact else None
    if not found:
        return None
    deployed = found.get("deployed", LAST_BLESSED)
    rows, refused = [], []
    for name, policies in found["values"].items():
        for policy in (CANDIDATE, deployed):
            verdict = policies.get(policy)
            if verdict is None:
                continue
            label = f"{name}, {policy.replace('_', ' ')}"
            if verdict["interval"] is None:
                refused.append((label, [reason["code"].replace("_", " ") for reason in verdict["reasons"]]))
            else:
                interval = verdict["interval"]
                is_main = policy == CANDIDATE and name == found["decided_by"]
                rows.append(Interval(label, interval["value"], interval["low"], interval["high"], is_main))
    figures = [
        ("Value of an event", charts.interval_plot("Estimated value", rows, Axis("reward of an event, 95 % interval"), width=_WIDTH))
    ]
    difference = found["difference"]["interval"]
    if difference:
        row = Interval(found["decided_by"], difference["value"], difference["low"], difference["high"], True)
        title = f"Candidate above the {deployed.replace('_', ' ')}"
        figures.append((title, charts.interval_plot(title, [row], Axis("reward of an event, same resampled sessions"), 0.0, _WIDTH)))
    return {
        **found,
        "deployed": deployed,
        "figures": figures,
        "small_figures": [*_weights(found.get("weights") or []), *_reliability(found.get("calibration"))],
        "refused": refused,
    }


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
    return {"slices": found, "models": models, "metric": metric, "figures": figures}


def _interval(name: str, entry: Sequence[float], tone: str = "") -> Interval:
    estimate, low, high = entry
    return Interval(name, estimate, low, high, tone=tone)


def _tone(difference: Sequence[float]) -> str:
    _, low, high = difference
    return "higher" if low > 0 else "lower" if high < 0 else ""
