"""What CSV files say about items and users, and what is wrong with some of them."""

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.base import Component, ComponentError
from components.exporter.component import EXPORTER
from components.exporter.config import ExporterConfig
from components.feature_files import read_item_features, read_tags, read_user_features
from components.reward_trainer.component import REWARD_TRAINER
from components.reward_trainer.config import RewardTrainerConfig
from models.rewards.fm import FMConfig
from schemas.config import ConfigError

NAMES = pa.chunked_array([["7", "shoe", "hat", "ñandú"]])


def _write(folder: Path, text: str) -> str:
    path = folder / "items.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_features_are_standardised_over_the_items_that_the_file_has(tmp_path: Path) -> None:
    # The deviation that is computed of three times .1 is not 0.
    rows = "1,hat,2001,.1\n3,7,2003,.1\n2,shoe,2002,.1\n900,unheard of,1,.1\n"
    found = read_item_features("x", _write(tmp_path, f"price,item,year,kind\n{rows}"), NAMES)
    assert found.names == ("price", "year", "kind")
    assert found.num_known == 3
    # Mean 2 and variance 2/3 of 1, 2 and 3, the same of the years; one kind says nothing. Rows: padding, 7, shoe, hat, ñandú, unknown.
    expected = np.zeros((6, 3))
    expected[1, :2], expected[3, :2] = np.sqrt(1.5), -np.sqrt(1.5)
    assert found.values == pytest.approx(expected, abs=1e-6)
    assert not found.values[:, 2].any()
    assert found.values.dtype == np.float32


def test_numbers_may_be_as_great_as_numbers_are(tmp_path: Path) -> None:
    text = "item,size,time\nhat,1e308,1700000000000000000\nshoe, -1e308 ,1700000000000000512\n"
    found = read_item_features("x", _write(tmp_path, text), NAMES)
    assert found.values[[3, 2]].tolist() == [[1, -1], [-1, 1]]


def test_files_are_found_and_opened_as_logs_are(tmp_path: Path) -> None:
    folder = tmp_path / "prices"
    folder.mkdir()
    (folder / "a.csv").write_text("\ufeffitem,price,year\nhat,1,2001\n", encoding="utf-8")
    (folder / "b.csv.gz").write_bytes(gzip.compress(b"year,item,price\r\n2003,shoe,3\r\n"))
    found = read_item_features("x", str(folder), NAMES)
    assert found.names == ("price", "year")
    assert found.values[[3, 2]].tolist() == [[-1, -1], [1, 1]]
    (folder / "c.csv").write_text("item,price\nñandú,1\n", encoding="utf-8")
    with pytest.raises(ComponentError, match=r"c.csv: expected the columns of the files before it, item, price, year; found item, price"):
        read_item_features("x", str(folder), NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item\nhat\n", "x: .*items.csv: expected CSV with the column item and columns of numbers, found item alone"),
        ("name,price\nhat,1\n", "expected CSV with the column item and columns of numbers, found name, price"),
        ("item,price\nhat,cheap\n", "x: .*items.csv: item 'hat', column 'price': expected a finite number, found 'cheap'"),
        ("item,price\nhat,1\n\nshoe,\n", "item 'shoe', column 'price': expected a finite number, found ''"),
        ("item,price\nhat,1\nshoe,inf\n", "item 'shoe', column 'price': expected a finite number, found 'inf'"),
        ("item,price\nhat,1\nshoe,NA\n", "item 'shoe', column 'price': expected a finite number, found 'NA'"),
        ("item,released\nhat,2020-01-01\n", "column 'released': expected a finite number, found '2020-01-01'"),
        ("item,price,price\nhat,1,2\n", "expected every column once, found item, price, price"),
        ("item,price\n,1\n,2\n", "2 rows have no item, expected one in every row"),
        ("", "x: .*items.csv: expected CSV with .*, found an empty file"),
        ("item,price\nhat,1\nshoe,2\nhat,1\n", "item 'hat' stands 2 times, expected once"),
        ("item,price\ncoat,1\n", "none of its 1 rows is about an item of the model"),
        ("item,price\nhat\n", "expected CSV with the column item and columns of numbers: .*columns"),
    ],
    ids=[
        "no_numbers",
        "no_item",
        "text",
        "empty_value",
        "infinite",
        "not_available",
        "day",
        "column_twice",
        "no_name",
        "empty_file",
        "item_twice",
        "other_items",
        "ragged",
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=message):
        read_item_features("x", _write(tmp_path, text), NAMES)


