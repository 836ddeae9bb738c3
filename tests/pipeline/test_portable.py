"""The Beam passes behind a job server, in workers of their own that have nothing but the packages.

The job server is Beam's Python one. It speaks the protocol that those of Flink and Spark speak and needs no Java, so what is tested is
all that is ours: options, what is pickled, what workers import, and that nothing goes through memory that only one process has.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, open_artifact, verify

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "trajectory_gen.dataset.num_events=4000",
    "trajectory_gen.dataset.shop={num_items: 60, num_clusters: 5}",
    "trajectory_gen.num_shards=4",
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An engine of a job server and a pool of workers."""
    packages = tmp_path / "packages"
    for name in ("schemas", "models", "components", "pipeline"):
        shutil.copytree(ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    ports = [free_port(), free_port()]
    modules = ["apache_beam.runners.portability.local_job_service_main", "apache_beam.runners.worker.worker_pool_main"]
    # The pool calls `python`.
    executables = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(packages), "PATH": executables, "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = []
    for module, option, port in zip(modules, ("--port", "--service_port"), ports, strict=True):
        log = (tmp_path / f"{module}.log").open("w")
        command = [sys.executable, "-m", module, f"{option}={port}"]
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        deadline = time.monotonic() + 1200
        while not all(map(answers, ports)):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        yield {"name": "flink", "job_endpoint": f"localhost:{ports[0]}", "worker_pool": f"localhost:{ports[1]}"}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=120)


def run(root: Path, *settings: str) -> dict[str, Artifact]:
    """Artifacts of a run by step and name."""
    command = [sys.executable, "-m", "pipeline.cli", "run", "--root", str(root), "--to", "neighbour_gen"]
    for setting in (*TINY, *settings):
        command += ["--set", setting]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    summary = json.loads((root / "runs" / "latest" / "summary.json").read_text())
    found = {f"{step['name']}.{name}": open_artifact(path) for step in summary["steps"] for name, path in step["outputs"].items()}
    for artifact in found.values():
        verify(artifact, contents=True)
    return found


@pytest.mark.slow
def test_workers_elsewhere_make_what_this_process_makes(engine: dict[str, Any], tmp_path: Path) -> None:
    here, there = run(tmp_path / "here"), run(tmp_path / "there", f"beam.engine={json.dumps(engine)}")
    assert list(there) == list(here)
    different = {name for name, artifact in there.items() if artifact.digest != here[name].digest}
    # Statistics hold sketches, whose bytes follow the order in which parts are merged; what is read from them is the same.
    assert different <= {"statistics_gen.statistics"}
    assert there["statistics_gen.statistics"].properties == here["statistics_gen.statistics"].properties
    assert there["trajectory_gen.examples"].properties["ledger"]["rows_read"] >= 4000
    assert "Starting worker" in (tmp_path / "apache_beam.runners.worker.worker_pool_main.log").read_text()
