"""A run that is killed leaves nothing that looks finished, and the next run completes it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.artifacts import MANIFEST, open_artifact, verify
from pipeline.graph import step_names

CONFIG = """
name: killed
trajectory_gen:
  dataset: {name: session_shop, num_events: 3000, shop: {num_items: 100, num_clusters: 5}}
  num_shards: 2
trainer:
  algorithm: {name: bc}
  network: {width: 8}
  batch_size: 32
  max_epochs: 2
  checkpoint_every_seconds: 0.001
evaluator: {num_resamples: 10}
exporter: {num_warmup_requests: 1}
"""

# Each stops the process dead at its point, after saying so.
HANGS = {
    "ingestion": """
import components.trajectory_gen.stages as stages
original = stages.write_records
def hang(path, *arguments):
    summary = original(path, *arguments)
    if "Split-eval" in str(path):
        say_and_wait()
    return summary
stages.write_records = hang
""",
    "training": """
import components.trainer.loop as loop
original = loop.TrainingLoop._save
def hang(self):
    original(self)
    if self.state.step >= 5:
        say_and_wait()
loop.TrainingLoop._save = hang
""",
    "push": """
import components.pusher.executor as pusher
pusher.shutil.copy2 = lambda *_: say_and_wait()
""",
}

PROGRAM = """
import sys, time
from models import frameworks
frameworks.prepare()
def say_and_wait():
    print("READY", flush=True)
    time.sleep(600)
{patch}
from pipeline.cli import main
sys.argv[0] = "longplay"
main()
"""


def start(tmp_path: Path, patch: str = "", *options: str) -> subprocess.Popen[str]:
    config = tmp_path / "killed.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-c", PROGRAM.format(patch=patch), "run", str(config), "--root", str(tmp_path / "root"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2])


def kill_at(phase: str, tmp_path: Path) -> None:
    process = start(tmp_path, HANGS[phase])
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.strip() == "READY":
            break
    else:
        pytest.fail(f"the run ended before {phase}:\n{''.join(seen)}")
    process.send_signal(signal.SIGKILL)
    process.wait()


def check_nothing_half_finished(root: Path) -> None:
    """Whatever stands at a final name is whole."""
    for result in (root / "store").glob("*/*"):
        if result.name.startswith("."):
            continue
        assert (result / "execution.json").is_file(), result
        for output in result.iterdir():
            if output.is_dir():
                verify(open_artifact(output), contents=True)
    for version in (root / "serving" / "killed").glob("[0-9]*"):
        assert (version / "saved_model.pb").is_file(), version


def test_killed_ingestion_leaves_nothing_half_finished_and_the_next_run_does_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    kill_at("ingestion", tmp_path)
    check_nothing_half_finished(root)
    assert not list((root / "store").glob("trajectory_gen/[0-9a-f]*"))
    process = start(tmp_path, "", "--to", "trajectory_gen")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    check_nothing_half_finished(root)
    (done,) = (root / "store").glob("trajectory_gen/[0-9a-f]*")
    assert {folder.name for folder in done.iterdir() if folder.is_dir()} == {"examples", "vocabulary", "quarantine"}
    assert not list((root / "store").glob("*/.making-*"))


@pytest.mark.slow
@pytest.mark.parametrize("phases", [("training",), ("ingestion", "training", "push")], ids="-".join)
def test_killed_run_leaves_nothing_half_finished_and_the_next_completes(phases: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "root"
    for phase in phases:
        kill_at(phase, tmp_path)
        check_nothing_half_finished(root)
        assert not list((root / "serving").glob("killed/[0-9]*"))
    process = start(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    check_nothing_half_finished(root)
    summary = json.loads((root / "runs" / "latest" / "summary.json").read_text())
    assert [step["name"] for step in summary["steps"]] == step_names()
    assert summary["status"] == "complete"
    # Killed after the fifth batch, the training went on from there.
    if phases[-1] == "training":
        assert "resumed at epoch 1, step 5" in output
    # No litter where results are, and none where the server looks.
    assert not list((root / "store").glob("*/.making-*"))
    assert not list((root / "serving" / "killed").glob(".pushing-*"))
    (version,) = (root / "serving" / "killed").glob("[0-9]*")
    assert summary["pushed"]["path"] == str(version)
    assert not list(version.rglob(MANIFEST))
