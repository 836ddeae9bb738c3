"""Configuration of pusher."""

from typing import Literal

import pydantic

from schemas.config import Config


class PusherConfig(Config):
    """Where a blessed model goes."""

    destination: str = "serving/longplay"
    """Folder that a server watches; the model becomes its next integer version. A relative path is below the run's root. In a
    pipeline the default is `serving/` and the pipeline's name."""
    label: Literal["stable", "canary"] = "stable"
    """stable: the version takes over; canary: it is served beside the stable one, to those who ask for the label."""
    served_path: str | None = None
    """The destination as the server sees it, where that is another path, such as that of a volume."""
    storage_uri: str | None = None
    """The destination as KServe fetches it; null is a volume claim named after the model."""
    latency_budget_milliseconds: float = pydantic.Field(default=50.0, gt=0.0)
    """Alerts are raised when one request in a hundred takes longer."""
