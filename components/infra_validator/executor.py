"""Work of infra_validator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import EXPECTED_FILE, INFRA_BLESSED, INFRA_NOT_BLESSED, SERVING_FOLDER, Artifact
from components.base import Context, Properties
from components.infra_validator.answers import answer_problem
from components.infra_validator.config import InfraValidatorConfig
from schemas.serving import TENSORFLOW_MODEL_SERVER

_PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def execute(
    config: InfraValidatorConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    artifact, begun = inputs["serving_model"], time.monotonic()
    expected = json.loads((artifact.path / EXPECTED_FILE).read_text(encoding="utf-8"))
    with context.progress.task("load in a second process"):
        reply, failure = _replay(artifact.path / SERVING_FOLDER, config)
    properties = _figures(reply)
    reasons = [failure] if failure else _problems(reply, properties, expected, config)
    passed = [f"{len(expected)} warm-up requests answered as at export, in a process of its own"]
    binary = shutil.which(TENSORFLOW_MODEL_SERVER) if config.model_server == "auto" else None
    if binary and not reasons:
        with context.progress.task("load in TF Serving"):
            left = config.max_loading_seconds - (time.monotonic() - begun)
            reasons = _server_problems(binary, artifact.path / SERVING_FOLDER, left, expected, config)
        passed += ["and by TF Serving"]
    properties |= {"blessed": int(not reasons), "reasons": reasons or [", ".join(passed)], "serving_model": artifact.digest}
    folder = outputs["infra_blessing"]
    folder.mkdir(parents=True)
    (folder / (INFRA_NOT_BLESSED if reasons else INFRA_BLESSED)).touch()
    return {"infra_blessing": properties}


def _replay(model: Path, config: InfraValidatorConfig) -> tuple[dict[str, Any], str | None]:
    """The reply of the second process, or why there is none."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("replay.py")), str(model), str(config.measure_seconds)]
    # No GPU and no path to our packages: a server has neither.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    timeout = config.max_loading_seconds
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"not loaded and warmed up within infra_validator.max_loading_seconds = {timeout:g}"
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-3:]
        return {}, f"the process ended with code {done.returncode}: {' | '.join(last)}"
    reply: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return reply, None


def _figures(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What is stated of the process beside the verdict."""
    if not reply.get("request_seconds"):
        return {}
    times = sorted(reply["request_seconds"])
    return {
        "operations": reply["operations"],
        "tensorflow": reply["tensorflow"],
        "load_seconds": round(reply["load_seconds"], 3),
        "request_milliseconds": {"first": _milliseconds(reply["request_seconds"][0]), "median": _milliseconds(times[len(times) // 2])},
        "smallest_batch": reply["smallest_batch"],
        "latency_milliseconds": {signature: _latency(seconds) for signature, seconds in reply["measured_seconds"].items()},
        "memory_megabytes": {when: round(size, 1) for when, size in reply["memory_megabytes"].items()},
    }


def _latency(seconds: list[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    # The least value that so many are not above.
    p50, p99 = (ordered[min(len(ordered) - 1, -(-len(ordered) * share // 100) - 1)] for share in (50, 99))
    return {"p50": _milliseconds(p50), "p99": _milliseconds(p99), "requests": len(ordered)}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000.0, 3)


def _problems(
    reply: Mapping[str, Any], figures: Mapping[str, Any], expected: list[dict[str, Any]], config: InfraValidatorConfig
) -> list[str]:
    """What is wrong, the first of each kind."""
    python = sorted(_PYTHON_OPERATIONS & set(reply["operations"]))
    if python:
        return [f"the graph calls Python ({', '.join(python)}), which a server does not have"]
    unknown = reply["unknown_operations"]
    if unknown:
        return [f"the graph has operations that are not TensorFlow {reply['tensorflow']}'s own: {', '.join(unknown)}"]
    problem = answer_problem(reply["answers"], expected, config.max_score_difference)
    if problem:
        return [problem]
    problems = []
    for signature, found in figures["latency_milliseconds"].items():
        for share, limit in (("p50", config.max_p50_milliseconds), ("p99", config.max_p99_milliseconds)):
            if limit is not None and found[share] > limit:
                what = f"{signature}: {share} of {found['requests']} requests of {figures['smallest_batch']} is {found[share]:g} ms"
                problems.append(f"{what}, infra_validator.max_{share}_milliseconds is {limit:g}")
    most, allowed = figures["memory_megabytes"]["most"], config.max_memory_megabytes
    if allowed is not None and most > allowed:
        problems.append(f"the process held {most:g} MB, infra_validator.max_memory_megabytes is {allowed:g}")
    return problems


def _server_problems(binary: str, model: Path, timeout: float, expected: list[dict[str, Any]], config: InfraValidatorConfig) -> list[str]:
    """What is wrong when TF Serving is asked."""
    from components.infra_validator.model_server import ModelServerError, answers_of

    try:
        problem = answer_problem(answers_of(binary, model, timeout), expected, config.max_score_difference)
    except ModelServerError as error:
        problem = str(error)
    return [f"TF Serving: {problem}"] if problem else []
