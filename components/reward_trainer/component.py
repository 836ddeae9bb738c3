"""Declaration of reward_trainer."""

from collections.abc import Mapping
from typing import Any

from components.base import Component, Port, Properties
from components.datasets.files import file_states
from components.reward_trainer.config import RewardTrainerConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    model = outputs["reward_model"]
    if not model["enabled"]:
        return "off: estimator is null"
    measured = [f"{name} {model['metrics'][name]:.4f}" for name in ("auc", "explained", "calibration_error") if name in model["metrics"]]
    verdict = "may be used" if model["blessed"] else f"may not be used: {'; '.join(model['reasons'])}"
    return f"{model['estimator']['name']}, {', '.join(measured)}; {verdict}"


def _feature_files(config: RewardTrainerConfig) -> Mapping[str, Any]:
    return {name: file_states([path], f"reward_trainer.{name}") for name, path in config.feature_files().items()}


REWARD_TRAINER = Component(
    name="reward_trainer",
    description="Trains an estimate of every event's reward, calibrates it, and says whether it may be used.",
    config=RewardTrainerConfig,
    inputs={
        "examples": Port("Examples", "Trajectories."),
        "vocabulary": Port("Vocabulary", "The catalogue."),
        "anomalies": Port("ExampleAnomalies", "Says that the trajectories are sound."),
    },
    outputs={"reward_model": Port("RewardModel", "Configuration, weights, vocabulary, measures and verdict; empty when off.")},
    external_state=_feature_files,
    looks_outside=lambda config: bool(config.feature_files()),
    describe=_describe,
)
