"""Declaration of pusher."""

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import Artifact
from components.base import Component, Port, Properties
from components.pusher.config import PusherConfig
from schemas.serving import SAVED_MODEL_FILE


def _still_there(outputs: Mapping[str, Artifact]) -> bool:
    pushed = outputs["pushed_model"].properties
    return not pushed["pushed"] or (Path(pushed["path"]) / SAVED_MODEL_FILE).is_file()


def _describe(outputs: Mapping[str, Properties]) -> str:
    pushed = outputs["pushed_model"]
    return f"version {pushed['version']} in {pushed['path']}" if pushed["pushed"] else "not pushed: " + "; ".join(pushed["reasons"])


PUSHER = Component(
    name="pusher",
    description="Pushes the model as the next version, if it is blessed and loads.",
    config=PusherConfig,
    inputs={
        "serving_model": Port("ServingModel", "The exported model."),
        "blessing": Port("ModelBlessing", "Verdict on its quality."),
        "infra_blessing": Port("InfraBlessing", "Verdict on its loading."),
        "evaluation": Port("ModelEvaluation", "Metrics, for the model card."),
        "audit": Port("LeakageAudit", "Checks for leaks, for the model card."),
    },
    outputs={"pushed_model": Port("PushedModel", "Where it went, or why it went nowhere.")},
    outputs_hold=_still_there,
    describe=_describe,
)
