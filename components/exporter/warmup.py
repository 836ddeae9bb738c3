"""Requests that warm a server up, of every signature and batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifacts import Artifact
from components.exporter.config import ExporterConfig
from components.model_io import LoadedModel
from components.trajectory_gen.vocabulary import ITEM
from components.trajectory_io import ordered_batches, shard_files
from models.frameworks import tf
from schemas import serving

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Request:
    """Arrays for a signature."""

    signature: str
    inputs: Mapping[str, Array]


def write_warmup(path: Path, requests: list[Request]) -> None:
    """Writes requests as TF Serving replays them when it loads a model: a TFRecord of PredictionLog."""
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            proto = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="longplay", signature_name=request.signature),
                inputs={name: tf.make_tensor_proto(value, tf.as_dtype(value.dtype)) for name, value in request.inputs.items()},
            )
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=proto))
            writer.write(log.SerializeToString())


def sample_histories(model: LoadedModel, examples: Artifact) -> list[Array]:
    """Some sessions of the test split, items by id without padding."""
    batches = ordered_batches(shard_files(examples, "test"), 256).take(4)
    rows = [row[:length] for batch in batches for row, length in zip(batch.item_id.numpy(), batch.length.numpy(), strict=True)]
    # Without a record there is still the catalogue, the most popular item first.
    return rows or [np.array([item]) for item in range(1, min(model.algorithm.catalogue.num_items, 256))]


def warmup_requests(model: LoadedModel, rows: list[Array], config: ExporterConfig) -> list[Request]:
    """Histories in each batch size; one of each size is empty and one holds an unknown item.

    The default signature gets all of them, the others one of each size with everything that they take.

    Args:
        model: The policy.
        rows: Histories to draw from, items by id.
        config: Sizes and numbers.
    """
    names = np.array(["", *model.vocabulary[ITEM].to_pylist(), "(unknown)"], dtype=object)
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
            default = {serving.ITEM_HISTORY: history, serving.EXCLUDE: exclude}
            requests.append(Request(serving.SERVING_DEFAULT, default))
            told: dict[str, Array] = {}
            if model.algorithm.is_return_conditioned:
                # The first row says nothing, the others ask for more and more, with rewards that are not known at first.
                target = np.where(np.arange(size) > 0, np.arange(size), np.nan).astype(np.float32)
                reward = np.where(np.arange(history.shape[1]) > number, 0.2, np.nan).astype(np.float32)
                told = {serving.TARGET_RETURN: target, serving.REWARD_HISTORY: np.tile(reward, (size, 1))}
                requests.append(Request(serving.SERVING_RETURN, {**default, **told}))
            if number == 0:
                requests.extend(_others(default, told, names[1 : 1 + 2 * config.k]))
    return requests[: serving.MAX_WARMUP_RECORDS]


def _others(default: Mapping[str, Array], told: Mapping[str, Array], items: Array) -> Iterator[Request]:
    """Requests for the signatures beside the default one."""
    history = default[serving.ITEM_HISTORY]
    size, nothing = len(history), np.full((len(history), 1), "", dtype=object)
    candidates = np.tile(items, (size, 1))
    plain = {**default, serving.CANDIDATES: nothing, serving.ALLOW_TAGS: nothing, serving.NUM_WANTED: np.full(size, 10, np.int32)}
    yield Request(serving.RECOMMEND, {**plain, **told})
    yield Request(serving.RECOMMEND, {**plain, serving.CANDIDATES: candidates, **told})
    chance = {
        serving.REQUEST_ID: np.array([f"warm-up-{row}" for row in range(size)], dtype=object),
        serving.TEMPERATURE: np.ones(size, np.float32),
        serving.EPSILON: np.full(size, 0.1, np.float32),
    }
    yield Request(serving.EXPLORE, {**plain, **chance, **told})
    yield Request(serving.SCORE_CANDIDATES, {serving.ITEM_HISTORY: history, serving.CANDIDATES: candidates, **told})
    yield Request(serving.SERVING_EXAMPLES, {serving.EXAMPLES: np.array([example(row) for row in history], dtype=object)})


def example(history: Array) -> bytes:
    """A history as a serialized tf.Example; padding is left out."""
    values = [item.encode() for item in history.tolist() if item]
    feature = {serving.ITEM_HISTORY: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))}
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    return serialized
