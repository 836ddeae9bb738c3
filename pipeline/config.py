"""Configuration of a whole run."""

from collections.abc import Mapping
from typing import Any

import pydantic

from components.bulk_inferrer.config import BulkInferrerConfig
from components.evaluator.config import EvaluatorConfig
from components.example_validator.config import ExampleValidatorConfig
from components.exporter.config import ExporterConfig
from components.infra_validator.config import InfraValidatorConfig
from components.leakage_audit.config import LeakageAuditConfig
from components.neighbour_gen.config import NeighbourGenConfig
from components.online_tuner.config import OnlineTunerConfig
from components.pusher.config import PusherConfig
from components.relabeller.config import RelabellerConfig
from components.reward_trainer.config import RewardTrainerConfig
from components.schema_gen.config import SchemaGenConfig
from components.statistics_gen.config import StatisticsGenConfig
from components.trainer.config import TrainerConfig
from components.trajectory_gen.config import TrajectoryGenConfig
from components.user_model_trainer.config import UserModelTrainerConfig
from pipeline.beam import BeamConfig
from schemas.config import Config


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
    reward_trainer: RewardTrainerConfig = RewardTrainerConfig()
    user_model_trainer: UserModelTrainerConfig = UserModelTrainerConfig()
    relabeller: RelabellerConfig = RelabellerConfig()
    trainer: TrainerConfig = TrainerConfig()
    online_tuner: OnlineTunerConfig = OnlineTunerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    exporter: ExporterConfig = ExporterConfig()
    infra_validator: InfraValidatorConfig = InfraValidatorConfig()
    pusher: PusherConfig = PusherConfig()
    bulk_inferrer: BulkInferrerConfig = BulkInferrerConfig()

    @classmethod
    def complete(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Names the push destination after the pipeline: those that share a root must not push on top of each other."""
        pusher = data.get("pusher", {})
        if isinstance(pusher, dict) and "destination" not in pusher:
            return {**data, "pusher": {**pusher, "destination": f"serving/{data.get('name', cls.model_fields['name'].default)}"}}
        return data

    @pydantic.model_validator(mode="after")
    def _one_discount(self) -> "PipelineConfig":
        """Values and returns are compared with each other, and policies take rewards off returns: all in one discount."""
        if not self.relabeller.enabled:
            return self
        found = {"trajectory_gen.discount": self.trajectory_gen.discount}
        if self.relabeller.q_model is None:
            found["relabeller.q_function.algorithm.discount"] = self.relabeller.q_function.algorithm.discount
        wanted = getattr(self.trainer.algorithm, "return_discount", None)
        if wanted is None:
            name = getattr(self.trainer.algorithm, "name", "?")
            raise ValueError(f"relabeller.enabled: {name} is not trained on returns; relabelling is for decision_transformer and its kind")
        found["trainer.algorithm.return_discount"] = wanted
        if len(set(found.values())) > 1:
            stated = ", ".join(f"{key} is {value:g}" for key, value in found.items())
            raise ValueError(f"relabelling needs one discount: {stated}")
        return self

    @pydantic.model_validator(mode="after")
    def _models_that_are_learned_from_are_made(self) -> "PipelineConfig":
        """A step that is off is found before the steps in front of it have run."""
        if self.trainer.reward.source == "pretrained" and self.reward_trainer.estimator is None:
            raise ValueError("trainer.reward.source: pretrained needs reward_trainer.estimator, such as {name: din}")
        imagination = self.trainer.imagination
        if imagination is None:
            return self
        if self.user_model_trainer.model is None:
            raise ValueError("trainer.imagination needs user_model_trainer.model, such as {debiasing: snips}")
        if imagination.planning.variant == "ips" and self.user_model_trainer.model.debiasing == "none":
            raise ValueError("trainer.imagination.planning.variant: ips needs user_model_trainer.model.debiasing: ips, snips or dr")
        return self

    def of(self, component: str) -> Any:
        """Configuration of one component."""
        return getattr(self, component)
