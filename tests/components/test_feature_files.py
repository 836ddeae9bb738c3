"""What CSV files say about items and users, and what is wrong with some of them."""

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

NAMES = pa.chunked_array([["7", "shoe", "hat", "ñandú"]])


def _write(folder: Path, text: str) -> str:
    path = folder / "items.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_features_are_standardised_over_the_items_that_the_file_has(tmp_path: Path) -> None:
    found = read_item_features("x", _write(tmp_path, "price,item,year,kind\n1,hat,2001,5\n3,7,2003,5\n900,unheard of,1,5\n"), NAMES)
    assert found.names == ("price", "year", "kind")
    assert found.num_known == 2
    # Mean 2 and deviation 1 of 1 and 3, the same of the years; one kind says nothing. Rows: padding, 7, shoe, hat, ñandú, unknown.
    expected = np.zeros((6, 3), np.float32)
    expected[1], expected[3] = [1, 1, 0], [-1, -1, 0]
    assert np.array_equal(found.values, expected)
    assert found.values.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item\nhat\n", "x: .*items.csv: expected CSV with the column item and columns of numbers, found item alone"),
        ("name,price\nhat,1\n", "expected CSV with the column item and columns of numbers, found name, price"),
        ("item,price\nhat,cheap\n", "column 'price': expected numbers: .*cheap"),
        ("item,price\nhat,1\nshoe,\n", "line 3, column 'price': expected a finite number, found None"),
        ("item,price\nhat,1\nshoe,inf\n", "line 3, column 'price': expected a finite number, found inf"),
        ("item,price\nhat,1\nshoe,2\nhat,1\n", "item 'hat' stands 2 times, expected once"),
        ("item,price\ncoat,1\n", "none of its 1 rows is about an item of the model"),
        ("item,price\nhat\n", "expected CSV with the column item and columns of numbers: .*columns"),
    ],
    ids=["no_numbers", "no_item", "text", "empty", "infinite", "twice", "other_items", "ragged"],
)
def test_a_bad_file_is_refused_with_what_is_wrong_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=message):
        read_item_features("x", _write(tmp_path, text), NAMES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"x: .*nowhere.csv: expected CSV with"):
        read_item_features("x", str(tmp_path / "nowhere.csv"), NAMES)


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


@pytest.mark.parametrize(
    ("component", "config", "setting"),
    [(EXPORTER, ExporterConfig, "item_tags"), (REWARD_TRAINER, partial(RewardTrainerConfig, estimator=FMConfig()), "item_features")],
    ids=["exporter", "reward_trainer"],
)
def test_a_result_is_stale_when_the_file_has_changed(component: Component, config: Any, setting: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "item,tag\n7,1\n")
    named = config(**{setting: path})
    assert component.external_state is not None
    assert component.looks_outside(named)
    before = component.external_state(named)
    _write(tmp_path, "item,tag\n7,2\n")
    assert component.external_state(named) != before
    assert not component.looks_outside(config())
    assert component.external_state(config()) == {}
