"""Training on roll-outs of a user model beside logged sessions."""

from __future__ import annotations

from typing import Any

from components.artifacts import Artifact
from components.base import ComponentError
from components.judged_model import load_judged
from components.trainer.config import TrainerConfig
from components.trainer.step import StepResult, TrainStep
from components.user_model_io import USER_MODEL
from models.algorithms.base import Algorithm
from models.algorithms.value_based import ValueAlgorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.user_model.imagination import Imagination, beside
from schemas.config import ConfigError


class ImaginedStep:
    """One step on a batch and on what is imagined from it; called as `TrainStep` is.

    Args:
        imagination: What makes the roll-outs.
        algorithm: What is trained.
        step: Its step.
    """

    def __init__(self, imagination: Imagination, algorithm: Algorithm, step: TrainStep):
        self._step = step

        def join(batch: TrajectoryBatch, number: tf.Tensor) -> tuple[TrajectoryBatch, tf.Tensor]:
            return beside(batch, imagination.imagine(batch, algorithm, number))

        self._join = tf.function(join, autograph=False, reduce_retracing=True)

    @property
    def optimizers(self) -> dict[str, Any]:
        """Of the algorithm."""
        return self._step.optimizers

    def __call__(self, batch: TrajectoryBatch, step: int) -> StepResult:
        """See `TrainStep`."""
        whole, weight = self._join(batch, tf.constant(step, tf.int64))
        return self._step(TrajectoryBatch(*whole), step, weight)


def imagination_of(
    config: TrainerConfig, algorithm: Algorithm, vocabulary: Any, examples: Artifact, model: Artifact | None
) -> Imagination | None:
    """What a training learns from beside the logs.

    Args:
        config: The training's configuration.
        algorithm: What is trained; its variables exist.
        vocabulary: Its items.
        examples: The trajectories.
        model: What `user_model_trainer` made.

    Returns:
        None for nothing.

    Raises:
        ComponentError: There is no model, it may not be used, or it knows other items.
        ConfigError: The algorithm cannot learn from short roll-outs, or the model cannot plan them.
    """
    if config.imagination is None:
        return None
    if not isinstance(algorithm, ValueAlgorithm) or algorithm.transitions:
        name = type(algorithm).__name__
        raise ConfigError(
            f"trainer.imagination: roll-outs end before their sessions do, so they are for algorithms that bootstrap from values of whole "
            f"sessions (mode: fast); {name} is none"
        )
    if model is None:
        raise ComponentError("trainer.imagination needs the model of user_model_trainer, and there is none here")
    loaded = load_judged(USER_MODEL, model, vocabulary=vocabulary)
    try:
        return Imagination(loaded.model, config.imagination, float(examples.properties["discount"]), config.seed)
    except ValueError as error:
        raise ConfigError(f"trainer.imagination.{error}") from None
