"""The training loop: epochs, validation, checkpoints, and what stops it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import HEALTH, Artifact
from components.base import ComponentError, Context
from components.model_io import read_weights, write_weights
from components.trainer.config import TrainingConfig
from components.trainer.trainee import Trainee
from components.trainer.workers import Workers
from components.trajectory_io import Transitions, epoch_batches, ordered_batches, shard_files
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.health import Q_BOUND, Q_SCALE

_XLA_STEP_MULTIPLE = 8
_MEMORY = 0.98
"""What is left of a health number one step later."""
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
        q_bound: Greatest return that the rewards seen so far allow.
        steps: Curve of training: step, losses, speed.
        epochs: Curve of validation: epoch, metrics.
        health: Numbers that tell how learning goes, by name, each the mean of about the last fifty steps.
        stopped: Why training ended, or None.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    q_bound: float = 0.0
    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    health: dict[str, float] = field(default_factory=dict)
    stopped: str | None = None


class TrainingLoop:
    """Trains a learner until it stops getting better, has done its epochs, or is interrupted.

    Interrupted at any point and started again with the same scratch folder, it goes on from its last checkpoint: weights,
    optimiser, random generators, place in the data. Of several workers all do the same steps; the chief alone ranks, decides and
    writes. With parameter servers the chief alone has a loop.

    Args:
        trainee: What is trained.
        config: For how long.
        examples: On what.
        context: Scratch folder and progress.
        logs: Folder of TensorBoard's event files.
        relabelled: Trajectories to train on in place of the train split of `examples`; what is measured stays as it was logged.
        workers: The processes that train together; None is this one alone.
    """

    def __init__(
        self,
        trainee: Trainee,
        config: TrainingConfig,
        examples: Artifact,
        context: Context,
        logs: Path,
        relabelled: Artifact | None = None,
        workers: Workers | None = None,
    ):
        self._trainee = trainee
        self._learner = trainee.learner
        self._config = config
        self._examples = examples
        self._context = context
        self._step = trainee.step
        self._workers = workers or Workers()
        self._files = shard_files(relabelled or examples, "train")
        self._window = trainee.window(relabelled) if relabelled is not None else None
        self._transitions = Transitions(self._files, trainee.context_steps) if self._learner.transitions else None
        self._unit, self._amount = self._size_of_a_pass()
        self._best = context.scratch / "best"
        self._writers = {name: tf.summary.create_file_writer(str(logs / name)) for name in ("train", "validation")}
        # The state travels inside the checkpoint, so that the two cannot part.
        self._saved_state = tf.Variable("", dtype=tf.string, trainable=False)
        modules = trainee.modules()
        checkpoint = tf.train.Checkpoint(
            **{name: module.trackable() for name, module in modules.items()},
            optimizers=self._step.optimizers,
            state=self._saved_state,
            generators=[generator for module in modules.values() for generator in module.random_generators()],
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(context.scratch / "checkpoints"), max_to_keep=2)
        self._saved_at = time.monotonic()
        self._traces = True
        self.state = LoopState()

    def run(self) -> LoopState:
        """Trains; afterwards the learner has the best weights."""
        self._restore()
        self._workers.check_together(self.state.step)
        config, state = self._config, self.state
        if state.step == 0:
            self._trainee.adapt(ordered_batches(self._files, config.batch_size))
        with self._context.progress.task("train", self._amount * config.max_epochs, self._unit) as task:
            task.advance(state.epoch * self._amount + min(state.batch * config.batch_size, self._amount))
            try:
                while state.stopped is None:
                    self._epoch(task)
                    self._validate()
                    self._save()
            except (KeyboardInterrupt, SystemExit):
                # What is handed out is learned from, though nobody looks at its losses.
                done = self._workers.settle()
                state.batch, state.step = state.batch + done, state.step + done
                self._save()
                raise
        if self._workers.is_chief:
            read_weights(self._learner, self._best)
        for writer in self._writers.values():
            writer.close()
        return state

    def _size_of_a_pass(self) -> tuple[str, int]:
        """What progress counts, and how many of it a pass has."""
        split = self._examples.properties["splits"]["train"]
        if self._transitions is not None:
            return "transitions", len(self._transitions)
        # A session has several windows, but every event is a target of one.
        return ("events", split["events"]) if self._window is not None else ("sessions", split["trajectories"])

    def _epoch(self, task: Any) -> None:
        config, state = self._config, self.state
        round_steps = _XLA_STEP_MULTIPLE if config.xla else 1
        if self._transitions is not None:
            iterator = self._transitions.batches(config.batch_size, config.seed, state.epoch, state.batch)
        else:
            batches = epoch_batches(self._files, config.batch_size, config.seed, state.epoch, round_steps, self._window)
            iterator = iter(batches.skip(state.batch))
        meter = _Meter()
        numbers = iter(range(state.step, config.max_steps) if config.max_steps is not None else count(state.step))
        done = self._workers.results(self._step, _timed(iterator, lambda: meter), numbers, self._is_checkpoint_due)
        for batch, (losses, health, targets), is_settled in done:
            values = {name: float(value) for name, value in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                self._stop_on_nan(batch, values)
            signs = {f"{HEALTH}{name}": float(value) for name, value in health.items()}
            self._stop_on_divergence(signs)
            state.health = {name: sign + _MEMORY * (state.health.get(name, sign) - sign) for name, sign in signs.items()}
            state.batch += 1
            state.step += 1
            if self._traces:
                # The first call of a process builds the graph, which says nothing about speed.
                self._traces, meter = False, _Meter()
            meter.add({**values, **signs}, int(targets))
            if meter.elapsed() > _LOG_EVERY_SECONDS:
                self._log(meter)
                meter = _Meter()
            amount = batch.item_id.shape[0] if self._window is None else tf.reduce_sum(batch.length - batch.num_context)
            task.advance(int(amount), f"epoch {state.epoch + 1}, loss {sum(values.values()):.3f}")
            if is_settled and self._is_checkpoint_due():
                self._save()
        if meter.batches:
            self._log(meter)

    def _is_checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved_at > self._config.checkpoint_every_seconds

    def _validate(self) -> None:
        """Measures on the eval split, keeps the weights if they are the best, and decides whether to go on."""
        config, state = self._config, self.state
        stopping = config.early_stopping
        metrics = self._trainee.validate(self._examples, self._context) if self._workers.is_chief else {}
        if self._workers.is_chief and stopping.metric not in metrics:
            raise ComponentError(
                f"{self._trainee.section}.early_stopping.metric: {stopping.metric!r} is not measured on the eval split; "
                f"known: {', '.join(metrics)}"
            )
        value = self._workers.from_chief(metrics.get(stopping.metric, 0.0))
        metrics = metrics or {stopping.metric: value}
        state.epochs.append({"epoch": state.epoch + 1, "step": state.step, **metrics})
        with self._writers["validation"].as_default(step=state.step):
            for name, measured in metrics.items():
                tf.summary.scalar(name, measured)
        keeps_last = stopping.keep == "last"
        better = value > state.best
        if better or keeps_last:
            if self._workers.is_chief:
                write_weights(self._learner, self._best)
            state.best, state.best_epoch = value, state.epoch
        self._context.progress.log(f"epoch {state.epoch + 1}: {stopping.metric} {value:.4f}" + (", the best so far" if better else ""))
        if not keeps_last and state.epoch - state.best_epoch >= stopping.patience:
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
        if not self._workers.is_chief:
            return
        self._saved_state.assign(json.dumps(asdict(self.state)))
        self._manager.save(checkpoint_number=self.state.step)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        if self._manager.latest_checkpoint is None:
            return
        self._manager.restore_or_initialize()
        self.state = LoopState(**json.loads(self._saved_state.numpy()))
        self._context.progress.log(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")

    def _stop_on_divergence(self, signs: dict[str, float]) -> None:
        """Stops when values have grown beyond any return that the rewards allow."""
        if HEALTH + Q_SCALE not in signs:
            return
        # Rewards differ from batch to batch; the greatest so far counts.
        self.state.q_bound = max(self.state.q_bound, signs[HEALTH + Q_BOUND])
        scale, factor = signs[HEALTH + Q_SCALE], self._config.divergence_factor
        section = self._trainee.section
        if self.state.q_bound > 0 and scale > factor * self.state.q_bound:
            raise ComponentError(
                f"values diverge: at step {self.state.step} the mean size of Q is {scale:.4g}, and no return can pass "
                f"{self.state.q_bound:.4g} with these rewards and this discount ({section}.divergence_factor allows {factor:g} times "
                f"that). Lower {section}.learning_rate or the discount, or let the target network follow more slowly"
            )

    def _stop_on_nan(self, batch: TrajectoryBatch, values: dict[str, float]) -> None:
        """Keeps the batch for looking at, and says which it was."""
        worker = "" if self._workers.is_chief else f"_worker_{self._workers.cluster.index}"
        path = self._context.scratch / f"nan_batch_{self.state.step}{worker}.npz"
        np.savez(path, **{name: np.asarray(value) for name, value in batch._asdict().items()})
        bad = ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
        odd = [name for name in ("reward", "return_to_go") if not np.isfinite(np.asarray(getattr(batch, name))).all()]
        cause = (
            f"its {' and '.join(odd)} are not finite"
            if odd
            else f"its inputs are finite, so the weights diverged: lower {self._trainee.section}.learning_rate"
        )
        raise ComponentError(
            f"loss is not finite: {bad} at epoch {self.state.epoch + 1}, batch {self.state.batch} (step {self.state.step}); "
            f"{cause}. The batch is kept in {path}"
        )


def _timed(batches: Iterator[TrajectoryBatch], meter: Callable[[], _Meter]) -> Iterator[TrajectoryBatch]:
    """The batches; how long each was waited for goes to the meter of the time."""
    while True:
        begun = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        meter().waited += time.monotonic() - begun
        yield batch


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
