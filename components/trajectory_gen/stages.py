"""The Beam stages of trajectory_gen.

    ranges -> ReadAndPartition -> group by partition -> BuildSessions -> [split times] -> CountItems -> [vocabulary] -> WriteRecords

Elements are ranges, block references and small summaries; rows stay inside Arrow blocks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.base import ComponentError
from components.beam_runner import report
from components.datasets.reading import ReadRange, read_range
from components.trajectory_gen.config import SplitConfig, TrajectoryGenConfig
from components.trajectory_gen.records import SplitSummary, shard_path, write_records
from components.trajectory_gen.sessions import Sessions, build_sessions, no_sessions, session_ids
from components.trajectory_gen.shuffle import BlockRef, split_by_user, stable_hash, store_blocks
from components.trajectory_gen.vocabulary import count_items, item_ids
from schemas import interaction
from schemas.config import ConfigError
from schemas.interaction import MICROSECONDS_PER_SECOND
from schemas.trajectory import SPLITS, unknown_item_id

Ledger = dict[str, int]
"""Rows by what became of them; every row that is read has exactly one entry."""

ROWS_READ = "rows_read"
QUARANTINED = "quarantined"
IGNORED = "ignored_feedback"
SHORT = "short_session"
LONG = "long_session"
RARE = "rare_item"
CROSSING = "after_split_end"
KEPT = "events"


@dataclass(frozen=True)
class BadRow:
    """A row that does not parse.

    Attributes:
        path: File.
        start: First byte of the range it was read in.
        line: Line within the range, from 0.
        kind: What is wrong, of few kinds, for counting.
        reason: The same with the value that was found.
        text: What stands there, cut short.
    """

    path: str
    start: int
    line: int
    kind: str
    reason: str
    text: str


class SumLedgers(beam.CombineFn):
    """Adds ledgers entry by entry."""

    def create_accumulator(self) -> Ledger:
        return {}

    def add_input(self, accumulator: Ledger, element: Ledger) -> Ledger:
        for name, count in element.items():
            accumulator[name] = accumulator.get(name, 0) + count
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Ledger]) -> Ledger:
        merged: Ledger = {}
        for accumulator in accumulators:
            self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator: Ledger) -> Ledger:
        return accumulator


class ReadAndPartition(beam.DoFn):
    """Reads a range and stores its interactions by partition.

    Outputs: (partition, block reference); tagged `ledger`, `bad` (BadRow), `lines` ((path, start), lines of the range) and
    `failed` (a message for the user, and whether it is about the configuration).
    """

    LEDGER, BAD, LINES, FAILED = "ledger", "bad", "lines", "failed"

    def __init__(self, num_partitions: int, spill: str | None, progress: str):
        self._num_partitions = num_partitions
        self._spill = spill
        self._progress = progress

    def process(self, part: ReadRange) -> Iterator[Any]:
        lines, reported = 0, 0.0
        try:
            for block in read_range(part):
                result = block.normalised
                yield from store_blocks(split_by_user(result.batch, self._num_partitions), self._spill)
                for line, *what in zip(block.bad_lines, result.bad_kinds, result.bad_reasons, block.bad_texts, strict=True):
                    yield beam.pvalue.TaggedOutput(self.BAD, BadRow(part.path, part.start, lines + line, *what))
                counts = {ROWS_READ: result.num_rows, QUARANTINED: len(result.bad_rows), IGNORED: result.num_ignored}
                yield beam.pvalue.TaggedOutput(self.LEDGER, counts)
                lines += block.num_lines
                # How far a compressed file is cannot be seen from outside; halving what is left never overshoots.
                step = min(result.num_rows * 40.0, (part.weight - reported) / 2)
                reported += step
                report(self._progress, step)
        except (ComponentError, ConfigError) as error:
            yield beam.pvalue.TaggedOutput(self.FAILED, (str(error), isinstance(error, ConfigError)))
        yield beam.pvalue.TaggedOutput(self.LINES, ((part.path, part.start), lines))
        report(self._progress, part.weight - reported)


class BuildSessions(beam.DoFn):
    """Orders a partition, cuts it into sessions and drops those of the wrong length.

    Outputs: (partition, block reference or None); tagged `ledger` and `starts` (seconds, sessions that begin then).
    """

    LEDGER, STARTS = "ledger", "starts"

    def __init__(self, config: TrajectoryGenConfig, spill: str | None, progress: str):
        self._config = config
        self._spill = spill
        self._progress = progress

    def process(self, element: tuple[int, Iterable[BlockRef | None]]) -> Iterator[Any]:
        partition, grouped = element
        refs = sorted((ref for ref in grouped if ref is not None), key=lambda ref: ref.first)
        stored = None
        if refs:
            sessions = build_sessions(pa.concat_tables([ref.read() for ref in refs]), self._config)
            sessions, ledger = drop_by_length(sessions, self._config)
            yield beam.pvalue.TaggedOutput(self.LEDGER, ledger)
            if len(sessions.lengths):
                seconds, counts = np.unique(sessions.start_times() // MICROSECONDS_PER_SECOND, return_counts=True)
                yield beam.pvalue.TaggedOutput(self.STARTS, (seconds, counts))
                ((_, stored),) = store_blocks([(partition, 0, with_boundaries(sessions))], self._spill)
        report(self._progress, 1)
        yield partition, stored


class MergeStarts(beam.CombineFn):
    """Merges (sorted distinct values, counts); memory is that of the distinct seconds of the log."""

    Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

    def create_accumulator(self) -> list[Pair]:
        return []

    def add_input(self, accumulator: list[Pair], element: Pair) -> list[Pair]:
        return self.merge_accumulators([accumulator, [element]])

    def merge_accumulators(self, accumulators: Iterable[list[Pair]]) -> list[Pair]:
        pairs = [pair for accumulator in accumulators for pair in accumulator]
        if len(pairs) < 2:
            return pairs
        values, inverse = np.unique(np.concatenate([v for v, _ in pairs]), return_inverse=True)
        counts = np.bincount(inverse, weights=np.concatenate([c for _, c in pairs]), minlength=len(values))
        return [(values, counts.astype(np.int64))]

    def extract_output(self, accumulator: list[Pair]) -> Pair:
        return accumulator[0] if accumulator else (np.zeros(0, np.int64), np.zeros(0, np.int64))


def choose_boundaries(starts: MergeStarts.Pair, split: SplitConfig) -> tuple[int, int]:
    """Seconds at which eval and test begin: the first that leave at least the wanted share of sessions before them."""
    seconds, counts = starts
    if not len(seconds):
        return 0, 0
    before = np.cumsum(counts) / counts.sum()
    last_train = int(np.searchsorted(before, split.train_fraction - 1e-12))
    last_eval = int(np.searchsorted(before, split.train_fraction + split.eval_fraction - 1e-12))
    return int(seconds[last_train]) + 1, int(seconds[last_eval]) + 1


class CountItems(beam.DoFn):
    """Counts the items of a partition's train split, or of all of it."""

    def __init__(self, config: TrajectoryGenConfig, train_only: bool):
        self._config = config
        self._train_only = train_only

    def process(self, element: tuple[int, BlockRef | None], boundaries: tuple[int, int], rare: pa.Array | None) -> Iterator[pa.Table]:
        _, ref = element
        if ref is None:
            return
        sessions = from_boundaries(ref.read())
        if self._train_only:
            sessions = divide(sessions, boundaries, rare, self._config)[0]["train"]
        if len(sessions.lengths):
            yield count_items(sessions)


