"""Configuration of online_tuner."""

from typing import Literal

import pydantic

from models.simulators.registry import AnySimulator
from models.simulators.shop_simulator import ShopSimulatorConfig
from schemas.config import Config


class ExplorationConfig(Config):
    """What is tried."""

    draw: Literal["auto", "policy", "softmax", "greedy"] = "auto"
    """policy draws by the policy's probabilities, softmax by scores over `temperature`, greedy takes the best; auto is policy for what
    recommends by a policy, and softmax for what recommends by values."""
    floor: float = pydantic.Field(default=0.02, ge=0.0, le=1.0)
    """Share of choices that are any item, evenly; with `draw: greedy` that is epsilon."""
    temperature: float = pydantic.Field(default=0.1, ge=1e-3)
    """Of softmax, in units of values."""
    top: int = pydantic.Field(default=100, ge=1)
    """Items that are drawn among, the best ones; the floor reaches all."""


class DropConfig(Config):
    """What stops the tuning because the reward has dropped; see `models.online.drop`."""

    false_alarm_rate: float = pydantic.Field(default=0.05, gt=0.0, lt=1.0)
    """Greatest probability to stop although nothing has dropped, over the whole tuning."""
    tolerated: float = pydantic.Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the offline policy's return that may be lost."""
    baseline_sessions: int = pydantic.Field(default=4096, ge=2)
    """Sessions in which the offline policy is measured, under the same exploration."""


class OnlineTunerConfig(Config):
    """From a policy trained on logs to one that has tried what it recommends; the trainer's own model while not `enabled`."""

    enabled: bool = False
    simulator: AnySimulator = ShopSimulatorConfig()
    """Where it is tried; its items must be those of the logs."""
    num_rounds: int = pydantic.Field(default=50, ge=1)
    """Each plays sessions, takes them into the buffer and trains."""
    sessions_per_round: int = pydantic.Field(default=1024, ge=2)
    """Played at once."""
    updates_per_round: int = pydantic.Field(default=64, ge=1)
    batch_size: int = pydantic.Field(default=256, ge=1)
    """Sessions of a batch."""
    buffer_sessions: int = pydantic.Field(default=8192, ge=1)
    """Sessions that are kept, first in, first out; at first the best of the logs."""
    offline_share: float | None = pydantic.Field(default=None, ge=0.0, le=1.0)
    """Share of a batch that is drawn evenly from the logs; null is half for algorithms with values and nothing for decision
    transformers."""
    offline_sessions: int = pydantic.Field(default=50_000, ge=1)
    """Most sessions of the logs that are kept in memory for that."""
    learning_rate: float = pydantic.Field(default=1e-4, gt=0.0)
    warmup_steps: int = pydantic.Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    gradient_clip_norm: float | None = pydantic.Field(default=0.25, gt=0.0)
    """Longest gradient, all variables together; null does not clip."""
    exploration: ExplorationConfig = ExplorationConfig()
    final_conservatism: float = pydantic.Field(default=0.0, ge=0.0)
    """Share of its conservative weight that `cql` has in the last round; it falls evenly from all of it."""
    drop: DropConfig = DropConfig()
    evaluate_every: int = pydantic.Field(default=5, ge=1)
    """Rounds after which the policy is measured without exploration, on the same sessions each time."""
    evaluation_sessions: int = pydantic.Field(default=2048, ge=2)
    keep: Literal["best", "last"] = "best"
    """Weights that are kept: those with the best return in an evaluation, the offline policy's among them, or the last ones. After a
    drop or a divergence the best are kept in any case."""
    max_turns: int = pydantic.Field(default=200, ge=1)
    """Items shown after which a session is cut off."""
    checkpoint_every_seconds: float = pydantic.Field(default=120.0, ge=0.0)
    """A killed run goes on from its last checkpoint."""
    divergence_factor: float = pydantic.Field(default=10.0, gt=0.0)
    """Stop when the mean size of learned values exceeds the greatest possible return this many times."""
    seed: int = pydantic.Field(default=0, ge=0)
    """Seed of sessions, exploration, batches and dropout."""
