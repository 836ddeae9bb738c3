"""What REST and gRPC have in common: a request in arrays, an answer in arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.server.batching import Scheduler
from components.server.config import ServerConfig
from components.server.errors import RequestError, Status
from components.server.metrics import Metrics
from components.server.servable import Array, Signature
from components.server.tensors import check_rows
from components.server.versions import Versions

Parser = Callable[[Signature], Mapping[str, Array]]
"""Makes the arrays of a request, by input name, or raises a `RequestError`."""


@dataclass(frozen=True)
class Target:
    """Which model a request is for.

    Attributes:
        name: The model's.
        version: A number, or None.
        label: A label, or None; with neither it is the greatest version.
        signature: Name of a signature; "" is the default one.
    """

    name: str
    version: int | None = None
    label: str | None = None
    signature: str = ""


@dataclass(frozen=True)
class Answer:
    """What a request got.

    Attributes:
        version: The version that answered.
        signature: The signature's name.
        outputs: Arrays by name.
    """

    version: int
    signature: str
    outputs: Mapping[str, Array]


class Core:
    """One served model.

    Args:
        folder: Its versions.
        name: Its name.
        config: Limits.
    """

    def __init__(self, folder: Path, name: str, config: ServerConfig):
        self.name, self.config = name, config
        self.metrics = Metrics()
        self.versions = Versions(folder, name, self.metrics)
        self.scheduler = Scheduler(name, config, self.metrics)

    def check_name(self, name: str) -> None:
        """Raises a `RequestError` for another model than the one that is served."""
        if name != self.name:
            raise RequestError(Status.NOT_FOUND, f"no model {name!r} is served here, only {self.name!r}")

    async def predict(self, target: Target, parse: Parser, deadline: float, entrypoint: str) -> Answer:
        """Answers a request and counts it.

        Args:
            target: What it is for.
            parse: Makes arrays of the request, knowing the signature.
            deadline: By `time.monotonic`.
            entrypoint: REST or GRPC.

        Raises:
            RequestError: It gets no answer.
        """
        begun, status = time.monotonic(), "OK"
        try:
            self.check_name(target.name)
            with self.versions.acquire(target.version, target.label) as servable:
                signature = servable.signature(target.signature)
                inputs = parse(signature)
                check_rows(inputs, self.config)
                signature.check(inputs)
                outputs = await self.scheduler.run(servable, signature, inputs, deadline)
                return Answer(servable.version, signature.name, outputs)
        except RequestError as error:
            status = error.status.grpc_name
            raise
        finally:
            self.metrics.requests.add(self.name, status)
            self.metrics.latency.observe(self.name, "predict", entrypoint, value=(time.monotonic() - begun) * 1e6)
