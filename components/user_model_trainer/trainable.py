"""A user model as the training loop takes it, and how it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.artifacts import Artifact
from components.base import Context
from components.judged_training import JudgedTrainable
from components.reward_trainer.measuring import Measured, measure, part_of_eval
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.rewards.calibration import RewardSums
from models.user_model.model import UserModel, as_leaving

_SEED_OF_NEGATIVES = 12
LEAVING = "leaving/"
"""In front of the names of what is measured of leaving."""


class TrainableUserModel(JudgedTrainable[UserModel]):
    """A user model; validated by its losses on half of the eval split's sessions."""

    section = "user_model_trainer"

    def validate(self, examples: Artifact, context: Context) -> dict[str, float]:
        losses = tf.function(self._sums, autograph=False, reduce_retracing=True)
        totals: dict[str, float] = {}
        events = 0.0
        for batch in part_of_eval(examples, "fitting"):
            sums, count = losses(batch)
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
            events += float(count)
            if self._most_events is not None and events >= self._most_events:
                break
        means = {f"loss/{name}": total / max(events, 1.0) for name, total in totals.items()}
        return {**means, "fit": -sum(means.values())}

    def _sums(self, batch: TrajectoryBatch) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        # The same draws every time, so that epochs can be compared.
        found = self._model.losses(batch, tf.constant(0, tf.int64), training=False)
        return {name: tf.reduce_sum(loss * found.mask) for name, loss in found.parts.items()}, tf.reduce_sum(found.mask)


@dataclass(frozen=True)
class MeasuredUsers:
    """What was measured of a user model.

    Attributes:
        rewards: Of expected rewards of events, and of drawn negatives where the model is trained with them.
        leaving: Of the chance to leave.
        scale: Standard deviation that errors of rewards are divided by.
    """

    rewards: RewardSums
    leaving: Measured
    scale: float

    def metrics(self) -> dict[str, float]:
        """Every number by its key."""
        rewards, leaving = self.rewards.values(), self.leaving.metrics()
        found = {name: rewards[f"reward_{name}"] for name in ("explained", "bias", "squared_error") if f"reward_{name}" in rewards}
        if "reward_calibration_error" in rewards:
            found["calibration_error"] = rewards["reward_calibration_error"] / self.scale
        kept = ("auc", "log_loss", "calibration_error")
        return {**found, **{f"{LEAVING}{name}": leaving[name] for name in kept if name in leaving}}

    def curves(self) -> dict[str, Any]:
        """Reliability diagrams: (mean predicted, mean observed, events) of every bin."""
        return {"reward": self.rewards.reliability.diagram(), "leaving": self.leaving.curves().get("all", [])}


def measure_users(model: UserModel, examples: Artifact) -> MeasuredUsers:
    """Measures a user model on the half of the eval split's sessions that it was not validated on."""
    low, high, scale = model.rewards.outcome.reward_range()
    # A negative earns 0, which may be below what any event earns.
    low = min(low, -3.0 * scale)
    rewards = RewardSums.none(low, high)
    predict = tf.function(model.rewards.events, autograph=False, reduce_retracing=True)
    others = tf.function(lambda batch, items: model.rewards.candidates(batch, items).mean, autograph=False, reduce_retracing=True)
    rng = np.random.default_rng(_SEED_OF_NEGATIVES)
    for batch in part_of_eval(examples, "judging"):
        inside = np.asarray(batch.is_target()) & (np.asarray(batch.item_id) < model.catalogue.num_items)
        rewards = rewards.merge(RewardSums.of(np.asarray(predict(batch).mean)[inside], np.asarray(batch.reward)[inside], low, high))
        if model.config.num_negatives:
            shape = (*inside.shape, model.config.num_negatives)
            items = rng.integers(1, model.catalogue.num_items, shape).astype(np.int32)
            found = np.asarray(others(batch, tf.constant(items)))[inside]
            rewards = rewards.merge(RewardSums.of(found.ravel(), np.zeros(found.size), low, high))
    leaving = measure(model.leaving, _leaving(part_of_eval(examples, "judging")))
    return MeasuredUsers(rewards, leaving, scale)


def _leaving(batches: Iterable[TrajectoryBatch]) -> Iterator[TrajectoryBatch]:
    return (as_leaving(batch) for batch in batches)
