"""What the audit counts in the records of a split; pure array work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from models.ope.resampling import mixed
from schemas.interaction import FEEDBACK_ROLES

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

_NEVER = np.iinfo(np.int64)
_ROUNDING = 1e-5
"""Share of a return that its float32 may be off."""
_MULTIPLIERS = tuple(np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))


@dataclass(frozen=True)
class RecordBatch:
    """R records with E events, one record after the other.

    Attributes:
        length: [R] events of each record, context included.
        num_context: [R] leading events that an earlier record had as targets.
        item: [E] item ids.
        feedback: [E] roles.
        time: [E] UTC seconds.
        reward: [E].
        to_go: [E] returns.
        is_terminal: [R] whether the last event ends the session.
    """

    length: Ints
    num_context: Ints
    item: Ints
    feedback: Ints
    time: Ints
    reward: Floats
    to_go: Floats
    is_terminal: Ints

    @property
    def first(self) -> Ints:
        """[R] place of each record's first event."""
        return np.cumsum(self.length) - self.length

    @property
    def record(self) -> Ints:
        """[E] record of each event."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def step(self) -> Ints:
        """[E] place of each event in its record, from 0."""
        return np.arange(len(self.item)) - self.first[self.record]


@dataclass(frozen=True)
class SplitFindings:
    """Counts over the records of a split; they add up with `+`.

    Attributes:
        records: Records.
        targets: Events that are targets.
        first_time: Earliest event, context included, UTC seconds.
        last_time: Latest event.
        outside: Records with an event, context included, outside of the split's time.
        future_in_state: Events that are earlier than the event before them.
        target_in_state: Targets whose very event stands in their state.
        wrong_returns: Events whose return is not the discounted reward of the events from them on, as far as their record tells.
        borrowed: Sum over records that end without ending their session of the return that is still to come behind their last event, less
            that with which the records begin that go on from them: what sessions cut short at the end of a split owe to what came later.
        returns: Sum of the sizes of all those returns, against which rounding is judged.
        item_events: [roles, N] targets of each item; unknown items do not count.
        item_records: [N] records that each item is in, context included.
    """

    records: int
    targets: int
    first_time: int
    last_time: int
    outside: int
    future_in_state: int
    target_in_state: int
    wrong_returns: int
    borrowed: float
    returns: float
    item_events: Ints
    item_records: Ints

    @classmethod
    def none(cls, num_items: int) -> SplitFindings:
        """Of no records; `num_items` is N."""
        roles = len(FEEDBACK_ROLES)
        return cls(
            0, 0, _NEVER.max, _NEVER.min, 0, 0, 0, 0, 0.0, 0.0, np.zeros((roles, num_items), np.int64), np.zeros(num_items, np.int64)
        )

    @classmethod
    def of(cls, batch: RecordBatch, num_items: int, bounds: tuple[int, int] | None, discount: float | None = None) -> SplitFindings:
        """Counts a batch.

        Args:
            batch: The records.
            num_items: N, padding included; N itself is the unknown item.
            bounds: First second of the split and first after it; None where splits are not divided by time.
            discount: Factor of one step in returns; None where it is not known, and returns are not looked at.
        """
        if not len(batch.item):
            return cls.none(num_items)
        record, step, time = batch.record, batch.step, batch.time
        is_target = step >= batch.num_context[record]
        outside = np.zeros(len(time), bool) if bounds is None else (time < bounds[0]) | (time >= bounds[1])
        known = is_target & (batch.item < num_items)
        place = batch.feedback[known] * num_items + batch.item[known]
        pairs = np.unique(record[batch.item < num_items] * num_items + batch.item[batch.item < num_items])
        return cls(
            records=len(batch.length),
            targets=int(is_target.sum()),
            first_time=int(time.min()),
            last_time=int(time.max()),
            outside=len(np.unique(record[outside])),
            future_in_state=int((np.diff(time, prepend=time[0])[step > 0] < 0).sum()),
            target_in_state=int((_stood_before(batch) & known).sum()),
            **_returns(batch, discount),
            item_events=np.bincount(place, minlength=len(FEEDBACK_ROLES) * num_items).reshape(-1, num_items),
            item_records=np.bincount(pairs % num_items, minlength=num_items),
        )

    def __add__(self, other: SplitFindings) -> SplitFindings:
        summed = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        times = {"first_time": min(self.first_time, other.first_time), "last_time": max(self.last_time, other.last_time)}
        return SplitFindings(**{**summed, **times})

    def arrays(self) -> dict[str, Any]:
        """Every field by name, to be stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, stored: Mapping[str, Any]) -> SplitFindings:
        """What `arrays` gave."""
        found: dict[str, Any] = {field.name: np.asarray(stored[field.name]) for field in fields(cls)}
        plain: dict[str, Any] = {name: value.item() if value.ndim == 0 else value for name, value in found.items()}
        return cls(**plain)


def _returns(batch: RecordBatch, discount: float | None) -> dict[str, Any]:
    """What `SplitFindings` says of returns."""
    if discount is None:
        return {"wrong_returns": 0, "borrowed": 0.0, "returns": 0.0}
    last = batch.first + batch.length - 1
    still = batch.to_go - batch.reward
    following = np.append(batch.to_go[1:], 0.0)
    off = np.abs(still - discount * following) > _ROUNDING * (1.0 + np.abs(batch.to_go))
    ends = batch.is_terminal > 0
    off[last] = ends & (np.abs(still[last]) > _ROUNDING * (1.0 + np.abs(batch.to_go[last])))
    goes_on = batch.num_context > 0
    left, taken = still[last[~ends]], still[batch.first[goes_on] + batch.num_context[goes_on] - 1]
    return {
        "wrong_returns": int(off.sum()),
        "borrowed": float(left.sum() - taken.sum()),
        "returns": float(np.abs(left).sum() + np.abs(taken).sum()),
    }


def _stood_before(batch: RecordBatch) -> npt.NDArray[np.bool_]:
    """[E] True where an event with the same item, feedback and second comes earlier in the record."""
    key = _scattered(batch.record, batch.item * len(FEEDBACK_ROLES) + batch.feedback, batch.time)
    repeated = np.ones(len(key), bool)
    repeated[np.unique(key, return_index=True)[1]] = False
    return repeated


def copy_keys(batch: RecordBatch, min_events: int) -> tuple[Ints, Keys]:
    """Keys of sessions by what happened in them, whoever's they are and whenever they began.

    Args:
        batch: Records; later stretches of long sessions are left out.
        min_events: Shorter sessions are left out, and so are those half of whose events have the time of the one before.

    Returns:
        The records that have a key, and their keys.
    """
    if not len(batch.item):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    step = batch.step
    pause = np.where(step > 0, np.diff(batch.time, prepend=batch.time[0]), 0)
    timed = np.add.reduceat((pause > 0).astype(np.int64), batch.first)
    chosen = np.flatnonzero((batch.num_context == 0) & (batch.length >= min_events) & (2 * timed >= batch.length))
    events = _scattered(step, batch.item * len(FEEDBACK_ROLES) + batch.feedback, pause)
    with np.errstate(over="ignore"):
        sums: Keys = np.add.reduceat(events, batch.first)
    return chosen, mixed(sums[chosen])


def _scattered(*columns: Ints) -> Keys:
    """[E] one 64-bit key for each row of several columns."""
    key = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for column, multiplier in zip(columns, _MULTIPLIERS, strict=True):
            key = mixed(key ^ (column.astype(np.uint64) * multiplier + multiplier))
    return key
