"""Declaration of example_validator."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.example_validator.config import ExampleValidatorConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    anomalies = outputs["anomalies"]["anomalies"]
    compared = "eval with train" + (" and with the previous run" if outputs["anomalies"]["compared_with_previous"] else "")
    return f"{len(anomalies) or 'no'} anomalies; compared {compared}"


EXAMPLE_VALIDATOR = Component(
    name="example_validator",
    description="Validates every split against the schema, eval against train, and train against the previous run.",
    config=ExampleValidatorConfig,
    inputs={
        "statistics": Port("ExampleStatistics", "Statistics of the trajectories."),
        "schema": Port("Schema", "What they must look like."),
        "previous_statistics": Port("ExampleStatistics", "Statistics of the last run on other data.", optional=True),
    },
    outputs={"anomalies": Port("ExampleAnomalies", "SchemaDiff.pb of every split.")},
    describe=_describe,
)
