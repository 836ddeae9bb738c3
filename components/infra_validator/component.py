"""Declaration of infra_validator."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.infra_validator.config import InfraValidatorConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    return "; ".join(outputs["infra_blessing"]["reasons"])


INFRA_VALIDATOR = Component(
    name="infra_validator",
    description="Loads the SavedModel in a second process, without Python, and replays its warm-up requests.",
    config=InfraValidatorConfig,
    inputs={"serving_model": Port("ServingModel", "The exported model.")},
    outputs={"infra_blessing": Port("InfraBlessing", "INFRA_BLESSED or INFRA_NOT_BLESSED.")},
    describe=_describe,
)
