"""Gives events the propensities of the answers that they came of: two logs, one Beam pipeline.

Lines of both logs are partitioned by a hash of the request's id; within a partition a table of the answers is small. What
comes out are the events as they were, with two keys more, as files that the dataset `jsonl` reads.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam

from components.artifacts import write_json
from components.base import ComponentError, Context
from components.beam_runner import report, reporting_pipeline
from components.datasets.lines import LineRange, line_ranges, lines_of
from components.feedback.config import FeedbackConfig
from schemas import served_log, serving

COUNTS_FILE = "_counts.json"
"""Beside the interactions; whoever reads the folder passes over names that begin like this."""

_PARTITION_BYTES = 48 << 20
_LINES_AT_A_TIME = 4096
_MAX_SAMPLES = 5
_RESULTS = ".results"

READ, SERVED = "events_read", "rows_served"
BAD, BAD_SERVED = "quarantined", "bad_served_lines"
JOINED, UNDRAWN, NOT_SHOWN, UNKNOWN, ORGANIC = (
    "with_propensity",
    "shown_without_chance",
    "item_not_shown",
    "request_not_in_log",
    "without_request",
)
OUTCOMES = (JOINED, UNDRAWN, NOT_SHOWN, UNKNOWN, ORGANIC)
"""What becomes of an event; every one of them is written."""

_Place = tuple[int, int]
_Line = tuple[_Place, bytes]


class _Lines(NamedTuple):
    """Lines of one partition: events, or rows that were served."""

    is_served: bool
    lines: list[_Line]


def join(events: str, served: str, out: Path, config: FeedbackConfig, context: Context) -> dict[str, Any]:
    """Writes the events with their propensities.

    Args:
        events: JSON lines: a path, a glob or a directory.
        served: Logs of what was served, see `schemas.served_log`.
        out: Folder for `interactions-*.jsonl.gz` and `_counts.json`; new or empty.
        config: Names of keys.
        context: Beam and progress.

    Returns:
        Counts of events by what became of them, and of rows that were served.

    Raises:
        ConfigError: No file matches.
        ComponentError: Too many lines cannot be used, a file cannot be read, or events were lost.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ComponentError(f"--out: {out} is not empty")
    ranges = [(False, part) for part in line_ranges(events, "events")] + [(True, part) for part in line_ranges(served, "served")]
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _run(ranges, temporary, config, context)
        found = _summed(json.loads((temporary / _RESULTS).read_text(encoding="utf-8")), config)
        (temporary / _RESULTS).unlink()
        write_json(temporary / COUNTS_FILE, found)
        if out.is_dir():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found


