"""The gRPC services of TF Serving, on its published stubs."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from components.server.core import REQUEST_ID_HEADER, Caller, Core, Target
from components.server.errors import RequestError
from components.server.servable import Array, Servable, Signature
from components.server.tensors import from_proto, to_proto


def add_services(server: Any, core: Core) -> None:
    """Adds PredictionService and ModelService to a server of `grpc.aio`."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(core), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), server)


class RefusesWhatIsNoMessage(grpc.aio.ServerInterceptor):
    """Tells clients that their bytes are no request, such as text that is no UTF-8; gRPC would call that an error of the server."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a method, behind one that looks at the request first."""
        handler = await continuation(handler_call_details)
        if handler is None or not inspect.iscoroutinefunction(handler.unary_unary):
            return handler

        def parse(raw: bytes) -> Any:
            try:
                return handler.request_deserializer(raw)
            except DecodeError as error:
                return error

        async def answer(request: Any, context: Any) -> Any:
            if isinstance(request, DecodeError):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no request of {handler_call_details.method}: {request}"[:500])
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, parse, handler.response_serializer)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; what no exported policy has stays unimplemented.

    Args:
        core: Answers.
    """

    def __init__(self, core: Core):
        self._core = core

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers a PredictRequest."""
        limit = self._core.config.request_timeout_seconds
        remaining = context.time_remaining()
        deadline = time.monotonic() + (limit if remaining is None else min(remaining, limit))
        max_values = self._core.config.max_request_values

        def parse(_: Signature) -> Mapping[str, Array]:
            return {name: from_proto(name, proto, max_values) for name, proto in request.inputs.items()}

        try:
            caller = Caller.of(dict(context.invocation_metadata() or ()).get)
            answer = await self._core.predict(_target(request.model_spec), parse, deadline, "GRPC", caller)
        except RequestError as error:
            await _abort(context, error)
            raise
        await context.send_initial_metadata(((REQUEST_ID_HEADER, caller.request_id),))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self._core.name
        response.model_spec.version.value = answer.version
        response.model_spec.signature_name = answer.signature
        wanted = set(request.output_filter) or set(answer.outputs)
        for name, array in answer.outputs.items():
            if name in wanted:
                response.outputs[name].CopyFrom(to_proto(array))
        return response

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The signatures of a version."""
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        try:
            target = _target(request.model_spec)
            self._core.check_name(target.name)
            with self._core.versions.acquire(target.version, target.label) as held:
                response.metadata["signature_def"].Pack(metadata_of(held.servable))
                response.model_spec.version.value = held.servable.version
        except RequestError as error:
            await _abort(context, error)
        response.model_spec.name = self._core.name
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; what is served changes through files, not through calls.

    Args:
        core: Knows the versions.
    """

    def __init__(self, core: Core):
        self._core = core

    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """States of the versions."""
        response = get_model_status_pb2.GetModelStatusResponse()
        try:
            target = _target(request.model_spec)
            self._core.check_name(target.name)
            found = statuses(self._core, target)
        except RequestError as error:
            await _abort(context, error)
            raise
        for status in found:
            entry = response.model_version_status.add(version=int(status["version"]))
            entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(status["state"])
            entry.status.error_message = status["status"]["error_message"]
            entry.status.error_code = 0 if status["status"]["error_code"] == "OK" else 2
        return response


def statuses(core: Core, target: Target) -> list[dict[str, Any]]:
    """States of all versions, the latest first, or of the one that is meant.

    Raises:
        RequestError: That version is not known.
    """
    states = core.versions.states
    wanted = sorted(states, reverse=True)
    if target.version is not None or target.label is not None:
        known = target.version in states and target.label is None
        wanted = [target.version] if known and target.version is not None else [core.versions.resolve(target.version, target.label)]
    return [
        {
            "version": str(version),
            "state": states[version].state,
            "status": {"error_code": "UNKNOWN" if states[version].error else "OK", "error_message": states[version].error},
        }
        for version in wanted
    ]


def metadata_of(servable: Servable) -> Any:
    """The SignatureDefMap of a version."""
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        found.signature_def[name].CopyFrom(signature.definition)
    return found


def _target(spec: Any) -> Target:
    version = spec.version.value if spec.HasField("version") else None
    label = spec.version_label if spec.WhichOneof("version_choice") == "version_label" else None
    return Target(spec.name, version, label or None, spec.signature_name)


async def _abort(context: Any, error: RequestError) -> None:
    await context.abort(getattr(grpc.StatusCode, error.status.grpc_name), str(error))
