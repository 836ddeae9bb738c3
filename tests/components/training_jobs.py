"""Trainings of a small model by several processes, for the tests of workers and of parameter servers."""

import json
import os
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import open_artifact
from models.frameworks import tf

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

ROOT = Path(__file__).resolve().parents[2]

CONFIG: dict[str, Any] = {
    "name": "toy",
    "trajectory_gen": {"dataset": {"name": "session_shop"}},
    "trainer": {
        # Target networks, values and their health, negatives, sparse and clipped gradients.
        "algorithm": {"name": "sqn"},
        "network": {"width": 8, "softmax": "sampled", "num_sampled": 16, "unknown_rate": 0.0},
        "batch_size": 16,
        "gradient_clip_norm": 0.5,
        "max_epochs": 2,
        "checkpoint_every_seconds": 0.001,
        "early_stopping": {"keep": "last"},
    },
}
NETWORK = {"name": "sasrec", "num_blocks": 1, "num_heads": 2, "dropout": 0.0}


class Job:
    """One training by some processes, as a scheduler would start them; the chief is the first."""

    def __init__(self, folder: Path, num_workers: int, num_servers: int = 0):
        self.folder = folder
        # With parameter servers the chief comes beside the workers.
        self._tasks = [("worker", index) for index in range(num_workers)]
        if num_servers:
            self._tasks = [("chief", 0), *self._tasks, *(("ps", index) for index in range(num_servers))]
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        (self.folder / "root").mkdir(parents=True, exist_ok=True)
        cluster: dict[str, list[str]] = {}
        for (kind, _), port in zip(self._tasks, _free_ports(len(self._tasks)), strict=True):
            cluster.setdefault(kind, []).append(f"127.0.0.1:{port}")
        self._cluster = cluster
        self._processes = [self._process(place) for place in range(len(self._tasks))]

    def _process(self, place: int) -> "subprocess.Popen[str]":
        inputs = self.folder.parent / "inputs"
        command = [sys.executable, "-m", "pipeline.run_component", "--component", "trainer", "--config", f"@{inputs / 'config.json'}"]
        for name in ("examples", "relabelled", "vocabulary", "neighbours", "reward_model", "user_model", "anomalies", "audit"):
            command += ["--input", f"{name}={inputs / name}"]
        for name in ("model", "model_run"):
            command += ["--output", f"{name}={self.folder / name}"]
        command += ["--root", str(self.folder / "root"), "--run-id", "together"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if len(self._tasks) > 1:
            kind, index = self._tasks[place]
            environment["TF_CONFIG"] = json.dumps({"cluster": self._cluster, "task": {"type": kind, "index": index}})
        log = (self.folder / f"worker-{place}.log").open("a")
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True)

    def wait(self) -> list[int]:
        return [process.wait(timeout=3600) for process in self._processes]

    def wait_for_chief(self) -> int:
        """Waits for the first process, and ends those that serve it, as the operator of a TFJob does."""
        try:
            return self._processes[0].wait(timeout=3600)
        finally:
            for process in self._processes:
                process.terminate()
            self.wait()

    def kill(self, index: int) -> None:
        self._processes[index].kill()

    def restart(self, index: int) -> None:
        """Starts one process anew, at the address that it had."""
        self._processes[index] = self._process(index)

    def log(self, index: int) -> str:
        return (self.folder / f"worker-{index}.log").read_text()

    def checkpoints(self) -> list[int]:
        found = (self.folder / "root" / "scratch" / "trainer").glob("*/checkpoints/ckpt-*.index")
        return sorted(int(path.name.removeprefix("ckpt-").removesuffix(".index")) for path in found)

    def weights(self) -> dict[str, np.ndarray]:
        saved = tf.train.load_checkpoint(str(open_artifact(self.folder / "model").path / "weights" / "variables"))
        return {path: saved.get_tensor(path) for path in saved.get_variable_to_shape_map() if "CHECKPOINTABLE" not in path}

    def history(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "model_run" / "history.json").read_text())
        return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def write_inputs(where: Path, **trainer: Any) -> None:
    """What jobs below a folder read; `trainer` are settings beside those of `CONFIG`."""
    inputs = where / "inputs"
    # 45 sessions: the last batch has 13, of which two workers get 7 and 6 and an empty one.
    toy.write_examples(inputs / "examples", {"train": toy.successor_sessions(45, 1), "eval": toy.successor_sessions(20, 2)})
    toy.artifact(inputs / "relabelled", "Examples", {"relabelled": False})
    toy.write_vocabulary(inputs / "vocabulary")
    toy.write_neighbours(inputs / "neighbours")
    toy.artifact(inputs / "reward_model", "RewardModel", {"enabled": False})
    toy.artifact(inputs / "user_model", "UserModel", {"enabled": False})
    toy.artifact(inputs / "anomalies", "ExampleAnomalies")
    toy.artifact(inputs / "audit", "LeakageAudit")
    settings = {**CONFIG["trainer"], "network": {**CONFIG["trainer"]["network"], "backbone": NETWORK}, **trainer}
    (inputs / "config.json").write_text(json.dumps({**CONFIG, "trainer": settings}))


def assert_close(one: Job, other: Job, tolerance: float) -> None:
    found, expected = one.weights(), other.weights()
    assert list(found) == list(expected)
    assert len(found) > 10
    for path, values in expected.items():
        np.testing.assert_allclose(found[path], values, rtol=0.0, atol=tolerance, err_msg=path)
