"""Files that recommendations are written to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.bulk_inferrer.config import Format
from components.bulk_inferrer.rows import Row
from components.server.tensors import to_proto
from models.frameworks import tf
from schemas import serving, trajectory

Arrays = Mapping[str, np.ndarray[Any, Any]]

_NAME = "longplay"
_COMPRESSION_LEVEL = 1


class Sink(Protocol):
    """A file that is being written."""

    def write(self, rows: list[Row], inputs: Arrays, outputs: Arrays) -> None:
        """Adds answers, one for each row."""

    def close(self) -> None: ...


class PredictionLogs:
    """TFRecords of PredictionLog, each the request of one history with its answer."""

    def __init__(self, path: Path):
        self._writer = tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP", compression_level=_COMPRESSION_LEVEL))

    def write(self, rows: list[Row], inputs: Arrays, outputs: Arrays) -> None:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

        for place in range(len(rows)):
            log = prediction_log_pb2.PredictionLog()
            for side, arrays in ((log.predict_log.request, inputs), (log.predict_log.response, outputs)):
                side.model_spec.name, side.model_spec.signature_name = _NAME, serving.RECOMMEND
                tensors = side.inputs if isinstance(side, predict_pb2.PredictRequest) else side.outputs
                for name, array in arrays.items():
                    tensors[name].CopyFrom(to_proto(array[place : place + 1]))
            self._writer.write(log.SerializeToString(deterministic=True))

    def close(self) -> None:
        self._writer.close()


class ParquetRows:
    """Rows with ids, items and scores; places without an item are left out."""

    SCHEMA = pa.schema(
        [
            (trajectory.USER_ID, pa.string()),
            (trajectory.SESSION_ID, pa.string()),
            (serving.ITEM_ID, pa.list_(pa.string())),
            (serving.SCORE, pa.list_(pa.float32())),
        ]
    )

    def __init__(self, path: Path):
        self._writer = pq.ParquetWriter(path, self.SCHEMA)

    def write(self, rows: list[Row], inputs: Arrays, outputs: Arrays) -> None:
        self._writer.write_table(pa.Table.from_pylist(_records(rows, outputs), self.SCHEMA))

    def close(self) -> None:
        self._writer.close()


class JsonLines:
    """The same as JSON objects, one a line."""

    def __init__(self, path: Path):
        # Without a time in its head, so that equal answers are equal files.
        self._raw = path.open("wb")
        self._stream = gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, self._raw, mtime=0)

    def write(self, rows: list[Row], inputs: Arrays, outputs: Arrays) -> None:
        lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in _records(rows, outputs))
        self._stream.write("".join(lines).encode())

    def close(self) -> None:
        self._stream.close()
        self._raw.close()


SINKS: Mapping[Format, tuple[type[PredictionLogs] | type[ParquetRows] | type[JsonLines], str, str]] = {
    "prediction_log": (PredictionLogs, "prediction_logs", ".gz"),
    "parquet": (ParquetRows, "recommendations", ".parquet"),
    "jsonl": (JsonLines, "recommendations", ".jsonl.gz"),
}
"""Format to its writer, and beginning and ending of its files' names."""


def _records(rows: list[Row], outputs: Arrays) -> list[dict[str, Any]]:
    items, scores, counts = outputs[serving.ITEM_ID], outputs[serving.SCORE], outputs[serving.NUM_VALID].tolist()
    return [
        {
            trajectory.USER_ID: row.user_id,
            trajectory.SESSION_ID: row.session_id,
            serving.ITEM_ID: [item.decode() for item in items[place, :number]],
            serving.SCORE: [round(score, 6) for score in scores[place, :number].tolist()],
        }
        for place, (row, number) in enumerate(zip(rows, counts, strict=True))
    ]
