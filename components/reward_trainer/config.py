"""Configuration of reward_trainer."""

import pydantic

from components.trainer.config import EarlyStoppingConfig, TrainingConfig
from models.rewards.registry import PlainEstimator
from schemas.config import Config


class RewardConditionsConfig(Config):
    """What a reward model must keep to before anything learns from it, on sessions of the eval split that nothing was fitted on."""

    max_calibration_error: float | None = pydantic.Field(default=0.05, ge=0.0)
    """Greatest mean distance between predicted and observed: of probabilities, or of a continuous reward in its standard deviations."""
    min_explained: float | None = pydantic.Field(default=0.0, le=1.0)
    """Least share of the log loss, or of the squared error, that is explained; a model that knows only the mean explains 0."""
    min_auc: float | None = pydantic.Field(default=None, ge=0.0, le=1.0)
    """Least AUC; a continuous reward has none."""
    min_events: int = pydantic.Field(default=1000, ge=1)
    """Fewer events measure little: of 15 bins with 1,000 events the calibration error of a perfect model may already be .04."""

    def bounds(self) -> tuple[tuple[str, str, float | None], ...]:
        """Metric, `at most` or `at least`, and the number."""
        return (
            ("calibration_error", "at most", self.max_calibration_error),
            ("explained", "at least", self.min_explained),
            ("auc", "at least", self.min_auc),
        )


class RewardTrainerConfig(TrainingConfig):
    """From trajectories to an estimate of every event's reward."""

    estimator: PlainEstimator | None = None
    """What is trained, such as `{name: din}`; null trains nothing and costs nothing."""
    item_features: str | None = None
    """CSV file, glob or folder, local or a URL, with a column `item` and columns of numbers, such as prices, that the estimator is told of
    each item; null tells none."""
    user_features: str | None = None
    """The same with a column `user`; whoever it does not name is like everybody in the mean."""
    max_epochs: int = pydantic.Field(default=5, ge=1)
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig(metric="explained", patience=1)
    conditions: RewardConditionsConfig = RewardConditionsConfig()
    """A model that misses one is kept to be looked at and is refused by whoever would learn from it."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "RewardTrainerConfig":
        if self.estimator is None and self.feature_files():
            raise ValueError(f"{', '.join(self.feature_files())}: there is no estimator to be told of them; expected estimator, found null")
        return self

    def feature_files(self) -> dict[str, str]:
        """Path by setting, of the files that are named."""
        paths = {"item_features": self.item_features, "user_features": self.user_features}
        return {name: path for name, path in paths.items() if path is not None}
