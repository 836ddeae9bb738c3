"""Declaration of exporter."""

from collections.abc import Mapping
from typing import Any

from components.base import Component, Port, Properties
from components.datasets.files import file_states
from components.exporter.config import ExporterConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    served = outputs["serving_model"]
    said = f"{', '.join(served['signatures'])}: top {served['k']} of {served['num_items'] - 1:,} items"
    search = served["retrieval"]
    if search["method"] == "exact":
        return said
    return f"{said}, {search['probes']:,} of {search['blocks']:,} blocks searched, recall {search['recall@' + str(served['k'])]:.3f}"


def _tag_files(config: ExporterConfig) -> Mapping[str, Any]:
    return {} if config.item_tags is None else {"item_tags": file_states([config.item_tags], "exporter.item_tags")}


EXPORTER = Component(
    name="exporter",
    description="Exports the model as a SavedModel with item names in and out, and requests that warm a server up.",
    config=ExporterConfig,
    inputs={"model": Port("Model", "The model."), "examples": Port("Examples", "Where warm-up histories come from.")},
    outputs={"serving_model": Port("ServingModel", "Format-Serving/: the SavedModel; expected.json: answers to its warm-up requests.")},
    external_state=_tag_files,
    looks_outside=lambda config: config.item_tags is not None,
    describe=_describe,
)
