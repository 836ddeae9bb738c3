"""A reward estimator as the training loop takes it."""

from __future__ import annotations

from components.artifacts import Artifact
from components.base import Context
from components.judged_training import JudgedTrainable
from components.reward_trainer.measuring import measure, part_of_eval
from models.rewards.base import RewardEstimator


class TrainableRewards(JudgedTrainable[RewardEstimator]):
    """An estimator; validated on the sessions that it is fitted to, not on those it is judged by."""

    section = "reward_trainer"

    def validate(self, examples: Artifact, context: Context) -> dict[str, float]:
        return measure(self._model, part_of_eval(examples, "fitting"), self._most_events).metrics()
