"""What REST and gRPC have in common: a request in arrays, an answer in arrays."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.server.batching import Scheduler
from components.server.config import ServerConfig
from components.server.errors import RequestError, Status, invalid
from components.server.metrics import Metrics
from components.server.servable import Array, Signature
from components.server.served_log import Served, ServedLog
from components.server.tensors import check_rows
from components.server.versions import Versions

REQUEST_ID_HEADER = "x-request-id"
"""Of REST, and of the metadata of gRPC, in requests and answers; events name it, or their row's own `request_id`."""

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


_MAX_ID = 200


@dataclass(frozen=True)
class Caller:
    """What a client says of itself, for the log.

    Attributes:
        request_id: Name of the request; one that the server makes where the client has none.
        user_id: Who asks.
        session_id: In which session.
    """

    request_id: str
    user_id: str | None = None
    session_id: str | None = None

    @classmethod
    def of(cls, header: Callable[[str], str | None]) -> Caller:
        """The caller of a request; `header` gives the value of a header or a key of its metadata, or nothing.

        Raises:
            RequestError: A value is too long, or has characters that headers do not have.
        """
        found = [header(name) for name in (REQUEST_ID_HEADER, "x-user-id", "x-session-id")]
        if any(value is not None and not (len(value) <= _MAX_ID and value.isascii() and value.isprintable()) for value in found):
            raise invalid(f"{REQUEST_ID_HEADER}, x-user-id and x-session-id are at most {_MAX_ID} printable characters of ASCII")
        return cls(found[0] or uuid.uuid4().hex, *found[1:])


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
        self.log: ServedLog | None = None
        if config.log_folder is not None:
            self.log = ServedLog(Path(config.log_folder), name, config.log_share, config.log_file_megabytes << 20, self.metrics)

    def check_name(self, name: str) -> None:
        """Raises a `RequestError` for another model than the one that is served."""
        if name != self.name:
            raise RequestError(Status.NOT_FOUND, f"no model {name!r} is served here, only {self.name!r}")

    def close(self) -> None:
        """Waits for what runs and writes what is to be logged."""
        self.scheduler.close()
        if self.log is not None:
            self.log.close()

    async def predict(self, target: Target, parse: Parser, deadline: float, entrypoint: str, caller: Caller) -> Answer:
        """Answers a request and counts it.

        Args:
            target: What it is for.
            parse: Makes arrays of the request, knowing the signature.
            deadline: By `time.monotonic`.
            entrypoint: REST or GRPC.
            caller: Who asks.

        Raises:
            RequestError: It gets no answer.
        """
        begun, status = time.monotonic(), "OK"
        try:
            self.check_name(target.name)
            with self.versions.acquire(target.version, target.label) as held:
                signature = held.servable.signature(target.signature)
                inputs = parse(signature)
                check_rows(inputs, self.config)
                signature.check(inputs)
                outputs = await self.scheduler.run(held, signature, inputs, deadline)
                answer = Answer(held.servable.version, signature.name, outputs)
            if self.log is not None:
                said = (caller.request_id, caller.user_id, caller.session_id, self.name, answer.version, answer.signature)
                self.log.add(Served(time.time(), *said, inputs, outputs))
            return answer
        except RequestError as error:
            status = error.status.grpc_name
            raise
        finally:
            self.metrics.requests.add(self.name, status)
            self.metrics.latency.observe(self.name, "predict", entrypoint, value=(time.monotonic() - begun) * 1e6)