class WriteRecords(beam.DoFn):
    """Encodes a partition and writes its shard of every split.

    Outputs: (split, summary); tagged `ledger`.
    """

    LEDGER = "ledger"

    def __init__(self, config: TrajectoryGenConfig, folder: str, num_shards: int, progress: str):
        self._config = config
        self._folder = Path(folder)
        self._num_shards = num_shards
        self._progress = progress

    def process(
        self, element: tuple[int, BlockRef | None], boundaries: tuple[int, int], rare: pa.Array | None, vocabulary: pa.Table
    ) -> Iterator[Any]:
        partition, ref = element
        unknown = unknown_item_id(vocabulary.num_rows + 1)
        table = ref.read() if ref is not None else _no_rows()
        splits, ledger = divide(from_boundaries(table), boundaries, rare, self._config)
        for name, sessions in splits.items():
            ids = item_ids(sessions.rows.column(interaction.ITEM).combine_chunks(), vocabulary)
            path = shard_path(self._folder, name, partition, self._num_shards)
            summary = write_records(path, sessions, ids, unknown, self._config)
            ledger[KEPT] = ledger.get(KEPT, 0) + summary.events
            yield name, summary
        yield beam.pvalue.TaggedOutput(self.LEDGER, ledger)
        report(self._progress, 1)


