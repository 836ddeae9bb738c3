"""Item tables that are too large for one process: rows in shards, one after the other, each on a parameter server.

Under TensorFlow's ParameterServerStrategy a table is a `ShardedVariable`. Its rows must be looked up with `rows_of`: `tf.gather`
on it returns them in another order, and whatever else reads it makes a copy of the whole table where it is read.

What is only read, such as a served policy, takes rows from a table in another way; see `never_written`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from models.frameworks import tf

_never_written: ContextVar[bool] = ContextVar("never_written", default=False)

_BLOCK_BYTES = 64 << 20
"""A message between processes holds at most 2 GiB; a table is copied in parts that are far below."""


def is_sharded(variable: Any) -> bool:
    """True for a variable whose rows lie in several shards."""
    return bool(getattr(variable, "is_sharded_variable", False))


def rows_of(table: Any, item_id: tf.Tensor) -> tf.Tensor:
    """Rows of a table, each taken from the shard that has it: [N+1, ...] and ids [...] int -> [..., ...].

    Gradients are as sparse as the ids, in one variable or in many.
    """
    if is_sharded(table):
        # A list of shards; given the sharded variable itself, TensorFlow would look for row i in shard i % shards.
        return tf.nn.embedding_lookup(table.variables, item_id)
    return tf.gather(tf.convert_to_tensor(table) if _never_written.get() else table, item_id)


@contextmanager
def never_written() -> Iterator[None]:
    """For tracing what only reads, such as what is served: rows are taken from tables as they are read whole.

    TensorFlow's lookup in a variable makes every later reading of the whole variable a copy, so that rows can be written
    beside it. A request that looks up a history and then scores the whole catalogue would copy the table each time.
    """
    token = _never_written.set(True)
    try:
        yield
    finally:
        _never_written.reset(token)


def whole(variables: Iterable[Any]) -> list[Any]:
    """The variables with the shards of each table replaced by the table."""
    found: dict[int, Any] = {}
    for variable in variables:
        table = variable._sharded_container() if _is_shard(variable) else variable
        found[id(table)] = table
    return list(found.values())


def copy_rows(source: Any, target: Any) -> None:
    """Sets a variable to another of its shape, part by part; either may be sharded."""
    if not (is_sharded(source) or is_sharded(target)):
        target.assign(source)
        return
    at = 0
    for part in source.variables if is_sharded(source) else [source]:
        for begin, end in _blocks(part):
            with beside(part):
                rows = part[begin:end]
            _assign_rows(target, at + begin, tf.convert_to_tensor(rows))
        at += int(part.shape[0])


def _assign_rows(target: Any, begin: int, rows: tf.Tensor) -> None:
    at = 0
    for part in target.variables if is_sharded(target) else [target]:
        size, end = int(part.shape[0]), begin + int(rows.shape[0])
        first, last = max(begin, at), min(end, at + size)
        if first < last:
            with beside(part):
                taken = rows[first - begin : last - begin]
                part.scatter_update(tf.IndexedSlices(taken, tf.range(first - at, last - at)))
        at += size


def _blocks(part: Any) -> Iterator[tuple[int, int]]:
    size = int(part.shape[0])
    row_bytes = max(1, int(part.shape.num_elements()) * part.dtype.size // max(1, size))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for begin in range(0, size, step):
        yield begin, min(begin + step, size)


@contextmanager
def beside(variable: Any) -> Iterator[None]:
    """Computes where a shard lies, so that its rows do not travel; anything else is computed where it is."""
    if not _is_shard(variable):
        yield
        return
    with tf.device(variable.device):
        yield


def _is_shard(variable: Any) -> bool:
    return hasattr(variable, "_sharded_container")
