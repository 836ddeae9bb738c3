"""Configuration of statistics_gen."""

import pydantic

from schemas.config import Config


class StatisticsGenConfig(Config):
    """Statistics of the trajectories."""

    num_histogram_buckets: int = pydantic.Field(default=20, ge=2)
    """Buckets of each standard histogram."""
    num_top_values: int = pydantic.Field(default=20, ge=1)
    """Most frequent values kept for text features."""
    sample_rate: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Share of records that are looked at; below 1 counts are no longer checked against the ledger."""
