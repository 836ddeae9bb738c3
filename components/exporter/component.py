"""Declaration of exporter."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.exporter.config import ExporterConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    served = outputs["serving_model"]
    return f"{', '.join(served['signatures'])}: top {served['k']} of {served['num_items'] - 1:,} items"


EXPORTER = Component(
    name="exporter",
    description="Exports the model as a SavedModel with item names in and out, and requests that warm a server up.",
    config=ExporterConfig,
    inputs={"model": Port("Model", "The model."), "examples": Port("Examples", "Where warm-up histories come from.")},
    outputs={"serving_model": Port("ServingModel", "Format-Serving/: the SavedModel; expected.json: answers to its warm-up requests.")},
    describe=_describe,
)
