"""Logs of the simulated shop in files are the logs the simulated dataset gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.base import ComponentError, SilentProgress
from components.datasets.base import Columns
from components.datasets.delimited import DelimitedConfig
from components.datasets.generate import write_logs
from components.datasets.parquet import ParquetConfig
from components.datasets.session_shop import SessionShopDatasetConfig
from models.simulators.session_shop import SessionShopConfig
from schemas.reward import CLICK, PURCHASE

Read = Callable[..., Any]

COLUMNS = Columns(user="user_id", item="item_id", timestamp="timestamp", feedback="event", propensity="propensity")


@pytest.mark.parametrize("name", ["logs.csv", "logs.csv.gz", "logs.parquet"])
def test_written_logs_are_the_simulated_ones(tmp_path: Path, read: Read, name: str) -> None:
    path = tmp_path / "new" / name
    written = write_logs(path, 300, 5, 100, SilentProgress())
    kind = ParquetConfig if name.endswith("parquet") else DelimitedConfig
    outcome = read(kind(path=str(path), columns=COLUMNS, feedback={"click": CLICK, "purchase": PURCHASE}))
    shop = SessionShopConfig(num_items=100, num_clusters=10)
    expected = read(SessionShopDatasetConfig(num_events=300, seed=5, shop=shop))
    assert written == outcome.rows_read == len(expected.rows)
    assert [row[:6] for row in outcome.rows] == [row[:6] for row in expected.rows]
    assert [row[6] for row in outcome.rows] == pytest.approx([row[6] for row in expected.rows], abs=2e-6)
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_a_file_of_four_items_can_be_written(tmp_path: Path) -> None:
    assert write_logs(tmp_path / "logs.csv", 10, 0, 4, SilentProgress()) >= 10


def test_an_unknown_ending_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"logs\.txt ends in none of \.csv, \.csv\.gz, \.parquet"):
        write_logs(tmp_path / "logs.txt", 10, 0, 100, SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.datasets.generate._table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_logs(tmp_path / "logs.csv", 10, 0, 100, SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ComponentError, match=r"--out: cannot write .*file/logs\.csv"):
        write_logs(tmp_path / "file" / "logs.csv", 10, 0, 100, SilentProgress())
