"""CSV files beside the logs that say something about items or users: a column of their names, and columns of what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from components.base import ComponentError

_ITEM, _USER, _TAG = "item", "user", "tag"


class ItemFeatures(NamedTuple):
    """Numbers of items.

    Attributes:
        names: G columns, in order of the file.
        values: [N+1, G] float32 by item id, each column with mean 0 and deviation 1 over the items that the file has; 0 for all others.
        num_known: Items of the vocabulary that the file has.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    num_known: int


class UserFeatures(NamedTuple):
    """Numbers of users.

    Attributes:
        names: U columns, in order of the file.
        users: Names of the users.
        values: [users, U] float32, each column with mean 0 and deviation 1.
    """

    names: tuple[str, ...]
    users: tuple[str, ...]
    values: npt.NDArray[np.float32]


def read_tags(setting: str, path: str, names: pa.ChunkedArray) -> dict[str, list[int]]:
    """Tag to the ids of its items; items that are not among the names of items 1..N-1 do not count.

    Raises:
        ComponentError: The file cannot be read, has other columns, or knows no item of these.
    """
    table = _read(setting, path, "the columns item and tag", {_ITEM: pa.string(), _TAG: pa.string()})
    ids = _ids(setting, path, table, names)
    found: dict[str, list[int]] = {}
    for number, tag in zip(ids, table[_TAG].to_pylist(), strict=True):
        if number and tag:
            found.setdefault(tag, []).append(number)
    return found


def read_item_features(setting: str, path: str, names: pa.ChunkedArray) -> ItemFeatures:
    """Every column beside `item` as numbers; items that are not among the names of items 1..N-1 do not count.

    Raises:
        ComponentError: The file cannot be read, has no such column, a value that is no finite number or an item twice, or knows no
            item of these.
    """
    table = _read_numbers(setting, path, _ITEM)
    ids = np.array(_ids(setting, path, table, names))
    values = np.zeros([len(names) + 2, table.num_columns - 1], np.float32)
    values[ids[ids > 0]] = _standardised(table.filter(pa.array(ids > 0)), _ITEM)
    return ItemFeatures(_columns(table, _ITEM), values, int((ids > 0).sum()))


def read_user_features(setting: str, path: str) -> UserFeatures:
    """Every column beside `user` as numbers.

    Raises:
        ComponentError: The file cannot be read, has no such column or no row, a value that is no finite number, or a user twice.
    """
    table = _read_numbers(setting, path, _USER)
    if not table.num_rows:
        raise ComponentError(f"{setting}: {path}: expected a row for every user, found none")
    return UserFeatures(_columns(table, _USER), tuple(table[_USER].to_pylist()), _standardised(table, _USER))


def _read_numbers(setting: str, path: str, key: str) -> pa.Table:
    """The key as text and all other columns as finite numbers; no key twice."""
    expected = f"the column {key} and columns of numbers"
    table = _read(setting, path, expected, {key: pa.string()})
    if table.column_names == [key]:
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}, found {key} alone")
    for name in _columns(table, key):
        try:
            numbers = table[name].cast(pa.float64())
        except (ValueError, TypeError) as error:
            raise ComponentError(f"{setting}: {path}: column {name!r}: expected numbers: {error}") from None
        is_finite = np.isfinite(numbers.to_numpy())
        if not is_finite.all():
            row = int(np.argmin(is_finite))
            raise ComponentError(f"{setting}: {path}: line {row + 2}, column {name!r}: expected a finite number, found {table[name][row]}")
        table = table.set_column(table.column_names.index(name), name, numbers)
    counts = table[key].value_counts()
    if len(counts) < table.num_rows:
        name, count = next((found["values"], found["counts"]) for found in counts.to_pylist() if found["counts"] > 1)
        raise ComponentError(f"{setting}: {path}: {key} {name!r} stands {count} times, expected once")
    return table


def _columns(table: pa.Table, key: str) -> tuple[str, ...]:
    return tuple(name for name in table.column_names if name != key)


def _standardised(table: pa.Table, key: str) -> npt.NDArray[np.float32]:
    """[rows, columns but the key]."""
    numbers = np.stack([table[name].to_numpy() for name in _columns(table, key)], axis=1)
    deviation = numbers.std(axis=0)
    # A column that says the same of everybody says nothing.
    found: npt.NDArray[np.float32] = ((numbers - numbers.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
    return found


def _read(setting: str, path: str, expected: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    """A table that has these columns."""
    try:
        text = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        table = pa.csv.read_csv(path, convert_options=text)
    except (OSError, pa.ArrowInvalid) as error:
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}: {error}") from None
    if not set(types) <= set(table.column_names):
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}, found {', '.join(table.column_names)}")
    return table


def _ids(setting: str, path: str, table: pa.Table, names: pa.ChunkedArray) -> list[int]:
    """Ids of the items of the rows, 0 for those that are not among the names."""
    known = {name: number for number, name in enumerate(names.to_pylist(), 1)}
    ids = [known.get(item, 0) for item in table[_ITEM].to_pylist()]
    if not any(ids):
        raise ComponentError(f"{setting}: {path}: none of its {len(ids):,} rows is about an item of the model")
    return ids
