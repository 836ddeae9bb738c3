"""Declaration of trainer."""

from collections.abc import Mapping
from typing import Any

from components.artifacts import ArtifactError, open_artifact
from components.base import Component, Port, Properties
from components.trainer.config import TrainerConfig
from schemas.config import ConfigError


def _describe(outputs: Mapping[str, Properties]) -> str:
    run = outputs["model_run"]
    return (
        f"{outputs['model']['algorithm']['name']}, {run['epochs']} epochs ({run['stopped']}), best {run['metric']} {run['best']:.4f}, "
        f"{run['median_transitions_per_second']:,.0f} transitions/s"
    )


def _starts_from_a_folder(config: TrainerConfig) -> bool:
    return config.warm_start_from not in (None, "latest_blessed")


def _model_to_start_from(config: TrainerConfig) -> Mapping[str, Any]:
    if not _starts_from_a_folder(config):
        return {}
    try:
        return {"warm_start_from": open_artifact(str(config.warm_start_from)).digest}
    except ArtifactError as error:
        raise ConfigError(f"trainer.warm_start_from: {error}") from None


TRAINER = Component(
    name="trainer",
    description="Trains a policy, resumes where it was stopped, keeps the best weights.",
    config=TrainerConfig,
    inputs={
        "examples": Port("Examples", "Trajectories."),
        "relabelled": Port("Examples", "The train split with relabelled returns; empty when relabelling is off."),
        "vocabulary": Port("Vocabulary", "The catalogue."),
        "neighbours": Port("Neighbours", "Which items occur in the same sessions."),
        "reward_model": Port("RewardModel", "What each event was worth on average; empty when its step is off."),
        "user_model": Port("UserModel", "What might have come; empty when its step is off."),
        "anomalies": Port("ExampleAnomalies", "Says that the trajectories are sound."),
        "audit": Port("LeakageAudit", "Says that evaluation data told them nothing."),
        "base_model": Port("Model", "Model to start from.", optional=True),
    },
    outputs={
        "model": Port("Model", "Configuration, weights and vocabulary."),
        "model_run": Port("ModelRun", "Training curves and TensorBoard logs."),
    },
    external_state=_model_to_start_from,
    looks_outside=_starts_from_a_folder,
    describe=_describe,
    several_workers=True,
)
