"""Declaration of user_model_trainer."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.user_model_trainer.config import UserModelTrainerConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    model = outputs["user_model"]
    if not model["enabled"]:
        return "off: model is null"
    found = model["metrics"]
    measured = [f"{name} {found[name]:.4f}" for name in ("explained", "calibration_error", "leaving/auc") if name in found]
    verdict = "may be used" if model["blessed"] else f"may not be used: {'; '.join(model['reasons'])}"
    return f"debiasing {model['model']['debiasing']}, {', '.join(measured)}; {verdict}"


USER_MODEL_TRAINER = Component(
    name="user_model_trainer",
    description="Trains a model of what items earn, what comes next and when users leave, and says whether it may be used.",
    config=UserModelTrainerConfig,
    inputs={
        "examples": Port("Examples", "Trajectories."),
        "vocabulary": Port("Vocabulary", "The catalogue."),
        "neighbours": Port("Neighbours", "Which items occur in the same sessions."),
        "anomalies": Port("ExampleAnomalies", "Says that the trajectories are sound."),
    },
    outputs={"user_model": Port("UserModel", "Configuration, weights, vocabulary, measures and verdict; empty when off.")},
    describe=_describe,
)
