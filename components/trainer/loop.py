"""The training loop: epochs, validation, checkpoints, and what stops it."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import Artifact
from components.base import ComponentError, Context
from components.evaluation import Protocol, rank_model
from components.model_io import LoadedModel, read_weights, write_weights
from components.trainer.config import TrainerConfig
from components.trainer.step import Optimizer, TrainStep
from components.trajectory_io import epoch_batches, shard_files
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.metrics.ranking import MAX_RANK, sum_by_session
from models.serving import RankedPolicy

_XLA_STEP_MULTIPLE = 8
_LOG_EVERY_SECONDS = 2.0


@dataclass
class LoopState:
    """Where a run is; saved with every checkpoint.

    Attributes:
        epoch: Pass over the data, from 0.
        batch: Batches of this pass that are done.
        step: Batches done in all.
        best: Best value of the watched metric so far.
        best_epoch: Pass after which it was reached.
        steps: Curve of training: step, losses, speed.
        epochs: Curve of validation: epoch, metrics.
        stopped: Why training ended, or None.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None


class TrainingLoop:
    """Trains an algorithm until it stops getting better, has done its epochs, or is interrupted.

    Interrupted at any point and started again with the same scratch folder, it goes on from its last checkpoint: weights,
    optimiser, random generators, place in the data.

    Args:
        model: What is trained.
        optimizer: How.
        config: For how long.
        examples: On what.
        context: Scratch folder and progress.
        logs: Folder of TensorBoard's event files.
    """

    def __init__(self, model: LoadedModel, optimizer: Optimizer, config: TrainerConfig, examples: Artifact, context: Context, logs: Path):
        algorithm = model.algorithm
        self._model = model
        self._algorithm = algorithm
        self._config = config
        self._examples = examples
        self._context = context
        self._step = TrainStep(algorithm, optimizer, config.xla)
        self._ranked = RankedPolicy(algorithm, MAX_RANK)
        self._files = shard_files(examples, "train")
        self._records = examples.properties["splits"]["train"]["trajectories"]
        self._best = context.scratch / "best"
        self._writers = {name: tf.summary.create_file_writer(str(logs / name)) for name in ("train", "validation")}
        # The state travels inside the checkpoint, so that the two cannot part.
        self._saved_state = tf.Variable("", dtype=tf.string, trainable=False)
        checkpoint = tf.train.Checkpoint(
            model=algorithm.trackable(), optimizer=optimizer, state=self._saved_state, generators=algorithm.random_generators()
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(context.scratch / "checkpoints"), max_to_keep=2)
        self._saved_at = time.monotonic()
        self._traces = True
        self.state = LoopState()

    def run(self) -> LoopState:
        """Trains; afterwards the algorithm has the best weights."""
        self._restore()
        config, state = self._config, self.state
        with self._context.progress.task("train", self._records * config.max_epochs, "sessions") as task:
            task.advance(state.epoch * self._records + min(state.batch * config.batch_size, self._records))
            try:
                while state.stopped is None:
                    self._epoch(task)
                    self._validate()
                    self._save()
            except (KeyboardInterrupt, SystemExit):
                self._save()
                raise
        read_weights(self._algorithm, self._best)
        for writer in self._writers.values():
            writer.close()
        return state

    def _epoch(self, task: Any) -> None:
        config, state = self._config, self.state
        round_steps = _XLA_STEP_MULTIPLE if config.xla else 1
        batches = epoch_batches(self._files, config.batch_size, config.seed, state.epoch, round_steps).skip(state.batch)
        meter = _Meter()
        iterator = iter(batches)
        while config.max_steps is None or state.step < config.max_steps:
            begun = time.monotonic()
            batch = next(iterator, None)
            if batch is None:
                break
            meter.waited += time.monotonic() - begun
            losses, targets = self._step(batch, tf.constant(state.step, tf.int64))
            values = {name: float(value) for name, value in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                self._stop_on_nan(batch, values)
            state.batch += 1
            state.step += 1
            if self._traces:
                # The first call of a process builds the graph, which says nothing about speed.
                self._traces, meter = False, _Meter()
            meter.add(values, int(targets))
            if meter.elapsed() > _LOG_EVERY_SECONDS:
                self._log(meter)
                meter = _Meter()
            task.advance(int(batch.item_id.shape[0]), f"epoch {state.epoch + 1}, loss {sum(values.values()):.3f}")
            if time.monotonic() - self._saved_at > config.checkpoint_every_seconds:
                self._save()
        if meter.batches:
            self._log(meter)

    def _validate(self) -> None:
        """Ranks the eval split, keeps the weights if they are the best, and decides whether to go on."""
        config, state = self._config, self.state
        stopping = config.early_stopping
        protocol = Protocol(max_states=stopping.max_states)
        ranked = rank_model(self._ranked.rank, self._model.vocabulary, self._examples, "eval", protocol, self._context)
        metrics = sum_by_session(ranked).values()
        if stopping.metric not in metrics:
            raise ComponentError(
                f"trainer.early_stopping.metric: {stopping.metric!r} is not measured on the eval split; known: {', '.join(metrics)}"
            )
        state.epochs.append({"epoch": state.epoch + 1, "step": state.step, **metrics})
        with self._writers["validation"].as_default(step=state.step):
            for name, value in metrics.items():
                tf.summary.scalar(name, value)
        value = metrics[stopping.metric]
        better = value > state.best
        if better:
            write_weights(self._algorithm, self._best)
            state.best, state.best_epoch = value, state.epoch
        self._context.progress.log(f"epoch {state.epoch + 1}: {stopping.metric} {value:.4f}" + (", the best so far" if better else ""))
        if state.epoch - state.best_epoch >= stopping.patience:
            state.stopped = f"no better {stopping.metric} for {stopping.patience} epochs"
        elif config.max_steps is not None and state.step >= config.max_steps:
            state.stopped = f"max_steps = {config.max_steps} reached"
        elif state.epoch + 1 >= config.max_epochs:
            state.stopped = f"max_epochs = {config.max_epochs} reached"
        state.epoch, state.batch = state.epoch + 1, 0

    def _log(self, meter: _Meter) -> None:
        row = {"step": self.state.step, **meter.summary()}
        self.state.steps.append(row)
        with self._writers["train"].as_default(step=self.state.step):
            for name, value in row.items():
                tf.summary.scalar(name, value)

    def _save(self) -> None:
        self._saved_state.assign(json.dumps(asdict(self.state)))
        self._manager.save(checkpoint_number=self.state.step)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        if self._manager.latest_checkpoint is None:
            return
        self._manager.restore_or_initialize()
        self.state = LoopState(**json.loads(self._saved_state.numpy()))
        self._context.progress.log(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")

    def _stop_on_nan(self, batch: TrajectoryBatch, values: dict[str, float]) -> None:
        """Keeps the batch for looking at, and says which it was."""
        path = self._context.scratch / f"nan_batch_{self.state.step}.npz"
        np.savez(path, **{name: np.asarray(value) for name, value in batch._asdict().items()})
        bad = ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
        odd = [name for name in ("reward", "return_to_go") if not np.isfinite(np.asarray(getattr(batch, name))).all()]
        cause = (
            f"its {' and '.join(odd)} are not finite"
            if odd
            else "its inputs are finite, so the weights diverged: lower trainer.learning_rate"
        )
        raise ComponentError(
            f"loss is not finite: {bad} at epoch {self.state.epoch + 1}, batch {self.state.batch} (step {self.state.step}); "
            f"{cause}. The batch is kept in {path}"
        )


class _Meter:
    """Averages since the last log line."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.waited = 0.0
        self.batches = 0
        self.targets = 0
        self.sums: dict[str, float] = {}

    def add(self, values: dict[str, float], targets: int) -> None:
        self.batches += 1
        self.targets += targets
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    def summary(self) -> dict[str, float]:
        seconds = max(self.elapsed(), 1e-9)
        return {
            **{name: total / self.batches for name, total in self.sums.items()},
            "transitions_per_second": self.targets / seconds,
            "input_wait_share": self.waited / seconds,
        }
