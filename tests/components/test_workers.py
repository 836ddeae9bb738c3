"""Several workers that train one model: their shares make up the whole, and two processes go the way of one."""

import json
import os
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import open_artifact
from components.base import ComponentError
from components.trainer.workers import Workers, share_of, weighted_mean
from models.batch import TrajectoryBatch
from models.frameworks import tf
from schemas.tf_config import Cluster

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

ROOT = Path(__file__).resolve().parents[2]
SESSIONS = [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10], [11, 12], [13, 14]]


def batch() -> TrajectoryBatch:
    found: TrajectoryBatch = toy.batch(SESSIONS, reward=[[0.2] * (len(session) - 1) + [1.0] for session in SESSIONS])
    return found


def shares(whole: TrajectoryBatch, num_workers: int) -> list[TrajectoryBatch]:
    return [share_of(whole, Cluster(num_workers, index)) for index in range(num_workers)]


# === Shares ===


@pytest.mark.parametrize(("num_workers", "rows"), [(1, 5), (2, 3), (3, 2), (5, 1), (8, 1)])
def test_shares_are_the_rows_of_the_batch_and_empty_ones_that_even_them_out(num_workers: int, rows: int) -> None:
    whole = batch()
    parts = shares(whole, num_workers)
    for name, values in whole._asdict().items():
        joined = np.concatenate([getattr(part, name) for part in parts])
        # Five rows, then padding: two workers have 3 + 2 and one that is empty.
        assert len(joined) == rows * num_workers
        np.testing.assert_array_equal(joined[:5], values)
        assert not joined[5:].any()
    assert {part.item_id.shape for part in parts} == {(rows, 4)}
    targets = [float(tf.reduce_sum(tf.cast(part.is_target(), tf.float32))) for part in parts]
    assert sum(targets) == 14


@pytest.mark.parametrize(("name", "softmax"), [("sqn", "full"), ("cql", "sampled"), ("decision_transformer", "full")])
def test_losses_and_gradients_of_the_shares_add_up_to_those_of_the_batch(name: str, softmax: str) -> None:
    networks = toy.network(softmax=softmax, backbone=toy.backbone(dropout=0.0))
    algorithm = toy.shake(toy.build(name, networks, dropout=0.0))
    whole = batch()
    losses, gradients, targets = _step(algorithm, whole)
    parts = [_step(algorithm, part, all_targets=targets) for part in shares(whole, 2)]
    for part, value in losses.items():
        assert sum(found[0][part] for found in parts) == pytest.approx(value, rel=1e-5)
    assert sum(found[2] for found in parts) == targets
    # Nothing adds up by being nothing.
    assert max(np.abs(gradient).max() for gradient in gradients) > 1e-3
    for number, gradient in enumerate(gradients):
        np.testing.assert_allclose(sum(found[1][number] for found in parts), gradient, rtol=1e-4, atol=1e-6)


def _step(algorithm: Any, on: TrajectoryBatch, all_targets: float | None = None) -> tuple[dict[str, float], list[np.ndarray], float]:
    """Losses, dense gradients and targets, as a worker weighs them."""
    variables = algorithm.variables_of(algorithm.phases[0])
    with tf.GradientTape() as tape:
        losses = algorithm.losses_of(algorithm.phases[0], on, tf.constant(3, tf.int64), training=True)
        targets = tf.reduce_sum(losses.mask)
        means = {name: losses.mean(name) for name in losses.parts}
        own = weighted_mean(means, targets / (all_targets or targets))
        total = tf.add_n(list(own.values()))
    found = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    dense = [tf.convert_to_tensor(gradient).numpy() for gradient in found]
    return {name: float(value) for name, value in own.items()}, dense, float(targets)


def test_one_worker_is_a_training_as_ever() -> None:
    alone, whole = Workers(), batch()
    assert alone.is_chief
    assert alone.share(whole) is whole
    assert alone.run(lambda value: alone.add_up(value) + alone.greatest(value), 2.0) == 4.0
    assert alone.from_chief(0.25) == 0.25
    alone.check_together(7)


LOST = """Graph execution error:

Detected at node CollectiveReduceV2 defined at (most recent call last):
<stack traces unavailable>
Collective ops is aborted by: Task /job:worker/replica:0/task:1 heartbeat timeout.
The error could be from a previous operation. Restart your program to reset.
\t [[{{node CollectiveReduceV2}}]] [Op:__inference_update_1]"""


