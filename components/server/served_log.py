"""Writes what was served, row by row, as `schemas.served_log` describes; requests do not wait for it."""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from components.server.metrics import Metrics
from components.server.servable import Array
from models.frameworks import tf
from schemas import served_log, serving

log = logging.getLogger("longplay.serve")

_MAX_WAITING = 10_000
"""Answers that may wait to be written; more are dropped and counted."""
_FILE_SECONDS = 3600.0


@dataclass(frozen=True)
class Served:
    """An answer to be logged.

    Attributes:
        time: When it was given.
        request_id: What the client called the request, or what the server did.
        user_id: Who asked, as far as the client said.
        session_id: In which session.
        model: Name of the model.
        version: The version that answered.
        signature: The signature.
        inputs: Arrays of the request by name.
        outputs: Arrays of the answer by name.
    """

    time: float
    request_id: str
    user_id: str | None
    session_id: str | None
    model: str
    version: int
    signature: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


class ServedLog:
    """A folder of JSON lines; a file ends when it is large or an hour old.

    Args:
        folder: Where to write; it is made.
        model: Name of the model, for metrics.
        share: Share of the requests that is logged; a hash of their ids decides.
        file_bytes: Size from which a new file begins.
        metrics: Where rows that are written and answers that are dropped are counted.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path, model: str, share: float, file_bytes: int, metrics: Metrics):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._model, self._share, self._file_bytes, self._metrics = folder, model, share, file_bytes, metrics
        self._queue: queue.Queue[Served | None] = queue.Queue(_MAX_WAITING)
        self._file: BinaryIO | None = None
        self._begun, self._number, self._failing = 0.0, 0, False
        # Each is counted by one thread alone, and copied when somebody asks.
        self._refused, self._failed, self._written = 0, 0, 0
        metrics.before_text.append(self._count)
        self._thread = threading.Thread(target=self._write, name="served-log", daemon=True)
        self._thread.start()

    def add(self, served: Served) -> None:
        """Notes an answer, if it recommends and is among those that are logged."""
        if serving.ITEM_ID not in served.outputs or zlib.crc32(served.request_id.encode()) >= self._share * (1 << 32):
            return
        try:
            self._queue.put_nowait(served)
        except queue.Full:
            self._refused += 1

    def _count(self) -> None:
        self._metrics.log_rows.set(self._model, value=self._written)
        self._metrics.log_dropped.set(self._model, value=self._refused + self._failed)

    def close(self) -> None:
        """Writes what waits and ends."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (served := self._queue.get()) is not None:
            try:
                lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in rows_of(served)]
                file = self._current()
                file.write(b"".join(lines))
                # Whole lines reach the file, so that whoever reads it meanwhile sees whole rows.
                file.flush()
                self._written += len(lines)
                self._failing = False
            except Exception as error:
                # A full disk must not end the server; one message is enough.
                self._failed += 1
                if not self._failing:
                    log.error("what is served cannot be logged: %s: %s", type(error).__name__, error)
                self._failing = True
        if self._file is not None:
            self._file.close()

    def _current(self) -> BinaryIO:
        now = time.time()
        if self._file is not None and (self._file.tell() >= self._file_bytes or now - self._begun > _FILE_SECONDS):
            self._file.close()
            self._file = None
        if self._file is None:
            moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
            name = f"served-{moment}-{socket.gethostname()}-{os.getpid()}-{self._number:05}.jsonl"
            self._file, self._begun, self._number = (self._folder / name).open("ab"), now, self._number + 1
        return self._file


def rows_of(served: Served) -> Iterator[dict[str, Any]]:
    """Rows of an answer as they are logged."""
    histories, ids = _histories(served), served.inputs.get(serving.REQUEST_ID)
    items, scores = served.outputs[serving.ITEM_ID], served.outputs[serving.SCORE]
    propensities = served.outputs.get(serving.PROPENSITY)
    # One id may stand for all rows.
    has_own_ids = ids is not None and len(ids) == len(items)
    for row in range(len(items)):
        shown = [place for place, item in enumerate(items[row].tolist()) if item]
        yield {
            served_log.TIME: round(served.time, 6),
            # The id of a row decides its chance, so it is what an event of it has to name.
            serving.REQUEST_ID: served.request_id if ids is None else _text(ids[min(row, len(ids) - 1)]),
            served_log.ROW: 0 if has_own_ids else row,
            served_log.MODEL: served.model,
            served_log.VERSION: served.version,
            served_log.SIGNATURE: served.signature,
            served_log.USER_ID: served.user_id,
            served_log.SESSION_ID: served.session_id,
            serving.ITEM_HISTORY: histories[row],
            serving.ITEM_ID: [_text(items[row, place]) for place in shown],
            serving.SCORE: [round(float(scores[row, place]), 6) for place in shown],
            serving.PROPENSITY: None if propensities is None else [float(f"{propensities[row, place]:.7g}") for place in shown],
        }


def _histories(served: Served) -> list[list[str]]:
    history = served.inputs.get(serving.ITEM_HISTORY)
    if history is not None:
        return [[_text(item) for item in row if item] for row in history.tolist()]
    found = []
    for serialized in served.inputs[serving.EXAMPLES].tolist():
        feature = tf.train.Example.FromString(serialized).features.feature
        found.append([_text(item) for item in feature[serving.ITEM_HISTORY].bytes_list.value if item])
    return found


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
