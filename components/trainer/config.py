"""Configuration of trainer."""

from typing import Literal

import pydantic

from models.algorithms.base import NetworkConfig
from models.algorithms.registry import AnyAlgorithm
from models.algorithms.sqn import SQNConfig
from models.rewards.din import DINConfig
from models.rewards.registry import PlainEstimator
from models.user_model.imagination import ImaginationConfig
from schemas.config import Config


class EarlyStoppingConfig(Config):
    """When to stop, and which weights are kept."""

    metric: str = "ndcg@10"
    """Metric on the eval split; the weights with its greatest value are the model."""
    keep: Literal["best", "last"] = "best"
    """last trains all epochs and keeps the last weights: metrics of the next item cannot see the long-term return grow."""
    patience: int = pydantic.Field(default=3, ge=1)
    """Stop after this many epochs without a better value."""
    max_states: int | None = pydantic.Field(default=20_000, ge=1)
    """States of the eval split that are looked at after each epoch; null is all."""


class TrainingConfig(Config):
    """How anything is trained."""

    batch_size: int = pydantic.Field(default=256, ge=1)
    """Sessions of a batch; all their steps are trained at once."""
    learning_rate: float = pydantic.Field(default=1e-3, gt=0.0)
    warmup_steps: int = pydantic.Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    gradient_clip_norm: float | None = pydantic.Field(default=None, gt=0.0)
    """Longest gradient, all variables together; null does not clip."""
    max_epochs: int = pydantic.Field(default=20, ge=1)
    max_steps: int | None = pydantic.Field(default=None, ge=1)
    """Stop after this many batches, whatever the epoch."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint_every_seconds: float = pydantic.Field(default=120.0, gt=0.0)
    """A killed run goes on from its last checkpoint."""
    divergence_factor: float = pydantic.Field(default=10.0, gt=0.0)
    """Stop when the mean size of learned values exceeds the greatest possible return this many times."""
    mixed_precision: bool = False
    """Compute in bfloat16, keep weights in float32."""
    xla: bool = False
    """Compile the step with XLA; measure first, on CPUs it may be slower. Steps are padded to a multiple of 8. XLA draws other numbers for
    dropout and negatives than TensorFlow does from the same seed."""
    seed: int = 0
    """Seed of weights, dropout, order and negatives."""


class RewardSourceConfig(Config):
    """The rewards that the algorithm learns from. Models are always judged by the logged ones."""

    source: Literal["logged", "pretrained", "co_trained"] = "logged"
    """logged: as they are. pretrained: what the model of `reward_trainer` expects of each event. co_trained: what an estimator
    expects that learns beside the algorithm, from the same batches (SRS)."""
    estimator: PlainEstimator = DINConfig()
    """The one that is co-trained."""
    learning_rate: float | None = pydantic.Field(default=None, gt=0.0)
    """Of the estimator that is co-trained; null is that of the algorithm."""
    shares_embedding: bool = False
    """Estimator and algorithm read the same item vectors, and the estimator's loss alone moves them (SRS2). Consider
    `network.tied: false`, which leaves the policy vectors of its own to score with."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "RewardSourceConfig":
        if self.shares_embedding and self.source != "co_trained":
            raise ValueError(f"shares_embedding needs source: co_trained, found {self.source}")
        return self


class TrainerConfig(TrainingConfig):
    """From trajectories to a model."""

    algorithm: AnyAlgorithm = SQNConfig()
    """What is learned from rewards; `longplay schema --algorithms` lists the known ones."""
    network: NetworkConfig = NetworkConfig()
    """The networks."""
    reward: RewardSourceConfig = RewardSourceConfig()
    """The rewards that are learned from."""
    imagination: ImaginationConfig | None = None
    """Short roll-outs of the model of `user_model_trainer` in every batch, for algorithms that learn values; such as {share: 0.2}."""
    strategy: Literal["auto", "mirrored", "parameter_server"] = "auto"
    """How several processes train, which TF_CONFIG names. mirrored: every worker holds the model, and all of them take one step
    together. parameter_server: item tables lie in shards on parameter servers, and every worker takes steps of its own. auto goes by
    whether TF_CONFIG names parameter servers. One process alone trains as ever."""
    warm_start_from: str | None = None
    """Start from an earlier model: a model artifact's folder, or `latest_blessed`. Items are matched by name."""
