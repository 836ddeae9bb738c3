"""Declaration of trajectory_gen."""

from collections.abc import Mapping
from typing import Any

from components.base import Component, Port, Properties
from components.trajectory_gen.config import TrajectoryGenConfig


def _log_files(config: TrajectoryGenConfig) -> Mapping[str, Any]:
    return config.dataset.external_state()


def _describe(outputs: Mapping[str, Properties]) -> str:
    ledger, splits = outputs["examples"]["ledger"], outputs["examples"]["splits"]
    trajectories = sum(split["trajectories"] for split in splits.values())
    return (
        f"{ledger['rows_read']:,} rows, {ledger['quarantined']:,} quarantined, {ledger['events']:,} events in "
        f"{trajectories:,} trajectories, {outputs['vocabulary']['num_items'] - 1:,} items"
    )


TRAJECTORY_GEN = Component(
    name="trajectory_gen",
    description="Converts raw logs into TFRecord trajectories, one record a session.",
    config=TrajectoryGenConfig,
    inputs={},
    outputs={
        "examples": Port("Examples", "TFRecords of tf.Example, Split-train, Split-eval and Split-test."),
        "vocabulary": Port("Vocabulary", "Items of the train split with their counts, most frequent first."),
        "quarantine": Port("Quarantine", "Rows that do not parse, with file, line and reason."),
    },
    external_state=_log_files,
    describe=_describe,
)
