"""`summary.json`: what a run did, for programs."""

from typing import Any

from pipeline.local import RunResult


def summarise(result: RunResult) -> dict[str, Any]:
    """The summary of a finished or failed run.

    Returns:
        `run_id`, `pipeline`, `status`, `started`, `seconds`, `steps[]`, and as far as the run came: `counts`, `metrics` (split ->
        model -> metric), `intervals` (the same, [low, high]), `blessing` and `pushed`.
    """
    summary: dict[str, Any] = {
        "run_id": result.run_id,
        "pipeline": result.config.name,
        "status": "failed" if result.failed else "complete",
        "started": round(result.started, 3),
        "seconds": round(sum(step.seconds for step in result.steps), 3),
        "steps": [
            {
                "name": step.name,
                "status": step.status,
                "seconds": round(step.seconds, 3),
                "outputs": {name: str(artifact.path) for name, artifact in step.outputs.items()},
                **({"error": step.error} if step.error else {}),
            }
            for step in result.steps
        ],
    }
    examples = result.output("trajectory_gen", "examples")
    if examples is not None:
        summary["counts"] = _counts(examples.properties)
    else:
        quarantine = result.output("trajectory_gen", "quarantine")
        if quarantine is not None:
            ledger = quarantine.properties["ledger"]
            summary["counts"] = {"rows_read": ledger["rows_read"], "rows_quarantined": ledger["quarantined"], "ledger": dict(ledger)}
    evaluation = result.output("evaluator", "evaluation")
    if evaluation is not None:
        metrics = evaluation.properties["metrics"]
        summary["metrics"] = _each(metrics, lambda entry: entry[0])
        summary["intervals"] = _each(metrics, lambda entry: entry[1:])
    blessing = result.output("evaluator", "blessing")
    if blessing is not None:
        properties = blessing.properties
        summary["blessing"] = {"blessed": bool(properties["blessed"]), "reasons": properties["reasons"]}
        if properties.get("forced"):
            summary["blessing"]["forced"] = properties["forced"]
    pushed = result.output("pusher", "pushed_model")
    if pushed is not None:
        summary["pushed"] = {name: pushed.properties[name] for name in ("version", "path", "reasons")} if pushed.properties else None
    return summary


def _counts(examples: Any) -> dict[str, Any]:
    splits = examples["splits"]
    return {
        "rows_read": examples["ledger"]["rows_read"],
        "rows_quarantined": examples["ledger"]["quarantined"],
        "events": examples["ledger"]["events"],
        "trajectories": sum(split["trajectories"] for split in splits.values()),
        "splits": {
            name: {"events": split["events"], "trajectories": split["trajectories"], "events_on_unknown_items": split["unknown_events"]}
            for name, split in splits.items()
        },
        "ledger": dict(examples["ledger"]),
    }


def _each(metrics: Any, pick: Any) -> dict[str, Any]:
    return {
        split: {model: {name: pick(entry) for name, entry in values.items()} for model, values in models.items()}
        for split, models in metrics.items()
    }
