"""Training whose item tables lie on parameter servers, because they and their moments are too large for a worker.

The processes are a chief, workers and servers (TensorFlow's ParameterServerStrategy). A table is cut into as many runs of rows as
there are servers, each beside its moments on a server of its own. The chief reads the logs and hands out batches; whichever worker
is free fetches the rows that a batch names, computes their gradients, and sends these back; the servers move the rows. Workers do
not wait for each other, so with more than one of them no two trainings are alike. With one, a training goes the way of one process
alone.

The chief hands out batches because TensorFlow's datasets of workers cannot do what the trainer promises: a worker is not told
which share is its own, so a pass would not hold every session once, and a worker that comes back begins anew, so a checkpoint
would not know its place in the logs.

The chief has a copy of the model of its own, in which tables are whole: it ranks with it, and it is what is saved. Weights,
moments and generators are checkpointed as one process alone would, so that either goes on where the other stopped.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from components.base import ComponentError
from components.trainer.config import TrainerConfig
from components.trainer.workers import Workers, reason_of
from models.algorithms.base import Algorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.targets import copy_variables
from schemas.config import ConfigError
from schemas.tf_config import Cluster

_AHEAD = 2
"""Batches for each worker that are handed out before results are waited for."""


def serve() -> NoReturn:
    """Does what the chief asks, as a worker or a parameter server, until the process is ended."""
    # Otherwise whoever speaks to a process that is starting again waits for it and does not learn that it was lost.
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    config = tf.compat.v1.ConfigProto()
    num_workers = len(resolver.cluster_spec().as_dict().get("worker", []))
    # TensorFlow takes a thread for each processor that this process may use, which may be fewer than the machine has.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable <= num_workers:
        # One worker's operation may wait for another's in the same process.
        config.inter_op_parallelism_threads = num_workers + 1
    _server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc", config=config
    )
    # Not `server.join()`, in which no signal is heard.
    while True:
        threading.Event().wait()


class Dispatcher:
    """Hands out batches and gives back what came of them, in the same order.

    Args:
        coordinator: Has `schedule`, whose results have `fetch`, and `join`, as TensorFlow's ClusterCoordinator.
        most: Batches that are handed out at a time.
    """

    def __init__(self, coordinator: Any, most: int):
        self._coordinator = coordinator
        self._most = most
        self._waiting: deque[tuple[TrajectoryBatch, Any]] = deque()

    def results(
        self,
        update: Callable[[TrajectoryBatch, int], tuple[Any, tuple[Any, ...]]],
        batches: Iterator[TrajectoryBatch],
        numbers: Iterator[int],
        holds: Callable[[], bool],
    ) -> Iterator[tuple[TrajectoryBatch, Any, bool]]:
        """Steps of a pass.

        Args:
            update: A compiled function and its arguments, for a batch and the number of its step.
            batches: Those of the pass.
            numbers: Of the steps; there is none beyond the last.
            holds: True where no batch is to be handed out before all others are done.

        Returns:
            Each batch, the result of its function, and whether no other batch is being worked on.
        """
        is_done = False
        while True:
            while not is_done and len(self._waiting) < self._most and not (self._waiting and holds()):
                number = next(numbers, None)
                batch = next(batches, None) if number is not None else None
                if number is None or batch is None:
                    is_done = True
                    break
                function, arguments = update(batch, number)
                self._waiting.append((batch, self._coordinator.schedule(function, args=arguments)))
            if not self._waiting:
                return
            batch, result = self._waiting[0]
            values = result.fetch()
            self._waiting.popleft()
            yield batch, values, not self._waiting

    def settle(self) -> int:
        """Waits for all batches that are handed out; returns how many of them nobody has asked for."""
        self._coordinator.join()
        count = len(self._waiting)
        self._waiting.clear()
        return count


class ParameterServers(Workers):
    """The chief's view of workers and parameter servers.

    Args:
        cluster: How many they are.
    """

    is_sharded = True

    def __init__(self, cluster: Cluster):
        super().__init__(Cluster())
        self.cluster = cluster
        self._table_rows = -1
        os.environ["GRPC_FAIL_FAST"] = "use_caller"
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        self._by_rows = tf.distribute.experimental.partitioners.FixedShardsPartitioner(cluster.num_servers)
        self.strategy = tf.distribute.experimental.ParameterServerStrategy(resolver, variable_partitioner=self._shards_of)
        coordinator = tf.distribute.experimental.coordinator.ClusterCoordinator(self.strategy)
        self._dispatcher = Dispatcher(coordinator, _AHEAD * cluster.num_workers)

    def _shards_of(self, shape: Any, dtype: Any, **_: Any) -> list[int]:
        """Item tables alone are cut; everything else is small and is needed whole."""
        if shape[0] != self._table_rows:
            return [1] * len(shape)
        found: list[int] = self._by_rows(shape, dtype)
        return found

    def twin_of(self, algorithm: Algorithm, build: Callable[[], Algorithm]) -> Algorithm:
        """The same model on the parameter servers.

        Args:
            algorithm: The model as one process has it.
            build: Builds another one.
        """
        # Row 0 is padding, row N the unknown item.
        self._table_rows = algorithm.catalogue.num_items + 1
        with self.scope():
            twin = build()
            # Generators are made when they are first asked for.
            generators = twin.random_generators()
        copy_variables(algorithm, twin)
        for own, far in zip(algorithm.random_generators(), generators, strict=True):
            far.state.assign(own.state)
        return twin

    def share(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        return batch

    def run(self, function: Any, *arguments: Any) -> Any:
        return self.strategy.run(function, args=arguments)

    def from_chief(self, value: float) -> float:
        return value

    def results(
        self, step: Any, batches: Iterator[TrajectoryBatch], numbers: Iterator[int], holds: Callable[[], bool]
    ) -> Iterator[tuple[TrajectoryBatch, Any, bool]]:
        """Whichever worker is free takes a step; see `Dispatcher`."""
        return self._dispatcher.results(step.update, batches, numbers, holds)

    def settle(self) -> int:
        return self._dispatcher.settle()

    def lost(self, error: Exception) -> ComponentError:
        return ComponentError(
            f"a parameter server of {self.cluster.num_servers} is gone: {reason_of(error)}. Start it again, and then the chief; the "
            "training goes on from its last checkpoint"
        )


def check_fits(config: TrainerConfig, algorithm: Algorithm) -> None:
    """Checks that a model needs no more of its item tables than the rows of a batch.

    Raises:
        ConfigError: It does; says which setting makes it.
    """
    name, network = getattr(config.algorithm, "name"), config.network  # noqa: B009
    num_items = algorithm.catalogue.num_items
    where = "item tables lie on parameter servers"
    if algorithm.transitions:
        raise ConfigError(f"trainer.algorithm.mode: {name} in faithful mode scores the whole catalogue in every step, but {where}")
    if not network.samples(num_items):
        raise ConfigError(
            f"trainer.network.softmax: {name} with {network.softmax} compares all {num_items - 1} items in every step, but {where}; "
            "train with sampled"
        )
    if network.neighbours:
        raise ConfigError(
            f"trainer.network.neighbours: {name} with {network.neighbours} neighbours of each item reads them from a table that every "
            f"process has whole, but {where}; train with 0"
        )
