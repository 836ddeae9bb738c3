"""The Beam passes on a standalone Flink: what it makes is what this process makes, also when a task manager is killed on the way."""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, open_artifact, verify

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.flink

SMALL = ["trainer.max_epochs=1", "trainer.network={width: 16, backbone: {name: sasrec, num_blocks: 1}}"]
TINY = ["trajectory_gen.dataset.num_events=4000", "trajectory_gen.dataset.shop={num_items: 60, num_clusters: 5}"]


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory, load_script: Callable[[str], Any]) -> Iterator[Any]:
    """A standalone Flink with two task managers."""
    jars = os.environ.get("LONGPLAY_FLINK_JARS")
    if not jars:
        pytest.skip("LONGPLAY_FLINK_JARS names no folder of jars; `make test-flink` sets it")
    module = load_script("kubeflow/flink/standalone.py")
    with module.running(Path(jars), tmp_path_factory.mktemp("flink"), num_task_managers=2) as found:
        yield found


def start(root: Path, last: str, settings: list[str], engine: Any = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.cli", "run", "--root", str(root), "--to", last]
    given = [*settings, "trajectory_gen.num_shards=4", *([f"beam.engine={json.dumps(engine)}"] if engine else [])]
    for setting in given:
        command += ["--set", setting]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]", root: Path) -> dict[str, Artifact]:
    """Artifacts of a run by step and name."""
    printed, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, printed
    summary = json.loads((root / "runs" / "latest" / "summary.json").read_text())
    found = {f"{step['name']}.{name}": open_artifact(path) for step in summary["steps"] for name, path in step["outputs"].items()}
    for artifact in found.values():
        verify(artifact, contents=True)
    return found


def test_flink_makes_what_this_process_makes(flink: Any, tmp_path: Path) -> None:
    here = finish(start(tmp_path / "here", "neighbour_gen", TINY), tmp_path / "here")
    there = finish(start(tmp_path / "there", "neighbour_gen", TINY, flink.engine), tmp_path / "there")
    assert list(there) == list(here)
    different = {name for name, artifact in there.items() if artifact.digest != here[name].digest}
    # Statistics hold sketches, whose bytes follow the order in which parts are merged; what is read from them is the same.
    assert different <= {"statistics_gen.statistics"}
    assert there["statistics_gen.statistics"].properties == here["statistics_gen.statistics"].properties
    assert there["trajectory_gen.examples"].properties["ledger"]["rows_read"] >= 4000
    states = {job["state"] for job in flink.jobs()}
    assert len(flink.jobs()) >= 3
    assert states == {"FINISHED"}


def test_bulk_inference_answers_as_in_this_process(flink: Any, tmp_path: Path) -> None:
    run = start(tmp_path / "run", "infra_validator", [*TINY, *SMALL])
    model = finish(run, tmp_path / "run")["exporter.serving_model"].path / "Format-Serving"
    for part in range(4):
        requests = [{"user_id": f"u{part}-{number}", "item_history": [f"item-{number % 60}"]} for number in range(250)]
        lines = [*map(json.dumps, requests), "no request"]
        (tmp_path / "users").mkdir(exist_ok=True)
        (tmp_path / "users" / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    from pipeline.beam import FlinkConfig

    jobs, answers, counts = len(flink.jobs()), {}, {}
    for name, options in (("here", ()), ("there", FlinkConfig.model_validate(flink.engine).arguments())):
        out = tmp_path / name
        command = [sys.executable, "-m", "pipeline.cli", "infer", str(tmp_path / "users"), "--model", str(model), "--out", str(out)]
        given = [part for option in options for part in ("--beam", option)]
        printed = subprocess.run([*command, "--set", "format=jsonl", *given], cwd=ROOT, capture_output=True, text=True, timeout=1800)
        assert printed.returncode == 0, printed.stdout + printed.stderr
        answers[name] = sorted(line for file in out.glob("*.jsonl.gz") for line in gzip.decompress(file.read_bytes()).splitlines())
        counts[name] = json.loads((out / "counts.json").read_text())
    assert len(flink.jobs()) == jobs + 1
    assert answers["there"] == answers["here"]
    assert counts["there"] == counts["here"]
    assert (counts["there"]["read"], counts["there"]["answered"], counts["there"]["quarantined"]) == (1004, 1000, 4)
    assert len(answers["there"]) == 1000


def test_a_killed_task_manager_loses_nothing(flink: Any, tmp_path: Path) -> None:
    larger = ["trajectory_gen.dataset.num_events=60000", *TINY[1:]]
    here = finish(start(tmp_path / "here", "trajectory_gen", larger), tmp_path / "here")
    before = {job["jid"] for job in flink.jobs()}
    process = start(tmp_path / "there", "trajectory_gen", larger, flink.engine)
    deadline = time.monotonic() + 1800
    while not any(job["state"] == "RUNNING" and job["tasks"]["running"] for job in flink.jobs() if job["jid"] not in before):
        assert time.monotonic() < deadline, flink.log("job-server")
        assert process.poll() is None
        time.sleep(0.2)
    flink.kill_task_manager(1)
    flink.start_task_manager(1)
    there = finish(process, tmp_path / "there")
    examples = there["trajectory_gen.examples"]
    ledger = examples.properties["ledger"]
    assert sum(count for name, count in ledger.items() if name != "rows_read") == ledger["rows_read"] >= 60000
    assert examples.digest == here["trajectory_gen.examples"].digest
    assert "RESTARTING" in flink.log("job-manager")


def test_a_standalone_flink_that_is_ended_by_a_signal_leaves_no_process(flink: Any, tmp_path: Path) -> None:
    jars = os.environ["LONGPLAY_FLINK_JARS"]
    script = [sys.executable, str(ROOT / "kubeflow" / "flink" / "standalone.py"), "--jars", jars, "--folder", str(tmp_path)]
    process = subprocess.Popen([*script, "--task-managers", "1"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("run ") for line in process.stdout)

    def of_this() -> list[str]:
        """Commands of the processes that work in its folder."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if place.joinpath("cwd").resolve() == tmp_path:
                    found.append(place.joinpath("cmdline").read_text())
            except OSError:
                pass  # it has ended, or belongs to somebody else
        return found

    # Job manager, task manager, job server and pool.
    assert len(of_this()) >= 4
    process.terminate()
    assert process.wait(timeout=120) == 0
    assert of_this() == []
