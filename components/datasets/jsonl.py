"""Any log as JSON lines, one object a line."""

from typing import ClassVar, Literal

from components.datasets.base import MappedLogConfig, Source


class JsonLinesConfig(MappedLogConfig):
    """JSON objects, one a line, with the user's own keys; ids may be text or whole numbers."""

    description: ClassVar[str] = "JSON lines, one object a line, .gz or plain"

    name: Literal["jsonl"] = "jsonl"

    def sources(self) -> tuple[Source, ...]:
        return self._source("jsonl")
