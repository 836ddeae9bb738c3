"""Requests to try a server with, made of the requests that warm it up."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.exporter.warmup import Array, Request
from models.frameworks import tf

_MAX_ROWS = 2


def write_examples(folder: Path, requests: Sequence[Request]) -> None:
    """Writes the first request of each signature as REST in row form, in column form, and as a PredictRequest for gRPC.

    Files are `<signature>.rows.json`, `<signature>.columns.json` and `<signature>.predict_request.pb`; the last one leaves the
    name of the model out, which its sender fills in.
    """
    from tensorflow_serving.apis import model_pb2, predict_pb2

    folder.mkdir(parents=True, exist_ok=True)
    for signature in dict.fromkeys(request.signature for request in requests):
        first = next(request for request in requests if request.signature == signature)
        # JSON has no NaN; an input that says nothing may as well be left out.
        inputs = {name: value[:_MAX_ROWS] for name, value in first.inputs.items()}
        sayable = {name: value for name, value in inputs.items() if not (value.dtype.kind == "f" and np.isnan(value).any())}
        columns = {name: _plain(value) for name, value in sayable.items()}
        count = len(next(iter(columns.values())))
        rows = [{name: column[row] for name, column in columns.items()} for row in range(count)]
        _write(folder / f"{signature}.rows.json", {"signature_name": signature, "instances": rows})
        _write(folder / f"{signature}.columns.json", {"signature_name": signature, "inputs": columns})
        proto = predict_pb2.PredictRequest(
            model_spec=model_pb2.ModelSpec(signature_name=signature),
            inputs={name: tf.make_tensor_proto(value, tf.as_dtype(value.dtype)) for name, value in inputs.items()},
        )
        (folder / f"{signature}.predict_request.pb").write_bytes(proto.SerializeToString())


def _plain(value: Array) -> Any:
    """Lists; bytes, which need not be text, in base64."""
    if value.dtype.kind != "O":
        return value.tolist()
    return [_plain(row) if isinstance(row, np.ndarray) else _text(row) for row in value]


def _text(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
