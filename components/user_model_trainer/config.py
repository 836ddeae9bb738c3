"""Configuration of user_model_trainer."""

import pydantic

from components.trainer.config import EarlyStoppingConfig, TrainingConfig
from models.user_model.model import UserModelConfig
from schemas.config import Config


class UserModelConditionsConfig(Config):
    """What a user model must keep to before anything learns from it, on sessions of the eval split."""

    max_calibration_error: float | None = pydantic.Field(default=0.3, ge=0.0)
    """Greatest mean distance between predicted and earned rewards, in their standard deviations; where negatives are drawn, of events and
    negatives together."""
    min_explained: float | None = pydantic.Field(default=0.0, le=1.0)
    """Least share of the squared error of rewards that is explained; a model that knows only the mean explains 0."""
    max_leaving_calibration_error: float | None = pydantic.Field(default=0.1, ge=0.0)
    """Greatest mean distance between the predicted and the observed share of events that end their sessions."""
    min_events: int = pydantic.Field(default=1000, ge=1)
    """Fewer events measure little."""

    def bounds(self) -> tuple[tuple[str, str, float | None], ...]:
        """Metric, `at most` or `at least`, and the number."""
        return (
            ("calibration_error", "at most", self.max_calibration_error),
            ("explained", "at least", self.min_explained),
            ("leaving/calibration_error", "at most", self.max_leaving_calibration_error),
        )


class UserModelTrainerConfig(TrainingConfig):
    """From trajectories to a model of what items earn, what comes next, and when users leave."""

    model: UserModelConfig | None = None
    """What is trained, such as `{debiasing: snips}`; null trains nothing and costs nothing."""
    max_epochs: int = pydantic.Field(default=5, ge=1)
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig(metric="fit", patience=1)
    conditions: UserModelConditionsConfig = UserModelConditionsConfig()
    """A model that misses one is kept to be looked at and is refused by whoever would learn from it."""