class SumSummaries(beam.CombineFn):
    """Adds the summaries of a split's shards."""

    def create_accumulator(self) -> SplitSummary:
        return SplitSummary()

    def add_input(self, accumulator: SplitSummary, element: SplitSummary) -> SplitSummary:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[SplitSummary]) -> SplitSummary:
        merged = SplitSummary()
        for accumulator in accumulators:
            merged = merged + accumulator
        return merged

    def extract_output(self, accumulator: SplitSummary) -> SplitSummary:
        return accumulator


def drop_by_length(sessions: Sessions, config: TrajectoryGenConfig) -> tuple[Sessions, Ledger]:
    """Drops sessions shorter or longer than configured and counts their events."""
    short = sessions.lengths < config.min_session_events
    long = sessions.lengths > (config.max_session_events or np.iinfo(np.int64).max)
    ledger = {SHORT: int(sessions.lengths[short].sum()), LONG: int(sessions.lengths[long].sum())}
    return sessions.keep_sessions(~short & ~long), ledger


def divide(
    sessions: Sessions, boundaries: tuple[int, int], rare: pa.Array | None, config: TrajectoryGenConfig
) -> tuple[dict[str, Sessions], Ledger]:
    """Divides sessions into splits.

    Rare items are dropped first. Split by time, the events of a session after its split's end are dropped, so that every
    event of a split is earlier than every event of the next, and what is then too short goes too.

    Args:
        sessions: Sessions of one partition.
        boundaries: Seconds at which eval and test begin.
        rare: Items to drop, or None.
        config: How to divide.

    Returns:
        Sessions of each split, and the events dropped.
    """
    ledger: Ledger = {RARE: 0, CROSSING: 0, SHORT: 0}
    if rare is not None and len(rare):
        items = sessions.rows.column(interaction.ITEM).combine_chunks()
        is_rare = pc.is_in(items.dictionary, value_set=rare).to_numpy(zero_copy_only=False)
        kept = ~is_rare[items.indices.to_numpy(zero_copy_only=False)]
        ledger[RARE] = int((~kept).sum())
        sessions = sessions.keep_rows(kept)
    if config.split.by == "session":
        part = _hash_split(session_ids(sessions), config.split)
    else:
        limits = np.array(boundaries, np.int64) * MICROSECONDS_PER_SECOND
        part = np.searchsorted(limits, sessions.start_times(), side="right")
        ends = np.append(limits, np.iinfo(np.int64).max)[part]
        inside = sessions.column(interaction.TIME) < np.repeat(ends, sessions.lengths)
        if not inside.all():
            ledger[CROSSING] = int((~inside).sum())
            is_cut = np.add.reduceat(~inside, sessions.starts) > 0
            sessions = replace(sessions, is_cut=is_cut).keep_rows(inside)
            # Only what was cut just now can have become too short: dropping rare items does not count, as in published recipes.
            long_enough = (sessions.lengths >= config.min_session_events) | ~is_cut
            ledger[SHORT] = int(sessions.lengths[~long_enough].sum())
            sessions, part = sessions.keep_sessions(long_enough), part[long_enough]
    return {name: sessions.keep_sessions(part == number) for number, name in enumerate(SPLITS)}, ledger


def _hash_split(ids: pa.StringArray, split: SplitConfig) -> npt.NDArray[np.int64]:
    # The top bits, because shard and order use the low ones.
    share = (stable_hash(ids) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return np.searchsorted([split.train_fraction, split.train_fraction + split.eval_fraction], share, side="right")


_FIRST = "first_of_session"


def with_boundaries(sessions: Sessions) -> pa.Table:
    """Sessions as one table, for storing."""
    first = np.zeros(sessions.rows.num_rows, bool)
    first[sessions.starts] = True
    return sessions.rows.append_column(_FIRST, pa.array(first)).combine_chunks()


def from_boundaries(table: pa.Table) -> Sessions:
    """Sessions from the table they were stored as."""
    starts = np.flatnonzero(table.column(_FIRST).to_numpy())
    return Sessions(table.drop([_FIRST]), np.diff(starts, append=table.num_rows).astype(np.int64))


def _no_rows() -> pa.Table:
    return with_boundaries(no_sessions())
