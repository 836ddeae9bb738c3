"""Declaration of relabeller."""

from collections.abc import Mapping
from typing import Any

from components.artifacts import ArtifactError, open_artifact
from components.base import Component, Port, Properties
from components.relabeller.config import RelabellerConfig
from schemas.config import ConfigError


def _describe(outputs: Mapping[str, Properties]) -> str:
    made = outputs["relabelled"]
    if not made["relabelled"]:
        return "off"
    return f"{made['raised_share']:.1%} of {made['events']:,} returns raised, mean {made['mean'][0]:.4g} to {made['mean'][1]:.4g}"


def _folders(config: RelabellerConfig) -> dict[str, str]:
    if not config.enabled:
        return {}
    named = {"q_model": config.q_model} if config.q_model else {"q_function.warm_start_from": config.q_function.warm_start_from}
    return {key: folder for key, folder in named.items() if folder is not None}


def _models(config: RelabellerConfig) -> Mapping[str, Any]:
    try:
        return {key: open_artifact(folder).digest for key, folder in _folders(config).items()}
    except ArtifactError as error:
        raise ConfigError(f"relabeller.{' or '.join(_folders(config))}: {error}") from None


RELABELLER = Component(
    name="relabeller",
    description="Raises returns to what a conservative value function says could still have come; off unless asked for.",
    config=RelabellerConfig,
    inputs={
        "examples": Port("Examples", "Trajectories."),
        "vocabulary": Port("Vocabulary", "The catalogue."),
        "anomalies": Port("ExampleAnomalies", "Says that the trajectories are sound."),
    },
    outputs={
        "relabelled": Port("Examples", "Split-train with other returns, else the same records; empty when relabelling is off."),
        "q_function": Port("Model", "The value function; empty when relabelling is off."),
    },
    external_state=_models,
    looks_outside=lambda config: bool(_folders(config)),
    describe=_describe,
)
