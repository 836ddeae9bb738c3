"""The local pipeline needs no network: it runs where the kernel refuses every socket."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.graph import step_names

sys.path.append(str(Path(__file__).parents[1]))
without_sockets = import_module("without_sockets")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "without_sockets.py"
TINY = [
    "trajectory_gen.dataset.num_events=3000",
    "trajectory_gen.dataset.shop={num_items: 60, num_clusters: 5}",
    "trainer.max_epochs=1",
    "evaluator.num_resamples=20",
]

pytestmark = pytest.mark.skipif(
    not without_sockets.is_supported(), reason="only Linux on x86_64 and aarch64 can refuse sockets to one process"
)

WITNESS = """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    try:
        print(family.name, socket.socket(family).family == family)
    except PermissionError:
        print(family.name, "refused")
"""


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    blocked = [sys.executable, str(SCRIPT), sys.executable, *command]
    return subprocess.run(blocked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600, check=False)


def test_sockets_are_refused_to_a_process_and_to_what_it_starts() -> None:
    """The control: without it the test below would pass where nothing is refused."""
    expected = "AF_INET refused\nAF_INET6 refused\nAF_UNIX True\n"
    assert run("-c", WITNESS).stdout == expected
    again = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    assert run("-c", again, WITNESS).stdout == expected


@pytest.mark.slow
def test_the_whole_pipeline_runs_without_a_socket(tmp_path: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    answer = run("-m", "pipeline.cli", "run", "--root", str(tmp_path), *settings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    summary = json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert [(step["name"], step["status"]) for step in summary["steps"]] == [(name, "executed") for name in step_names()]
