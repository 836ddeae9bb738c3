"""Histories to recommend for: sessions of trajectories, or requests in files; read part by part."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.base import ComponentError
from components.datasets.files import list_files, open_log
from components.datasets.lines import lines_of, ranges_of
from components.trajectory_io import raw_records
from models.frameworks import tf
from schemas import serving, trajectory
from schemas.request import Request, RequestFormatError, parse_request

_ROWS_AT_A_TIME = 4096
_MAX_VALUES = 10_000
"""Most values of a list of a request; one long history must not widen all that are asked for with it."""
_IDS = (trajectory.USER_ID, trajectory.SESSION_ID)
_MAX_TEXT = 500


@dataclass(frozen=True)
class Part:
    """What is read and answered by itself.

    Attributes:
        name: Of the files that it becomes, without their ending.
        kind: Trajectories, JSON lines or Parquet.
        path: File or URL.
        begin: First byte of JSON lines, or first row group; the line that begins before belongs to the part before.
        end: Byte or row group after the last; None for all that follows.
    """

    name: str
    kind: Literal["examples", "jsonl", "parquet"]
    path: str
    begin: int = 0
    end: int | None = None


class Row(NamedTuple):
    """A request with the ids that it came with, if any."""

    request: Request
    user_id: str | None
    session_id: str | None


class BadRow(NamedTuple):
    """What is no request: where it stands, what is wrong with it, and what it says."""

    place: str
    reason: str
    text: str


def parts_of_files(path: str, key: str) -> list[Part]:
    """Parts of JSON lines and Parquet files behind a path, a glob or a directory.

    Raises:
        ConfigError: There are none.
    """
    found: list[Part] = []
    number = count()
    for file in list_files([path], key):
        if file.path.endswith(".parquet"):
            found.append(Part(f"{next(number):05}", "parquet", file.path))
        else:
            found += [Part(f"{next(number):05}", "jsonl", file.path, part.begin, part.end) for part in ranges_of(file)]
    return found


def read_part(part: Part, names: list[str], tells_rewards: bool) -> Iterator[Row | BadRow]:
    """Rows of a part in order.

    Args:
        part: Where they are.
        names: Names of items by id, for trajectories.
        tells_rewards: True adds the rewards of the sessions.

    Raises:
        ComponentError: The file cannot be read.
    """
    try:
        if part.kind == "examples":
            yield from _sessions(part, names, tells_rewards)
        elif part.kind == "parquet":
            yield from _parquet(part)
        else:
            yield from _json_lines(part)
    except (OSError, EOFError, zlib.error, pa.ArrowException, tf.errors.DataLossError) as error:
        raise ComponentError(f"{part.path}: cannot be read: {type(error).__name__}: {error}") from None


def num_records(path: str) -> int:
    """Records of a shard of trajectories."""
    return sum(1 for _ in raw_records([path]))


def _sessions(part: Part, names: list[str], tells_rewards: bool) -> Iterator[Row]:
    """Every session once, as its last record has it; records of a session stand side by side, in order."""
    spec = {
        trajectory.ITEM_ID: tf.io.RaggedFeature(tf.int64),
        trajectory.REWARD: tf.io.RaggedFeature(tf.float32),
        trajectory.NUM_CONTEXT: tf.io.FixedLenFeature([], tf.int64),
        **{name: tf.io.FixedLenFeature([], tf.string) for name in _IDS},
    }
    latest: Row | None = None
    for block in raw_records([part.path]).batch(_ROWS_AT_A_TIME):
        parsed = tf.io.parse_example(block, spec)
        items, rewards = parsed[trajectory.ITEM_ID].to_list(), parsed[trajectory.REWARD].to_list()
        begins = parsed[trajectory.NUM_CONTEXT].numpy() == 0
        users, sessions = (parsed[name].numpy() for name in _IDS)
        for place, item_id in enumerate(items):
            if begins[place] and latest is not None:
                yield latest
            history = [names[item] for item in item_id]
            request = Request(history, reward_history=rewards[place] if tells_rewards else None)
            latest = Row(request, users[place].decode(errors="replace"), sessions[place].decode(errors="replace"))
    if latest is not None:
        yield latest


def _json_lines(part: Part) -> Iterator[Row | BadRow]:
    for place, line in lines_of(part.path, part.begin, part.end):
        try:
            yield _row(json.loads(line))
        except (ValueError, RecursionError) as error:
            yield BadRow(f"byte {place}", str(error), line[:_MAX_TEXT].decode(errors="replace").rstrip("\n"))


def _parquet(part: Part) -> Iterator[Row | BadRow]:
    with open_log(part.path) as stream:
        place = 0
        for batch in pq.ParquetFile(pa.PythonFile(stream, mode="r")).iter_batches(_ROWS_AT_A_TIME):
            for record in batch.to_pylist():
                # A column that most rows say nothing in is as good as a key that is not there.
                said = {name: value for name, value in record.items() if value is not None}
                try:
                    yield _row(said)
                except ValueError as error:
                    yield BadRow(f"row {place}", str(error), repr(said)[:_MAX_TEXT])
                place += 1


def _row(record: Any) -> Row:
    request = parse_request(record, _IDS)
    for name in _IDS:
        if not isinstance(record.get(name), str | None):
            raise RequestFormatError(f"{name}: expected text, found {record[name]!r}")
    for field in ("history", "exclude", "candidates", "allow_tags"):
        if len(getattr(request, field)) > _MAX_VALUES:
            raise RequestFormatError(f"{len(getattr(request, field)):,} values in a list; at most {_MAX_VALUES:,} are read")
    return Row(request, record.get(trajectory.USER_ID), record.get(trajectory.SESSION_ID))


def batches(rows: Iterator[Row], size: int, max_values: int = serving.MAX_VALUES) -> Iterator[list[Row]]:
    """Rows that are asked for together: at most `size`, and fewer where their lists are long."""
    batch: list[Row] = []
    width = 1
    for row in rows:
        request = row.request
        # What was seen may be excluded, too.
        own = max(len(request.history) + len(request.exclude), len(request.candidates), len(request.allow_tags), 1)
        width = max(width, own)
        if batch and (len(batch) == size or (len(batch) + 1) * width > max_values):
            yield batch
            batch, width = [], own
        batch.append(row)
    if batch:
        yield batch


def arrays_of(rows: list[Row], k: int | None, exclude_seen: bool, is_conditioned: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of the signature `recommend` for some rows."""
    requests = [row.request for row in rows]

    def lists(field: str) -> list[list[str]]:
        return [list(getattr(request, field)) for request in requests]

    exclude = [[*request.exclude, *(request.history if exclude_seen else ())] for request in requests]
    texts = {
        serving.ITEM_HISTORY: lists("history"),
        serving.EXCLUDE: exclude,
        serving.CANDIDATES: lists("candidates"),
        serving.ALLOW_TAGS: lists("allow_tags"),
    }
    most = 2**31 - 1 if k is None else k
    found: dict[str, np.ndarray[Any, Any]] = {name: _padded(values) for name, values in texts.items()}
    found[serving.NUM_WANTED] = np.array([most if request.k is None else min(request.k, most) for request in requests], np.int32)
    if is_conditioned:
        width = found[serving.ITEM_HISTORY].shape[1]
        reward = np.full((len(rows), width), np.nan, np.float32)
        for place, request in enumerate(requests):
            told = [math.nan if value is None else value for value in request.reward_history or ()]
            reward[place, : len(told)] = told
        target = [math.nan if request.target_return is None else request.target_return for request in requests]
        found |= {serving.TARGET_RETURN: np.array(target, np.float32), serving.REWARD_HISTORY: reward}
    return found


def _padded(rows: list[list[str]]) -> np.ndarray[Any, Any]:
    array = np.full((len(rows), max(1, max(map(len, rows)))), b"", object)
    for place, row in enumerate(rows):
        array[place, : len(row)] = [item.encode() for item in row]
    return array


def item_names(vocabulary: Path) -> list[str]:
    """Names of items by id: nothing for padding, and a name that no item has for the unknown item."""
    from components.trajectory_gen.vocabulary import ITEM, ITEMS_FILE

    return ["", *pq.read_table(vocabulary / ITEMS_FILE, columns=[ITEM])[ITEM].to_pylist(), "(unknown)"]
