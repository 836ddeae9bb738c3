"""Work of exporter."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from components.artifacts import EXPECTED_FILE, SERVING_FOLDER, Artifact, write_json
from components.base import Context, Properties
from components.exporter.config import ExporterConfig
from components.exporter.examples import write_examples
from components.exporter.retrieval import choose_retrieval
from components.exporter.warmup import sample_histories, warmup_requests, write_warmup
from components.feature_files import read_tags
from components.model_io import LoadedModel, load_model
from components.trajectory_gen.vocabulary import ITEM
from models.frameworks import tf
from models.item_tags import item_tags
from models.serving import ReturnServedPolicy, ServedPolicy
from schemas import serving


def execute(
    config: ExporterConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    model = load_model(inputs["model"])
    folder = outputs["serving_model"] / SERVING_FOLDER
    histories = sample_histories(model, inputs["examples"])
    with context.progress.task("export"):
        retrieval = choose_retrieval(config.retrieval, model, histories, config.k, context.progress)
        tags = {} if config.item_tags is None else read_tags("exporter.item_tags", config.item_tags, model.vocabulary[ITEM])
        export(model, folder, config.k, tags, retrieval.tables)
    requests = warmup_requests(model, histories, config)
    write_warmup(folder / serving.WARMUP_FILE, requests)
    write_examples(outputs["serving_model"] / serving.EXAMPLES_FOLDER, requests)
    # What the exported function answers here; another process has to give the same.
    loaded = tf.saved_model.load(str(folder))
    answers = [
        loaded.signatures[request.signature](**{name: tf.constant(value) for name, value in request.inputs.items()}) for request in requests
    ]
    write_json(outputs["serving_model"] / EXPECTED_FILE, [_plain(answer) for answer in answers])
    return {
        "serving_model": {
            "k": config.k,
            "max_steps": model.config.max_steps,
            "num_items": model.algorithm.catalogue.num_items,
            "signatures": sorted(loaded.signatures),
            "retrieval": dict(retrieval.stated),
            "warmup_requests": len(requests),
            "model": inputs["model"].digest,
        }
    }


def export(
    model: LoadedModel,
    folder: Path,
    k: int,
    tags: Mapping[str, Sequence[int]] = MappingProxyType({}),
    tables: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes the SavedModel.

    Args:
        model: The policy.
        folder: Where to.
        k: K.
        tags: Tag to items of it by id.
        tables: Head to a table that is searched, in place of the head's own.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # The file's name is kept as the asset's.
        items = Path(temporary) / "items.txt"
        items.write_text("".join(f"{name}\n" for name in model.vocabulary[ITEM].to_pylist()), encoding="utf-8")
        tagged = item_tags(tags, model.algorithm.catalogue.num_items, Path(temporary) / "tags.txt") if tags else None
        kind = ReturnServedPolicy if model.algorithm.is_return_conditioned else ServedPolicy
        served = kind(model.algorithm, str(items), k, tagged, tables)
        tf.saved_model.save(served, str(folder), signatures=served.signatures())


def _plain(answer: Mapping[str, tf.Tensor]) -> dict[str, Any]:
    plain = {name: value.numpy().tolist() for name, value in answer.items()}
    plain[serving.SCORE] = [[round(score, 6) for score in row] for row in plain[serving.SCORE]]
    if serving.ITEM_ID in plain:
        plain[serving.ITEM_ID] = [[item.decode() for item in row] for row in plain[serving.ITEM_ID]]
    return plain
