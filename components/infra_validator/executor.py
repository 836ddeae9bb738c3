"""Work of infra_validator."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import EXPECTED_FILE, INFRA_BLESSED, INFRA_NOT_BLESSED, SERVING_FOLDER, Artifact
from components.base import Context, Properties
from components.infra_validator.config import InfraValidatorConfig
from schemas import serving

_PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def execute(
    config: InfraValidatorConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    artifact = inputs["serving_model"]
    with context.progress.task("load in a second process"):
        reply, failure = _replay(artifact.path / SERVING_FOLDER, config.max_loading_seconds)
    expected = json.loads((artifact.path / EXPECTED_FILE).read_text(encoding="utf-8"))
    reasons = [failure] if failure else _problems(reply, expected, config.max_score_difference)
    folder = outputs["infra_blessing"]
    folder.mkdir(parents=True)
    (folder / (INFRA_NOT_BLESSED if reasons else INFRA_BLESSED)).touch()
    properties: dict[str, Any] = {
        "blessed": int(not reasons),
        "reasons": reasons or [f"{len(expected)} warm-up requests answered as at export, in a process of its own"],
        "serving_model": artifact.digest,
    }
    if reply and reply["request_seconds"]:
        times = sorted(reply["request_seconds"])
        properties |= {
            "operations": reply["operations"],
            "load_seconds": round(reply["load_seconds"], 3),
            "request_milliseconds": {"first": _milliseconds(reply["request_seconds"][0]), "median": _milliseconds(times[len(times) // 2])},
        }
    return {"infra_blessing": properties}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000.0, 2)


def _replay(model: Path, timeout: float) -> tuple[dict[str, Any], str | None]:
    """The reply of the second process, or why there is none."""
    script = Path(__file__).with_name("replay.py")
    # No GPU and no path to our packages: a server has neither.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(model)], capture_output=True, text=True, timeout=timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"not loaded and warmed up within infra_validator.max_loading_seconds = {timeout:g}"
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-3:]
        return {}, f"the process ended with code {done.returncode}: {' | '.join(last)}"
    reply: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return reply, None


def _problems(reply: Mapping[str, Any], expected: list[dict[str, Any]], tolerance: float) -> list[str]:
    """What is wrong with the answers, the first of each kind."""
    python = sorted(_PYTHON_OPERATIONS & set(reply["operations"]))
    if python:
        return [f"the graph calls Python ({', '.join(python)}), which a server does not have"]
    if len(reply["answers"]) != len(expected):
        return [f"{len(reply['answers'])} answers to {len(expected)} warm-up requests"]
    for number, (found, wanted) in enumerate(zip(reply["answers"], expected, strict=True)):
        if set(found) != set(wanted):
            return [f"request {number}: outputs {', '.join(sorted(found))}, {', '.join(sorted(wanted))} at export"]
        if len(found[serving.SCORE]) != len(wanted[serving.SCORE]):
            return [f"request {number}: {len(found[serving.SCORE])} rows, {len(wanted[serving.SCORE])} at export"]
        if found.get(serving.NUM_VALID) != wanted.get(serving.NUM_VALID):
            return [f"request {number}: {found[serving.NUM_VALID]} items in its rows, {wanted[serving.NUM_VALID]} at export"]
        for row, scores in enumerate(found[serving.SCORE]):
            # Where candidates are scored, the places stand for the items.
            items, items_wanted = ([str(place) for place in range(len(answer[serving.SCORE][row]))] for answer in (found, wanted))
            if serving.ITEM_ID in wanted:
                items, items_wanted = found[serving.ITEM_ID][row], wanted[serving.ITEM_ID][row]
            problem = _row_problem(items, scores, items_wanted, wanted[serving.SCORE][row], tolerance)
            if problem:
                return [f"request {number}, row {row}: {problem}"]
    return []


def _row_problem(items: list[str], scores: list[float], wanted: list[str], wanted_scores: list[float], tolerance: float) -> str | None:
    real = [item for item in items if item]
    if len(set(real)) < len(real):
        return f"items repeat: {items}"
    if len(items) != len(wanted) or len(scores) != len(wanted_scores):
        return f"{len(items)} items with {len(scores)} scores, {len(wanted)} at export"
    if not all(math.isfinite(score) for score in scores):
        return f"scores are not finite: {scores}"
    off = [place for place, (a, b) in enumerate(zip(scores, wanted_scores, strict=True)) if abs(a - b) > tolerance * max(1.0, abs(b))]
    if off:
        return f"score {scores[off[0]]} at place {off[0]}, {wanted_scores[off[0]]} at export"
    # Near ties may change places; anything else may not.
    score_at_export = dict(zip(wanted, wanted_scores, strict=True))
    moved = [
        item
        for item, other, score in zip(items, wanted, scores, strict=True)
        if item != other and not abs(score - score_at_export.get(item, math.inf)) <= tolerance * max(1.0, abs(score))
    ]
    return f"items {items}, {wanted} at export" if moved else None
