"""One version of a model in memory, run through a session of the C++ runtime, as TF Serving does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.server.errors import RequestError, Status, invalid
from components.tf_errors import telling_line
from models.frameworks import tf
from schemas import serving

Array = npt.NDArray[Any]

_SERVE_TAG = "serve"
_INITIALISER = "__saved_model_init_op"


class LoadError(RuntimeError):
    """A version that cannot be served; the message says why."""


@dataclass(frozen=True)
class Spec:
    """An input or output of a signature.

    Attributes:
        dtype: NumPy type; `object` for strings.
        shape: Sizes, None where any will do; None altogether where any rank will do.
    """

    dtype: npt.DTypeLike
    shape: tuple[int | None, ...] | None

    @property
    def is_batched(self) -> bool:
        """True where the first dimension counts rows."""
        return bool(self.shape) and self.shape[0] is None  # type: ignore[index]


@dataclass(frozen=True)
class Signature:
    """One function of a model.

    Attributes:
        name: Its name.
        inputs: Name to spec.
        outputs: Name to spec.
        defaults: Values of the inputs that a request may leave out.
        definition: The SignatureDef.
        call: Arrays in order of `inputs` to arrays in order of `outputs`.
    """

    name: str
    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]
    defaults: Mapping[str, Array]
    definition: Any
    call: Callable[..., list[Array]]

    @property
    def is_batched(self) -> bool:
        """True where rows go in and as many rows come out."""
        return all(spec.is_batched for spec in (*self.inputs.values(), *self.outputs.values()))

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Compares inputs with what the signature takes.

        Raises:
            RequestError: Names, types or shapes differ.
        """
        unknown = sorted(set(inputs) - set(self.inputs))
        missing = sorted(set(self.inputs) - set(inputs) - set(self.defaults))
        if unknown or missing:
            known = ", ".join(f"{name} (optional)" if name in self.defaults else name for name in self.inputs)
            parts = [f"unknown inputs {unknown}"] * bool(unknown) + [f"missing inputs {missing}"] * bool(missing)
            raise invalid(f"signature {self.name!r}: {' and '.join(parts)}; it takes {known}")
        for name, array in inputs.items():
            spec = self.inputs[name]
            if array.dtype != np.dtype(spec.dtype):
                raise invalid(f"input {name!r}: found {_type_name(array.dtype)}, expected {_type_name(spec.dtype)}")
            fits = spec.shape is None or (
                len(spec.shape) == array.ndim and all(size in (None, found) for size, found in zip(spec.shape, array.shape, strict=True))
            )
            if not fits:
                raise invalid(f"input {name!r}: found shape {list(array.shape)}, expected {_shape_text(spec.shape)}")


class Servable:
    """A version that is loaded; its session is closed by `close`.

    Args:
        folder: The SavedModel.
        version: Its number.

    Raises:
        LoadError: It cannot be loaded.
    """

    def __init__(self, folder: Path, version: int):
        self.folder, self.version = folder, version
        graph = tf.Graph()
        self._session: Any = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, [_SERVE_TAG], str(folder))
            self.signatures = {
                name: self._signature(name, definition)
                for name, definition in sorted(meta_graph.signature_def.items())
                if name != _INITIALISER
            }
        except Exception as error:
            # TensorFlow and protobuf raise whatever they please on damaged files.
            _free(self._session)
            raise LoadError(f"{type(error).__name__}: {telling_line(error)}") from None

    def _signature(self, name: str, definition: Any) -> Signature:
        inputs = {key: _spec(info) for key, info in sorted(definition.inputs.items())}
        outputs = {key: _spec(info) for key, info in sorted(definition.outputs.items())}
        call = self._session.make_callable(
            [definition.outputs[key].name for key in outputs], feed_list=[definition.inputs[key].name for key in inputs]
        )
        defaults = {key: _object_strings(tf.make_ndarray(proto)) for key, proto in definition.defaults.items()}
        return Signature(name, inputs, outputs, defaults, definition, call)

    def signature(self, name: str) -> Signature:
        """A signature by name; "" is the default one.

        Raises:
            RequestError: There is none of this name.
        """
        found = self.signatures.get(name or serving.SERVING_DEFAULT)
        if found is None:
            raise invalid(f"version {self.version} has no signature {name!r}; it has {', '.join(self.signatures)}")
        return found

    def run(self, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            RequestError: The graph does not take these inputs, or fails.
        """
        arrays = [inputs[name] if name in inputs else signature.defaults[name] for name in signature.inputs]
        try:
            return dict(zip(signature.outputs, signature.call(*arrays), strict=True))
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.UnimplementedError) as error:
            raise invalid(f"signature {signature.name!r}: {telling_line(error)}") from None
        except tf.errors.ResourceExhaustedError as error:
            raise RequestError(Status.REQUEST_TOO_LARGE, f"signature {signature.name!r}: {telling_line(error)}") from None
        except Exception as error:
            raise RequestError(Status.INTERNAL, f"signature {signature.name!r}: {type(error).__name__}: {telling_line(error)}") from None

    def warm_up(self) -> int:
        """Replays the requests that came with the model; returns how many.

        Raises:
            LoadError: A request fails.
        """
        from components.server.tensors import from_proto

        count = 0
        try:
            for request in warmup_requests(self.folder):
                signature = self.signature(request.model_spec.signature_name)
                inputs = {name: from_proto(name, proto) for name, proto in request.inputs.items()}
                signature.check(inputs)
                self.run(signature, inputs)
                count += 1
        except Exception as error:
            raise LoadError(f"warm-up request {count}: {type(error).__name__}: {telling_line(error)}") from None
        return count

    def close(self) -> None:
        """Frees the memory; nothing may run any more."""
        _free(self._session)
        self._session, self.signatures = None, {}


def _free(session: Any) -> None:
    """Closes a session and takes its graph apart.

    A graph and its operations hold each other. Left whole, a version's graph would stay in memory until Python's collector comes
    by, which it seldom does to what has lived for long, and a collection that is asked for holds up all requests.
    """
    from tensorflow.python.framework import ops

    graph = session.graph
    session.close()
    ops.dismantle_graph(graph)


def warmup_requests(folder: Path) -> Iterator[Any]:
    """PredictRequests of a SavedModel's warm-up file, in order; none where there is no file."""
    from tensorflow_serving.apis import prediction_log_pb2

    path = folder / serving.WARMUP_FILE
    if path.is_file():
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.HasField("predict_log"):
                yield log.predict_log.request


def _spec(info: Any) -> Spec:
    dtype = np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)
    shape = None if info.tensor_shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return Spec(dtype, shape)


def _object_strings(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind in "SU" else array


def _type_name(dtype: npt.DTypeLike) -> str:
    return "string" if np.dtype(dtype).kind == "O" else str(np.dtype(dtype))


def _shape_text(shape: tuple[int | None, ...] | None) -> str:
    return "any" if shape is None else "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
