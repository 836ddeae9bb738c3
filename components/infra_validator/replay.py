"""Loads a SavedModel in TensorFlow's C runtime and replays its warm-up requests, as a server would.

Run by path, so that no package of ours is imported: `python replay.py MODEL_DIR MEASURE_SECONDS`. The process has the shared
library of the TensorFlow wheel and nothing of its Python: what a graph needs of Python, or of a library that somebody loaded
before, is not there. Prints one JSON object: operations of the graph and those that the library does not know, seconds to load,
seconds of each request, seconds of requests of the smallest batch asked again and again, memory, and the answers.
"""

import ctypes
import importlib.util
import json
import math
import struct
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

_STRING = 7
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_}
"""NumPy types by TensorFlow's number; a served policy has no others, but for strings."""
_STRING_BYTES = 24
_MOST_SAMPLES = 2000
_INITIALISER = "__saved_model_init_op"


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def tensorflow_folder() -> Path:
    """Where the wheel is installed; nothing of it is imported."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("tensorflow is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    # Protocol buffers live below the package; a package of this name without TensorFlow's own __init__ is enough for them.
    package = types.ModuleType("tensorflow")
    package.__path__ = [str(folder)]
    sys.modules["tensorflow"] = package
    return folder


class Library:
    """The functions of the C library.

    Args:
        folder: The wheel's.
    """

    _POINTERS = (
        *("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph", "TF_NewBuffer", "TF_GetAllOpList", "TF_GraphOperationByName"),
        *("TF_LoadSessionFromSavedModel", "TF_AllocateTensor", "TF_TensorData", "TF_StringGetDataPointer"),
    )
    _SIZES = ("TF_Dim", "TF_TensorByteSize", "TF_StringGetSize")

    def __init__(self, folder: Path):
        ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
        self.c = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
        for name in self._POINTERS:
            getattr(self.c, name).restype = ctypes.c_void_p
        for name in self._SIZES:
            getattr(self.c, name).restype = ctypes.c_size_t
        for name in ("TF_Version", "TF_Message"):
            getattr(self.c, name).restype = ctypes.c_char_p
        self.status = ctypes.c_void_p(self.c.TF_NewStatus())

    def check(self, what: str) -> None:
        """Raises a RuntimeError where the last call failed."""
        if self.c.TF_GetCode(self.status):
            raise RuntimeError(f"{what}: {self.c.TF_Message(self.status).decode(errors='replace')}")

    def operations(self) -> set[str]:
        """Names of all operations that it knows."""
        from tensorflow.core.framework import op_def_pb2

        pointer = ctypes.c_void_p(self.c.TF_GetAllOpList())
        buffer = ctypes.cast(pointer, ctypes.POINTER(_Buffer)).contents
        found = {op.name for op in op_def_pb2.OpList.FromString(ctypes.string_at(buffer.data, buffer.length)).op}
        self.c.TF_DeleteBuffer(pointer)
        return found

    def tensor(self, array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
        """A tensor with a copy of an array; strings are bytes in an array of objects."""
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        if array.dtype == object:
            size = array.size * _STRING_BYTES
            tensor = ctypes.c_void_p(self.c.TF_AllocateTensor(_STRING, dims, array.ndim, ctypes.c_size_t(size)))
            data = self.c.TF_TensorData(tensor)
            for place, value in enumerate(array.ravel().tolist()):
                at = ctypes.c_void_p(data + place * _STRING_BYTES)
                self.c.TF_StringInit(at)
                self.c.TF_StringCopy(at, value, ctypes.c_size_t(len(value)))
            return tensor
        number = next(number for number, dtype in _DTYPES.items() if array.dtype == dtype)
        tensor = ctypes.c_void_p(self.c.TF_AllocateTensor(number, dims, array.ndim, ctypes.c_size_t(array.nbytes)))
        ctypes.memmove(self.c.TF_TensorData(tensor), np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return tensor

    def array(self, tensor: ctypes.c_void_p) -> np.ndarray[Any, Any]:
        """A copy of a tensor's values."""
        shape = [self.c.TF_Dim(tensor, place) for place in range(self.c.TF_NumDims(tensor))]
        data, kind = self.c.TF_TensorData(tensor), self.c.TF_TensorType(tensor)
        if kind == _STRING:
            texts = np.empty(math.prod(shape), object)
            for place in range(len(texts)):
                at = ctypes.c_void_p(data + place * _STRING_BYTES)
                texts[place] = ctypes.string_at(self.c.TF_StringGetDataPointer(at), self.c.TF_StringGetSize(at))
            return texts.reshape(shape)
        raw = ctypes.string_at(data, self.c.TF_TensorByteSize(tensor))
        return np.frombuffer(raw, _DTYPES[kind]).reshape(shape)


