"""Counting items and giving them ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from components.artifacts import Artifact
from components.trajectory_gen.config import TrajectoryGenConfig
from components.trajectory_gen.sessions import no_sessions
from components.trajectory_gen.vocabulary import (
    MergeCounts,
    build_vocabulary,
    count_items,
    empty_counts,
    item_ids,
    read_vocabulary,
    write_vocabulary,
)

Config = Callable[..., TrajectoryGenConfig]


def counts(**count_of: int) -> pa.Table:
    """Item to count, all clicks."""
    values = pa.array(count_of.values(), pa.int64())
    items = pa.array(count_of, pa.string())
    return pa.table({"item": items, "count": values, "click": values, "purchase": pa.array([0] * len(values), pa.int64())})


def as_dict(table: pa.Table) -> dict[str, tuple[int, int, int]]:
    return {row["item"]: (row["count"], row["click"], row["purchase"]) for row in table.to_pylist()}


def test_ids_fall_with_the_count_and_ties_are_in_order_of_name() -> None:
    table = build_vocabulary(counts(b=2, z=5, a=2, B=2, é=2, ab=2), 1)
    assert table["item"].to_pylist() == ["z", "B", "a", "ab", "b", "é"]
    assert item_ids(pa.array(["z", "B", "a", "é"]), table).tolist() == [1, 2, 3, 6]


def test_rare_items_are_left_out_and_share_the_unknown_id() -> None:
    table = build_vocabulary(counts(a=3, b=2, c=1), 2)
    assert table["item"].to_pylist() == ["a", "b"]
    # N is 3 with padding; the unknown bucket is N.
    assert item_ids(pa.array(["a", "c", "b", "never seen"]), table).tolist() == [1, 3, 2, 3]
    assert 0 not in item_ids(pa.array(["a", "c", "b"]), table)


def test_items_in_a_dictionary_get_the_same_ids() -> None:
    table = build_vocabulary(counts(a=3, b=2), 1)
    items = pa.array(["b", "x", "a", "b"])
    assert item_ids(items.dictionary_encode(), table).tolist() == item_ids(items, table).tolist() == [2, 3, 1, 2]


def test_with_an_empty_vocabulary_every_item_is_unknown() -> None:
    table = build_vocabulary(empty_counts(), 1)
    assert item_ids(pa.array(["a", "b"]), table).tolist() == [1, 1]
    assert item_ids(pa.array([], pa.string()), table).tolist() == []


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9)), max_size=70), st.integers(1, 40))
def test_counts_merge_in_any_grouping(tables: list[dict[str, int]], first: int) -> None:
    expected: dict[str, int] = {}
    for table in tables:
        for item, count in table.items():
            expected[item] = expected.get(item, 0) + count
    merge = MergeCounts()
    accumulators = []
    for part in (tables[:first], tables[first:], []):
        accumulator = merge.create_accumulator()
        for table in part:
            accumulator = merge.add_input(accumulator, counts(**table))
        accumulators.append(accumulator)
    merged = merge.extract_output(merge.merge_accumulators(accumulators))
    assert as_dict(merged) == {item: (count, count, 0) for item, count in expected.items()}


def test_events_are_counted_in_all_and_by_role(config: Config) -> None:
    from components.datasets.normalising import SCHEMA
    from components.trajectory_gen.sessions import build_sessions

    rows = [("u", "a", 0), ("u", "b", 1), ("u", "a", 1), ("v", "a", 0)]
    table = pa.table(
        [
            pa.array([row[0] for row in rows]),
            pa.nulls(4, pa.string()),
            pa.array([row[1] for row in rows]),
            pa.array(range(4), pa.int64()),
            pa.array([row[2] for row in rows], pa.int8()),
            pa.array([1.0] * 4, pa.float32()),
            pa.nulls(4, pa.float32()),
            pa.array(range(4), pa.int64()),
        ],
        schema=SCHEMA,
    )
    sessions = build_sessions(table, config([]))
    assert as_dict(count_items(sessions)) == {"a": (3, 2, 1), "b": (1, 0, 1)}
    # An item that is gone from the rows, but not from their dictionary, is not counted.
    kept = sessions.keep_sessions(sessions.lengths == 1)
    assert as_dict(count_items(kept)) == {"a": (1, 1, 0)}
    assert as_dict(count_items(no_sessions())) == {}


def test_a_vocabulary_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    table = build_vocabulary(counts(a=3, b=2, é=1), 1)
    write_vocabulary(table, tmp_path)
    manifest: Any = json.loads('{"type": "Vocabulary"}')
    assert read_vocabulary(Artifact(tmp_path, manifest)).equals(table)
