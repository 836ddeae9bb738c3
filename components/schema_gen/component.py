"""Declaration of schema_gen."""

from collections.abc import Mapping

from components.artifacts import file_state
from components.base import Component, Port, Properties
from components.schema_gen.config import SchemaGenConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    return f"{len(outputs['schema']['features'])} features"


SCHEMA_GEN = Component(
    name="schema_gen",
    description="Infers a schema from the train split and merges the curated one into it.",
    config=SchemaGenConfig,
    inputs={
        "statistics": Port("ExampleStatistics", "Statistics of the trajectories."),
        "vocabulary": Port("Vocabulary", "Bounds the item ids."),
    },
    outputs={"schema": Port("Schema", "schema.pbtxt.")},
    external_state=lambda config: file_state("curated_schema", config.curated_schema),
    looks_outside=lambda config: config.curated_schema is not None,
    describe=_describe,
)
