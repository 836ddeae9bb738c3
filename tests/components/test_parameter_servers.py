"""Item tables on parameter servers: who does what, and that a training goes the way of one process alone."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.trainer.config import TrainerConfig
from components.trainer.parameter_servers import Dispatcher, check_fits
from components.trainer.workers import Workers, check_strategy
from schemas.config import ConfigError
from schemas.tf_config import Cluster

sys.path.append(str(Path(__file__).parents[1] / "models"))
sys.path.append(str(Path(__file__).parent))
toy, jobs = import_module("toy_shop"), import_module("training_jobs")

# === What is refused ===

FAITHFUL = {"window": 8, "copy_head": False}


@pytest.mark.parametrize(("strategy", "servers"), [("auto", 0), ("auto", 2), ("mirrored", 0), ("parameter_server", 2)])
def test_a_strategy_fits_the_processes_it_has_a_part_for(strategy: str, servers: int) -> None:
    check_strategy(strategy, Cluster(2, 0, servers))


def test_a_strategy_without_its_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r"^trainer\.strategy: parameter_server needs TF_CONFIG to name .* it names no ps$"):
        Workers.from_environment("parameter_server")
    cluster = {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1", "d:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(ConfigError, match=r"^trainer\.strategy: mirrored has no part for the 2 parameter servers \(ps\) of TF_CONFIG$"):
        Workers.from_environment("mirrored")


@pytest.mark.parametrize(
    ("algorithm", "network", "message"),
    [
        ({"name": "sqn"}, {"softmax": "full"}, "trainer.network.softmax: sqn with full compares all 20 items in every step"),
        # Twenty items are few.
        ({"name": "bc"}, {"softmax": "auto"}, "trainer.network.softmax: bc with auto compares all 20 items in every step"),
        ({"name": "bc"}, {"neighbours": 3}, "trainer.network.neighbours: bc with 3 neighbours of each item"),
        ({"name": "sqn", "mode": "faithful"}, FAITHFUL, "trainer.algorithm.mode: sqn in faithful mode scores the whole catalogue"),
    ],
)
def test_a_model_that_needs_whole_tables_is_refused_by_name(algorithm: dict[str, Any], network: dict[str, Any], message: str) -> None:
    networks = toy.network(**{"softmax": "sampled", **network})
    changes = {name: value for name, value in algorithm.items() if name != "name"}
    config = TrainerConfig(algorithm=toy.algorithm_config(algorithm["name"], **changes), network=networks)
    with pytest.raises(ConfigError) as refused:
        check_fits(config, toy.build(algorithm["name"], networks, **changes))
    assert str(refused.value).startswith(message)
    assert "item tables lie on parameter servers" in str(refused.value)


def test_a_model_that_needs_rows_alone_is_not_refused() -> None:
    networks = toy.network(softmax="sampled")
    check_fits(TrainerConfig(algorithm=toy.algorithm_config("sqn"), network=networks), toy.build("sqn", networks))


# === Batches ===


class Coordinator:
    """Works on what it is given when it is asked for the result."""

    def __init__(self) -> None:
        self.most = self.working = 0
        self.joined = False

    def schedule(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self.working += 1
        self.most = max(self.most, self.working)
        return SimpleNamespace(fetch=lambda: (function(*args), self._done())[0])

    def _done(self) -> None:
        self.working -= 1

    def join(self) -> None:
        self.joined = True


def dispatched(
    coordinator: Coordinator, most: int, num_batches: int, steps: Iterable[int], holds: Callable[[], bool] = lambda: False
) -> Any:
    batches = iter([f"batch {number}" for number in range(num_batches)])
    dispatcher = Dispatcher(coordinator, most)
    return dispatcher, dispatcher.results(lambda batch, number: (lambda *given: given, (batch, number)), batches, iter(steps), holds)


def test_every_batch_is_handed_out_once_and_comes_back_in_order() -> None:
    coordinator = Coordinator()
    _, results = dispatched(coordinator, 4, 10, count(7))
    found = list(results)
    assert [values for _, values, _ in found] == [(f"batch {number}", number + 7) for number in range(10)]
    assert [batch for batch, _, _ in found] == [values[0] for _, values, _ in found]
    assert coordinator.most == 4
    # Only with the last one nothing else is being worked on.
    assert [is_settled for _, _, is_settled in found] == [False] * 9 + [True]


def test_no_step_is_taken_beyond_the_last() -> None:
    coordinator = Coordinator()
    assert [values[1] for _, values, _ in dispatched(coordinator, 4, 10, range(5, 8))[1]] == [5, 6, 7]
    assert coordinator.working == 0


def test_before_a_checkpoint_all_batches_come_back() -> None:
    coordinator, due = Coordinator(), {"is": False}
    settled = []
    for _, (_, number), is_settled in dispatched(coordinator, 3, 12, count(), lambda: due["is"])[1]:
        due["is"] = due["is"] or number == 4
        if is_settled:
            assert coordinator.working == 0
            settled.append(number)
            due["is"] = False
    # 5 and 6 were on their way when 4 came back and the checkpoint was due.
    assert settled == [6, 11]


def test_an_interrupted_pass_counts_the_batches_that_are_on_their_way() -> None:
    coordinator = Coordinator()
    dispatcher, results = dispatched(coordinator, 4, 10, count())
    next(results)
    next(results)
    # Four were handed out at first and one more after that; two of the five came back.
    assert dispatcher.settle() == 3
    assert coordinator.joined
    assert dispatcher.settle() == 0


# === Chief, workers and servers ===


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs work, with their inputs."""
    where = tmp_path_factory.mktemp("jobs")
    # Steps enough to lose a process in the middle.
    jobs.write_inputs(where, max_epochs=8)
    return where


