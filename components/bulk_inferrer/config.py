"""Configuration of bulk_inferrer."""

from typing import Literal

import pydantic

from schemas.config import Config

Format = Literal["prediction_log", "parquet", "jsonl"]


class InferenceConfig(Config):
    """What is asked of the model and how the answers are written."""

    format: Format = "parquet"
    """`prediction_log`: TFRecords of requests with their answers, as TFX's BulkInferrer writes them; `parquet` or `jsonl`: one row for
    each history, with the ids it came with, items and scores."""
    k: int | None = pydantic.Field(default=None, ge=1)
    """Items for each history; null is as many as the model gives. A history may ask for fewer."""
    exclude_seen: bool = False
    """Never recommend what is in the history."""
    batch_size: int = pydantic.Field(default=256, ge=1)
    """Histories that are asked for together."""
    max_bad_fraction: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    """More rows of a file than this that are no requests fail the job; up to it they go to quarantine."""


class BulkInferrerConfig(InferenceConfig):
    """Recommendations for all sessions of a split, or for the histories in a file."""

    enabled: bool = False
    """False recommends nothing and costs nothing."""
    splits: tuple[Literal["train", "eval", "test"], ...] = ("test",)
    """Sessions of these splits get recommendations for what comes after their last event."""
    histories: str | None = None
    """Files with histories, in place of the splits: JSON lines, plain or .gz, or Parquet, with the keys of a request, such as
    `item_history`, and perhaps `user_id` and `session_id`. A path, a glob or a directory."""
