"""CSV files beside the logs that say something about items or users: a column of their names, and columns of what is known of them.

Files are found and opened as logs are: globs, folders and URLs, compressed or not.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from components.base import ComponentError
from components.datasets.files import first_line, list_files, open_log

_ITEM, _USER, _TAG = "item", "user", "tag"


class ItemFeatures(NamedTuple):
    """Numbers of items.

    Attributes:
        names: G columns, in order of the file.
        values: [N+1, G] float32 by item id, each column with mean 0 and deviation 1 over the items that the file has; 0 for all others,
            and where a column says the same of all.
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
        values: [users, U] float32, each column with mean 0 and deviation 1; 0 where a column says the same of all.
    """

    names: tuple[str, ...]
    users: tuple[str, ...]
    values: npt.NDArray[np.float32]


def read_tags(setting: str, path: str, names: pa.ChunkedArray) -> dict[str, list[int]]:
    """Tag to the ids of its items; items that are not among the names of items 1..N-1 do not count.

    Raises:
        ComponentError: The file cannot be read, has other columns, or knows no item of these or no tag of one.
    """
    table = _read(setting, path, "the columns item and tag", (_ITEM, _TAG))
    ids = _ids(setting, path, table, names)
    found: dict[str, list[int]] = {}
    for number, tag in zip(ids, table[_TAG].to_pylist(), strict=True):
        if number and tag:
            found.setdefault(tag, []).append(number)
    if not found:
        raise ComponentError(f"{setting}: {path}: none of its {len(ids):,} rows has a tag of an item of the model")
    return found


def read_item_features(setting: str, path: str, names: pa.ChunkedArray) -> ItemFeatures:
    """Every column beside `item` as numbers; items that are not among the names of items 1..N-1 do not count.

    Raises:
        ComponentError: The file cannot be read, has no such column, a value that is no finite number or an item twice, or knows no
            item of these.
    """
    keys, columns = _read_numbers(setting, path, _ITEM)
    ids = np.array(_ids(setting, path, keys, names))
    values = np.zeros([len(names) + 2, len(columns)], np.float32)
    values[ids[ids > 0]] = _standardised([column[ids > 0] for column in columns.values()])
    return ItemFeatures(tuple(columns), values, int((ids > 0).sum()))


def read_user_features(setting: str, path: str) -> UserFeatures:
    """Every column beside `user` as numbers.

    Raises:
        ComponentError: The file cannot be read, has no such column or no row, a value that is no finite number, or a user twice.
    """
    keys, columns = _read_numbers(setting, path, _USER)
    if not keys.num_rows:
        raise ComponentError(f"{setting}: {path}: expected a row for every user, found none")
    return UserFeatures(tuple(columns), tuple(keys[_USER].to_pylist()), _standardised(list(columns.values())))


def _read_numbers(setting: str, path: str, key: str) -> tuple[pa.Table, dict[str, npt.NDArray[np.float64]]]:
    """The key, which is never empty and stands nowhere twice, and all other columns as finite numbers by their names."""
    expected = f"the column {key} and columns of numbers"
    table = _read(setting, path, expected, (key,))
    if table.column_names == [key]:
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}, found {key} alone")
    counts = table[key].value_counts()
    for found in counts.filter(pc.or_(pc.greater(counts.field("counts"), 1), pc.equal(counts.field("values"), ""))).to_pylist():
        if not found["values"]:
            raise ComponentError(f"{setting}: {path}: {found['counts']} rows have no {key}, expected one in every row")
        raise ComponentError(f"{setting}: {path}: {key} {found['values']!r} stands {found['counts']} times, expected once")
    columns = {}
    for name in table.column_names:
        if name != key:
            numbers = _numbers(table[name])
            if numbers is None:
                row = next(row for row in range(table.num_rows) if _numbers(table[name].slice(row, 1)) is None)
                where = f"{key} {table[key][row].as_py()!r}, column {name!r}"
                raise ComponentError(f"{setting}: {path}: {where}: expected a finite number, found {table[name][row].as_py()!r}")
            columns[name] = numbers
    return table.select([key]), columns


def _numbers(texts: pa.ChunkedArray) -> npt.NDArray[np.float64] | None:
    """Texts as numbers; None where one of them is no finite number."""
    try:
        numbers: npt.NDArray[np.float64] = pc.utf8_trim_whitespace(texts).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _standardised(columns: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    """[rows, columns]."""
    numbers = np.stack(columns, axis=1)
    # By a power of two, which loses nothing and after which no difference is beyond all numbers.
    numbers = np.ldexp(numbers, -np.frexp(np.abs(numbers).max(axis=0))[1] - 1)
    numbers -= numbers.min(axis=0)
    greatest = numbers.max(axis=0)
    # A column that says the same of everybody is exactly 0 by now and says nothing.
    is_same = greatest == 0
    numbers /= np.where(is_same, 1.0, greatest)
    found: npt.NDArray[np.float32] = ((numbers - numbers.mean(axis=0)) / np.where(is_same, 1.0, numbers.std(axis=0))).astype(np.float32)
    return found


def _read(setting: str, path: str, expected: str, needed: Collection[str]) -> pa.Table:
    """All columns as texts, of one file or of several that have the same ones."""
    tables: list[pa.Table] = []
    for file in list_files([path], setting):
        try:
            table = _read_file(file.path)
        except (OSError, EOFError, csv.Error, pa.ArrowException) as error:
            raise ComponentError(f"{setting}: {file.path}: expected CSV with {expected}: {error}") from None
        found = ", ".join(table.column_names) or "an empty file"
        if not set(needed) <= set(table.column_names):
            raise ComponentError(f"{setting}: {file.path}: expected CSV with {expected}, found {found}")
        if len(set(table.column_names)) < table.num_columns:
            raise ComponentError(f"{setting}: {file.path}: expected every column once, found {found}")
        if tables and set(table.column_names) != set(tables[0].column_names):
            others = ", ".join(tables[0].column_names)
            raise ComponentError(f"{setting}: {file.path}: expected the columns of the files before it, {others}; found {found}")
        tables.append(table.select(tables[0].column_names) if tables else table)
    return pa.concat_tables(tables)


def _read_file(path: str) -> pa.Table:
    line = first_line(path)
    if "\N{REPLACEMENT CHARACTER}" in line:
        raise pa.ArrowInvalid("its first line is no UTF-8 text")
    names = next(csv.reader([line]), [])
    if not names:
        return pa.table({})
    # By its number, because two may have one name.
    places = [str(number) for number in range(len(names))]
    read = pa.csv.ReadOptions(column_names=places, skip_rows=1)
    text = pa.csv.ConvertOptions(column_types=dict.fromkeys(places, pa.string()), strings_can_be_null=False)
    with open_log(path) as stream:
        return pa.csv.read_csv(stream, read_options=read, convert_options=text).rename_columns(names)


def _ids(setting: str, path: str, table: pa.Table, names: pa.ChunkedArray) -> list[int]:
    """Ids of the items of the rows, 0 for those that are not among the names."""
    known = {name: number for number, name in enumerate(names.to_pylist(), 1)}
    ids = [known.get(item, 0) for item in table[_ITEM].to_pylist()]
    if not any(ids):
        raise ComponentError(f"{setting}: {path}: none of its {len(ids):,} rows is about an item of the model")
    return ids
