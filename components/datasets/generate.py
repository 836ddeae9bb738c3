"""Writes logs of the simulated shop to files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from components.base import ComponentError, Progress
from models.simulators.session_shop import LoggedEvents, SessionShop, SessionShopConfig

_SCHEMA = pa.schema(
    [
        ("timestamp", pa.int64()),
        ("user_id", pa.int64()),
        ("event", pa.string()),
        ("item_id", pa.string()),
        ("propensity", pa.float64()),
    ]
)


def write_logs(path: Path, num_events: int, seed: int, num_items: int, progress: Progress) -> int:
    """Writes clicks and purchases; memory does not grow with their number.

    Args:
        path: `.csv`, `.csv.gz` or `.parquet`; it appears when it is complete.
        num_events: Least number of events; the last session is kept whole.
        seed: Seed of the simulation.
        num_items: Items of the shop.
        progress: Where to report.

    Returns:
        Events written.

    Raises:
        ComponentError: The ending is not known, or the file cannot be written.
    """
    shop = SessionShop(SessionShopConfig(num_items=num_items, num_clusters=max(2, min(20, num_items // 10))))
    names = pa.array(shop.item_names)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with progress.task("simulate", num_events, "events") as task, _writer(path, temporary) as writer:
            for events in shop.logs(num_events, seed):
                writer.write_table(_table(events, names))
                written += len(events.user)
                task.advance(len(events.user))
        temporary.replace(path)
    except OSError as error:
        raise ComponentError(f"--out: cannot write {path}: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return written


def _writer(path: Path, temporary: Path) -> Any:
    if path.name.endswith(".parquet"):
        return pq.ParquetWriter(temporary, _SCHEMA, compression="zstd")
    if path.name.endswith((".csv", ".csv.gz")):
        compression = "gzip" if path.name.endswith(".gz") else None
        return _CsvWriter(pa.output_stream(str(temporary), compression=compression))
    raise ComponentError(f"--out: {path} ends in none of .csv, .csv.gz, .parquet")


class _CsvWriter:
    """A CSV writer that closes the stream below it."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._writer = pa_csv.CSVWriter(stream, _SCHEMA, write_options=pa_csv.WriteOptions(include_header=True))

    def __enter__(self) -> _CsvWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._stream.close()

    def write_table(self, table: pa.Table) -> None:
        self._writer.write_table(table)


def _table(events: LoggedEvents, names: pa.Array) -> pa.Table:
    outcomes = pa.array(["click", "purchase"])
    return pa.table(
        [
            pa.array(events.time),
            pa.array(events.user),
            outcomes.take(pa.array(events.bought.astype("int8"))),
            names.take(pa.array(events.item)),
            pa.array(events.propensity.round(8)),
        ],
        schema=_SCHEMA,
    )
