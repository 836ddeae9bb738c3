"""Work of neighbour_gen: one Beam pass over the train split.

shards -> CountPairs -> group by range of items -> FindNearest (with the sessions of every item) -> Parquet
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.artifacts import Artifact
from components.base import ComponentError, Context, Properties
from components.beam_runner import pipeline_options, report, reporting_pipeline, runs_locally
from components.neighbour_gen.config import NeighbourGenConfig
from components.neighbours import write_neighbours
from components.trajectory_gen.shuffle import BlockRef, store_blocks
from components.trajectory_io import ordered_batches, shard_files
from models.co_visitation import PairCounts, count_pairs, nearest, sum_pairs

_BATCH = 1024
_PAIRS_AT_A_TIME = 4_000_000
"""Pairs that a worker collects before it hands them on; 16 bytes each."""
_EVENTS_OF_A_RANGE = 1_000_000
"""Events whose pairs are counted together; most sessions are short, and an event has a few tens of pairs at the worst."""

Ints = npt.NDArray[np.int64]


def execute(
    config: NeighbourGenConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    examples, num_items = inputs["examples"], int(inputs["vocabulary"].properties["num_items"])
    split = examples.properties["splits"]["train"]
    ranges = _ranges(num_items, max(1, -(-int(split["events"]) // _EVENTS_OF_A_RANGE)))
    outputs["neighbours"].mkdir(parents=True)
    results, spill = context.scratch / "results", context.scratch / "spill"
    for folder in (results, spill):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with reporting_pipeline(context, "count pairs", split["trajectories"], "sessions") as (pipeline, token):
        local = runs_locally(pipeline_options(context.beam_args))
        counted = (
            pipeline
            | "CreateShards" >> beam.Create(shard_files(examples, "train"))
            | "SpreadShards" >> beam.Reshuffle()
            | "CountPairs"
            >> beam.ParDo(CountPairs(num_items, ranges, str(spill) if local else None, token)).with_outputs(
                CountPairs.SESSIONS, main="pairs"
            )
        )
        sessions = beam.pvalue.AsSingleton(counted[CountPairs.SESSIONS] | "SumSessions" >> beam.CombineGlobally(SumSessions(num_items)))
        # Every range has a file, also one without a pair.
        seeds = pipeline | "CreateRanges" >> beam.Create([(number, None) for number in range(len(ranges))])
        _ = (
            (counted.pairs, seeds)
            | "AddRanges" >> beam.Flatten()
            | "GroupByRange" >> beam.GroupByKey()
            | "FindNearest" >> beam.ParDo(FindNearest(config, ranges, str(outputs["neighbours"])), sessions)
            | "SumCounts" >> beam.CombineGlobally(_sum_rows).without_defaults()
            | "WriteCounts" >> beam.Map(_write_counts, str(results / "counts.npy"), sessions)
        )
    records, pairs, items = (int(count) for count in np.load(results / "counts.npy"))
    shutil.rmtree(spill, ignore_errors=True)
    if records != split["trajectories"]:
        raise ComponentError(
            f"{examples.split('train')}: {records:,} records were counted, the ledger says {split['trajectories']:,} were written; "
            "records were lost on the way"
        )
    counts = {"records": records, "pairs": pairs // 2, "items_with_neighbours": items}
    return {"neighbours": {"num_items": num_items, **config.model_dump(), **counts}}


def _ranges(num_items: int, count: int) -> list[range]:
    """Ranges of item ids with about as many events each: popular items, whose ids are low, have more pairs."""
    bounds = np.unique(np.round(num_items * (np.arange(count + 1) / count) ** 2).astype(np.int64))
    return [range(int(first), int(last)) for first, last in pairwise(bounds)]


class CountPairs(beam.DoFn):
    """Counts the pairs of the sessions of a shard.

    Outputs: (number of the range, block reference); tagged `sessions`, the records [1] and the sessions of every item [N].
    """

    SESSIONS = "sessions"

    def __init__(self, num_items: int, ranges: list[range], spill: str | None, progress: str):
        self._num_items = num_items
        self._ranges = ranges
        self._spill = spill
        self._progress = progress

    def process(self, path: str) -> Iterator[Any]:
        parts: list[PairCounts] = []
        sessions, records = np.zeros(self._num_items, np.int64), 0
        for batch in ordered_batches([path], _BATCH):
            found, counts = count_pairs(batch.item_id.numpy().astype(np.int64), self._num_items)
            parts.append(found)
            sessions += counts
            records += len(batch.item_id)
            if sum(len(part.key) for part in parts) > _PAIRS_AT_A_TIME:
                summed = sum_pairs(parts)
                parts = [summed]
                if len(summed.key) > _PAIRS_AT_A_TIME // 2:
                    yield from self._store(summed)
                    parts = []
            report(self._progress, len(batch.item_id))
        if parts:
            yield from self._store(sum_pairs(parts))
        yield beam.pvalue.TaggedOutput(self.SESSIONS, (records, sessions))

    def _store(self, pairs: PairCounts) -> list[tuple[int, BlockRef]]:
        bounds = np.searchsorted(pairs.key, [part.start * self._num_items for part in self._ranges] + [self._num_items**2])
        rows = pa.table(pairs._asdict())
        blocks = ((number, 0, rows.slice(first, last - first)) for number, (first, last) in enumerate(pairwise(bounds)))
        return store_blocks((block for block in blocks if block[2].num_rows), self._spill)


class SumSessions(beam.CombineFn):
    """Adds numbers of records and sessions of every item."""

    def __init__(self, num_items: int):
        self._num_items = num_items

    def create_accumulator(self) -> tuple[int, Ints]:
        return 0, np.zeros(self._num_items, np.int64)

    def add_input(self, accumulator: tuple[int, Ints], element: tuple[int, Ints]) -> tuple[int, Ints]:
        return accumulator[0] + element[0], accumulator[1] + element[1]

    def merge_accumulators(self, accumulators: Iterable[tuple[int, Ints]]) -> tuple[int, Ints]:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator: tuple[int, Ints]) -> tuple[int, Ints]:
        return accumulator


class FindNearest(beam.DoFn):
    """Writes the nearest neighbours of a range of items; its output is (pairs, items that have neighbours)."""

    def __init__(self, config: NeighbourGenConfig, ranges: list[range], folder: str):
        self._config = config
        self._ranges = ranges
        self._folder = folder

    def process(self, element: tuple[int, Iterable[BlockRef | None]], sessions: tuple[int, Ints]) -> Iterator[tuple[int, int]]:
        number, blocks = element
        config, parts = self._config, []
        for block in blocks:
            if block is not None:
                rows = block.read()
                parts.append(PairCounts(rows["key"].to_numpy(), rows["sessions"].to_numpy()))
        pairs = sum_pairs(parts)
        found = nearest(pairs, sessions[1], self._ranges[number], config.shrinkage, config.num_neighbours)
        write_neighbours(found, Path(self._folder), number, len(self._ranges))
        yield len(pairs.key), int((found.item_id[:, 0] > 0).sum())


def _sum_rows(rows: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = 0, 0
    for pairs, items in rows:
        first, second = first + pairs, second + items
    return first, second


def _write_counts(counts: tuple[int, int], path: str, sessions: tuple[int, Ints]) -> None:
    np.save(path, np.array([sessions[0], *counts], np.int64))
