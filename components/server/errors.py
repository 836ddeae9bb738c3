"""What a client is told when a request cannot be answered."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """Kinds of failure, named as in gRPC, with the HTTP status of each."""

    INVALID_ARGUMENT = 400
    NOT_FOUND = 404
    REQUEST_TOO_LARGE = 413
    INTERNAL = 500
    UNIMPLEMENTED = 501
    UNAVAILABLE = 503
    DEADLINE_EXCEEDED = 504

    @property
    def grpc_name(self) -> str:
        """Name of the status code in gRPC."""
        return "RESOURCE_EXHAUSTED" if self is Status.REQUEST_TOO_LARGE else self.name


class RequestError(Exception):
    """A request that gets no answer.

    Attributes:
        status: What kind of failure it is.
    """

    def __init__(self, status: Status, message: str):
        super().__init__(message)
        self.status = status


def invalid(message: str) -> RequestError:
    """The error of a request that is wrong in itself."""
    return RequestError(Status.INVALID_ARGUMENT, message)
