"""Configuration of pusher."""

from schemas.config import Config


class PusherConfig(Config):
    """Where a blessed model goes."""

    destination: str = "serving/longplay"
    """Folder that a server watches; the model becomes its next integer version. A relative path is below the run's root. In a
    pipeline the default is `serving/` and the pipeline's name."""
