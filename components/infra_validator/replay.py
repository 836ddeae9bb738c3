"""Loads a SavedModel with nothing of longplay in the process and replays its warm-up requests.

Run by path, so that no package of ours is imported: `python replay.py MODEL_DIR`. Prints one JSON object: seconds to load,
seconds of each request, answers, and the operations of the graph.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: str) -> None:
    begun = time.monotonic()
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.apis import prediction_log_pb2

    imported = time.monotonic()
    model = tf.saved_model.load(folder)
    loaded = time.monotonic()
    answers, seconds = [], []
    warmup = Path(folder) / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(warmup)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        signature = model.signatures[request.model_spec.signature_name or "serving_default"]
        inputs = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        start = time.monotonic()
        answer = signature(**inputs)
        plain = {name: _plain(value) for name, value in answer.items()}
        seconds.append(time.monotonic() - start)
        answers.append(plain)
    proto = saved_model_pb2.SavedModel.FromString((Path(folder) / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    operations = {node.op for node in graph.node} | {node.op for function in graph.library.function for node in function.node_def}
    functions = {function.signature.name for function in graph.library.function}
    result = {
        "import_seconds": imported - begun,
        "load_seconds": loaded - imported,
        "request_seconds": seconds,
        "answers": answers,
        "operations": sorted(operations - functions),
        "tensorflow": tf.__version__,
    }
    print(json.dumps(result, allow_nan=True))


def _plain(value: Any) -> Any:
    array = value.numpy()
    if array.ndim == 1:
        return array.tolist()
    return [[item.decode() if isinstance(item, bytes) else float(item) for item in row] for row in array]


if __name__ == "__main__":
    main(sys.argv[1])
