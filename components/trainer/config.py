"""Configuration of trainer."""

from typing import Literal

import pydantic

from models.algorithms.base import NetworkConfig
from models.algorithms.registry import AnyAlgorithm
from models.algorithms.sqn import SQNConfig
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
    """States of the eval split that are ranked after each epoch; null ranks all."""


class TrainerConfig(Config):
    """From trajectories to a model."""

    algorithm: AnyAlgorithm = SQNConfig()
    """What is learned from rewards; `longplay schema --algorithms` lists the known ones."""
    network: NetworkConfig = NetworkConfig()
    """The networks."""
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
    warm_start_from: str | None = None
    """Start from an earlier model: a model artifact's folder, or `latest_blessed`. Items are matched by name."""
    checkpoint_every_seconds: float = pydantic.Field(default=120.0, gt=0.0)
    """A killed run goes on from its last checkpoint."""
    divergence_factor: float = pydantic.Field(default=10.0, gt=0.0)
    """Stop when the mean size of learned values exceeds the greatest possible return this many times."""
    mixed_precision: bool = False
    """Compute in bfloat16, keep weights in float32."""
    xla: bool = False
    """Compile the step with XLA; measure first, on CPUs it may be slower. Steps are padded to a multiple of 8."""
    seed: int = 0
    """Seed of weights, dropout, order and negatives."""
