"""Work of exporter."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifacts import EXPECTED_FILE, SERVING_FOLDER, Artifact, write_json
from components.base import Context, Properties
from components.exporter.config import ExporterConfig
from components.model_io import LoadedModel, load_model
from components.trajectory_gen.vocabulary import ITEM
from components.trajectory_io import ordered_batches, shard_files
from models.frameworks import tf
from models.serving import ReturnServedPolicy, ServedPolicy
from schemas import serving


def execute(
    config: ExporterConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    model = load_model(inputs["model"])
    folder = outputs["serving_model"] / SERVING_FOLDER
    with context.progress.task("export"):
        export(model, folder, config.k)
    requests = _requests(model, inputs["examples"], config)
    write_warmup(folder / serving.WARMUP_FILE, requests)
    # What the exported function answers here; another process has to give the same.
    loaded = tf.saved_model.load(str(folder))
    answers = [
        loaded.signatures[_signature(request)](**{name: tf.constant(value) for name, value in request.items()}) for request in requests
    ]
    write_json(outputs["serving_model"] / EXPECTED_FILE, [_plain(answer) for answer in answers])
    return {
        "serving_model": {
            "k": config.k,
            "max_steps": model.config.max_steps,
            "num_items": model.algorithm.catalogue.num_items,
            "signatures": sorted({_signature(request) for request in requests}),
            "warmup_requests": len(requests),
            "model": inputs["model"].digest,
        }
    }


def export(model: LoadedModel, folder: Path, k: int) -> None:
    """Writes the SavedModel."""
    with tempfile.TemporaryDirectory() as temporary:
        # The file's name is kept as the asset's.
        items = Path(temporary) / "items.txt"
        items.write_text("".join(f"{name}\n" for name in model.vocabulary[ITEM].to_pylist()), encoding="utf-8")
        if not model.algorithm.is_return_conditioned:
            served = ServedPolicy(model.algorithm, str(items), k)
            tf.saved_model.save(served, str(folder), signatures={serving.SERVING_DEFAULT: served.serve})
            return
        told = ReturnServedPolicy(model.algorithm, str(items), k)
        signatures = {serving.SERVING_DEFAULT: told.serve, serving.SERVING_RETURN: told.serve_return}
        tf.saved_model.save(told, str(folder), signatures=signatures)


def write_warmup(path: Path, requests: list[dict[str, npt.NDArray[Any]]]) -> None:
    """Writes requests as TF Serving replays them when it loads a model: a TFRecord of PredictionLog."""
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            proto = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="longplay", signature_name=_signature(request)),
                inputs={name: tf.make_tensor_proto(value, tf.as_dtype(value.dtype)) for name, value in request.items()},
            )
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=proto))
            writer.write(log.SerializeToString())


def _signature(request: Mapping[str, Any]) -> str:
    return serving.SERVING_RETURN if serving.TARGET_RETURN in request else serving.SERVING_DEFAULT


def _requests(model: LoadedModel, examples: Artifact, config: ExporterConfig) -> list[dict[str, npt.NDArray[Any]]]:
    """Histories of the test split in each batch size; one of each size is empty and one holds an unknown item."""
    names = np.array(["", *model.vocabulary[ITEM].to_pylist(), "(unknown)"], dtype=object)
    rows = [row for batch in ordered_batches(shard_files(examples, "test"), 256).take(4) for row in batch.item_id.numpy()]
    # Without a record there is still the catalogue, the most popular item first.
    rows = rows or [np.array([item]) for item in range(1, min(len(names) - 1, 256))]
    rng = np.random.default_rng(0)
    requests = []
    for size in config.warmup_batch_sizes:
        for number in range(config.num_warmup_requests):
            chosen = [rows[i] for i in rng.integers(0, len(rows), size)]
            history = np.full((size, max(1, max(len(row) for row in chosen))), "", dtype=object)
            for place, row in enumerate(chosen):
                history[place, : len(row)] = names[row]
            if number == 1:
                history[0] = ""
            elif number == 2:
                history[0, 0] = "(unknown)"
            exclude = history[:, -1:] if number == 3 else np.full((size, 1), "", dtype=object)
            requests.append({serving.ITEM_HISTORY: history, serving.EXCLUDE: exclude})
            if model.algorithm.is_return_conditioned:
                # The first row says nothing, the others ask for more and more, with rewards that are not known at first.
                target = np.where(np.arange(size) > 0, np.arange(size), np.nan).astype(np.float32)
                reward = np.where(np.arange(history.shape[1]) > number, 0.2, np.nan).astype(np.float32)
                told = {serving.TARGET_RETURN: target, serving.REWARD_HISTORY: np.tile(reward, (size, 1))}
                requests.append({**requests[-1], **told})
    return requests[: serving.MAX_WARMUP_RECORDS]


def _plain(answer: Mapping[str, tf.Tensor]) -> dict[str, Any]:
    return {
        serving.ITEM_ID: [[item.decode() for item in row] for row in answer[serving.ITEM_ID].numpy()],
        serving.SCORE: [[round(float(score), 6) for score in row] for row in answer[serving.SCORE].numpy()],
    }
