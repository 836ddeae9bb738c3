"""Declaration of bulk_inferrer."""

from collections.abc import Mapping
from typing import Any

from components.base import Component, Port, Properties
from components.bulk_inferrer.config import BulkInferrerConfig
from components.datasets.files import file_states

HISTORIES_KEY = "bulk_inferrer.histories"


def _describe(outputs: Mapping[str, Properties]) -> str:
    made = outputs["inference_result"]
    if not made["inferred"]:
        return "; ".join(made["reasons"])
    bad = f", {made['quarantined']:,} rows in quarantine" if made["quarantined"] else ""
    return f"{made['items']:,} items for {made['answered']:,} histories as {made['format']}{bad}"


def _files(config: BulkInferrerConfig) -> Mapping[str, Any]:
    if not config.enabled or config.histories is None:
        return {}
    return {"files": file_states([config.histories], HISTORIES_KEY)}


BULK_INFERRER = Component(
    name="bulk_inferrer",
    description="Recommends for all sessions of a split or for histories in files; off unless asked for.",
    config=BulkInferrerConfig,
    inputs={
        "serving_model": Port("ServingModel", "The exported model."),
        "blessing": Port("ModelBlessing", "Verdict on its quality."),
        "infra_blessing": Port("InfraBlessing", "Verdict on its loading."),
        "examples": Port("Examples", "Sessions to recommend for."),
        "vocabulary": Port("Vocabulary", "Names of their items."),
    },
    outputs={"inference_result": Port("InferenceResult", "Recommendations, in one file for each shard of histories.")},
    external_state=_files,
    looks_outside=lambda config: config.enabled and config.histories is not None,
    describe=_describe,
)
