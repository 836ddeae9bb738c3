"""Replays warm-up requests on TF Serving itself, where it is installed."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from models.frameworks import tf
from schemas import serving

_NAME = "validated"
_POLL_SECONDS = 0.2


class ModelServerError(Exception):
    """A server that does not load the model or does not answer; the message says why."""


def answers_of(binary: str, model: Path, timeout: float) -> list[dict[str, Any]]:
    """Outputs of every warm-up request of a model, as JSON values.

    Args:
        binary: The program.
        model: The SavedModel.
        timeout: Seconds for everything.

    Raises:
        ModelServerError: It does not load the model in time, or refuses a request.
    """
    end = time.monotonic() + timeout
    with _server(binary, model) as (process, address, log), grpc.insecure_channel(address) as channel:
        _wait(process, channel, log, end)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answers = []
        for number, record in enumerate(tf.data.TFRecordDataset(str(model / serving.WARMUP_FILE)).as_numpy_iterator()):
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            request.model_spec.name = _NAME
            try:
                answer = stub.Predict(request, timeout=max(0.0, end - time.monotonic()))
            except grpc.RpcError as error:
                raise ModelServerError(f"request {number}: {error.code().name}: {error.details()}"[:500]) from None
            answers.append({name: _plain(tf.make_ndarray(proto)) for name, proto in answer.outputs.items()})
        return answers


@contextmanager
def _server(binary: str, model: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The process, its address and its log; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="longplay-infra-") as temporary:
        base, log = Path(temporary) / _NAME, Path(temporary) / "log"
        base.mkdir()
        (base / "1").symlink_to(model.resolve(), target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [f"--port={port}", "--rest_api_port=0", f"--model_name={_NAME}", f"--model_base_path={base}"]
        with log.open("wb") as output:
            process = subprocess.Popen([binary, *arguments, "--enable_model_warmup=true"], stdout=output, stderr=output)
        try:
            yield process, f"127.0.0.1:{port}", log
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], channel: grpc.Channel, log: Path, end: float) -> None:
    """Returns when the model answers."""
    stub, request = model_service_pb2_grpc.ModelServiceStub(channel), get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = _NAME
    states = get_model_status_pb2.ModelVersionStatus
    while True:
        if process.poll() is not None:
            raise ModelServerError(f"the process ended with code {process.returncode}: {_last_lines(log)}")
        if time.monotonic() > end:
            raise ModelServerError(f"not loaded and warmed up within infra_validator.max_loading_seconds: {_last_lines(log)}")
        try:
            found = stub.GetModelStatus(request, timeout=1.0).model_version_status
        except grpc.RpcError:
            found = []
        if any(version.state == states.AVAILABLE for version in found):
            return
        failed = [version.status.error_message for version in found if version.state == states.END]
        if failed:
            raise ModelServerError(f"the model cannot be loaded: {failed[0]}"[:500])
        time.sleep(_POLL_SECONDS)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[:500]


def _plain(array: Any) -> Any:
    if array.dtype.kind not in "OSU":
        return array.tolist()
    return [[item.decode(errors="replace") for item in row] for row in array.astype(object).tolist()]
