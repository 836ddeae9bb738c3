"""Every reward estimator; a new one is a file and a line here."""

from typing import TYPE_CHECKING, Annotated, Any, Union

import pydantic

from models.algorithms.base import Catalogue
from models.rewards.base import EstimatorConfig, RewardEstimator, RewardNetwork
from models.rewards.dcn import DCN
from models.rewards.deepfm import DeepFM
from models.rewards.din import DIN
from models.rewards.fm import FM
from schemas.registry import Registry

REWARDS: Registry[type[RewardNetwork]] = Registry("reward estimator", {"din": DIN, "fm": FM, "deepfm": DeepFM, "dcn": DCN})


def _without_features(config: EstimatorConfig) -> EstimatorConfig:
    for name in ("num_item_features", "num_user_features", "num_users"):
        if getattr(config, name):
            reason = "only reward_trainer's item_features and user_features give an estimator numbers"
            raise ValueError(f"{name}: expected 0, found {getattr(config, name)}: {reason}")
    return config


if TYPE_CHECKING:
    AnyEstimator = EstimatorConfig
    PlainEstimator = EstimatorConfig
else:
    AnyEstimator = Annotated[Union[tuple(network.config_class for network in REWARDS.values())], pydantic.Field(discriminator="name")]
    PlainEstimator = Annotated[AnyEstimator, pydantic.AfterValidator(_without_features)]
"""One that is configured before anything is known of how many numbers it is told."""


def create_estimator(config: EstimatorConfig, catalogue: Catalogue, seed: int = 0, embedding: Any = None) -> RewardEstimator:
    """The estimator of a configuration with fresh weights; see `RewardEstimator`."""
    kind = REWARDS[str(getattr(config, "name"))]  # noqa: B009  (every subclass has a literal `name`)
    estimator = RewardEstimator(kind, config, catalogue, seed, embedding)
    estimator.build()
    return estimator
