"""Trajectory records as gzip TFRecords: Arrow columns encoded to tf.Example in C++, written by TensorFlow."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from components.trajectory_gen.config import TrajectoryGenConfig
from components.trajectory_gen.sessions import Records, Sessions, cut_records, session_ids
from components.trajectory_gen.shuffle import stable_hash
from schemas import interaction, trajectory
from schemas.interaction import FEEDBACK_ROLES, MICROSECONDS_PER_SECOND
from schemas.reward import discounted_returns

T = TypeVar("T")
R = TypeVar("R")

_RECORDS_PER_BATCH = 16_384
_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
"""Level 1 is three times as fast as the default here and makes files a tenth larger."""


@dataclass
class SplitSummary:
    """What was written to one split; sums with `+`.

    Attributes:
        trajectories: Records.
        sessions: Sessions.
        events: Events that are targets, each counted once.
        unknown_events: Those of them whose item the vocabulary does not hold.
        propensity_events: Those of them whose propensity was logged.
        role_events: Those of them by feedback role.
        reward: Sum of their rewards.
        first_time: Earliest event, UTC seconds.
        last_time: Latest event, UTC seconds.
        lengths: Sessions by number of events, the last entry for all longer ones.
    """

    trajectories: int = 0
    sessions: int = 0
    events: int = 0
    unknown_events: int = 0
    propensity_events: int = 0
    role_events: list[int] = field(default_factory=lambda: [0] * len(FEEDBACK_ROLES))
    reward: float = 0.0
    first_time: int | None = None
    last_time: int | None = None
    lengths: list[int] = field(default_factory=lambda: [0] * 101)

    def __add__(self, other: "SplitSummary") -> "SplitSummary":
        firsts = [t for t in (self.first_time, other.first_time) if t is not None]
        lasts = [t for t in (self.last_time, other.last_time) if t is not None]
        return SplitSummary(
            self.trajectories + other.trajectories,
            self.sessions + other.sessions,
            self.events + other.events,
            self.unknown_events + other.unknown_events,
            self.propensity_events + other.propensity_events,
            [a + b for a, b in zip(self.role_events, other.role_events, strict=True)],
            self.reward + other.reward,
            min(firsts, default=None),
            max(lasts, default=None),
            [a + b for a, b in zip(self.lengths, other.lengths, strict=True)],
        )


def shard_path(folder: Path, split: str, shard: int, num_shards: int) -> Path:
    """Path of one shard, by the ecosystem's names."""
    return folder / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-{num_shards:05d}.gz"


