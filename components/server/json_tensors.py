"""Arrays from and to the JSON of TF Serving's REST interface, in row form (`instances`) and column form (`inputs`)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from components.server.config import ServerConfig
from components.server.errors import RequestError, invalid
from components.server.servable import Array, Signature, Spec
from components.server.tensors import check_count

_FORMS = 'expected {"instances": [row, …]} or {"inputs": {name: rows}}, and optionally "signature_name"'
_MAX_RANK = 8


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestError: It is none, or has other keys than those of the protocol.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"not JSON: {error}; NaN and Infinity are no JSON either") from None
    if (
        not isinstance(found, dict)
        or set(found) - {"signature_name", "instances", "inputs"}
        or ("instances" in found) == ("inputs" in found)
    ):
        shape = f"keys {', '.join(found)}"[:200] if isinstance(found, dict) else type(found).__name__
        raise invalid(f"found {shape}; {_FORMS}")
    if not isinstance(found.get("signature_name", ""), str):
        raise invalid('"signature_name" must be text')
    return found


def inputs_of(body: Mapping[str, Any], signature: Signature, config: ServerConfig) -> dict[str, Array]:
    """Arrays of a request by input name.

    Raises:
        RequestError: Rows, names or values do not fit.
    """
    columns = _columns_of_rows(body["instances"], signature) if "instances" in body else _named(body["inputs"], signature)
    unknown = {name: np.zeros(0) for name in columns if name not in signature.inputs}
    if unknown:
        signature.check(unknown)
    return {name: _array(name, value, signature.inputs[name], config.max_request_values) for name, value in columns.items()}


def _columns_of_rows(rows: Any, signature: Signature) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise invalid(f'"instances" must be a list of at least one row, found {_short(rows)}')
    rows = [_named(row, signature) for row in rows]
    names = set(rows[0])
    for number, row in enumerate(rows):
        if set(row) != names:
            raise invalid(f"row {number} has inputs {sorted(row)}, row 0 has {sorted(names)}; all rows need the same")
    return {name: [row[name] for row in rows] for name in names}


def _named(value: Any, signature: Signature) -> dict[str, Any]:
    """A row, or all columns, by input name; the name of an only input may be left out."""
    if isinstance(value, dict) and set(value) != {"b64"}:
        return value
    if len(signature.inputs) > 1:
        raise invalid(f"signature {signature.name!r} has inputs {', '.join(signature.inputs)}: expected an object, found {_short(value)}")
    return {next(iter(signature.inputs)): value}


def _array(name: str, value: Any, spec: Spec, max_values: int) -> Array:
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > _MAX_RANK:
            raise invalid(f"input {name!r}: lists are nested more than {_MAX_RANK} deep")
        level = level[0] if level else None
    # An empty list may stand for any rank above its own.
    if 0 in shape and spec.shape is not None:
        shape += [0] * (len(spec.shape) - len(shape))
    values: list[Any] = [value]
    for depth, size in enumerate(shape):
        for number, part in enumerate(values):
            if not isinstance(part, list) or len(part) != size:
                found = f"length {len(part)}" if isinstance(part, list) else _short(part)
                hint = '; fill rows up with ""' if depth == 1 and np.dtype(spec.dtype).kind == "O" else ""
                raise invalid(f"input {name!r}: lists are not of equal length, expected length {size}, found {found} (list {number}){hint}")
        values = [item for part in values for item in part]
        check_count(name, len(values), max_values)
    return _typed(name, values, np.dtype(spec.dtype)).reshape(shape)


def _typed(name: str, values: list[Any], dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        array = np.empty(len(values), object)
        array[:] = [_bytes(name, value) for value in values]
        return array
    kinds: tuple[type, ...] = {"f": (int, float), "i": (int,), "u": (int,), "b": (bool,)}.get(dtype.kind, ())
    for value in values:
        if not isinstance(value, kinds) or (isinstance(value, bool) and dtype.kind != "b"):
            raise invalid(f"input {name!r}: expected {dtype}, found {_short(value)}")
    if dtype.kind in "iu":
        # NumPy would let them wrap around.
        limits = np.iinfo(dtype)
        for value in values:
            if not limits.min <= value <= limits.max:
                raise invalid(f"input {name!r}: {_short(value)} does not fit into {dtype}")
    try:
        array = np.array(values, dtype)
    except (OverflowError, ValueError) as error:
        raise invalid(f"input {name!r}: {error}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise invalid(f"input {name!r}: a number is too large for {dtype}")
    return array


def _bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid(f"input {name!r}: no base64: {error}") from None
    raise invalid(f"input {name!r}: expected text, found {_short(value)}")


def dump_answer(outputs: Mapping[str, Array], as_rows: bool) -> bytes:
    """JSON of an answer, in the form of the request.

    Raises:
        RequestError: Rows were asked for and an output has none.
    """
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    if not as_rows:
        content: Any = {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    else:
        counts = {array.shape[0] if array.ndim else None for array in outputs.values()}
        if len(counts) != 1 or None in counts:
            raise invalid('the outputs have no rows in common; ask in column form, with "inputs"')
        names = list(plain)
        rows = zip(*(plain[name] for name in names), strict=True)
        content = {"predictions": [dict(zip(names, row, strict=True)) if len(names) > 1 else row[0] for row in rows]}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def dump_error(error: RequestError) -> bytes:
    """JSON of a failure."""
    return orjson.dumps({"error": str(error)})


def _plain(name: str, array: Array) -> Any:
    """What `orjson` writes: numbers as they are, text decoded, bytes in base64 where the name says that they are bytes."""
    if array.dtype != object:
        return np.ascontiguousarray(array) if array.dtype.kind in "fiub" else array.tolist()
    return _texts(array.tolist(), name.endswith("_bytes"))


def _texts(value: Any, as_base64: bool) -> Any:
    if isinstance(value, list):
        return [_texts(part, as_base64) for part in value]
    raw = value if isinstance(value, bytes) else str(value).encode()
    return {"b64": base64.b64encode(raw).decode()} if as_base64 else raw.decode(errors="replace")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested very deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."
