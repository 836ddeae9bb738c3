"""Configuration of a whole run."""

from collections.abc import Mapping
from typing import Any

import pydantic

from components.evaluator.config import EvaluatorConfig
from components.example_validator.config import ExampleValidatorConfig
from components.exporter.config import ExporterConfig
from components.infra_validator.config import InfraValidatorConfig
from components.leakage_audit.config import LeakageAuditConfig
from components.neighbour_gen.config import NeighbourGenConfig
from components.pusher.config import PusherConfig
from components.schema_gen.config import SchemaGenConfig
from components.statistics_gen.config import StatisticsGenConfig
from components.trainer.config import TrainerConfig
from components.trajectory_gen.config import TrajectoryGenConfig
from schemas.config import Config


class BeamConfig(Config):
    """How Apache Beam runs; no result depends on it."""

    runner: str = "FnApiRunner"
    """Beam runner. The default runs in this process; it downloads nothing."""
    args: tuple[str, ...] = ()
    """Further options, such as --flink_master=localhost:8081."""

    def arguments(self) -> tuple[str, ...]:
        """Options as Beam takes them."""
        return (f"--runner={self.runner}", *self.args)


class PipelineConfig(Config):
    """One run: every field but `name` and `beam` is the configuration of the component of that name."""

    name: str = pydantic.Field(default="longplay", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Runs of one name belong together: the last blessed model and the previous statistics are looked up by it."""
    beam: BeamConfig = BeamConfig()
    trajectory_gen: TrajectoryGenConfig
    statistics_gen: StatisticsGenConfig = StatisticsGenConfig()
    schema_gen: SchemaGenConfig = SchemaGenConfig()
    example_validator: ExampleValidatorConfig = ExampleValidatorConfig()
    neighbour_gen: NeighbourGenConfig = NeighbourGenConfig()
    leakage_audit: LeakageAuditConfig = LeakageAuditConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    exporter: ExporterConfig = ExporterConfig()
    infra_validator: InfraValidatorConfig = InfraValidatorConfig()
    pusher: PusherConfig = PusherConfig()

    @classmethod
    def complete(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Names the push destination after the pipeline: those that share a root must not push on top of each other."""
        pusher = data.get("pusher", {})
        if isinstance(pusher, dict) and "destination" not in pusher:
            return {**data, "pusher": {**pusher, "destination": f"serving/{data.get('name', cls.model_fields['name'].default)}"}}
        return data

    def of(self, component: str) -> Any:
        """Configuration of one component."""
        return getattr(self, component)