def _run(ranges: list[tuple[bool, LineRange]], folder: Path, config: FeedbackConfig, context: Context) -> None:
    """Writes interactions and counts of all parts into a folder."""
    total = sum(part.weight for _, part in ranges)
    num_partitions = max(1, -(-total // _PARTITION_BYTES))
    with reporting_pipeline(context, "join logs", total, "bytes") as (pipeline, token):
        read = (
            pipeline
            | "CreateRanges" >> beam.Create(ranges)
            | "SpreadRanges" >> beam.Reshuffle()
            | "ReadLines" >> beam.ParDo(ReadLines(config, num_partitions, token)).with_outputs(ReadLines.COUNTS, main="lines")
        )
        # Every partition has a file, also one without an event.
        seeds = pipeline | "CreatePartitions" >> beam.Create([(number, _Lines(True, [])) for number in range(num_partitions)])
        joined = (
            (read.lines, seeds)
            | "AddPartitions" >> beam.Flatten()
            | "GroupByPartition" >> beam.GroupByKey()
            | "JoinPartition" >> beam.ParDo(JoinPartition(config, str(folder), num_partitions))
        )
        counts = (read[ReadLines.COUNTS], joined) | "FlattenCounts" >> beam.Flatten() | "ListCounts" >> beam.combiners.ToList()
        _ = counts | "WriteCounts" >> beam.Map(_write, str(folder / _RESULTS))


class ReadLines(beam.DoFn):
    """Reads a range; its output is (partition, lines), tagged `counts` what was found, with samples of what is no event."""

    COUNTS = "counts"

    def __init__(self, config: FeedbackConfig, num_partitions: int, progress: str):
        self._config, self._num_partitions, self._progress = config, num_partitions, progress

    def process(self, element: tuple[bool, LineRange]) -> Iterator[Any]:
        is_served, part = element
        counts: Counter[str] = Counter()
        samples: list[str] = []
        waiting: dict[int, list[_Line]] = {}
        try:
            for offset, line in lines_of(part.path, part.begin, part.end):
                counts[SERVED if is_served else READ] += 1
                try:
                    key = self._request(line, is_served)
                except ValueError as error:
                    counts[BAD_SERVED if is_served else BAD] += 1
                    if len(samples) < _MAX_SAMPLES:
                        samples.append(f"{part.path}, byte {offset}: {error}")
                    continue
                lines = waiting.setdefault(zlib.crc32(key) % self._num_partitions, [])
                lines.append(((part.file_number, offset), line))
                if len(lines) == _LINES_AT_A_TIME:
                    yield zlib.crc32(key) % self._num_partitions, _Lines(is_served, lines.copy())
                    lines.clear()
        except ComponentError as error:
            yield beam.pvalue.TaggedOutput(self.COUNTS, {"failed": str(error)})
            return
        for number, lines in waiting.items():
            yield number, _Lines(is_served, lines)
        report(self._progress, part.weight)
        yield beam.pvalue.TaggedOutput(self.COUNTS, {**counts, "samples": samples})

    def _request(self, line: bytes, is_served: bool) -> bytes:
        """What decides the partition; raises a ValueError for a line that cannot be used."""
        try:
            record = json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(record, dict):
            raise ValueError(f"a JSON {type(record).__name__}, expected an object")
        if is_served:
            _answers(record)
            return str(record[serving.REQUEST_ID]).encode()
        if not isinstance(record.get(self._config.item_key), str | int):
            raise ValueError(f"no item under the key {self._config.item_key!r}; found {', '.join(record) or 'no keys'}")
        request = record.get(self._config.request_key)
        # Events of no request go anywhere.
        return line if request is None else str(request).encode()


class JoinPartition(beam.DoFn):
    """Writes the events of a partition in their order; its output is their counts."""

    def __init__(self, config: FeedbackConfig, folder: str, num_partitions: int):
        self._config, self._folder, self._num_partitions = config, folder, num_partitions

    def process(self, element: tuple[int, Iterable[_Lines]]) -> Iterator[dict[str, int]]:
        number, blocks = element
        shown: dict[tuple[str, int], dict[str, tuple[int, float | None]]] = {}
        served: list[_Line] = []
        events: list[_Line] = []
        for block in blocks:
            (served if block.is_served else events).extend(block.lines)
        # Where a request was answered twice, the later answer counts.
        for _, line in sorted(served):
            record = json.loads(line)
            shown[str(record[serving.REQUEST_ID]), record.get(served_log.ROW, 0)] = _answers(record)
        counts: Counter[str] = Counter()
        path = Path(self._folder) / f"interactions-{number:05}-of-{self._num_partitions:05}.jsonl.gz"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as stream:
            for _, line in sorted(events):
                event = json.loads(line)
                outcome, place, propensity = self._find(event, shown)
                counts[outcome] += 1
                event |= {served_log.PLACE: place, serving.PROPENSITY: propensity}
                stream.write(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        os.replace(temporary, path)
        yield dict(counts)

    def _find(self, event: dict[str, Any], shown: dict[tuple[str, int], Any]) -> tuple[str, int | None, float | None]:
        """What becomes of an event, where its item stood and with which probability."""
        request = event.get(self._config.request_key)
        if request is None:
            return ORGANIC, None, None
        try:
            answer = shown.get((str(request), int(event.get(self._config.row_key) or 0)))
        except (TypeError, ValueError, OverflowError):
            answer = None
        if answer is None:
            return UNKNOWN, None, None
        place, propensity = answer.get(str(event[self._config.item_key]), (None, None))
        if place is None:
            return NOT_SHOWN, None, None
        return (UNDRAWN if propensity is None else JOINED), place, propensity


def _answers(record: dict[str, Any]) -> dict[str, tuple[int, float | None]]:
    """Item to place and propensity; raises a ValueError for what is no row that was served."""
    items, propensities = record.get(serving.ITEM_ID), record.get(serving.PROPENSITY)
    if record.get(serving.REQUEST_ID) is None or not isinstance(items, list):
        raise ValueError(f"no row that was served: it needs {serving.REQUEST_ID} and {serving.ITEM_ID}")
    row = record.get(served_log.ROW, 0)
    if type(row) is not int:
        raise ValueError(f"{served_log.ROW} must be the number of the row, found {json.dumps(row)}")
    if propensities is None:
        propensities = [None] * len(items)
    if not isinstance(propensities, list) or len(propensities) != len(items) or not all(map(_is_chance, propensities)):
        raise ValueError(f"{serving.PROPENSITY} must hold a probability above 0 for each item")
    return {str(item): (place, chance) for place, (item, chance) in enumerate(zip(items, propensities, strict=True))}


def _is_chance(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0.0 < value <= 1.0)


def _write(value: Any, path: str) -> None:
    Path(path).write_text(json.dumps(value), encoding="utf-8")


def _summed(parts: list[dict[str, Any]], config: FeedbackConfig) -> dict[str, Any]:
    failures = [part["failed"] for part in parts if "failed" in part]
    if failures:
        raise ComponentError("\n".join(sorted(failures)))
    samples = sorted(sample for part in parts for sample in part.pop("samples", []))
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    counts = {name: total[name] for name in (READ, SERVED, BAD, BAD_SERVED, *OUTCOMES)}
    for bad, read in ((BAD, READ), (BAD_SERVED, SERVED)):
        if counts[bad] > config.max_bad_fraction * counts[read]:
            lines = "\n".join(f"  {sample}" for sample in samples[:3])
            raise ComponentError(f"{counts[bad]:,} of {counts[read]:,} lines cannot be used:\n{lines}")
    if counts[READ] != counts[BAD] + sum(counts[name] for name in OUTCOMES):
        raise AssertionError(f"events were lost or counted twice: {counts}")
    return {**counts, "samples": samples[:_MAX_SAMPLES]}
