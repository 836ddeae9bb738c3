"""CSV files beside the logs that say something about items: a column `item`, and columns of what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from components.base import ComponentError

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

_ITEM, _TAG = "item", "tag"


class ItemFeatures(NamedTuple):
    """Numbers of items.

    Attributes:
        names: G columns, in order of the file.
        values: [N+1, G] float32 by item id, each column with mean 0 and deviation 1 over the items that the file has; 0 for all others.
        num_known: Items of the vocabulary that the file has.
    """

    names: tuple[str, ...]
    values: npt.NDArray[Any]
    num_known: int


def read_tags(setting: str, path: str, names: pa.ChunkedArray) -> dict[str, list[int]]:
    """Tag to the ids of its items; items that are not among the names of items 1..N-1 do not count.

    Raises:
        ComponentError: The file cannot be read, has other columns, or knows no item of these.
    """
    import pyarrow as pa

    table = _read(setting, path, "the columns item and tag", {_TAG: pa.string()})
    if _TAG not in table.column_names:
        raise ComponentError(f"{setting}: {path}: expected CSV with the columns item and tag, found {', '.join(table.column_names)}")
    ids = _ids(setting, path, table, names)
    found: dict[str, list[int]] = {}
    for number, tag in zip(ids, table[_TAG].to_pylist(), strict=True):
        if number and tag:
            found.setdefault(tag, []).append(number)
    return found


def read_features(setting: str, path: str, names: pa.ChunkedArray) -> ItemFeatures:
    """Every column beside `item` as numbers; items that are not among the names of items 1..N-1 do not count.

    Raises:
        ComponentError: The file cannot be read, has no such column, a value that is no finite number or an item twice, or knows no
            item of these.
    """
    import numpy as np

    expected = "the column item and columns of numbers"
    table = _read(setting, path, expected, {})
    columns = [name for name in table.column_names if name != _ITEM]
    if not columns:
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}, found item alone")
    ids = np.array(_ids(setting, path, table, names))
    numbers = np.zeros([len(ids), len(columns)])
    for place, name in enumerate(columns):
        try:
            numbers[:, place] = table[name].cast("float64").to_numpy()
        except (ValueError, TypeError) as error:
            raise ComponentError(f"{setting}: {path}: column {name!r}: expected numbers: {error}") from None
        if not np.isfinite(numbers[:, place]).all():
            row = int(np.argmin(np.isfinite(numbers[:, place])))
            raise ComponentError(f"{setting}: {path}: line {row + 2}, column {name!r}: expected a finite number, found {table[name][row]}")
    known = ids > 0
    ids, numbers = ids[known], numbers[known]
    count = np.bincount(ids, minlength=len(names) + 1)
    if count.max() > 1:
        raise ComponentError(
            f"{setting}: {path}: item {names[int(count.argmax()) - 1].as_py()!r} stands {count.max()} times, expected once"
        )
    deviation = numbers.std(axis=0)
    values = np.zeros([len(names) + 2, len(columns)], np.float32)
    # A column that says the same of every item says nothing.
    values[ids] = (numbers - numbers.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return ItemFeatures(tuple(columns), values, len(ids))


def _read(setting: str, path: str, expected: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    try:
        text = pa.csv.ConvertOptions(column_types={_ITEM: pa.string(), **types}, strings_can_be_null=False)
        table = pa.csv.read_csv(path, convert_options=text)
    except (OSError, pa.ArrowInvalid) as error:
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}: {error}") from None
    if _ITEM not in table.column_names:
        raise ComponentError(f"{setting}: {path}: expected CSV with {expected}, found {', '.join(table.column_names)}")
    return table


def _ids(setting: str, path: str, table: pa.Table, names: pa.ChunkedArray) -> list[int]:
    """Ids of the items of the rows, 0 for those that are not among the names."""
    known = {name: number for number, name in enumerate(names.to_pylist(), 1)}
    ids = [known.get(item, 0) for item in table[_ITEM].to_pylist()]
    if not any(ids):
        raise ComponentError(f"{setting}: {path}: none of its {len(ids):,} rows is about an item of the model")
    return ids
