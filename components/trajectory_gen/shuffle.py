"""Partitions interactions by user, as Arrow blocks that travel by reference or by value.

One machine: blocks are appended to files and a reference of a few bytes goes through Beam's grouping, so memory stays flat
however long the log is. A cluster, whose workers share no disk: the block itself goes through the grouping.
"""

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas import interaction


@dataclass(frozen=True)
class BlockRef:
    """An Arrow stream, in a file or as bytes.

    Attributes:
        first: Position of its first row, by which blocks are put in order.
        path: File it lies in, or None.
        offset: First byte in the file.
        num_bytes: Length of the stream.
        payload: The stream itself where it lies in no file.
    """

    first: int
    path: str | None
    offset: int
    num_bytes: int
    payload: bytes | None = None

    def read(self) -> pa.Table:
        """The block's rows."""
        if self.path is None:
            return pa.ipc.open_stream(self.payload).read_all()
        with pa.memory_map(self.path) as file:
            return pa.ipc.open_stream(file.read_buffer(self.offset + self.num_bytes)[self.offset :]).read_all()


def store_blocks(blocks: Iterable[tuple[int, int, pa.Table | pa.RecordBatch]], folder: str | None) -> list[tuple[int, BlockRef]]:
    """Stores (partition, first position, rows) in one new file of `folder`, or by value without one.

    The file appears under its name when it is complete; a retried bundle writes another and the references of the failed
    attempt are never used.
    """
    refs: list[tuple[int, BlockRef]] = []
    if folder is None:
        for partition, first, rows in blocks:
            payload = _stream(rows).to_pybytes()
            refs.append((partition, BlockRef(first, None, 0, len(payload), payload)))
        return refs
    path = Path(folder) / f"{uuid.uuid4().hex}.arrow"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        for partition, first, rows in blocks:
            buffer = _stream(rows)
            refs.append((partition, BlockRef(first, str(path), file.tell(), buffer.size)))
            file.write(buffer)
    os.replace(temporary, path)
    return refs


def _stream(rows: pa.Table | pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return sink.getvalue()


def split_by_user(batch: pa.RecordBatch, num_partitions: int) -> list[tuple[int, int, pa.RecordBatch]]:
    """Divides a batch by a hash of the user; rows keep their order within a part.

    Returns:
        (partition, position of the first row, rows) of every part that has rows.
    """
    if batch.num_rows == 0:
        return []
    position = batch.schema.get_field_index(interaction.POSITION)
    if num_partitions == 1:
        return [(0, batch.column(position)[0].as_py(), batch)]
    user = batch.column(batch.schema.get_field_index(interaction.USER))
    partition = (stable_hash(user) % np.uint64(num_partitions)).astype(np.uint16)
    order = np.argsort(partition, kind="stable")
    table = pa.Table.from_batches([batch]).take(pa.array(order)).combine_chunks()
    ordered = table.to_batches()[0]
    bounds = np.searchsorted(partition[order], np.arange(num_partitions + 1))
    return [
        (p, ordered.column(position)[int(bounds[p])].as_py(), ordered.slice(int(bounds[p]), int(bounds[p + 1] - bounds[p])))
        for p in range(num_partitions)
        if bounds[p] < bounds[p + 1]
    ]


_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def stable_hash(strings: pa.StringArray) -> npt.NDArray[np.uint64]:
    """64-bit FNV-1a of every string with the finaliser of MurmurHash3; the same on every machine and in every process.

    Long and repeated strings cost little: each distinct string is hashed once, a byte position of all of them at a time.
    """
    encoded = strings.dictionary_encode() if len(strings) else None
    if encoded is None:
        return np.zeros(0, np.uint64)
    values = encoded.dictionary
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values)]
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    hashes = np.full(len(values), _FNV_OFFSET)
    # Longest first, so that the strings which still have a k-th byte are a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, sizes = offsets[order], lengths[order]
    ordered = hashes[order]
    with np.errstate(over="ignore"):
        for k in range(int(sizes[0]) if len(sizes) else 0):
            alive = int(np.searchsorted(-sizes, -k, side="left"))
            ordered[:alive] = (ordered[:alive] ^ data[starts[:alive] + k]) * _FNV_PRIME
        ordered ^= ordered >> np.uint64(33)
        ordered *= np.uint64(0xFF51AFD7ED558CCD)
        ordered ^= ordered >> np.uint64(33)
    hashes[order] = ordered
    return hashes[pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)]
