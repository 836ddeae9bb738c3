"""Declaration of statistics_gen."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.statistics_gen.config import StatisticsGenConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    splits = outputs["statistics"]["splits"]
    return ", ".join(f"{name} {split['num_examples']:,}" for name, split in splits.items()) + " records, as the ledger says"


STATISTICS_GEN = Component(
    name="statistics_gen",
    description="Computes statistics of every split and checks their record counts against the ledger.",
    config=StatisticsGenConfig,
    inputs={"examples": Port("Examples", "Trajectories.")},
    outputs={"statistics": Port("ExampleStatistics", "FeatureStats.pb of every split.")},
    describe=_describe,
)
