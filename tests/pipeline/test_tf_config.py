"""The entry point that derives TF_CONFIG and then becomes the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POD = {"LONGPLAY_NUM_WORKERS": "2", "JOB_COMPLETION_INDEX": "1", "JOBSET_NAME": "shop", "REPLICATED_JOB_NAME": "node"}
PRINT = [sys.executable, "-c", "import os; print(os.environ.get('TF_CONFIG'))"]


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    entry = [sys.executable, "-m", "pipeline.tf_config", *command]
    return subprocess.run(entry, env={**environment, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_runs_with_a_derived_tf_config() -> None:
    answer = run(PRINT, **POD)
    assert json.loads(answer.stdout) == {
        "cluster": {"worker": ["shop-node-0-0.shop:2222", "shop-node-0-1.shop:2222"]},
        "task": {"type": "worker", "index": 1},
    }


def test_what_an_operator_has_set_stays() -> None:
    assert run(PRINT, TF_CONFIG="set by another").stdout == "set by another\n"


def test_one_worker_needs_none_and_the_exit_code_is_that_of_the_command() -> None:
    assert run(PRINT, **{**POD, "LONGPLAY_NUM_WORKERS": "1"}).stdout == "None\n"
    assert run([sys.executable, "-c", "raise SystemExit(7)"], **POD).returncode == 7


def test_a_pod_that_is_told_too_little_does_not_start() -> None:
    answer = run(PRINT, JOBSET_NAME="shop")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("error: LONGPLAY_NUM_WORKERS is not set")
