"""Configuration of infra_validator."""

from typing import Literal

import pydantic

from schemas.config import Config


class InfraValidatorConfig(Config):
    """What an exported model must stand."""

    max_loading_seconds: float = pydantic.Field(default=300.0, gt=0.0)
    """Loading, all warm-up requests and the measurement must be done by then, the start of the process included."""
    max_score_difference: float = pydantic.Field(default=1e-3, ge=0.0)
    """Scores may differ by this much from those at export; the items must be the same where scores are further apart."""
    measure_seconds: float = pydantic.Field(default=2.0, ge=0.0)
    """How long requests of the smallest batch are asked again and again."""
    max_p50_milliseconds: float | None = pydantic.Field(default=None, gt=0.0)
    """Half of the requests of the smallest batch, of each signature, must be answered within this; null does not ask."""
    max_p99_milliseconds: float | None = pydantic.Field(default=1000.0, gt=0.0)
    """99 in a hundred must be answered within this; null does not ask."""
    max_memory_megabytes: float | None = pydantic.Field(default=None, gt=0.0)
    """The most that the process may have held, the runtime included; null does not ask."""
    model_server: Literal["auto", "off"] = "auto"
    """`auto`: where tensorflow_model_server is installed, the requests are replayed on it, too."""
