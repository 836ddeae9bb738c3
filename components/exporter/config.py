"""Configuration of exporter."""

from typing import Literal

import pydantic

from schemas.config import Config
from schemas.serving import MAX_WARMUP_RECORDS

OTHER_REQUESTS = 5
"""Warm-up requests of each batch size for signatures beside the default one."""


class RetrievalConfig(Config):
    """How the best items are found."""

    method: Literal["auto", "exact", "clustered"] = "auto"
    """`exact` scores all items. `clustered` looks into the most promising blocks of similar items; which scores they have is exact,
    which items they are nearly so. `auto` does that for large catalogues, if it finds enough."""
    clustered_from: int = pydantic.Field(default=500_000, ge=1)
    """Items from which `auto` searches."""
    min_recall: float = pydantic.Field(default=0.95, gt=0.0, le=1.0)
    """Share of the K best items that a search must find, measured on sessions of the test split; it looks into as few blocks as
    that takes, and the artifact says what it found."""
    block_size: int = pydantic.Field(default=32, ge=2)
    """Items of a block."""


class ExporterConfig(Config):
    """The served function."""

    k: int = pydantic.Field(default=20, ge=1)
    """K, items recommended."""
    item_tags: str | None = None
    """CSV file, glob or folder, local or a URL, with columns `item` and `tag`, such as categories; a request may then allow only items with
    some tags."""
    retrieval: RetrievalConfig = RetrievalConfig()
    warmup_batch_sizes: tuple[int, ...] = (1, 8, 64)
    """Batch sizes of the warm-up requests, each sent with histories of the test split."""
    num_warmup_requests: int = pydantic.Field(default=4, ge=1)
    """Requests of each batch size."""

    @pydantic.model_validator(mode="after")
    def _few_requests(self) -> "ExporterConfig":
        # The default signature, twice where a return can be asked for, and once more what the others need.
        count = len(self.warmup_batch_sizes) * (2 * self.num_warmup_requests + OTHER_REQUESTS)
        if not 0 < count <= MAX_WARMUP_RECORDS or min(self.warmup_batch_sizes) < 1:
            raise ValueError(
                f"warm-up needs 1 to {MAX_WARMUP_RECORDS} requests of at least one history, found {count} of sizes "
                f"{self.warmup_batch_sizes}"
            )
        return self
