"""Configuration of infra_validator."""

import pydantic

from schemas.config import Config


class InfraValidatorConfig(Config):
    """What an exported model must stand."""

    max_loading_seconds: float = pydantic.Field(default=300.0, gt=0.0)
    """Loading and all warm-up requests must be done by then, the start of the process included."""
    max_score_difference: float = pydantic.Field(default=1e-3, ge=0.0)
    """Scores may differ by this much from those at export; the items must be the same where scores are further apart."""
    max_request_milliseconds: float | None = pydantic.Field(default=5000.0, gt=0.0)
    """Greatest median time of a warm-up request on this machine; null does not ask. The default only stops what no server could bear: say
    what yours must."""
