"""Arrays from and to protocol buffers, with limits: a few bytes must not become gigabytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.server.config import ServerConfig
from components.server.errors import RequestError, Status, invalid
from components.server.servable import Array
from models.frameworks import tf

_MAX_WARMUP_VALUES = 1 << 24


def from_proto(name: str, proto: Any, max_values: int = _MAX_WARMUP_VALUES) -> Array:
    """An array from a TensorProto; strings as bytes in an array of objects.

    Raises:
        RequestError: Type, shape and values do not fit together, or there are too many.
    """
    if proto.tensor_shape.unknown_rank or any(dim.size < 0 for dim in proto.tensor_shape.dim):
        raise invalid(f"input {name!r}: the tensor has no definite shape")
    # A single value stands for as many as the shape says, so the shape must be looked at first.
    check_count(name, math.prod(dim.size for dim in proto.tensor_shape.dim), max_values)
    try:
        array = tf.make_ndarray(proto)
    except Exception as error:
        raise invalid(f"input {name!r}: no valid tensor ({type(error).__name__}: {error})"[:500]) from None
    return array.astype(object) if array.dtype.kind in "SU" else array


def to_proto(array: Array) -> Any:
    """A TensorProto of an array."""
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2

    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape])
    if array.dtype.kind == "O":
        values = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
        return tensor_pb2.TensorProto(dtype=tf.string.as_datatype_enum, tensor_shape=shape, string_val=values)
    if array.dtype.kind not in "fiub":
        return tf.make_tensor_proto(array)
    content = np.ascontiguousarray(array).tobytes()
    return tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum, tensor_shape=shape, tensor_content=content)


def check_count(name: str, count: int, max_values: int, rows: str = "") -> None:
    """Raises a `RequestError` for more values than a request may have."""
    if count > max_values:
        raise RequestError(Status.REQUEST_TOO_LARGE, f"input {name!r}: {count:,} values{rows}, the server takes {max_values:,}")


def check_rows(inputs: Mapping[str, Array], config: ServerConfig) -> None:
    """Raises a `RequestError` for more rows or values than a request may have."""
    rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=0)
    for name, array in inputs.items():
        # A row that stands for all rows counts as often.
        repeats = rows if array.ndim and array.shape[0] == 1 else 1
        if array.ndim and array.shape[0] > config.max_request_rows:
            message = f"input {name!r}: {array.shape[0]:,} rows, the server takes {config.max_request_rows:,}"
            raise RequestError(Status.REQUEST_TOO_LARGE, message)
        check_count(name, array.size * repeats, config.max_request_values, f" for {rows:,} rows" if repeats > 1 else "")
