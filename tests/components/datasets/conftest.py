"""Reads logs as the first stage of ingestion does, and lays out what came of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.datasets.base import Columns, DatasetConfig
from components.datasets.delimited import DelimitedConfig
from schemas import interaction
from schemas.reward import CLICK, PURCHASE


@dataclass
class Outcome:
    """What came of a log.

    Attributes:
        rows: (user, session, item, microseconds, role, reward, propensity) in order of position.
        bad: (file name, line from 1, reason, text) in order.
        rows_read: Rows counted.
        ignored: Rows of events that the dataset leaves out.
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    bad: list[tuple[str, int, str, str]] = field(default_factory=list)
    rows_read: int = 0
    ignored: int = 0

    @property
    def users_and_items(self) -> list[tuple[str, str]]:
        return [(row[0], row[2]) for row in self.rows]

    @property
    def times(self) -> list[int]:
        return [row[3] for row in self.rows]


_COLUMNS = (interaction.USER, interaction.SESSION, interaction.ITEM, interaction.TIME, interaction.FEEDBACK)


def read_dataset(config: DatasetConfig) -> Outcome:
    from components.datasets.reading import plan_ranges, read_range

    outcome = Outcome()
    placed: list[tuple[int, tuple[Any, ...]]] = []
    lines: dict[str, int] = {}
    for part in plan_ranges(config.sources()):
        for block in read_range(part):
            result = block.normalised
            for row in result.batch.to_pylist():
                propensity = row[interaction.PROPENSITY]
                reward = round(row[interaction.REWARD], 6)
                values = (*(row[name] for name in _COLUMNS), reward, None if propensity is None else round(propensity, 6))
                placed.append((row[interaction.POSITION], values))
            before = lines.get(part.path, 0)
            for line, reason, text in zip(block.bad_lines, result.bad_reasons, block.bad_texts, strict=True):
                outcome.bad.append((Path(part.path).name, before + line + 1, reason, text))
            assert result.num_rows == result.batch.num_rows + len(result.bad_rows) + result.num_ignored
            outcome.rows_read += result.num_rows
            outcome.ignored += result.num_ignored
            lines[part.path] = before + block.num_lines
    positions = [position for position, _ in placed]
    assert len(set(positions)) == len(positions), "two rows have one position"
    assert positions == sorted(positions), "rows do not come in order of position"
    outcome.rows = [values for _, values in placed]
    return outcome


@pytest.fixture(scope="session")
def read() -> Callable[[DatasetConfig], Outcome]:
    return read_dataset


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Writes a file below the test's own folder."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.fixture
def columns() -> Columns:
    return Columns(user="user", item="item", timestamp="time")


@pytest.fixture
def read_text(write: Callable[[str, str | bytes], Path], columns: Columns) -> Callable[..., Outcome]:
    """Reads delimited text: content, then changes of the configuration; the columns are user, item, time (seconds)."""

    def run(content: str | bytes, name: str = "log.csv", **changes: Any) -> Outcome:
        settings = {"columns": columns, "feedback": {"click": CLICK}, **changes}
        return read_dataset(DelimitedConfig(path=str(write(name, content)), **settings))

    return run


@pytest.fixture
def events() -> dict[str, Any]:
    """Settings of a log that names its events in a column `event`: clicks, purchases and ignored searches."""
    return {
        "columns": Columns(user="user", item="item", timestamp="time", feedback="event"),
        "feedback": {"click": CLICK, "buy": PURCHASE},
        "ignored_feedback": ("search",),
    }
