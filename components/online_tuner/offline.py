"""Sessions of the logs that online learning begins with and goes back to."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.artifacts import Artifact
from components.trajectory_io import ordered_batches, shard_files
from models.batch import TrajectoryBatch
from models.online.buffer import Sessions
from models.online.rollout import MAX_PASSED, PASSED_AT, PASSED_ITEM
from schemas.trajectory import FEEDBACK, IS_TERMINAL, ITEM_ID, NUM_CONTEXT, RETURN_TO_GO, REWARD, SESSION_ID

_STEPS = {ITEM_ID: np.int32, REWARD: np.float32, RETURN_TO_GO: np.float32, FEEDBACK: np.int32}
_BATCH = 1024


@dataclass(frozen=True)
class OfflineSessions:
    """What was read of the train split.

    Attributes:
        best: Whole sessions with the greatest sums of rewards, the best one last: where the first in goes first, it stays longest.
        some: Records drawn evenly.
    """

    best: Sessions
    some: Sessions


def read_offline(examples: Artifact, num_best: int, num_some: int, max_steps: int, seed: int) -> OfflineSessions:
    """Reads the train split once; memory does not grow with it.

    Args:
        examples: The trajectories.
        num_best: Most sessions of `best`.
        num_some: Most records of `some`.
        max_steps: T.
        seed: Seed of the draw.
    """
    return choose(ordered_batches(shard_files(examples, "train"), _BATCH), num_best, num_some, max_steps, seed)


def choose(batches: Iterable[TrajectoryBatch], num_best: int, num_some: int, max_steps: int, seed: int) -> OfflineSessions:
    """As `read_offline`, from batches."""
    rng, number = np.random.default_rng(seed), 0
    best: list[tuple[float, int, Any]] = []
    some: list[tuple[float, int, Any]] = []
    for batch in batches:
        rows = {name: np.asarray(values) for name, values in batch._asdict().items()}
        # What is padding or context of a stretch is no reward of it.
        returns = np.where(np.asarray(batch.is_target()), rows[REWARD], 0.0).astype(np.float64).sum(axis=1)
        is_whole = (rows[NUM_CONTEXT] == 0) & (rows[IS_TERMINAL] > 0)
        keys = rng.random(len(returns))
        for row in range(len(returns)):
            number += 1
            record = row, rows
            # The number settles ties: of equal ones the first is kept.
            if is_whole[row]:
                _keep(best, (float(returns[row]), -number, record), num_best)
            _keep(some, (float(keys[row]), -number, record), num_some)
    order_of_best = sorted(best, key=lambda entry: entry[:2])
    order_of_some = sorted(some, key=lambda entry: -entry[1])
    return OfflineSessions(_sessions(order_of_best, max_steps), _sessions(order_of_some, max_steps))


def _keep(heap: list[tuple[float, int, Any]], entry: tuple[float, int, Any], count: int) -> None:
    """Adds an entry where it is among the greatest; copies its row, so that the batch can go."""
    if len(heap) < count or entry[:2] > heap[0][:2]:
        row, rows = entry[2]
        length = int(rows["length"][row])
        own = {name: values[row, :length].copy() if values.ndim > 1 else values[row] for name, values in rows.items()}
        (heapq.heappush if len(heap) < count else heapq.heapreplace)(heap, (entry[0], entry[1], own))


def _sessions(entries: list[tuple[float, int, Any]], max_steps: int) -> Sessions:
    count = len(entries)
    steps = {name: np.zeros((count, max_steps), dtype) for name, dtype in _STEPS.items()}
    for row, (_, _, record) in enumerate(entries):
        for name, values in steps.items():
            values[row, : len(record[name])] = record[name]
    facts: dict[str, Any] = {
        NUM_CONTEXT: np.array([record["num_context"] for _, _, record in entries], np.int32),
        IS_TERMINAL: np.array([record["is_terminal"] for _, _, record in entries], np.float32),
        SESSION_ID: np.array([record["session"] for _, _, record in entries], np.int64),
        # Logs do not say what was passed.
        PASSED_ITEM: np.zeros((count, MAX_PASSED), np.int32),
        PASSED_AT: np.zeros((count, MAX_PASSED), np.int32),
    }
    return Sessions(steps, np.array([record["length"] for _, _, record in entries], np.int64), facts)
