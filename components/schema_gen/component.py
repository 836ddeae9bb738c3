"""Declaration of schema_gen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import file_digest
from components.base import Component, Port, Properties
from components.schema_gen.config import SchemaGenConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    return f"{len(outputs['schema']['features'])} features"


def _curated_file(config: SchemaGenConfig) -> Mapping[str, Any]:
    if config.curated_schema is None:
        return {}
    path = Path(config.curated_schema)
    return {"curated_schema": file_digest(path) if path.is_file() else None}


SCHEMA_GEN = Component(
    name="schema_gen",
    description="Infers a schema from the train split and merges the curated one into it.",
    config=SchemaGenConfig,
    inputs={
        "statistics": Port("ExampleStatistics", "Statistics of the trajectories."),
        "vocabulary": Port("Vocabulary", "Bounds the item ids."),
    },
    outputs={"schema": Port("Schema", "schema.pbtxt.")},
    external_state=_curated_file,
    looks_outside=lambda config: config.curated_schema is not None,
    describe=_describe,
)
