"""Compares the histories that a server was asked about with those that the model was trained on, with TFDV.

Both become the same three features, one record for each state that something is recommended in: the last item, whether it is
known, and how long the history is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.artifacts import ANOMALIES_FILE, SCHEMA_FILE, STATISTICS_FILE, Artifact
from components.base import ComponentError, Context
from components.beam_runner import beam_pipeline
from components.datasets.lines import LineRange, line_ranges, lines_of
from components.feedback.config import SkewConfig
from components.tfdv import tfdv
from components.trajectory_gen.vocabulary import ITEM, ITEMS_FILE
from components.trajectory_io import parse, raw_records, shard_files
from schemas import serving, trajectory

LAST_ITEM, IS_UNKNOWN, LENGTH = "last_item", "is_unknown", "history_length"

TRAINED, SERVED = "train", "served"
_ROWS_AT_A_TIME = 4096
_UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class Distance:
    """How far one feature is apart.

    Attributes:
        feature: Its name.
        measure: How it is measured.
        value: The distance.
        threshold: What is allowed.
    """

    feature: str
    measure: str
    value: float
    threshold: float

    @property
    def is_skewed(self) -> bool:
        """True where it is more than is allowed."""
        return self.value > self.threshold


@dataclass(frozen=True)
class Skew:
    """What was found.

    Attributes:
        num_served: Rows of the log.
        num_trained: States of the train split.
        distances: Of every feature.
        anomalies: What TFDV says, in words, where a distance is too large.
    """

    num_served: int
    num_trained: int
    distances: list[Distance]
    anomalies: list[str]


def compare(served: str, examples: Artifact, vocabulary: Artifact, out: Path, config: SkewConfig, context: Context) -> Skew:
    """Compares; writes statistics of both sides, the schema with its bounds and the anomalies as TFDV has them.

    Args:
        served: Logs of what was served, see `schemas.served_log`: a path, a glob or a directory.
        examples: Trajectories; their train split counts.
        vocabulary: Names of their items.
        out: Folder for the files.
        config: Bounds.
        context: Beam.

    Raises:
        ConfigError: No file matches.
        ComponentError: There are too few rows, or a file cannot be read.
    """
    # A rank histogram of more items costs nothing here and makes the greatest difference exact for the popular ones.
    options = tfdv.StatsOptions(num_rank_histogram_buckets=10_000)
    max_steps = int(examples.properties["max_length"])
    out.mkdir(parents=True, exist_ok=True)
    names = str(vocabulary.path / ITEMS_FILE)
    sources = {
        TRAINED: (shard_files(examples, "train"), beam.ParDo(TrainedStates(names))),
        SERVED: (line_ranges(served, "served"), beam.ParDo(ServedStates(names, max_steps))),
    }
    paths = {side: out / side / STATISTICS_FILE for side in sources}
    with context.progress.task("compute statistics"), beam_pipeline(context) as pipeline:
        for side, (parts, states) in sources.items():
            paths[side].parent.mkdir(exist_ok=True)
            _ = (
                pipeline
                | f"Create{side.title()}" >> beam.Create(parts)
                | f"Spread{side.title()}" >> beam.Reshuffle()
                | f"States{side.title()}" >> states
                | f"Generate{side.title()}" >> tfdv.GenerateStatistics(options)
                | f"Write{side.title()}" >> beam.Map(_write, str(paths[side]))
            )
    statistics = {side: tfdv.load_stats_binary(str(path)) for side, path in paths.items()}
    counts = {side: int(found.datasets[0].num_examples) for side, found in statistics.items()}
    if counts[SERVED] < config.min_requests:
        raise ComponentError(f"{served}: {counts[SERVED]:,} rows were served; fewer than {config.min_requests:,} say too little")
    schema = skew_schema(config)
    anomalies = tfdv.validate_statistics(statistics[TRAINED], schema, serving_statistics=statistics[SERVED])
    tfdv.write_schema_text(schema, str(out / SCHEMA_FILE))
    (out / ANOMALIES_FILE).write_bytes(anomalies.SerializeToString())
    texts = [f"{path}: {info.description}" for path, info in sorted(anomalies.anomaly_info.items())]
    return Skew(counts[SERVED], counts[TRAINED], _distances(anomalies), texts)


def skew_schema(config: SkewConfig) -> schema_pb2.Schema:
    """The three features with their bounds."""
    schema = schema_pb2.Schema()
    # A history without items has no last one.
    item = schema.feature.add(name=LAST_ITEM, type=schema_pb2.BYTES)
    item.skew_comparator.infinity_norm.threshold = config.max_item_difference
    unknown = schema.feature.add(name=IS_UNKNOWN, type=schema_pb2.BYTES)
    unknown.skew_comparator.infinity_norm.threshold = config.max_unknown_difference
    length = schema.feature.add(name=LENGTH, type=schema_pb2.INT)
    length.skew_comparator.jensen_shannon_divergence.threshold = config.max_length_divergence
    return schema


class _Names:
    """Names of items by id, shared by the threads of a worker."""

    def __init__(self, path: str):
        import pyarrow.parquet as pq

        self.by_id = np.array(["", *pq.read_table(path, columns=[ITEM])[ITEM].to_pylist(), _UNKNOWN], object)
        self.known = set(self.by_id[1:-1].tolist())


class TrainedStates(beam.DoFn):
    """A shard of trajectories to record batches: one record before each event, and one after the last."""

    def __init__(self, names: str):
        self._names, self._shared = names, Shared()

    def process(self, path: str) -> Iterator[pa.RecordBatch]:
        names = self._shared.acquire(lambda: _Names(self._names), tag=self._names)
        for block in raw_records([path]).batch(_ROWS_AT_A_TIME):
            parsed = parse(block)
            items = parsed[trajectory.ITEM_ID]
            last = names.by_id[np.minimum(items.flat_values.numpy(), len(names.by_id) - 1)]
            lengths = parsed["length"].numpy().astype(np.int64)
            step = np.arange(len(last)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            context = parsed[trajectory.NUM_CONTEXT].numpy()
            # What comes before the targets of a later stretch was counted with the one before it.
            is_new = step >= np.repeat(context, lengths)
            begins = int((context == 0).sum())
            found = [*([None] * begins), *last[is_new].tolist()]
            yield _batch(found, [0] * begins + (step[is_new] + 1).tolist(), names.known)


class ServedStates(beam.DoFn):
    """Lines of a log to record batches, one record for each row that was served."""

    def __init__(self, names: str, max_steps: int):
        self._names, self._max_steps, self._shared = names, max_steps, Shared()

    def process(self, part: LineRange) -> Iterator[pa.RecordBatch]:
        names = self._shared.acquire(lambda: _Names(self._names), tag=self._names)
        last: list[str | None] = []
        lengths: list[int] = []
        for offset, line in lines_of(part.path, part.begin, part.end):
            try:
                history = [item for item in json.loads(line)[serving.ITEM_HISTORY] if item]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ComponentError(f"{part.path}, byte {offset}: no row that was served, it has no {serving.ITEM_HISTORY}") from None
            last.append(history[-1] if history else None)
            lengths.append(min(len(history), self._max_steps))
            if len(last) == _ROWS_AT_A_TIME:
                yield _batch(last, lengths, names.known)
                last, lengths = [], []
        if last:
            yield _batch(last, lengths, names.known)


def _batch(last: list[str | None], lengths: list[int], known: set[str]) -> pa.RecordBatch:
    """Records as TFDV takes them: lists, null where there is nothing."""
    unknown = [None if item is None else ["no" if item in known else "yes"] for item in last]
    # All items that are unknown are one.
    items = [None if item is None else [item if item in known else _UNKNOWN] for item in last]
    columns = [pa.array(items, pa.list_(pa.string())), pa.array(unknown, pa.list_(pa.string())), pa.array([[length] for length in lengths])]
    return pa.RecordBatch.from_arrays(columns, [LAST_ITEM, IS_UNKNOWN, LENGTH])


def _write(statistics: statistics_pb2.DatasetFeatureStatisticsList, path: str) -> None:
    Path(path).write_bytes(statistics.SerializeToString())


def _distances(anomalies: anomalies_pb2.Anomalies) -> list[Distance]:
    kinds = anomalies_pb2.DriftSkewInfo.Measurement.Type
    return [
        Distance(".".join(info.path.step), kinds.Name(found.type).lower(), round(float(found.value), 6), float(found.threshold))
        for info in anomalies.drift_skew_info
        for found in info.skew_measurements
    ]


def run_artifacts(run: Path) -> dict[str, Any]:
    """Paths of the outputs of trajectory_gen in a run's folder.

    Raises:
        ComponentError: It is no folder of a run that came so far.
    """
    path = run / "summary.json"
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        outputs: dict[str, Any] = next(step["outputs"] for step in steps if step["name"] == "trajectory_gen")
        return {name: outputs[name] for name in ("examples", "vocabulary")}
    except (OSError, ValueError, KeyError, StopIteration):
        raise ComponentError(f"--run: {path} does not say where the trajectories of a run are") from None