def write_records(
    path: Path, sessions: Sessions, item_ids: npt.NDArray[np.int64], unknown_id: int, config: TrajectoryGenConfig
) -> SplitSummary:
    """Writes the records of one shard of one split, in an order that a hash of the session decides.

    Args:
        path: Where the shard goes; the file appears when it is complete.
        sessions: Sessions of the shard.
        item_ids: [E] vocabulary id of each row.
        unknown_id: Id of unknown items.
        config: Lengths and discount.

    Returns:
        What was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    summary = SplitSummary()
    with tf.io.TFRecordWriter(str(temporary), _OPTIONS) as writer:
        if len(sessions.lengths):
            records = cut_records(sessions.lengths, config.max_length, config.context_length)
            columns = _step_columns(sessions, item_ids, config)
            is_terminal = records.is_terminal
            if sessions.is_cut is not None:
                is_terminal = is_terminal & ~sessions.is_cut[records.session]
            ids = session_ids(sessions)
            users = sessions.rows.column(interaction.USER).take(pa.array(sessions.starts)).combine_chunks()
            # Readers shuffle within a buffer; this order mixes users over the whole shard beforehand.
            order = np.argsort(stable_hash(ids)[records.session], kind="stable")
            parts = [order[start : start + _RECORDS_PER_BATCH] for start in range(0, len(order), _RECORDS_PER_BATCH)]
            for encoded in _ahead(lambda chosen: _encode(_record_batch(columns, records, is_terminal, chosen, users, ids)), parts):
                for example in encoded:
                    writer.write(example)
            summary = _summary(sessions, records, item_ids, unknown_id)
    os.replace(temporary, path)
    return summary


def _encode(batch: pa.RecordBatch) -> list[bytes]:
    """Serialized tf.Examples of a batch, the same bytes for the same values.

    The encoder writes the features of each record in an order of chance. Serializing them again in order of their names costs
    nearly as much as the encoding, and makes digests, caches and comparisons of runs mean something.
    """
    encoded = RecordBatchToExamplesEncoder().encode(batch)
    return [tf.train.Example.FromString(record).SerializeToString(deterministic=True) for record in encoded]


def _ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in order, the next one computed in a thread while the caller uses the last; the encoder lets go of the GIL."""
    with ThreadPoolExecutor(1) as pool:
        pending: Future[R] | None = None
        for item in items:
            following = pool.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _step_columns(sessions: Sessions, item_ids: npt.NDArray[np.int64], config: TrajectoryGenConfig) -> dict[str, npt.NDArray[np.generic]]:
    """[E] values of every per-step feature."""
    reward = sessions.column(interaction.REWARD)
    columns: dict[str, npt.NDArray[np.generic]] = {
        trajectory.ITEM_ID: item_ids,
        trajectory.FEEDBACK: sessions.column(interaction.FEEDBACK).astype(np.int64),
        trajectory.TIMESTAMP: sessions.column(interaction.TIME).astype(np.int64) // MICROSECONDS_PER_SECOND,
        trajectory.REWARD: reward,
        trajectory.RETURN_TO_GO: discounted_returns(reward.astype(np.float32), sessions.lengths, config.discount),
    }
    if sessions.rows.column(interaction.PROPENSITY).null_count == 0:
        columns[trajectory.PROPENSITY] = sessions.column(interaction.PROPENSITY)
    return columns


def _record_batch(
    columns: dict[str, npt.NDArray[np.generic]],
    records: Records,
    is_terminal: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int64],
    users: pa.Array,
    ids: pa.Array,
) -> pa.RecordBatch:
    """Arrow batch of list columns, one row a record, as the encoder takes it."""
    lengths = records.length[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(records.first[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    session = pa.array(records.session[chosen])
    arrays = {name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values[rows])) for name, values in columns.items()}
    single = pa.array(np.arange(len(chosen) + 1))
    for name, values in {
        trajectory.USER_ID: users.take(session).cast(pa.binary()),
        trajectory.SESSION_ID: ids.take(session).cast(pa.binary()),
        trajectory.NUM_CONTEXT: pa.array(records.num_context[chosen]),
        trajectory.IS_TERMINAL: pa.array(is_terminal[chosen].astype(np.int64)),
    }.items():
        arrays[name] = pa.LargeListArray.from_arrays(single, values)
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def _summary(sessions: Sessions, records: Records, item_ids: npt.NDArray[np.int64], unknown_id: int) -> SplitSummary:
    time = sessions.column(interaction.TIME).astype(np.int64) // MICROSECONDS_PER_SECOND
    lengths = np.bincount(np.minimum(sessions.lengths, 100), minlength=101)
    roles = np.bincount(sessions.column(interaction.FEEDBACK).astype(np.int64), minlength=len(FEEDBACK_ROLES))
    return SplitSummary(
        trajectories=len(records.first),
        sessions=len(sessions.lengths),
        events=int((records.length - records.num_context).sum()),
        unknown_events=int((item_ids == unknown_id).sum()),
        propensity_events=len(time) - sessions.rows.column(interaction.PROPENSITY).null_count,
        role_events=roles.tolist(),
        reward=float(sessions.column(interaction.REWARD).astype(np.float64).sum()),
        first_time=int(time.min()),
        last_time=int(time.max()),
        lengths=lengths.tolist(),
    )
