"""`longplay explain`: where a pushed version comes from, by the lineage and the manifests of what it was made from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.artifacts import Artifact, ArtifactError, open_artifact
from pipeline.lineage import Execution, Lineage
from schemas.config import ConfigError

_METRICS = ("ndcg@10", "hit_rate@10", "purchase/ndcg@10", "coverage@10")


def explain(root: Path, version: str) -> dict[str, Any]:
    """What is known of a version.

    Args:
        root: Folder that holds the lineage.
        version: Number of the version, or its folder.

    Returns:
        `version`, `path`, `pipeline`, `run_id`, `pushed_at`, `steps` (step -> code, configuration digest, inputs), and as far as their
        artifacts are still there `data`, `metrics`, `value`, `audit`, `blessing`.

    Raises:
        ConfigError: No such version was pushed from this root.
    """
    lineage = Lineage(root / "lineage.jsonl")
    executions = list(lineage.executions())
    push = _push(executions, version.rstrip("/").rpartition("/")[2])
    if push is None:
        known = sorted({str(found["version"]) for _, found in _pushes(executions)})
        raise ConfigError(f"no version {version!r} was pushed from {root}; known: {', '.join(known) or 'none'}")
    execution, pushed = push
    blessed = next((found for found in executions if _made(found, "blessing") == execution.inputs.get("blessing", {}).get("digest")), None)
    steps = _ancestors(executions, execution)
    artifacts = {
        (step, name): artifact for step, found in steps.items() for name, entry in found.outputs.items() if (artifact := _open(entry))
    }
    examples, evaluation = artifacts.get(("trajectory_gen", "examples")), artifacts.get(("evaluator", "evaluation"))
    blessing, audit = artifacts.get(("evaluator", "blessing")), artifacts.get(("leakage_audit", "audit"))
    return {
        "version": pushed["version"],
        "path": pushed["path"],
        "pipeline": execution.pipeline,
        "run_id": execution.run_id,
        "pushed_at": execution.time,
        "steps": {step: _step(found, artifacts) for step, found in steps.items()},
        "data": None if examples is None else {name: examples.properties.get(name) for name in ("ledger", "splits", "split")},
        "metrics": None if evaluation is None else _metrics(evaluation),
        "value": None if evaluation is None else evaluation.properties.get("value"),
        "audit": None if audit is None else audit.properties["checks"],
        # The verdict is in the lineage itself, so that whoever forced it cannot get lost with a folder.
        "blessing": dict(blessing.properties) if blessing else dict(blessed.facts.get("blessing", {})) or None if blessed else None,
    }


def _pushes(executions: list[Execution]) -> Iterator[tuple[Execution, dict[str, Any]]]:
    """Steps that pushed, with `version` and `path`."""
    for execution in executions:
        facts: dict[str, Any] = dict(execution.facts.get("pushed_model", {}))
        if not facts and "pushed_model" in execution.outputs:
            artifact = _open(execution.outputs["pushed_model"])
            facts = dict(artifact.properties) if artifact else {}
        if facts.get("pushed"):
            yield execution, facts


def _push(executions: list[Execution], version: str) -> tuple[Execution, dict[str, Any]] | None:
    """The first push of a version: a later run may have found it there."""
    found = [entry for entry in _pushes(executions) if str(entry[1]["version"]) == version]
    return found[-1] if found else None


def _made(execution: Execution, output: str) -> str | None:
    """Digest of an output of a step."""
    return execution.outputs.get(output, {}).get("digest")


def _open(entry: Any) -> Artifact | None:
    """The artifact of a lineage entry, if it is still there unchanged."""
    try:
        artifact = open_artifact(entry["path"])
    except ArtifactError:
        return None
    return artifact if artifact.digest == entry["digest"] else None


def _ancestors(executions: list[Execution], last: Execution) -> dict[str, Execution]:
    """The step and all that its inputs were made by, by step; nearest run first where several made the same."""
    found = {last.step: last}
    waiting = [last]
    while waiting:
        step = waiting.pop()
        for entry in step.inputs.values():
            makers = [each for each in executions if any(out["digest"] == entry["digest"] for out in each.outputs.values())]
            makers.sort(key=lambda each: (each.run_id != last.run_id, -each.time))
            for maker in makers[:1]:
                if maker.step not in found:
                    found[maker.step] = maker
                    waiting.append(maker)
    return found


def _step(execution: Execution, artifacts: dict[tuple[str, str], Artifact]) -> dict[str, Any]:
    mine = [artifact for (step, _), artifact in artifacts.items() if step == execution.step]
    provenance: dict[str, Any] = dict(mine[0].manifest.get("provenance", {})) if mine else {}
    return {
        "run_id": provenance.get("run_id", execution.run_id),
        "status": execution.status,
        "code": provenance.get("code"),
        "config": provenance.get("config"),
        "inputs": {name: entry["digest"] for name, entry in execution.inputs.items()},
        "outputs": {name: entry["digest"] for name, entry in execution.outputs.items()},
    }


def _metrics(evaluation: Artifact) -> dict[str, Any]:
    return {
        split: {model: {name: values[name] for name in _METRICS if name in values} for model, values in models.items()}
        for split, models in evaluation.properties["metrics"].items()
    }


def _value(value: dict[str, Any]) -> str:
    """What the estimated value decided by, in words."""
    what, difference = f"{value['key']} {value['decided_by']}", value["difference"]
    interval = difference["interval"]
    if interval is None:
        return f"{what} was refused: {', '.join(dict.fromkeys(reason['code'].replace('_', ' ') for reason in difference['reasons']))}"
    return (
        f"{what} {interval['value']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f}) above the "
        f"{value['deployed'].replace('_', ' ')}'s {difference['deployed_value']:.4f}, propensities {value['propensities']}"
    )


def as_text(found: dict[str, Any]) -> str:
    """What is known of a version, for a terminal."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found["pushed_at"]))
    lines = [f"version {found['version']} of {found['pipeline']}, pushed {when} UTC by run {found['run_id']}", f"  {found['path']}"]
    if found["data"]:
        ledger = ", ".join(f"{name} {count:,}" for name, count in found["data"]["ledger"].items() if count)
        lines += ["data", f"  {ledger}"]
        for name, split in found["data"]["splits"].items():
            first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(split[key])) for key in ("first_time", "last_time"))
            lines.append(f"  {name:<6} {split['events']:,} events of {split['sessions']:,} sessions, {first} to {last} UTC")
    lines.append("steps")
    for step, entry in found["steps"].items():
        lines.append(f"  {step:<18} run {entry['run_id']}  code {(entry['code'] or 'unknown')[:16]}")
    for split, models in (found["metrics"] or {}).items():
        lines.append(f"metrics, {split}")
        lines += [
            f"  {model:<16} {', '.join(f'{name} {entry[0]:.4f}' for name, entry in values.items())}" for model, values in models.items()
        ]
    if found["value"]:
        lines += ["value", f"  {_value(found['value'])}"]
    if found["audit"]:
        lines += [
            "leakage audit",
            *(f"  {check['name']} {check['status'].replace('_', ' ')}: {check['reason']}" for check in found["audit"]),
        ]
    if found["blessing"]:
        forced = found["blessing"].get("forced")
        lines.append(f"blessing forced by {forced['by']}: {forced['reason']}" if forced else "blessing")
        lines += [f"  {'+' if check['passed'] else '-'} {check['reason']}" for check in found["blessing"].get("checks", [])]
    return "\n".join(lines)
