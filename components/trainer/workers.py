"""Several processes that train one model, or the one that usually does; for parameter servers see `parameter_servers`.

Every worker computes the gradients of its share of each batch, and all of them add up what they found, so that all hold the same
weights; that is TensorFlow's MultiWorkerMirroredStrategy. The batches are those of a training alone, divided by rows, and the losses
are weighted by the steps that count, so a training of several workers goes the way of one that has the same batches. What the
chief decides and writes, nobody else does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from components.base import ComponentError
from components.tf_errors import telling_line
from models.batch import TrajectoryBatch
from models.frameworks import tf
from schemas.config import ConfigError
from schemas.tf_config import VARIABLE, Cluster, read_cluster


class Workers:
    """The processes of a training.

    It must be made before TensorFlow computes anything, because that is when workers can be joined.

    Args:
        cluster: How many they are, and which this is.
    """

    is_sharded = False
    """True where item tables lie on parameter servers."""

    def __init__(self, cluster: Cluster | None = None):
        self.cluster = cluster or Cluster()
        self.strategy: Any = None
        if self.cluster.num_workers > 1:
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
            found = self.strategy.num_replicas_in_sync
            if found != self.cluster.num_workers:
                raise ComponentError(
                    f"{self.cluster.num_workers} workers have {found} accelerators; a worker trains on one: start a worker for each"
                )

    @classmethod
    def from_environment(cls, strategy: str = "auto") -> Workers:
        """Those that TF_CONFIG tells of; a process that only serves the chief does so here, until it is ended.

        Args:
            strategy: `trainer.strategy`.

        Raises:
            ConfigError: TF_CONFIG names processes that the strategy has no part for.
        """
        cluster = read_cluster(os.environ)
        check_strategy(strategy, cluster)
        if not cluster.num_servers:
            return cls(cluster)
        from components.trainer.parameter_servers import ParameterServers, serve

        return ParameterServers(cluster) if cluster.is_chief else serve()

    @property
    def is_chief(self) -> bool:
        """True for the process that writes what comes out."""
        return self.cluster.is_chief

    def scope(self) -> Any:
        """Where variables are made that all workers keep alike."""
        return self.strategy.scope() if self.strategy is not None else nullcontext()

    def share(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        """The rows of a batch that this worker trains on; see `share_of`."""
        return batch if self.strategy is None else share_of(batch, self.cluster)

    def run(self, function: Any, *arguments: Any) -> Any:
        """Calls a function as part of a compiled step of several workers; inside, they can be added up."""
        found = self.strategy.run(function, args=arguments)
        return tf.nest.map_structure(lambda value: self.strategy.experimental_local_results(value)[0], found)

    def add_up(self, value: tf.Tensor) -> tf.Tensor:
        """Sum over all workers, inside of `run`."""
        # On a device, which an argument of a compiled function is not.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    def greatest(self, value: tf.Tensor) -> tf.Tensor:
        """Greatest value of all workers, inside of `run`."""
        return tf.reduce_max(tf.distribute.get_replica_context().all_gather(tf.identity(value)[None], axis=0))

    def results(
        self, step: Any, batches: Iterator[TrajectoryBatch], numbers: Iterator[int], holds: Callable[[], bool]
    ) -> Iterator[tuple[TrajectoryBatch, Any, bool]]:
        """Takes training steps.

        Args:
            step: A `TrainStep` or what stands for one.
            batches: Those of a pass.
            numbers: Of the steps; there is none beyond the last.
            holds: True where no batch is to be begun before all others are done.

        Returns:
            Each batch, what `step` found, and whether the weights are those of exactly the batches so far.
        """
        for number in numbers:
            batch = next(batches, None)
            if batch is None:
                return
            yield batch, step(self.share(batch), number), True

    def settle(self) -> int:
        """Waits for batches that are handed out; returns how many nobody has asked for since."""
        return 0

    def from_chief(self, value: float) -> float:
        """The chief's number. Workers that look at one number decide alike, whatever they would have measured themselves."""
        if self.strategy is None:
            return value
        own = tf.constant([value if self.is_chief else 0.0], tf.float64)
        return float(self._sum_of(own)[0])

    def check_together(self, step: int) -> None:
        """Checks that all workers are at the step of the chief.

        Raises:
            ComponentError: They read different checkpoints.
        """
        chief = int(self.from_chief(float(step)))
        if chief != step:
            raise ComponentError(
                f"worker {self.cluster.index} is at step {step}, the chief at {chief}: they read different checkpoints; the scratch folder "
                "must be on a volume that all workers share"
            )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Says what it means when another worker is gone."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError) as error:
            if self.strategy is None:
                raise
            raise self.lost(error) from None

    def lost(self, error: Exception) -> ComponentError:
        """What it means that another process is gone."""
        return ComponentError(
            f"another worker of {self.cluster.num_workers} is gone: {reason_of(error)}. Start all of them again; the training goes "
            "on from its last checkpoint"
        )

    def _sum_of(self, value: tf.Tensor) -> tf.Tensor:
        return tf.function(lambda own: self.run(self.add_up, own), autograph=False)(value)


def check_strategy(strategy: str, cluster: Cluster) -> None:
    """Checks that a strategy fits the processes that there are.

    Raises:
        ConfigError: It does not.
    """
    if strategy == "parameter_server" and not cluster.num_servers:
        raise ConfigError(
            f"trainer.strategy: parameter_server needs {VARIABLE} to name a chief, workers and parameter servers (ps); it names no ps"
        )
    if strategy == "mirrored" and cluster.num_servers:
        raise ConfigError(f"trainer.strategy: mirrored has no part for the {cluster.num_servers} parameter servers (ps) of {VARIABLE}")


def reason_of(error: Exception) -> str:
    """What TensorFlow says of the loss of another process, as a part of a sentence."""
    return telling_line(error).rstrip(".") or "TensorFlow states no reason"


def share_of(batch: TrajectoryBatch, cluster: Cluster) -> TrajectoryBatch:
    """The rows of a batch that one of several workers trains on.

    All shares have the same number of rows and steps. Where the rows do not come out even, empty ones are added, which count for
    nothing.

    Args:
        batch: B records; all workers have the same.
        cluster: How many workers there are, and which this is.

    Returns:
        ceil(B / workers) records.
    """
    rows = tf.shape(batch.item_id)[0]
    size = (rows + cluster.num_workers - 1) // cluster.num_workers
    missing = size * cluster.num_workers - rows

    def own(values: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(values, [[0, missing], *([[0, 0]] * (values.shape.rank - 1))])
        return padded[cluster.index * size : (cluster.index + 1) * size]

    return TrajectoryBatch(*(own(values) for values in batch))


def weighted_mean(values: Mapping[str, tf.Tensor], share: tf.Tensor) -> dict[str, tf.Tensor]:
    """Means over the steps of one worker as parts of the mean over all: what all workers hold adds up to it.

    Args:
        values: Means over the steps that count on this worker.
        share: Of the steps that count on all workers, those on this one, from 0 to 1.
    """
    return {name: value * share for name, value in values.items()}
