"""Measures a reward estimator on the eval split, whose sessions are dealt into those it is fitted to and those it is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from components.artifacts import Artifact
from components.trajectory_io import ordered_batches, shard_files
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.rewards.base import RewardEstimator
from models.rewards.calibration import Calibration, RewardSums, by_group, merged, popularity_buckets
from schemas.interaction import FEEDBACK_ROLES

Part = Literal["fitting", "judging"]

POPULARITY = ("popular", "middle", "rare")
UNKNOWN = "unknown"

_BATCH = 512


def part_of_eval(examples: Artifact, part: Part) -> Iterator[TrajectoryBatch]:
    """Batches of the eval split in which only the targets of every second session are left."""
    for batch in ordered_batches(shard_files(examples, "eval"), _BATCH):
        # A hash of user and session: all records of a session are on one side.
        inside = tf.equal(batch.session % 2, 0 if part == "fitting" else 1)
        yield batch._replace(num_context=tf.where(inside, batch.num_context, batch.length))


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        rewards: Of expected rewards.
        groups: Of probabilities: of the last class over all events and by popularity of the item, and of each role. Empty for a
            continuous reward.
        scale: Standard deviation that errors of a continuous reward are divided by.
    """

    rewards: RewardSums
    groups: dict[str, Calibration]
    scale: float

    def metrics(self) -> dict[str, float]:
        """Every number by its key; those of a group carry its name in front."""
        found = dict(self.rewards.values())
        if not self.groups:
            # A continuous reward has no probabilities; it is judged by the same words.
            found |= {key: found[f"reward_{key}"] for key in ("explained",) if f"reward_{key}" in found}
            if "reward_calibration_error" in found:
                found["calibration_error"] = found["reward_calibration_error"] / self.scale
        for name, group in self.groups.items():
            found |= {f"{name}/{key}" if name else key: value for key, value in group.values().items()}
        return found

    def curves(self) -> dict[str, Any]:
        """Reliability diagrams: (mean predicted, mean observed, events) of every bin."""
        return {"reward": self.rewards.reliability.diagram(), **{name or "all": g.reliability.diagram() for name, g in self.groups.items()}}


def measure(estimator: RewardEstimator, batches: Iterable[TrajectoryBatch], most_events: int | None = None) -> Measured:
    """Measures the targets of batches.

    Args:
        estimator: What is measured.
        batches: Trajectories.
        most_events: Stop after about as many; None measures all.
    """
    low, high, scale = estimator.outcome.reward_range()
    rewards, groups = RewardSums.none(low, high), dict[str, Calibration]()
    buckets = popularity_buckets(estimator.catalogue.counts, len(POPULARITY))
    predict = tf.function(estimator.events, autograph=False, reduce_retracing=True)
    for batch in batches:
        inside = np.asarray(batch.is_target())
        found = predict(batch)
        rewards = rewards.merge(RewardSums.of(np.asarray(found.mean)[inside], np.asarray(batch.reward)[inside], low, high))
        if estimator.outcome.num_classes and inside.any():
            probability, label = (
                np.asarray(found.probability)[inside],
                np.asarray(estimator.outcome.label(batch.reward, batch.feedback))[inside],
            )
            bucket = buckets[np.asarray(batch.item_id)[inside]]
            last = estimator.outcome.num_classes - 1
            here = {"": Calibration.of(probability[:, last], label == last)}
            here |= by_group(probability[:, last], label == last, np.where(bucket < 0, len(POPULARITY), bucket), (*POPULARITY, UNKNOWN))
            if estimator.config.outcome == "role":
                here |= {role: Calibration.of(probability[:, number], label == number) for number, role in enumerate(FEEDBACK_ROLES)}
            groups = merged(groups, here)
        if most_events is not None and rewards.count >= most_events:
            break
    return Measured(rewards, groups, scale)
