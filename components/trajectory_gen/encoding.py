"""tf.Examples and TFRecords from columns, thousands of records at a time and without an object for any of them.

What comes out is, byte for byte, what `tf.train.Example.SerializeToString(deterministic=True)` and TensorFlow's record writer
give: features in order of their names, so equal values make equal files. Every record is cut into pieces (framing, headers,
values) that lie in one pool of bytes, and a single gather puts all pieces of a batch in their places.

Formats: the protocol buffers wire format (https://protobuf.dev/programming-guides/encoding) of `tensorflow.Example`, and
TFRecord: length (uint64), masked CRC-32C of the length, data, masked CRC-32C of the data, little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_HEAD, _TAIL = 12, 4
"""Bytes of framing before and after a record's data."""


@dataclass(frozen=True)
class Values:
    """Values of one feature of all records, encoded, one record after the other.

    Attributes:
        kind: Which list of `tensorflow.Feature` holds them.
        data: Their bytes.
        starts: [R] first byte of each record's values.
        lengths: [R] bytes of each record's values.
    """

    kind: Literal["bytes", "float", "int64"]
    data: Bytes
    starts: Ints
    lengths: Ints


def int64_values(values: npt.NDArray[np.int64], offsets: Ints) -> Values:
    """Whole numbers as packed varints.

    Args:
        values: [E] values of all records.
        offsets: [R+1] first value of each record, and E.
    """
    rest = np.ascontiguousarray(values).view(np.uint64)
    # Seven bits a byte, the lowest first; the highest bit says that more follow.
    size = np.ones(len(rest), np.int64)
    groups = [rest & np.uint64(0x7F)]
    while (rest := rest >> np.uint64(7)).any():
        size += rest > 0
        groups.append(rest & np.uint64(0x7F))
    number = np.arange(len(groups))
    table = np.stack(groups, axis=1).astype(np.uint8)
    table |= ((number + 1 < size[:, None]) * 0x80).astype(np.uint8)
    ends = np.append(0, np.cumsum(size))[offsets]
    return Values("int64", table[number < size[:, None]], ends[:-1], np.diff(ends))


def float_values(values: npt.NDArray[np.float32], offsets: Ints) -> Values:
    """Numbers as packed 32-bit floats; see `int64_values`."""
    data = np.ascontiguousarray(values, np.dtype("<f4")).view(np.uint8)
    return Values("float", data, offsets[:-1] * 4, np.diff(offsets) * 4)


def text_values(values: pa.StringArray) -> Values:
    """One text for each record."""
    validity, offsets, data = values.buffers()
    assert validity is None or values.null_count == 0, "records need every text"
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    return Values("bytes", np.frombuffer(data or b"", np.uint8), bounds[:-1], np.diff(bounds))


def encode(features: Mapping[str, Values]) -> Bytes:
    """Records of a batch, framed, one after the other.

    Args:
        features: Feature name to values; the same records in all.

    Returns:
        The bytes of a TFRecord file that holds them.
    """
    names = sorted(features)
    count = len(features[names[0]].lengths)
    columns = 3 + 2 * len(names)
    pool = _Pool()
    starts, lengths = np.zeros((count, columns), np.int64), np.zeros((count, columns), np.int64)
    starts[:, 0] = starts[:, -1] = pool.add(np.zeros(_HEAD, np.uint8))
    lengths[:, 0], lengths[:, -1] = _HEAD, _TAIL
    for place, name in enumerate(names):
        values, column = features[name], 2 + 2 * place
        starts[:, column], lengths[:, column] = pool.add_headers(name, values.kind, values.lengths)
        starts[:, column + 1], lengths[:, column + 1] = pool.add(values.data) + values.starts, values.lengths
    body = lengths[:, 2:-1].sum(axis=1)
    starts[:, 1], lengths[:, 1] = pool.add_headers("", "example", body)
    ends = np.cumsum(lengths.ravel())
    moved = starts.ravel() - (ends - lengths.ravel())
    total = int(ends[-1]) if count else 0
    gathered: Bytes = np.take(pool.joined(), np.repeat(moved, lengths.ravel()) + np.arange(total))
    _frame(gathered, ends.reshape(count, columns)[:, -1], lengths.sum(axis=1))
    return gathered


