"""Configuration of trajectory_gen."""

from typing import Literal

import pydantic

from components.datasets.registry import AnyDataset
from schemas.config import Config


class SplitConfig(Config):
    """How sessions are divided into train, eval and test."""

    by: Literal["time", "session"] = "time"
    """`time`: sessions that begin before a moment train, later ones evaluate; nothing of the future is trained on.
    `session`: a hash of the session id decides."""
    train_fraction: float = pydantic.Field(default=0.8, gt=0.0, lt=1.0)
    """Share of sessions in the train split."""
    eval_fraction: float = pydantic.Field(default=0.1, gt=0.0, lt=1.0)
    """Share of sessions in the eval split; the rest is test."""

    @pydantic.model_validator(mode="after")
    def _leave_a_test_split(self) -> "SplitConfig":
        if self.train_fraction + self.eval_fraction >= 1.0:
            raise ValueError(
                f"train_fraction {self.train_fraction} and eval_fraction {self.eval_fraction} must leave something for the test split"
            )
        return self


class TrajectoryGenConfig(Config):
    """From raw logs to TFRecord trajectories."""

    dataset: AnyDataset
    """Where the logs are and what their columns mean; `longplay schema --datasets` lists the known ones."""
    session_gap_seconds: int | None = pydantic.Field(default=1800, ge=1)
    """A pause longer than this begins a new session of the user. Null: only the log's own sessions, or the user's whole
    history where the log has none."""
    min_session_events: int = pydantic.Field(default=2, ge=1)
    """Shorter sessions are dropped."""
    max_session_events: int | None = pydantic.Field(default=None, ge=1)
    """Longer sessions are dropped (crawlers); null keeps all."""
    min_item_events: int = pydantic.Field(default=1, ge=1)
    """Items with fewer events are rare."""
    rare_items: Literal["unknown", "drop"] = "unknown"
    """`unknown`: items rare in the train split become the unknown item. `drop`: events of items rare in the whole log are
    dropped before sessions are filtered no further, the usual recipe of published comparisons."""
    max_length: int = pydantic.Field(default=50, ge=2)
    """T, the most steps of a record and of a model's input; longer sessions become several records."""
    context_length: int = pydantic.Field(default=10, ge=1)
    """Events that a later record of a long session repeats from the one before, as input only."""
    discount: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """Factor of one step in `return_to_go`."""
    split: SplitConfig = SplitConfig()
    max_bad_fraction: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    """More rows than this that do not parse fail the run; up to it they go to quarantine."""
    num_shards: int | None = pydantic.Field(default=None, ge=1, le=10_000)
    """Files of each split, and parts the work is cut into; null chooses by the size of the input."""

    @pydantic.model_validator(mode="after")
    def _context_is_shorter(self) -> "TrajectoryGenConfig":
        if self.context_length >= self.max_length:
            raise ValueError(f"context_length {self.context_length} must be less than max_length {self.max_length}")
        return self
