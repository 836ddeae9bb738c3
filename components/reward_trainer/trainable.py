"""A reward estimator as the training loop takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from components.artifacts import Artifact
from components.base import Context
from components.reward_trainer.measuring import measure, part_of_eval
from components.trainer.config import TrainingConfig
from components.trainer.loop import make_optimizer
from components.trainer.step import TrainStep
from components.trajectory_io import Window
from models.batch import TrajectoryBatch
from models.learner import Learner
from models.module import Module
from models.rewards.base import RewardEstimator


class TrainableRewards:
    """An estimator with its compiled step; validated on the sessions that it is fitted to, not on those it is judged by.

    Args:
        estimator: What is trained; its variables exist.
        config: How.
    """

    section = "reward_trainer"
    context_steps = 1

    def __init__(self, estimator: RewardEstimator, config: TrainingConfig):
        self._estimator = estimator
        self._most_events = config.early_stopping.max_states
        self.step: Any = TrainStep(estimator, partial(make_optimizer, config), config.xla)

    @property
    def learner(self) -> Learner:
        return self._estimator

    def modules(self) -> Mapping[str, Module]:
        return {"model": self._estimator}

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        self._estimator.adapt(batches)

    def window(self, relabelled: Artifact) -> Window | None:
        return None

    def validate(self, examples: Artifact, context: Context) -> dict[str, float]:
        return measure(self._estimator, part_of_eval(examples, "fitting"), self._most_events).metrics()