class _Pool:
    """Pieces of bytes that records are put together from."""

    def __init__(self) -> None:
        self._parts: list[Bytes] = []
        self._size = 0

    def add(self, part: Bytes) -> int:
        """Adds bytes and returns where they begin."""
        self._parts.append(part)
        self._size += len(part)
        return self._size - len(part)

    def add_headers(self, name: str, kind: str, lengths: Ints) -> tuple[Ints, Ints]:
        """Adds a header for every distinct length; returns where each record's begins and how long it is."""
        distinct, which = np.unique(lengths, return_inverse=True)
        headers = [_header(name, kind, int(length)) for length in distinct]
        sizes = np.array([len(header) for header in headers], np.int64)
        first = self.add(np.frombuffer(b"".join(headers), np.uint8))
        return (first + np.cumsum(sizes) - sizes)[which], sizes[which]

    def joined(self) -> Bytes:
        return np.concatenate(self._parts)


_LISTS = {"bytes": b"\x0a", "float": b"\x12", "int64": b"\x1a"}
"""Tag of each list in `tensorflow.Feature`."""


@lru_cache(maxsize=65_536)
def _header(name: str, kind: str, length: int) -> bytes:
    """What stands before `length` bytes of values: an entry of the map of features up to there, or the Example's own header."""
    if kind == "example":
        return b"\x0a" + _varint(length)
    values = b"\x0a" + _varint(length)
    as_list = _LISTS[kind] + _varint(len(values) + length) + values
    entry = _key(name) + b"\x12" + _varint(len(as_list) + length) + as_list
    return b"\x0a" + _varint(len(entry) + length) + entry


def _key(name: str) -> bytes:
    return b"\x0a" + _varint(len(name.encode())) + name.encode()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _frame(records: Bytes, ends: Ints, sizes: Ints) -> None:
    """Fills in the framing around every record, in place."""
    data = sizes - _HEAD - _TAIL
    begins = ends - sizes
    head = np.zeros((len(ends), _HEAD), np.uint8)
    head[:, :8] = data.astype("<u8").view(np.uint8).reshape(-1, 8)
    distinct, which = np.unique(data, return_inverse=True)
    crc_of_length = np.array([google_crc32c.value(int(length).to_bytes(8, "little")) for length in distinct], np.uint32)
    head[:, 8:] = _masked(crc_of_length)[which].view(np.uint8).reshape(-1, 4)
    records[begins[:, None] + np.arange(_HEAD)] = head
    view = memoryview(records.data)
    bounds = zip((begins + _HEAD).tolist(), (ends - _TAIL).tolist(), strict=True)
    crc = [google_crc32c.value(bytes(view[begin:end])) for begin, end in bounds]
    records[(ends - _TAIL)[:, None] + np.arange(_TAIL)] = _masked(np.array(crc, np.uint32)).view(np.uint8).reshape(-1, 4)


def _masked(crc: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """TensorFlow's masking of a CRC that is stored beside what it is the CRC of."""
    with np.errstate(over="ignore"):
        return (((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)).astype("<u4")


class RecordFile:
    """A gzip TFRecord file. Blocks of records are compressed in a thread while the next are made.

    Args:
        path: File to write.
        level: Of the compression, 1 to 9.
    """

    def __init__(self, path: Path, level: int):
        self._stream = path.open("wb")
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, 31)
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def write(self, records: Bytes) -> None:
        """Appends framed records."""
        self._wait()
        self._pending = self._pool.submit(self._compress, records)

    def _compress(self, records: Bytes) -> None:
        self._stream.write(self._compressor.compress(records.data))

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._wait()
            self._stream.write(self._compressor.flush())
        finally:
            self._pool.shutdown()
            self._stream.close()


def unframed(records: Bytes) -> Iterator[bytes]:
    """The data of framed records, one by one."""
    place = 0
    while place < len(records):
        size = int(records[place : place + 8].view("<u8")[0])
        yield records[place + _HEAD : place + _HEAD + size].tobytes()
        place += _HEAD + size + _TAIL
