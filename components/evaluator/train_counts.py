"""What the train split says about the logging policy and about users, in one pass that keeps counts alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.artifacts import Artifact
from components.trajectory_io import parsed_records, places_of, shard_files
from models.ope.behaviour import Counts
from schemas import trajectory

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_EVENTS = 1 << 20
"""Events that are counted at a time."""


@dataclass(frozen=True)
class TrainCounts:
    """Counts over the train split.

    Attributes:
        items: Items and which followed which.
        user: [U] keys of users, ascending.
        user_events: [U] events of each.
    """

    items: Counts
    user: Ints
    user_events: Ints

    def events_of(self, user: Ints) -> Ints:
        """[n] events that users [n] have in the train split."""
        # The last one is of users that are not there.
        return np.append(self.user_events, 0)[places_of(user, self.user)]


def count_train(examples: Artifact, num_items: int) -> TrainCounts:
    """Counts every target of the train split; `num_items` is N, and unknown items count as what came before alone."""
    total = _counted([], num_items)
    kept: list[tuple[Ints, Ints, Bools]] = []
    user, user_events = np.zeros((2, 0), np.int64)
    users: list[Ints] = []
    waiting = 0
    for parsed in parsed_records(shard_files(examples, "train")):
        length, item = parsed["length"].numpy().astype(np.int64), parsed[trajectory.ITEM_ID].flat_values.numpy()
        context = parsed[trajectory.NUM_CONTEXT].numpy()
        step = np.arange(len(item)) - np.repeat(np.cumsum(length) - length, length)
        target = step >= np.repeat(context, length)
        last = np.where(step > 0, np.roll(item, 1), 0)
        users.append(np.repeat(parsed["user"].numpy(), length)[target])
        known = target & (item < num_items)
        fresh = np.zeros(len(item), bool)
        fresh[np.unique(np.repeat(np.arange(len(length)), length) * (num_items + 1) + item, return_index=True)[1]] = True
        kept.append((last[known], item[known], fresh[known]))
        waiting += int(target.sum())
        if waiting > _EVENTS:
            total, kept, waiting = total + _counted(kept, num_items), [], 0
            (user, user_events), users = _merged(user, user_events, users), []
    user, user_events = _merged(user, user_events, users)
    return TrainCounts(total + _counted(kept, num_items), user, user_events)


def _merged(user: Ints, events: Ints, more: list[Ints]) -> tuple[Ints, Ints]:
    """Users [U] and their events [U] with those of more events, each by its user."""
    keys, counts = np.unique(np.concatenate([user[:0], *more]), return_counts=True)
    merged, place = np.unique(np.concatenate([user, keys]), return_inverse=True)
    sums = np.bincount(place.ravel(), weights=np.concatenate([events, counts]), minlength=len(merged))
    return merged, sums.astype(np.int64)


def _counted(parts: list[tuple[Ints, Ints, Bools]], num_items: int) -> Counts:
    nothing = np.zeros(0, np.int64)
    last, item = (np.concatenate([part[place] for part in parts] or [nothing]).astype(np.int64) for place in range(2))
    return Counts.of_pairs(last, item, np.concatenate([part[2] for part in parts] or [np.zeros(0, bool)]), num_items)
