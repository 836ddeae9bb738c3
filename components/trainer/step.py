"""One update of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from components.trainer.workers import Workers, weighted_mean
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.learner import Learner, Phase
from models.losses.health import Q_BOUND

Optimizer = Any
"""A `keras.optimizers.Optimizer`; the type lives in a package that is imported late."""
StepResult = tuple[dict[str, Any], dict[str, Any], Any]
"""Parts of the loss, health numbers and number of targets, as tensors."""


class TrainStep:
    """Compiled training steps, one for each phase of a learner.

    Shapes vary from batch to batch and are traced once. With XLA the losses and gradients are compiled for every shape; the
    optimiser stays outside, because its sparse rows have no fixed number.

    Args:
        learner: What is trained; its variables exist.
        make_optimizer: Makes an optimiser with the learning rate of a phase; None is the usual one.
        xla: True compiles losses and gradients.
        held: Variables of the learner that are trained elsewhere: its loss does not move them.
        workers: The processes that train; each calls with its share of the batch.
    """

    def __init__(
        self,
        learner: Learner,
        make_optimizer: Callable[[float | None], Optimizer],
        xla: bool,
        held: Sequence[tf.Variable] = (),
        workers: Workers | None = None,
    ):
        self._learner = learner
        self.optimizers: dict[str, Optimizer] = {}
        self._updates: dict[str, Any] = {}
        held_ids = {id(variable) for variable in held}
        for phase in learner.phases:
            variables = [variable for variable in learner.variables_of(phase) if id(variable) not in held_ids]
            if phase.optimizer not in self.optimizers:
                self.optimizers[phase.optimizer] = make_optimizer(phase.learning_rate)
                self.optimizers[phase.optimizer].build(variables)
            optimizer = self.optimizers[phase.optimizer]
            if workers is None or workers.strategy is None:
                self._updates[phase.name] = _update(learner, phase, variables, optimizer, xla)
            elif workers.is_sharded:
                self._updates[phase.name] = _update_far(learner, phase, variables, optimizer, workers)
            else:
                self._updates[phase.name] = _update_together(learner, phase, variables, optimizer, workers)

    def __call__(self, batch: TrajectoryBatch, step: int, weight: tf.Tensor | None = None) -> StepResult:
        """Updates the weights; returns the parts of the loss, the health numbers and the number of targets.

        Args:
            batch: The trajectories.
            step: Number of the training step.
            weight: [B, T] what each step counts; None counts all alike.
        """
        update, arguments = self.update(batch, step)
        result: StepResult = update(*arguments, weight)
        return result

    def update(self, batch: TrajectoryBatch, step: int) -> tuple[Any, tuple[Any, ...]]:
        """The compiled function of a training step and what it is called with, for whoever calls it elsewhere."""
        return self._updates[self._learner.phase(step).name], (batch, tf.constant(step, tf.int64))


def _update(learner: Learner, phase: Phase, variables: list[tf.Variable], optimizer: Optimizer, xla: bool) -> Any:
    update = _plain_update(learner, phase, variables, optimizer, xla)
    return tf.function(update, autograph=False, reduce_retracing=not xla)


def _update_far(learner: Learner, phase: Phase, variables: list[tf.Variable], optimizer: Optimizer, workers: Workers) -> Any:
    """The same for a worker that has no variables of its own: what moves a variable is computed where it lies."""
    update = _plain_update(learner, phase, variables, optimizer, xla=False)

    def on_a_worker(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[Any, ...]:
        result: tuple[Any, ...] = workers.run(update, batch, step, None)
        return result

    return tf.function(on_a_worker, autograph=False, reduce_retracing=True)


def _plain_update(learner: Learner, phase: Phase, variables: list[tf.Variable], optimizer: Optimizer, xla: bool) -> Callable[..., Any]:
    def gradients(batch: TrajectoryBatch, step: tf.Tensor, weight: tf.Tensor | None) -> tuple[Any, ...]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = learner.losses_of(phase, batch, step, training=True)
            num_targets = tf.reduce_sum(losses.mask)
            if weight is not None:
                losses = losses._replace(mask=losses.mask * weight)
            parts = {name: losses.mean(name) for name in losses.parts}
            total = tf.add_n(list(parts.values()))
        return parts, dict(losses.health), tape.gradient(total, variables), num_targets

    compiled = tf.function(gradients, jit_compile=True, autograph=False, reduce_retracing=False) if xla else gradients

    def update(batch: TrajectoryBatch, step: tf.Tensor, weight: tf.Tensor | None) -> tuple[Any, ...]:
        parts, health, found, targets = compiled(batch, step, weight)
        optimizer.apply_gradients(zip(found, variables, strict=True))
        learner.after_update(step)
        return parts, health, targets

    return update


def _update_together(learner: Learner, phase: Phase, variables: list[tf.Variable], optimizer: Optimizer, workers: Workers) -> Any:
    """The same for one of several workers: gradients, losses and health are those of all their shares together."""

    def own(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[Any, ...]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = learner.losses_of(phase, batch, step, training=True)
            counted = tf.reduce_sum(losses.mask)
            all_targets = workers.add_up(counted)
            share = tf.stop_gradient(tf.maximum(counted, 1.0) / tf.maximum(all_targets, 1.0))
            parts = weighted_mean({name: losses.mean(name) for name in losses.parts}, share)
            total = tf.add_n(list(parts.values()))
        # The optimiser adds up the gradients of all workers.
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        health = {
            name: workers.greatest(value) if name == Q_BOUND else workers.add_up(value * share) for name, value in losses.health.items()
        }
        return {name: workers.add_up(value) for name, value in parts.items()}, health, all_targets

    def update(batch: TrajectoryBatch, step: tf.Tensor, weight: tf.Tensor | None) -> tuple[Any, ...]:
        # Steps are weighted where a policy learns from imagination, too, which several workers do not.
        assert weight is None
        result: tuple[Any, ...] = workers.run(own, batch, step)
        learner.after_update(step)
        return result

    return tf.function(update, autograph=False, reduce_retracing=True)
