"""One update of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.trainer.workers import Workers, weighted_mean
from models.algorithms.base import Algorithm, Phase
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.health import Q_BOUND

Optimizer = Any
"""A `keras.optimizers.Optimizer`; the type lives in a package that is imported late."""


class TrainStep:
    """Compiled training steps, one for each phase of an algorithm.

    Shapes vary from batch to batch and are traced once. With XLA the losses and gradients are compiled for every shape; the
    optimiser stays outside, because its sparse rows have no fixed number.

    Args:
        algorithm: What is trained; its variables exist.
        make_optimizer: Makes an optimiser with the learning rate of a phase; None is the usual one.
        xla: True compiles losses and gradients.
        workers: The processes that train; each calls with its share of the batch.
    """

    def __init__(
        self, algorithm: Algorithm, make_optimizer: Callable[[float | None], Optimizer], xla: bool, workers: Workers | None = None
    ):
        self._algorithm = algorithm
        self.optimizers: dict[str, Optimizer] = {}
        self._updates: dict[str, Any] = {}
        for phase in algorithm.phases:
            if phase.optimizer not in self.optimizers:
                self.optimizers[phase.optimizer] = make_optimizer(phase.learning_rate)
                self.optimizers[phase.optimizer].build(algorithm.variables_of(phase))
            optimizer = self.optimizers[phase.optimizer]
            if workers is None or workers.strategy is None:
                self._updates[phase.name] = _update(algorithm, phase, optimizer, xla)
            else:
                self._updates[phase.name] = _update_together(algorithm, phase, optimizer, workers)

    def __call__(self, batch: TrajectoryBatch, step: int) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], tf.Tensor]:
        """Updates the weights; returns the parts of the loss, the health numbers and the number of targets."""
        update = self._updates[self._algorithm.phase(step).name]
        result: tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], tf.Tensor] = update(batch, tf.constant(step, tf.int64))
        return result


def _update(algorithm: Algorithm, phase: Phase, optimizer: Optimizer, xla: bool) -> Any:
    variables = algorithm.variables_of(phase)

    def gradients(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[Any, ...]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = algorithm.losses_of(phase, batch, step, training=True)
            parts = {name: losses.mean(name) for name in losses.parts}
            total = tf.add_n(list(parts.values()))
        return parts, dict(losses.health), tape.gradient(total, variables), tf.reduce_sum(losses.mask)

    compiled = tf.function(gradients, jit_compile=True, autograph=False, reduce_retracing=False) if xla else gradients

    def update(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[Any, ...]:
        parts, health, found, targets = compiled(batch, step)
        optimizer.apply_gradients(zip(found, variables, strict=True))
        algorithm.after_update(step)
        return parts, health, targets

    return tf.function(update, autograph=False, reduce_retracing=not xla)


def _update_together(algorithm: Algorithm, phase: Phase, optimizer: Optimizer, workers: Workers) -> Any:
    """The same for one of several workers: gradients, losses and health are those of all their shares together."""
    variables = algorithm.variables_of(phase)

    def own(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[Any, ...]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = algorithm.losses_of(phase, batch, step, training=True)
            targets = tf.reduce_sum(losses.mask)
            all_targets = workers.add_up(targets)
            share = tf.stop_gradient(tf.maximum(targets, 1.0) / tf.maximum(all_targets, 1.0))
            parts = weighted_mean({name: losses.mean(name) for name in losses.parts}, share)
            total = tf.add_n(list(parts.values()))
        # The optimiser adds up the gradients of all workers.
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        health = {
            name: workers.greatest(value) if name == Q_BOUND else workers.add_up(value * share) for name, value in losses.health.items()
        }
        return {name: workers.add_up(value) for name, value in parts.items()}, health, all_targets

    def update(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[Any, ...]:
        result: tuple[Any, ...] = workers.run(own, batch, step)
        algorithm.after_update(step)
        return result

    return tf.function(update, autograph=False, reduce_retracing=True)
