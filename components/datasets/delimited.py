"""Any log as delimited text: commas, tabs or another character, with or without a header, compressed or not."""

from typing import ClassVar, Literal

from components.datasets.base import MappedLogConfig, Source, TextFormat


class DelimitedConfig(MappedLogConfig):
    """Delimited text files with the user's own columns."""

    description: ClassVar[str] = "delimited text: comma, tab or other, with or without header, .gz or plain"

    name: Literal["delimited"] = "delimited"
    text: TextFormat = TextFormat()

    def sources(self) -> tuple[Source, ...]:
        return self._source("delimited", self.text)
