"""A policy as the training loop takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from components.artifacts import Artifact
from components.base import Context
from components.evaluation import Protocol, rank_model
from components.model_io import LoadedModel
from components.trainer.config import TrainerConfig, TrainingConfig
from components.trainer.imagination import ImaginedStep
from components.trainer.rewards import EstimatedRewards
from components.trainer.step import TrainStep
from components.trainer.workers import Workers
from components.trajectory_io import Window
from models.algorithms.base import Algorithm
from models.algorithms.sequence_model import SequenceConfig
from models.batch import TrajectoryBatch
from models.frameworks import keras
from models.learner import Learner
from models.metrics.ranking import MAX_RANK, beyond_accuracy, sum_by_session
from models.module import Module
from models.optimizers import LazyAdam
from models.ranked_policy import RankedPolicy
from models.targets import copy_variables
from models.user_model.imagination import Imagination
from schemas.config import ConfigError


def make_optimizer(config: TrainingConfig, learning_rate: float | None = None) -> Any:
    """The optimiser of a training; `learning_rate` takes the place of the configured one."""
    rate: Any = learning_rate or config.learning_rate
    if config.warmup_steps:
        rate = keras.optimizers.schedules.PolynomialDecay(rate / config.warmup_steps, config.warmup_steps, rate)
    return LazyAdam(rate, global_clipnorm=config.gradient_clip_norm, jit_compile=False)


class Trainable:
    """A policy with what is compiled to train and to rank it.

    Args:
        model: What is trained; its variables exist.
        config: How.
        rewards: Where its rewards come from; None for the logs.
        imagination: What it learns from beside the logs; None for nothing.
        workers: The processes that train it; their variables were made in `workers.scope`, and so must this be.
        twin: The model on parameter servers, which is what is trained then; `model` follows whenever it is ranked.
    """

    section = "trainer"

    def __init__(
        self,
        model: LoadedModel,
        config: TrainerConfig,
        rewards: EstimatedRewards | None = None,
        imagination: Imagination | None = None,
        workers: Workers | None = None,
        twin: Algorithm | None = None,
    ):
        self.model = model
        self._twin = twin
        self._config = config
        self._rewards = rewards
        held = rewards.held(model.algorithm) if rewards else ()
        step: Any = TrainStep(twin or model.algorithm, partial(make_optimizer, config), config.xla, held, workers)
        if imagination is not None:
            step = ImaginedStep(imagination, model.algorithm, step)
        self.step: Any = rewards.around(step, partial(make_optimizer, config)) if rewards else step
        self.ranked = RankedPolicy(model.algorithm, MAX_RANK)

    @property
    def algorithm(self) -> Algorithm:
        """The model itself."""
        return self.model.algorithm

    @property
    def learner(self) -> Learner:
        return self.model.algorithm

    @property
    def context_steps(self) -> int:
        return self._config.network.window or 1

    def modules(self) -> Mapping[str, Module]:
        return {"model": self._twin or self.algorithm, **(self._rewards.modules() if self._rewards else {})}

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        if self._rewards:
            self._rewards.adapt(self.algorithm, batches)
        else:
            self.algorithm.adapt(batches)
            if self._twin is not None:
                copy_variables(self.algorithm, self._twin)

    def window(self, relabelled: Artifact) -> Window | None:
        algorithm = self._config.algorithm
        if not isinstance(algorithm, SequenceConfig):
            # Other policies look at one return at a time.
            if self.algorithm.is_return_conditioned:
                raise ConfigError(f"trainer.algorithm: {self.algorithm.config_class.__name__} cannot be trained on relabelled returns")
            return None
        theirs, mine = relabelled.properties["discount"], algorithm.return_discount
        if theirs != mine:
            raise ConfigError(f"trainer.algorithm.return_discount is {mine:g}, the returns were relabelled with a discount of {theirs:g}")
        return Window(algorithm.context_length, mine)

    def validate(self, examples: Artifact, context: Context) -> dict[str, float]:
        if self._twin is not None:
            copy_variables(self._twin, self.algorithm)
        protocol = Protocol(max_states=self._config.early_stopping.max_states)
        ranked = rank_model(self.ranked, self.model.vocabulary, examples, "eval", protocol, context)
        # What everybody is shown says early that a policy collapses, while accuracy still holds.
        return {**sum_by_session(ranked).values(), **beyond_accuracy(ranked, self.algorithm.catalogue.num_items)}

    @property
    def num_parameters(self) -> int:
        """Weights that gradients move."""
        return int(sum(np.prod(variable.shape) for variable in self.algorithm.trainable_variables))
