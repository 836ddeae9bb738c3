"""Configuration of the embedded server."""

import pydantic

from schemas.config import Config


class ServerConfig(Config):
    """How models are served."""

    host: str = "127.0.0.1"
    """Address to listen on; the default answers this machine alone."""
    rest_port: int = pydantic.Field(default=8501, ge=0, le=65535)
    """Port of REST, metrics and the page; 0 takes a free one."""
    grpc_port: int = pydantic.Field(default=8500, ge=0, le=65535)
    """Port of gRPC; 0 takes a free one."""
    threads: int = pydantic.Field(default=2, ge=1)
    """Batches that run at the same time."""
    batching: bool = True
    """Run requests that wait together as one batch."""
    max_batch_size: int = pydantic.Field(default=128, ge=1)
    """Rows of such a batch; a larger request runs by itself."""
    batch_timeout_microseconds: int = pydantic.Field(default=0, ge=0)
    """How long a batch that is not full waits for more; 0 takes what came while others ran."""
    max_waiting_requests: int = pydantic.Field(default=1000, ge=1)
    """Requests beyond these are refused at once: late answers to all help nobody."""
    request_timeout_seconds: float = pydantic.Field(default=10.0, gt=0.0)
    """A request without a deadline of its own is given up after this."""
    max_request_bytes: int = pydantic.Field(default=4 << 20, ge=1024)
    """Size of a request."""
    max_request_rows: int = pydantic.Field(default=1024, ge=1)
    """Rows of a request."""
    max_request_values: int = pydantic.Field(default=1 << 18, ge=1)
    """Values of each input of a request, padding and what one row says for all others included; also of a batch of many requests."""
    log_folder: str | None = None
    """Folder for a log of requests and answers, with propensities where `explore` drew them; null logs nothing. `longplay feedback`
    and `longplay skew` read it. It holds what users looked at: keep it as safe as that."""
    log_share: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Share of the requests that is logged."""
    log_file_megabytes: int = pydantic.Field(default=64, ge=1)
    """Size from which a new file begins."""
    poll_seconds: float = pydantic.Field(default=1.0, gt=0.0)
    """How often the folder is looked at for new versions."""
    drain_seconds: float = pydantic.Field(default=10.0, ge=0.0)
    """How long a server that is to end goes on with requests that it has."""
