"""Configuration of what is made of served logs."""

import pydantic

from schemas.config import Config


class FeedbackConfig(Config):
    """Which keys of an event say what."""

    request_key: str = "request_id"
    """Key of the request that the event came of; an event without it came of none."""
    row_key: str = "row"
    """Key of the row of that request; 0 where it is left out."""
    item_key: str = "item_id"
    """Key of the item."""
    max_bad_fraction: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    """More lines than this that are no events, or no log of requests, fail the job."""


class SkewConfig(Config):
    """How far what is served may be from what was trained on."""

    max_item_difference: float = pydantic.Field(default=0.02, ge=0.0, le=1.0)
    """Greatest difference of an item's share, as the last item of a history (L-infinity)."""
    max_unknown_difference: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """Difference of the share of histories that end with an item that the model does not know."""
    max_length_divergence: float = pydantic.Field(default=0.1, ge=0.0, le=1.0)
    """Jensen-Shannon divergence of the lengths of histories."""
    min_requests: int = pydantic.Field(default=1000, ge=1)
    """Fewer logged rows say too little."""