class Model:
    """A SavedModel in a session of the C library.

    Args:
        library: The library.
        folder: The model.
        meta_graph: Its MetaGraphDef.
    """

    def __init__(self, library: Library, folder: str, meta_graph: Any):
        self._library, c = library, library.c
        self.signatures = {name: found for name, found in meta_graph.signature_def.items() if name != _INITIALISER}
        self._graph = ctypes.c_void_p(c.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        options, read = ctypes.c_void_p(c.TF_NewSessionOptions()), ctypes.c_void_p(c.TF_NewBuffer())
        self._session = ctypes.c_void_p(
            c.TF_LoadSessionFromSavedModel(options, None, folder.encode(), tags, 1, self._graph, read, library.status)
        )
        library.check("the model cannot be loaded")

    def run(self, signature: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs of a signature by name; inputs that are left out have their defaults."""
        definition, c = self.signatures[signature], self._library.c
        given = {name: array_of(definition.defaults[name]) for name in definition.defaults} | dict(inputs)
        names, outputs = sorted(given), sorted(definition.outputs)
        sources = (_Output * len(names))(*(self._place(definition.inputs[name].name) for name in names))
        targets = (_Output * len(outputs))(*(self._place(definition.outputs[name].name) for name in outputs))
        fed = (ctypes.c_void_p * len(names))(*(self._library.tensor(given[name]).value for name in names))
        found = (ctypes.c_void_p * len(outputs))()
        status = self._library.status
        c.TF_SessionRun(self._session, None, sources, fed, len(names), targets, found, len(outputs), None, 0, None, status)
        for tensor in fed:
            c.TF_DeleteTensor(ctypes.c_void_p(tensor))
        self._library.check(f"signature {signature!r} fails")
        arrays = {name: self._library.array(ctypes.c_void_p(tensor)) for name, tensor in zip(outputs, found, strict=True)}
        for tensor in found:
            c.TF_DeleteTensor(ctypes.c_void_p(tensor))
        return arrays

    def _place(self, name: str) -> _Output:
        operation, _, index = name.partition(":")
        pointer = self._library.c.TF_GraphOperationByName(self._graph, operation.encode())
        if not pointer:
            raise RuntimeError(f"the graph has no {operation!r}, which a signature names")
        return _Output(pointer, int(index or 0))


def array_of(proto: Any) -> np.ndarray[Any, Any]:
    """The values of a TensorProto."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype == _STRING:
        values: Any = np.array([*proto.string_val, None], object)[:-1]
    elif proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, _DTYPES[proto.dtype])
    else:
        field = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val", 10: "bool_val"}[proto.dtype]
        values = np.array(getattr(proto, field), _DTYPES[proto.dtype])
    # The last value stands for all that follow.
    missing = math.prod(shape) - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing)]).reshape(shape)


def records(path: Path) -> Iterator[bytes]:
    """Records of a TFRecord file, with their checksums checked."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        head = content[place : place + 12]
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
        data = content[place + 12 : place + 12 + length]
        tail = content[place + 12 + length : place + 16 + length]
        if len(tail) < 4 or _checksum(head[:8]) != head[8:] or _checksum(data) != tail:
            raise RuntimeError(f"{path}: a record is damaged at byte {place}")
        yield data
        place += 16 + length


def _checksum(data: bytes) -> bytes:
    found = google_crc32c.value(data)
    return struct.pack("<I", (((found >> 15) | (found << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def graph_operations(meta_graph: Any) -> set[str]:
    """Operations of a graph and its functions."""
    graph = meta_graph.graph_def
    named = {node.op for node in graph.node} | {node.op for function in graph.library.function for node in function.node_def}
    return named - {function.signature.name for function in graph.library.function}


def measure(model: Model, requests: list[Any], seconds: float) -> dict[str, list[float]]:
    """Seconds of requests of the smallest batch, by signature, one after the other for a while."""
    smallest = min((rows for _, _, rows in requests), default=0)
    chosen = [(signature, inputs) for signature, inputs, rows in requests if rows == smallest]
    found: dict[str, list[float]] = {}
    end, count = time.monotonic() + seconds, 0
    while chosen and time.monotonic() < end and count < _MOST_SAMPLES:
        for signature, inputs in chosen:
            begun = time.perf_counter()
            model.run(signature, inputs)
            found.setdefault(signature, []).append(time.perf_counter() - begun)
            count += 1
    return found


def memory_megabytes(key: str) -> float:
    """`VmRSS`, what the process holds, or `VmHWM`, the most it held; 0 where the system does not say."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), 0.0)


def plain(array: np.ndarray[Any, Any]) -> Any:
    """JSON values of an array."""
    if array.dtype != object:
        return array.tolist()
    texts = [value.decode(errors="replace") for value in array.ravel().tolist()]
    return np.array([*texts, None], object)[:-1].reshape(array.shape).tolist()


def main(folder: str, seconds: float) -> None:
    library = Library(tensorflow_folder())
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.apis import prediction_log_pb2

    imported, before = time.monotonic(), memory_megabytes("VmRSS")
    saved = saved_model_pb2.SavedModel.FromString((Path(folder) / "saved_model.pb").read_bytes())
    meta_graph = next(graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
    operations = graph_operations(meta_graph)
    reply: dict[str, Any] = {
        "tensorflow": library.c.TF_Version().decode(),
        "operations": sorted(operations),
        "unknown_operations": sorted(operations - library.operations()),
        "answers": [],
        "request_seconds": [],
    }
    if not reply["unknown_operations"]:
        model = Model(library, folder, meta_graph)
        reply["load_seconds"] = time.monotonic() - imported
        requests: list[Any] = []
        for record in records(Path(folder) / "assets.extra" / "tf_serving_warmup_requests"):
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: array_of(proto) for name, proto in request.inputs.items()}
            signature = request.model_spec.signature_name or "serving_default"
            requests.append((signature, inputs, len(next(iter(inputs.values())))))
            start = time.monotonic()
            answer = model.run(signature, inputs)
            reply["request_seconds"].append(time.monotonic() - start)
            reply["answers"].append({name: plain(array) for name, array in answer.items()})
        reply["measured_seconds"] = measure(model, requests, seconds)
        reply["smallest_batch"] = min((rows for _, _, rows in requests), default=0)
        reply["memory_megabytes"] = {"before": before, "most": memory_megabytes("VmHWM")}
    print(json.dumps(reply, allow_nan=True))


if __name__ == "__main__":
    try:
        main(sys.argv[1], float(sys.argv[2]))
    except Exception as error:
        # What a person needs is the message; a damaged file has no use for the lines of this script.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
