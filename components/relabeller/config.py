"""Configuration of relabeller."""

import pydantic

from components.trainer.config import EarlyStoppingConfig, TrainerConfig
from models.algorithms.cql import CQLConfig
from schemas.config import Config


class QFunctionConfig(TrainerConfig):
    """How the conservative values are learned: the keys of `trainer`."""

    algorithm: CQLConfig = CQLConfig(discount=1.0)
    """Conservative Q-learning: a lower bound of the values, so that no return is raised beyond reach. Its discount is that of
    `trajectory_gen`."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig(keep="last")
    """Ranking the next item does not say how good values are, so all epochs are trained."""

    @pydantic.model_validator(mode="after")
    def _needs_nothing_of_other_steps(self) -> "QFunctionConfig":
        if self.warm_start_from == "latest_blessed":
            raise ValueError("warm_start_from: latest_blessed is a policy; name the folder of an earlier q_function, or use q_model")
        if self.reward.source == "pretrained":
            raise ValueError("reward.source: pretrained is of the trainer; values are learned from logged rewards, or co_trained ones")
        return self


class GateConfig(Config):
    """When relabelled returns are not believed. Values that are off raise nearly every return, or none, or far beyond the log."""

    min_replaced_share: float = pydantic.Field(default=0.001, ge=0.0, le=1.0)
    """At least this share of the events that have a next state are followed by less than that state is worth; below it relabelling
    changes nothing."""
    max_replaced_share: float = pydantic.Field(default=0.95, ge=0.0, le=1.0)
    """At most this share."""
    max_mean_raise: float = pydantic.Field(default=2.0, gt=0.0)
    """Most that the mean return may rise, in standard deviations of the logged returns."""
    max_excess: float = pydantic.Field(default=1.0, ge=0.0)
    """How far the greatest relabelled return may be above the greatest logged one, as a share of the range of the logged returns."""


class RelabellerConfig(Config):
    """Raises the returns that a decision transformer is trained on, so that it can join pieces of different sessions."""

    enabled: bool = False
    """False passes the trajectories on as they are and costs nothing."""
    q_function: QFunctionConfig = QFunctionConfig()
    """Trains the values."""
    q_model: str | None = None
    """Take the values from a trained model in place of training one: the folder of a `cql` model artifact, such as an earlier
    `q_function`."""
    scores_at_once: int = pydantic.Field(default=32_000_000, ge=1)
    """Values of items that a worker holds at once, 4 bytes each; sessions are evaluated in blocks as large as that allows."""
    gate: GateConfig = GateConfig()
