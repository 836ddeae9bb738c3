"""The sections of the report: each a function from a run's result to the values that the template prints.

Read are the result, the manifests of its artifacts and the JSON files inside them; no framework is imported. A section is None
where the run did not come that far.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.artifacts import EXPECTED_FILE, HEALTH, HISTORY_FILE, METRICS_FILE, QUARANTINE_FILE, SERVING_FOLDER, Artifact
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED
from components.registry import COMPONENTS
from pipeline import charts, report_trust
from pipeline.charts import Axis, Interval
from pipeline.graph import step_names
from pipeline.local import RunResult, StepResult
from pipeline.pages import share
from pipeline.report_tuning import figures_of
from schemas import serving
from schemas.config import digest
from schemas.interaction import FEEDBACK_ROLES
from schemas.trajectory import SPLITS

Section = dict[str, Any]
Tile = tuple[str, str, str]
"""A figure that is looked at first: what, how much, and a remark."""

Metrics = Mapping[str, tuple[float, float, float]]
"""Metric to value and the bounds of its interval."""

_NOT_A_LOSS = {"step", "transitions_per_second", "input_wait_share"}
_SPREAD = {
    "popularity_share@10": "Recommendations: share of the most popular hundredth",
    "entropy@10": "Recommendations: entropy, 1 is all items alike",
}
_SEEN_REMOVED = "seen_removed/"
_ROWS_READ, _KEPT = "rows_read", "events"
# Places in this order; what is not named here comes after it.
_MODELS = (CANDIDATE, LAST_BLESSED, "popularity", "repeat_last", "item_knn", "repeat_item_knn")
_LOSSES = ("quarantined", "ignored_feedback", "short_session", "long_session", "rare_item", "after_split_end")


def verdict(result: RunResult) -> Section:
    """The word at the top of the page, and what stands behind it."""
    blessing = _properties(result, "evaluator", "blessing")
    if result.failed:
        word, kind = "FAILED", "bad"
    elif blessing is not None:
        word, kind = ("BLESSED", "good") if blessing["blessed"] else ("NOT BLESSED", "bad")
    else:
        word, kind = "NO VERDICT", "none"
    return {
        "word": word,
        "kind": kind,
        "blessing": blessing,
        "infra": _properties(result, "infra_validator", "infra_blessing"),
        "pushed": _properties(result, "pusher", "pushed_model"),
    }


def _steps(result: RunResult) -> Section:
    done = {step.name: step for step in result.steps}
    longest = max((step.seconds for step in result.steps), default=0.0)
    rows = [
        {
            "name": name,
            "about": COMPONENTS[name].description,
            "status": step.status if step else "not run",
            "seconds": step.seconds if step else None,
            "share": step.seconds / longest if step and longest else 0.0,
            "line": _line(step) if step else "",
        }
        for name, step in ((name, done.get(name)) for name in step_names())
    ]
    statuses = [step.status for step in result.steps]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    return {"rows": rows, "counts": counts, "seconds": sum(step.seconds for step in result.steps)}


def _line(step: StepResult) -> str:
    """What a step says of itself, or of its failure."""
    if step.status == "failed":
        return (step.error or "").partition("\n")[0].rstrip(":")
    describe = COMPONENTS[step.name].describe
    try:
        return describe(step.properties()) if describe else ""
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return f"cannot be described: {type(error).__name__}: {error}"


def _rows(result: RunResult) -> Section | None:
    """Rows from the log to the splits; a run that failed on too many bad rows has only its quarantine."""
    examples, quarantine = result.output("trajectory_gen", "examples"), result.output("trajectory_gen", "quarantine")
    source = examples or quarantine
    if source is None:
        return None
    bad = quarantine.properties if quarantine else None
    ledger = (
        examples.properties["ledger"] if examples else {_ROWS_READ: source.properties[_ROWS_READ], "quarantined": source.properties["rows"]}
    )
    read = ledger[_ROWS_READ]
    losses = [(name, count) for name, count in _in_order(ledger, _LOSSES) if name not in (_ROWS_READ, _KEPT)]
    splits = [(name, split["events"]) for name, split in _in_order(examples.properties["splits"], SPLITS)] if examples else []
    dropped, in_splits = sum(count for _, count in losses), sum(count for _, count in splits)
    return {
        "read": read,
        # Losses take from the right end of the bar, splits fill it from the left.
        "losses": [(name, count, read - before - count) for (name, count), before in zip(losses, _before(losses), strict=True)],
        "splits": [(name, count, before) for (name, count), before in zip(splits, _before(splits), strict=True)],
        "dropped": dropped,
        "in_splits": in_splits,
        "kept": ledger.get(_KEPT),
        "quarantine": bad,
        "settings": _settings(source),
        "tiles": [("events", f"{ledger[_KEPT]:,}", f"{share(ledger[_KEPT] / max(1, read))} of {read:,} rows")] if examples else [],
        "file": str(quarantine.path / QUARANTINE_FILE) if quarantine else None,
    }


def _before(counts: Sequence[tuple[str, int]]) -> list[int]:
    """For each entry the sum of those before it."""
    return [sum(count for _, count in counts[:place]) for place in range(len(counts))]


def _splits(result: RunResult) -> Section | None:
    examples = _properties(result, "trajectory_gen", "examples")
    if examples is None:
        return None
    splits = _in_order(examples["splits"], SPLITS)
    first = min(split["first_time"] for _, split in splits)
    span = max(1, max(split["last_time"] for _, split in splits) - first)
    rows = [
        {"name": name, "begin": (split["first_time"] - first) / span, "width": (split["last_time"] - split["first_time"]) / span, **split}
        for name, split in splits
    ]
    vocabulary = _properties(result, "trajectory_gen", "vocabulary")
    lengths = examples["splits"]["train"]["lengths"]
    figures = [("Session lengths, train split", _length_chart(lengths))]
    if vocabulary:
        points = [(float(rank), float(count)) for rank, count in vocabulary["popularity"]]
        axes = Axis("rank of the item, log scale", log=True), Axis("events in the train split, log scale", log=True)
        figures.append(("Popularity of items", charts.line_chart("Events of an item by its rank", points, *axes)))
    sessions, events = sum(split["sessions"] for _, split in splits), sum(split["events"] for _, split in splits)
    tiles: list[Tile] = [
        ("sessions", f"{sessions:,}", f"{events / max(1, sessions):.1f} events each"),
        ("items", f"{examples['num_items'] - 1:,}", "in the train split"),
    ]
    return {"rows": rows, "examples": examples, "figures": figures, "tiles": tiles}


def _length_chart(lengths: Sequence[int]) -> charts.Svg:
    last = len(lengths) - 1
    label = f"events of the session; the last bar is {last} or more" if lengths[last] else "events of the session"
    marks = [
        (number, f"{words} {number}")
        for words, number in (("median", _quantile(lengths, 0.5)), ("90 % have at most", _quantile(lengths, 0.9)))
    ]
    return charts.histogram("Sessions by number of events", lengths, Axis(label, integer=True), Axis("sessions"), marks, is_open=True)


def _quantile(counts: Sequence[int], share: float) -> int:
    """The least number that at least this share of all does not exceed."""
    return next(number for number in range(len(counts)) if sum(counts[: number + 1]) >= share * sum(counts))


_REWARD_METRICS = ("auc", "explained", "log_loss", "brier", "calibration_error", "reward_explained", "reward_bias")


def _rewards(result: RunResult) -> Section | None:
    """The reward model: what it explains, how far it can be believed before and after calibration, and the verdict."""
    artifact = result.output("reward_trainer", "reward_model")
    if artifact is None or not artifact.properties["enabled"]:
        return None
    model, measured = artifact.properties, _read_json(artifact, METRICS_FILE)
    figures = []
    for name, curve in measured["curves"].items():
        unit = "reward" if name == "reward" else "probability"
        axes = Axis(f"predicted {unit}"), Axis(f"observed {unit}" if unit == "reward" else "observed share")
        if name in ("reward", "all"):
            raw = measured["raw"].get(name, [])
            figures.append((caption := f"Reliability: {unit}, before calibration", charts.reliability_chart(caption, raw, *axes)))
        caption = f"Reliability: {unit}" + (f", {name} events" if unit == "probability" else "") + ", calibrated"
        figures.append((caption, charts.reliability_chart(caption, curve, *axes)))
    shown = [name for name in _REWARD_METRICS if name in measured["metrics"]]
    rows = [(name, measured["before"].get(name), measured["metrics"][name]) for name in shown]
    return {"model": model, "rows": rows, "figures": figures, "tiles": []}


_USER_METRICS = ("explained", "calibration_error", "bias", "leaving/auc", "leaving/log_loss", "leaving/calibration_error")


def _users(result: RunResult) -> Section | None:
    """The user model: what it explains, how far it can be believed, and the verdict."""
    artifact = result.output("user_model_trainer", "user_model")
    if artifact is None or not artifact.properties["enabled"]:
        return None
    model, measured = artifact.properties, _read_json(artifact, METRICS_FILE)
    axes = {
        "reward": (Axis("predicted reward"), Axis("earned reward")),
        "leaving": (Axis("predicted probability"), Axis("observed share")),
    }
    figures = []
    for name, curve in measured["curves"].items():
        caption = {"reward": "Reliability: reward in the user model", "leaving": "Reliability: an event is its session's last"}[name]
        figures.append((caption, charts.reliability_chart(caption, curve, *axes[name])))
    rows = [(name, measured["metrics"][name]) for name in _USER_METRICS if name in measured["metrics"]]
    return {"model": model, "rows": rows, "figures": figures, "tiles": []}


def _relabelling(result: RunResult) -> Section | None:
    """What became of the returns; nothing where they are as logged."""
    examples, values = _properties(result, "relabeller", "relabelled"), _properties(result, "relabeller", "q_function")
    if examples is None or not examples["relabelled"] or values is None:
        return None
    axis, number = Axis("share of the events, %", percent=True), Axis("return", from_zero=True)
    figures = []
    for place, caption in ((1, "Returns as logged"), (2, "Returns relabelled")):
        title = f"{caption}: what this share of the events does not exceed"
        figures.append((title, charts.line_chart(title, [(row[0], row[place]) for row in examples["curve"]], axis, number)))
    pairs = dict.fromkeys((row[1], row[2]) for row in examples["curve"])
    title = "Quantiles of the relabelled returns by those of the logged ones"
    figures.append((title, charts.line_chart(title, list(pairs), Axis("return as logged"), Axis("return relabelled"))))
    return {"found": examples, "q_function": values, "figures": figures}


def _training(result: RunResult) -> Section | None:
    artifact, model = result.output("trainer", "model_run"), _properties(result, "trainer", "model")
    if artifact is None or model is None:
        return None
    run, history = artifact.properties, _read_json(artifact, HISTORY_FILE)
    steps, epochs = history["steps"], history["epochs"]
    axis = Axis("step", integer=True)
    figures = [
        (caption := _caption(name), charts.line_chart(caption, _curve(steps, "step", name), axis, Axis(name.removeprefix(HEALTH))))
        for name in dict.fromkeys(name for row in steps for name in row if name not in _NOT_A_LOSS)
    ]
    metric, best = run["metric"], (float(run["best_epoch"]), run["best"], f"epoch {run['best_epoch']}: {run['best']:.4f}")
    curve = charts.line_chart(metric, _curve(epochs, "epoch", metric), Axis("epoch", integer=True), Axis(metric), best)
    figures.append((f"Validation: {metric} on the eval split", curve))
    for name, caption in _SPREAD.items():
        if points := _curve(epochs, "epoch", name):
            figures.append((caption, charts.line_chart(caption, points, Axis("epoch", integer=True), Axis(name, from_zero=True))))
    speed = Axis("transitions/s", from_zero=True), Axis("share of time, %", from_zero=True, percent=True)
    figures.append(("Speed", charts.line_chart("Speed", _curve(steps, "step", "transitions_per_second"), axis, speed[0])))
    figures.append(("Waiting for input", charts.line_chart("Wait", _curve(steps, "step", "input_wait_share"), axis, speed[1])))
    watched = [metric, *(f"{role}/{metric}" for role in FEEDBACK_ROLES)]
    shown = [name for name in watched if any(name in row for row in epochs)]
    tile = (
        "transitions/s",
        f"{run['median_transitions_per_second']:,.0f}",
        f"waits for input {share(run['median_input_wait_share'])} of the time",
    )
    return {
        "run": run,
        "model": model,
        "figures": figures,
        "epochs": epochs,
        "shown": shown,
        "is_thinned": len(steps) > charts.MAX_POINTS,
        "tiles": [tile],
    }


def _tuning(result: RunResult) -> Section | None:
    artifact = result.output("online_tuner", "tuning_run")
    if artifact is None or not artifact.properties["tuned"]:
        return None
    run, history = artifact.properties, _read_json(artifact, HISTORY_FILE)
    (before, *_), (after, low, high) = run["offline"]["return"], run["kept"]["return"]
    return {
        "run": run,
        "evaluations": history["evaluations"],
        "figures": figures_of(history["rounds"], history["evaluations"], run["kept"]["round"]),
        "tiles": [("online return", f"{after:.3f}", f"{low:.3f} to {high:.3f}; {before:.3f} before tuning")],
    }


def _caption(name: str) -> str:
    return f"Health: {name.removeprefix(HEALTH)}" if name.startswith(HEALTH) else f"Loss: {name}"


def _curve(rows: Iterable[Mapping[str, float]], x: str, y: str) -> list[charts.Point]:
    return [(float(row[x]), float(row[y])) for row in rows if y in row]


def _evaluation(result: RunResult) -> Section | None:
    artifact = result.output("evaluator", "evaluation")
    if artifact is None:
        return None
    measured = _read_json(artifact, METRICS_FILE)
    blocks = [
        _block(split, prefix, models, measured["counts"][split])
        for split, models in measured["metrics"].items()
        for prefix in ("", _SEEN_REMOVED)
        if any(name.startswith(_SEEN_REMOVED) == bool(prefix) for name in models[CANDIDATE])
    ]
    protocol = measured["protocol"]
    split, metric = protocol["splits"][-1], protocol["blessing"]["metric"]
    # What the verdict is about comes first: the page is opened for it.
    blocks.sort(key=lambda block: (block["split"] != split, block["seen_removed"] != metric.startswith(_SEEN_REMOVED)))
    return {"blocks": blocks, "protocol": protocol, "metric": metric, "tiles": _headline(measured["metrics"][split], metric, split)}


def _headline(models: Mapping[str, Metrics], metric: str, split: str) -> list[Tile]:
    """The metric of the verdict beside the best baseline, if it was measured."""
    if metric not in models[CANDIDATE]:
        return []
    value, low, high = models[CANDIDATE][metric]
    bar, name = max((metrics[metric][0], name) for name, metrics in models.items() if name not in (CANDIDATE, LAST_BLESSED))
    lift = f", {share(value / bar - 1.0, '+.1')}" if bar else ""
    return [(f"{metric}, {split}", f"{value:.4f}", f"{low:.4f} to {high:.4f}; best baseline {name} {bar:.4f}{lift}")]


def _block(split: str, prefix: str, models: Mapping[str, Metrics], counts: Mapping[str, int]) -> Section:
    """One split under one protocol: a row for each model, the best value of each metric, and interval plots."""
    table = {
        name: {metric.removeprefix(prefix): entry for metric, entry in metrics.items() if metric.startswith(_SEEN_REMOVED) == bool(prefix)}
        for name, metrics in _in_order(models, _MODELS)
    }
    # All events first, then each role; @5 before @10.
    names = sorted(table[CANDIDATE], key=lambda name: (name.count("/"), name.partition("@")[0], len(name), name))
    best = {metric: max(round(metrics[metric][0], 4) for metrics in table.values() if metric in metrics) for metric in names}
    figures = []
    for role in ("", *(f"{role}/" for role in reversed(FEEDBACK_ROLES))):
        metric = f"{role}ndcg@10"
        found = [(name, metrics[metric]) for name, metrics in table.items() if metric in metrics]
        rows = [Interval(name, value, low, high, name == CANDIDATE) for name, (value, low, high) in found]
        figures.append(
            (f"{metric}, {role.rstrip('/') or 'all'} events", charts.interval_plot(metric, rows, Axis(f"{metric}, 95 % interval")))
        )
    return {
        "split": split,
        "seen_removed": bool(prefix),
        "table": table,
        "names": names,
        "best": best,
        "counts": counts,
        "figures": figures,
    }


def _serving(result: RunResult) -> Section | None:
    artifact = result.output("exporter", "serving_model")
    if artifact is None:
        return None
    pushed = _properties(result, "pusher", "pushed_model")
    folder = Path(pushed["path"]) if pushed and pushed["pushed"] else artifact.path / SERVING_FOLDER
    # Any served items make an example, and not every signature answers with items; a comma in a name would divide it.
    answers = [item for request in _read_json(artifact, EXPECTED_FILE) for row in request.get(serving.ITEM_ID, ()) for item in row]
    history = ",".join([item for item in dict.fromkeys(answers) if item and "," not in item][:2])
    infra = _properties(result, "infra_validator", "infra_blessing")
    times = infra.get("request_milliseconds") if infra else None
    return {
        **artifact.properties,
        "infra": infra,
        "tiles": [("request", f"{times['median']:g} ms", f"median; the first {times['first']:,.0f} ms")] if times else [],
        "folder": str(folder),
        "tensors": serving,
        "commands": [
            shlex.join(["longplay", "predict", "--model", str(folder), "--history", history]),
            shlex.join(["saved_model_cli", "show", "--dir", str(folder), "--all"]),
        ],
    }


def _provenance(result: RunResult) -> Section:
    written = result.config.model_dump(mode="json", exclude_unset=True)
    return {
        "written": yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100),
        "config": json.dumps(result.config.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False),
        "digest": digest(result.config),
        "artifacts": [
            {
                "name": f"{step.name}.{name}",
                "artifact": artifact,
                "files": len(artifact.manifest["files"]),
                "bytes": sum(entry["bytes"] for entry in artifact.manifest["files"].values()),
                "made_by": artifact.manifest.get("provenance", {}).get("run_id", ""),
            }
            for step in result.steps
            for name, artifact in step.outputs.items()
        ],
    }


def _properties(result: RunResult, step: str, name: str) -> Section | None:
    artifact = result.output(step, name)
    return dict(artifact.properties) if artifact else None


def _settings(artifact: Artifact) -> Section:
    """Configuration that an artifact was made with, which a reused one need not share with the run."""
    return dict(artifact.manifest.get("provenance", {}).get("config", {}))


def _read_json(artifact: Artifact, name: str) -> Any:
    return json.loads((artifact.path / name).read_text(encoding="utf-8"))


def _in_order(entries: Mapping[str, Any], order: Sequence[str]) -> list[tuple[str, Any]]:
    """Entries in a given order, and those it does not name after them."""
    names = [*(name for name in order if name in entries), *(name for name in entries if name not in order)]
    return [(name, entries[name]) for name in names]


SECTIONS: dict[str, Callable[[RunResult], Section | None]] = {
    "steps": _steps,
    "rows": _rows,
    "splits": _splits,
    "audit": report_trust.audit,
    "rewards": _rewards,
    "users": _users,
    "relabelling": _relabelling,
    "training": _training,
    "tuning": _tuning,
    "evaluation": _evaluation,
    "value": report_trust.value,
    "slices": report_trust.slices,
    "validation": lambda result: _properties(result, "example_validator", "anomalies"),
    "serving": _serving,
    "provenance": _provenance,
}
"""Sections in the order of the page; the template has a macro of each name."""