def test_a_worker_that_is_left_says_why_and_what_to_do() -> None:
    together = Workers()
    together.cluster, together.strategy = Cluster(2, 0), object()
    with pytest.raises(ComponentError) as left, together.explained():
        raise tf.errors.UnavailableError(None, None, LOST)
    assert str(left.value) == (
        "another worker of 2 is gone: Collective ops is aborted by: Task /job:worker/replica:0/task:1 heartbeat timeout. "
        "Start all of them again; the training goes on from its last checkpoint"
    )
    # Alone there is no other: what TensorFlow says stays.
    with pytest.raises(tf.errors.UnavailableError), Workers().explained():
        raise tf.errors.UnavailableError(None, None, LOST)


# === Two processes ===

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
    """One training by some processes, as a scheduler would start them."""

    def __init__(self, folder: Path, num_workers: int):
        self.folder = folder
        self._num_workers = num_workers
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        (self.folder / "root").mkdir(parents=True, exist_ok=True)
        ports = _free_ports(self._num_workers)
        hosts = [f"127.0.0.1:{port}" for port in ports]
        self._processes = [self._worker(index, hosts) for index in range(self._num_workers)]

    def _worker(self, index: int, hosts: list[str]) -> "subprocess.Popen[str]":
        inputs = self.folder.parent / "inputs"
        command = [sys.executable, "-m", "pipeline.run_component", "--component", "trainer", "--config", f"@{inputs / 'config.json'}"]
        for name in ("examples", "relabelled", "vocabulary", "neighbours", "reward_model", "user_model", "anomalies", "audit"):
            command += ["--input", f"{name}={inputs / name}"]
        for name in ("model", "model_run"):
            command += ["--output", f"{name}={self.folder / name}"]
        command += ["--root", str(self.folder / "root"), "--run-id", "together"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if len(hosts) > 1:
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})
        log = (self.folder / f"worker-{index}.log").open("a")
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True)

    def wait(self) -> list[int]:
        return [process.wait(timeout=3600) for process in self._processes]

    def kill(self, index: int) -> None:
        self._processes[index].kill()

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs work, with their inputs."""
    where = tmp_path_factory.mktemp("jobs")
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
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "network": {**CONFIG["trainer"]["network"], "backbone": NETWORK}}}
    (inputs / "config.json").write_text(json.dumps(config))
    return where


@pytest.fixture(scope="module")
def together(folder: Path) -> Job:
    """A training by two workers that nothing interrupted."""
    job = Job(folder / "together", 2)
    job.start()
    assert job.wait() == [0, 0], job.log(0) + job.log(1)
    return job


def assert_close(one: Job, other: Job, tolerance: float) -> None:
    found, expected = one.weights(), other.weights()
    assert list(found) == list(expected)
    assert len(found) > 10
    for path, values in expected.items():
        np.testing.assert_allclose(found[path], values, rtol=0.0, atol=tolerance, err_msg=path)


@pytest.mark.slow
def test_two_workers_go_the_way_of_one(folder: Path, together: Job) -> None:
    alone = Job(folder / "alone", 1)
    alone.start()
    assert alone.wait() == [0], alone.log(0)
    # float32 sums in another order, over six steps of Adam, which divides small numbers by small numbers.
    assert_close(together, alone, 1e-5)
    one, two = alone.history()["epochs"], together.history()["epochs"]
    assert [row["step"] for row in two] == [row["step"] for row in one] == [3, 6]
    for found, expected in zip(two, one, strict=True):
        assert found["ndcg@10"] == pytest.approx(expected["ndcg@10"], abs=0.02)
    # Losses are those of the whole batch on every worker, and the steps that count are counted once.
    for name in ("cross_entropy", "td", "health/q_mean", "health/q_bound"):
        for found, expected in zip(together.history()["steps"], alone.history()["steps"], strict=False):
            if found["step"] == expected["step"] and name in expected:
                assert found[name] == pytest.approx(expected[name], rel=1e-3)
    assert "executed in" in together.log(1)
    assert "sha256" not in together.log(1)  # The chief alone publishes.
    assert "sha256" in together.log(0)


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_all_go_on_from_the_last_checkpoint(folder: Path, together: Job) -> None:
    job = Job(folder / "killed", 2)
    job.start()
    deadline = time.monotonic() + 3000
    while not job.checkpoints():
        assert time.monotonic() < deadline, job.log(0) + job.log(1)
        time.sleep(0.01)
    job.kill(1)
    codes = job.wait()
    assert codes[1] == -9
    if codes[0] != 0:  # It was not yet done with the last step.
        assert codes[0] == 1
        assert "another worker of 2 is gone" in job.log(0)
    assert not (job.folder / "model").exists()
    left = job.checkpoints()
    assert 0 < left[-1] < 6
    job.start()
    assert job.wait() == [0, 0], job.log(0) + job.log(1)
    assert "resumed at epoch" in job.log(0)
    assert "resumed at epoch" in job.log(1)
    assert_close(job, together, 1e-6)
    assert job.checkpoints() == []  # Cleared when all was done.
