"""One update of the weights."""

from __future__ import annotations

from typing import Any

from models.algorithms.base import Algorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf

Optimizer = Any
"""A `keras.optimizers.Optimizer`; the type lives in a package that is imported late."""


class TrainStep:
    """A compiled training step.

    Shapes vary from batch to batch and are traced once. With XLA the losses and gradients are compiled for every shape; the
    optimiser stays outside, because its sparse rows have no fixed number.

    Args:
        algorithm: What is trained; its variables exist.
        optimizer: How.
        xla: True compiles losses and gradients.
    """

    def __init__(self, algorithm: Algorithm, optimizer: Optimizer, xla: bool):
        self._variables = algorithm.trainable_variables
        optimizer.build(self._variables)

        def gradients(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[Any], tf.Tensor]:
            with tf.GradientTape() as tape:
                losses = algorithm.losses(batch, step, training=True)
                parts = {name: losses.mean(name) for name in losses.parts}
                total = tf.add_n(list(parts.values()))
            return parts, tape.gradient(total, self._variables), tf.reduce_sum(losses.mask)

        compiled = tf.function(gradients, jit_compile=True, autograph=False, reduce_retracing=False) if xla else gradients

        def update(batch: TrajectoryBatch, step: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            parts, found, targets = compiled(batch, step)
            optimizer.apply_gradients(zip(found, self._variables, strict=True))
            algorithm.after_update(step)
            return parts, targets

        self._update = tf.function(update, autograph=False, reduce_retracing=not xla)

    def __call__(self, batch: TrajectoryBatch, step: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Updates the weights; returns the parts of the loss and the number of targets."""
        result: tuple[dict[str, tf.Tensor], tf.Tensor] = self._update(batch, step)
        return result
