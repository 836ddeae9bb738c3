"""Configuration of example_validator."""

from typing import Literal

from schemas.config import Config

OnAnomaly = Literal["fail", "warn"]


class ExampleValidatorConfig(Config):
    """What to do about anomalies; the anomalies artifact is written either way."""

    on_schema_anomaly: OnAnomaly = "fail"
    """Records that break the schema: missing features, wrong types, values out of bounds."""
    on_skew: OnAnomaly = "fail"
    """The eval split is distributed differently from the train split, by more than the schema's thresholds."""
    on_drift: OnAnomaly = "fail"
    """The train split is distributed differently from the previous run's, by more than the schema's thresholds."""
