"""Any log as Parquet files."""

from typing import ClassVar, Literal

from components.datasets.base import MappedLogConfig, Source


class ParquetConfig(MappedLogConfig):
    """Parquet files with the user's own columns; ids may be text or whole numbers."""

    description: ClassVar[str] = "Parquet files"

    name: Literal["parquet"] = "parquet"

    def sources(self) -> tuple[Source, ...]:
        return self._source("parquet")
