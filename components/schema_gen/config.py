"""Configuration of schema_gen."""

from schemas.config import Config


class SchemaGenConfig(Config):
    """The schema that trajectories are validated against."""

    curated_schema: str | None = None
    """Path of a schema as protobuf text that takes the place of longplay's own, `schemas/trajectory.pbtxt`."""
