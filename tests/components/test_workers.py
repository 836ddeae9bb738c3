"""Several workers that train one model: their shares make up the whole, and two processes go the way of one."""

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base import ComponentError
from components.trainer.workers import Workers, share_of, weighted_mean
from models.batch import TrajectoryBatch
from models.frameworks import tf
from schemas.tf_config import Cluster

sys.path.append(str(Path(__file__).parents[1] / "models"))
sys.path.append(str(Path(__file__).parent))
toy, jobs = import_module("toy_shop"), import_module("training_jobs")

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs work, with their inputs."""
    where = tmp_path_factory.mktemp("jobs")
    jobs.write_inputs(where)
    return where


@pytest.fixture(scope="module")
def together(folder: Path) -> Any:
    """A training by two workers that nothing interrupted."""
    job = jobs.Job(folder / "together", 2)
    job.start()
    assert job.wait() == [0, 0], job.log(0) + job.log(1)
    return job


@pytest.mark.slow
def test_two_workers_go_the_way_of_one(folder: Path, together: Any) -> None:
    alone = jobs.Job(folder / "alone", 1)
    alone.start()
    assert alone.wait() == [0], alone.log(0)
    # float32 sums in another order, over six steps of Adam, which divides small numbers by small numbers.
    jobs.assert_close(together, alone, 1e-5)
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
def test_a_killed_worker_ends_the_others_and_all_go_on_from_the_last_checkpoint(folder: Path, together: Any) -> None:
    job = jobs.Job(folder / "killed", 2)
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
    jobs.assert_close(job, together, 1e-6)
    assert job.checkpoints() == []  # Cleared when all was done.