def test_what_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    for text, message in (("item,preço\nhat,1\n", "its first line is no UTF-8 text"), ("item,price\nñandú,1\n", "invalid UTF8 data")):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ComponentError, match=rf"x: .*items.csv: expected CSV with .*: .*{message}"):
            read_item_features("x", str(path), NAMES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x: no such file or directory: .*nowhere.csv"):
        read_item_features("x", str(tmp_path / "nowhere.csv"), NAMES)
    with pytest.raises(ConfigError, match="x: expected a path, found ''"):
        read_item_features("x", "", NAMES)


def test_features_of_users_are_those_of_all_rows(tmp_path: Path) -> None:
    found = read_user_features("x", _write(tmp_path, "user,age,visits\n007,20,1\nbo,40,1\n7,30,4\n"))
    assert found.names == ("age", "visits")
    assert found.users == ("007", "bo", "7")
    # Deviations of -10, 10, 0 and of -1, -1, 2.
    assert found.values == pytest.approx(np.array([[-10, -1], [10, -1], [0, 2]]) / np.sqrt([200 / 3, 2]), rel=1e-6)
    with pytest.raises(ComponentError, match="user 'bo' stands 2 times, expected once"):
        read_user_features("x", _write(tmp_path, "user,age\nbo,20\nbo,21\n"))
    with pytest.raises(ComponentError, match="expected a row for every user, found none"):
        read_user_features("x", _write(tmp_path, "user,age\n"))


def test_tags_are_texts_even_where_they_look_like_numbers(tmp_path: Path) -> None:
    found = read_tags("x", _write(tmp_path, "item,tag\n7,007\nhat,red\n7,red\ncoat,red\nshoe,\n"), NAMES)
    assert found == {"007": [1], "red": [3, 1]}
    with pytest.raises(ComponentError, match="expected CSV with the columns item and tag, found item, colour"):
        read_tags("x", _write(tmp_path, "item,colour\n7,red\n"), NAMES)
    with pytest.raises(ComponentError, match="none of its 2 rows has a tag of an item of the model"):
        read_tags("x", _write(tmp_path, "item,tag\n7,\ncoat,red\n"), NAMES)


@pytest.mark.parametrize(
    ("component", "config", "setting"),
    [
        (EXPORTER, ExporterConfig, "item_tags"),
        (REWARD_TRAINER, partial(RewardTrainerConfig, estimator=FMConfig()), "item_features"),
        (REWARD_TRAINER, partial(RewardTrainerConfig, estimator=FMConfig()), "user_features"),
    ],
    ids=["tags", "items", "users"],
)
def test_a_result_is_stale_when_the_file_has_changed(component: Component, config: Any, setting: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "item,tag\n7,1\n")
    named = config(**{setting: path})
    assert component.external_state is not None
    assert component.looks_outside(named)
    before = component.external_state(named)
    _write(tmp_path, "item,tag\n7,22\n")
    assert component.external_state(named) != before
    assert not component.looks_outside(config())
    assert component.external_state(config()) == {}
    Path(path).unlink()
    with pytest.raises(ConfigError, match=f"{component.name}.{setting}: no such file"):
        component.external_state(named)


def test_numbers_without_an_estimator_are_refused() -> None:
    with pytest.raises(ValueError, match="item_features: there is no estimator to be told of them"):
        RewardTrainerConfig(item_features="items.csv")
