"""What a dataset is: a configuration that says where the log lies and what its columns mean."""

import csv
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic

from components.datasets.files import file_states, first_line, list_files
from schemas.config import Config, ConfigError
from schemas.reward import FeedbackRule

TimestampUnit = Literal["seconds", "milliseconds", "microseconds", "iso8601"]


class Columns(Config):
    """Which column of the log holds what."""

    user: str
    """Who acted."""
    item: str
    """What was acted on."""
    timestamp: str
    """When, in `timestamp_unit`."""
    feedback: str | None = None
    """Name of the event, a key of `feedback`; without it every row is the one event `feedback` names."""
    session: str | None = None
    """The log's own session; without it sessions are cut by `session_gap_seconds`."""
    reward: str | None = None
    """A number that is the reward of the row, in place of the event's."""
    propensity: str | None = None
    """Probability with which the logging policy showed the item; empty or null where it was not logged."""

    def names(self) -> list[str]:
        """The mapped columns, each once."""
        return list(dict.fromkeys(name for name in self.model_dump().values() if name is not None))


class TextFormat(Config):
    """How delimited text is laid out."""

    delimiter: str = pydantic.Field(default=",", min_length=1, max_length=1)
    """One character between fields."""
    header: bool = True
    """True when the first line of every file names the columns."""
    column_names: tuple[str, ...] = ()
    """Names of all columns in order, where there is no header."""
    quote: str = pydantic.Field(default='"', max_length=1)
    """Character around fields that hold the delimiter; empty for none."""

    @pydantic.field_validator("delimiter", "quote")
    @classmethod
    def _is_ascii(cls, character: str) -> str:
        if not character.isascii() or character in ("\n", "\r"):
            raise ValueError(f"expected an ASCII character other than a line end, found {character!r}")
        return character

    @pydantic.model_validator(mode="after")
    def _names_given_once(self) -> "TextFormat":
        if self.header and self.column_names:
            raise ValueError("column_names is for files without a header; remove it or set header: false")
        if not self.header and not self.column_names:
            raise ValueError("without a header, column_names must name every column in order")
        if len(set(self.column_names)) < len(self.column_names):
            raise ValueError("column_names repeats a name")
        return self


PATH_KEY = "trajectory_gen.dataset.path"


class LogSource(Config):
    """Files of one layout; what a dataset resolves to and what the readers take."""

    paths: tuple[str, ...]
    key: str = PATH_KEY
    """Configuration key that the paths came from, for messages."""
    format: Literal["delimited", "parquet", "jsonl"]
    text: TextFormat = TextFormat()
    columns: Columns
    timestamp_unit: TimestampUnit
    feedback: dict[str, FeedbackRule]
    ignored_feedback: tuple[str, ...] = ()


class SimulatedSource(Config):
    """A simulated log; `shop` is the configuration of the simulator, `noise` that of what is done to its rewards."""

    format: Literal["session_shop"] = "session_shop"
    num_events: int
    seed: int
    shop: dict[str, Any]
    noise: dict[str, Any] | None = None


Source = LogSource | SimulatedSource


class DatasetConfig(Config):
    """Base of all dataset configurations."""

    description: ClassVar[str] = ""

    def sources(self) -> tuple[Source, ...]:
        """Resolves the dataset to what the readers take; may look at the first line of a file.

        Raises:
            ConfigError: Files are missing, or lack a mapped column.
        """
        raise NotImplementedError

    def external_state(self) -> Mapping[str, Any]:
        """Identifies the files behind the dataset without reading them: path, size and time of change of each."""
        sources = [source for source in self.sources() if isinstance(source, LogSource)]
        return {"files": [state for source in sources for state in file_states(source.paths, source.key)]}


class MappedLogConfig(DatasetConfig):
    """Files whose columns the user maps; one subclass for each file format."""

    path: str | tuple[str, ...]
    """Files, globs or directories; local, or URLs that Beam's filesystems serve."""
    columns: Columns
    timestamp_unit: TimestampUnit = "seconds"
    """Unit of the time column; a column of Parquet's own timestamp type needs none."""
    feedback: dict[str, FeedbackRule]
    """Event name to role and reward."""
    ignored_feedback: tuple[str, ...] = ()
    """Event names to leave out; any other unknown name sends the row to quarantine."""

    @pydantic.model_validator(mode="after")
    def _feedback_is_named(self) -> "MappedLogConfig":
        if not self.feedback:
            raise ValueError("feedback must map at least one event name to a role and a reward")
        if self.columns.feedback is None and len(self.feedback) != 1:
            raise ValueError(
                f"without columns.feedback every row is one event, but feedback names {len(self.feedback)}: {', '.join(self.feedback)}"
            )
        both = sorted(set(self.feedback) & set(self.ignored_feedback))
        if both:
            raise ValueError(f"{', '.join(both)}: in feedback and in ignored_feedback")
        return self

    def _source(self, format: Literal["delimited", "parquet", "jsonl"], text: TextFormat = TextFormat()) -> tuple[Source, ...]:
        source = LogSource(
            paths=as_paths(self.path),
            format=format,
            text=text,
            columns=self.columns,
            timestamp_unit=self.timestamp_unit,
            feedback=self.feedback,
            ignored_feedback=self.ignored_feedback,
        )
        return (checked_header(source),)


def as_paths(path: str | tuple[str, ...]) -> tuple[str, ...]:
    """One path or several, as several."""
    return (path,) if isinstance(path, str) else path


def checked_header(source: LogSource) -> LogSource:
    """Checks that delimited files have the mapped columns, by the first line of the first file.

    Raises:
        ConfigError: Files are missing or a column is.
    """
    files = list_files(source.paths, source.key)
    if source.format != "delimited":
        return source
    names = header_of(files[0].path, source.text) if source.text.header else list(source.text.column_names)
    if source.text.header and files[0].num_bytes == 0:
        return source  # The reader says that the file is empty, which is the better message.
    require_columns(source.columns, names, files[0].path)
    return source


def require_columns(columns: Columns, names: list[str], path: str) -> None:
    """Raises a ConfigError that names every mapped column the file lacks and lists those it has."""
    for role, name in columns.model_dump().items():
        if name is not None and names.count(name) > 1:
            raise ConfigError(f"trajectory_gen.dataset.columns.{role}: {path} has {names.count(name)} columns {name!r}")
        if name is not None and name not in names:
            raise ConfigError(
                f"trajectory_gen.dataset.columns.{role}: {path} has no column {name!r}; its columns are {', '.join(names) or '(none)'}"
            )


def header_of(path: str, text: TextFormat) -> list[str]:
    """Column names in the first line of a delimited file."""
    try:
        line = first_line(path)
        if not line:
            return []
        if text.quote:
            return next(csv.reader([line], delimiter=text.delimiter, quotechar=text.quote))
        return next(csv.reader([line], delimiter=text.delimiter, quoting=csv.QUOTE_NONE))
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ConfigError(f"{path}: its first line cannot be read: {type(error).__name__}: {error}") from None