@pytest.fixture(scope="module")
def alone(folder: Path) -> Any:
    """A training by one process."""
    job = jobs.Job(folder / "alone", 1)
    job.start()
    assert job.wait() == [0], job.log(0)
    return job


def wait_for_a_checkpoint(job: Any, after: int = 0) -> None:
    deadline = time.monotonic() + 1200
    while not any(step > after for step in job.checkpoints()):
        assert time.monotonic() < deadline, job.log(0)
        time.sleep(0.01)


@pytest.mark.slow
def test_one_worker_with_two_servers_goes_the_way_of_one_process(folder: Path, alone: Any) -> None:
    job = jobs.Job(folder / "served", 1, num_servers=2)
    job.start()
    assert job.wait_for_chief() == 0, job.log(0) + job.log(1)
    # The same operations in other places.
    jobs.assert_close(job, alone, 1e-5)
    found, expected = job.history(), alone.history()
    assert [row["step"] for row in found["epochs"]] == [row["step"] for row in expected["epochs"]] == [3 * epoch for epoch in range(1, 9)]
    for one, other in zip(found["epochs"], expected["epochs"], strict=True):
        assert one["ndcg@10"] == pytest.approx(other["ndcg@10"], abs=1e-4)
    by_step = {row["step"]: row for row in expected["steps"]}
    compared = [(row, by_step[row["step"]]) for row in found["steps"] if row["step"] in by_step]
    assert compared
    assert all("cross_entropy" in row and "health/q_bound" in row for row, _ in compared)
    assert job.checkpoints() == []  # Cleared when all was done.


@pytest.mark.slow
def test_a_lost_server_ends_the_chief_and_one_process_alone_goes_on_from_the_checkpoint(folder: Path, alone: Any) -> None:
    job = jobs.Job(folder / "lost", 1, num_servers=2)
    job.start()
    # The second one stands for sure when a third has begun.
    wait_for_a_checkpoint(job, after=2)
    job.kill(3)
    assert job.wait_for_chief() == 1, job.log(0)
    assert "a parameter server of 2 is gone" in job.log(0)
    assert not (job.folder / "model").exists()
    assert 0 < job.checkpoints()[-1] < 24
    # Tables, moments and generators in shards become whole ones.
    rest = jobs.Job(job.folder, 1)
    rest.start()
    assert rest.wait() == [0], rest.log(0)
    assert "resumed at epoch" in rest.log(0)
    jobs.assert_close(rest, alone, 1e-5)


@pytest.mark.slow
def test_the_batches_of_a_lost_worker_are_done_when_it_is_back(folder: Path) -> None:
    job = jobs.Job(folder / "back", 1, num_servers=1)
    job.start()
    wait_for_a_checkpoint(job)
    job.kill(1)
    job.restart(1)
    assert job.wait_for_chief() == 0, job.log(0) + job.log(1)
    assert "resumed" not in job.log(0)
    assert [row["step"] for row in job.history()["epochs"]] == [3 * epoch for epoch in range(1, 9)]


@pytest.mark.slow
def test_two_workers_do_every_batch_of_a_pass_once_and_learn(tmp_path: Path) -> None:
    # Before a checkpoint they wait for each other, so there is none within a pass.
    jobs.write_inputs(tmp_path, max_epochs=8, checkpoint_every_seconds=3600.0)
    job = jobs.Job(tmp_path / "two", 2, num_servers=2)
    job.start()
    assert job.wait_for_chief() == 0, job.log(0) + job.log(1) + job.log(2)
    history = job.history()
    assert [row["step"] for row in history["epochs"]] == [3 * epoch for epoch in range(1, 9)]
    # One process alone gets from 0.18 to 0.26; which steps meet is chance.
    assert history["epochs"][-1]["ndcg@10"] > history["epochs"][0]["ndcg@10"] + 0.02
