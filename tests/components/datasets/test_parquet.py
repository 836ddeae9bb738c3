"""Parquet: the column types that writers of logs use, nulls, and files that are none."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.base import ComponentError
from components.datasets import reading
from components.datasets.base import Columns
from components.datasets.parquet import ParquetConfig
from schemas.config import ConfigError
from schemas.reward import CLICK

Read = Callable[..., Any]

T = 1_600_000_000
US = T * 1_000_000
NAMES = pa.array(["a", "b"])
TIMES = pa.array([T, T + 1])


@pytest.fixture
def read_parquet(tmp_path: Path, columns: Columns, read: Read) -> Read:
    def run(user: pa.Array = NAMES, item: pa.Array = NAMES, time: pa.Array = TIMES, row_group_size: int = 1000, **changes: Any) -> Any:
        extra = changes.pop("extra", {})
        pq.write_table(
            pa.table({"other": user, "user": user, "item": item, "time": time, **extra}), tmp_path / "log.parquet", row_group_size
        )
        settings = {"columns": columns, "feedback": {"click": CLICK}, **changes}
        return read(ParquetConfig(path=str(tmp_path / "log.parquet"), **settings))

    return run


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (pa.array(["a", "é"]), ["a", "é"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array([b"a", b"b"], pa.large_binary()), ["a", "b"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.array([-5, 2**62]), ["-5", "4611686018427387904"]),
        (pa.array([1, 2], pa.int8()), ["1", "2"]),
        (pa.array([2**64 - 1, 2**63], pa.uint64()), ["18446744073709551615", "9223372036854775808"]),
        (pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
        (pa.array([7.0, 8.0]), ["7", "8"]),
    ],
    ids=str,
)
def test_ids_of_any_type_are_text(read_parquet: Read, user: pa.Array, expected: list[str]) -> None:
    assert [row[0] for row in read_parquet(user=user).rows] == expected


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (pa.array([T, T + 1]), [US, US + 1_000_000]),
        (pa.array([T, T + 1], pa.int32()), [US, US + 1_000_000]),
        (pa.array([T + 0.25, T + 0.5]), [US + 250_000, US + 500_000]),
        (pa.array([str(T), f" {T}.5 "]), [US, US + 500_000]),
        (pa.array([T, T + 1]).cast(pa.timestamp("s")), [US, US + 1_000_000]),
        (pa.array([T * 1000 + 7] * 2).cast(pa.timestamp("ms")), [US + 7000] * 2),
        (pa.array([US + 7] * 2).cast(pa.timestamp("us")), [US + 7] * 2),
        # A zone is how the moment is shown; the moment itself is stored in UTC.
        (pa.array([US + 7] * 2).cast(pa.timestamp("us", "Europe/Berlin")), [US + 7] * 2),
        (pa.array([T, T + 1]).dictionary_encode(), [US, US + 1_000_000]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_times_of_any_type_are_microseconds(read_parquet: Read, time: pa.Array, expected: list[int]) -> None:
    assert read_parquet(time=time).times == expected


def test_a_timestamp_column_needs_no_unit(read_parquet: Read) -> None:
    time = pa.array([US] * 2).cast(pa.timestamp("us"))
    assert read_parquet(time=time, timestamp_unit="milliseconds").times == [US, US]


@pytest.mark.parametrize("kind", [pa.uint32(), pa.uint64()])
def test_times_may_be_unsigned(read_parquet: Read, kind: pa.DataType) -> None:
    # 64 bits unsigned is how ClickHouse and Polars write counts and DateTime columns.
    assert read_parquet(time=pa.array([T, T + 1], kind)).times == [US, US + 1_000_000]


def test_ids_and_times_may_be_decimals(read_parquet: Read) -> None:
    # DECIMAL(20, 0) is how databases export BIGINT UNSIGNED.
    outcome = read_parquet(
        user=pa.array([Decimal(1), Decimal(2)], pa.decimal128(20, 0)), time=pa.array([Decimal(T)] * 2, pa.decimal128(20, 0))
    )
    assert [row[0] for row in outcome.rows] == ["1", "2"]


def test_a_nested_column_as_an_id_is_a_configuration_error_that_names_it(read_parquet: Read) -> None:
    with pytest.raises((ConfigError, ComponentError), match="user"):
        read_parquet(user=pa.array([[1], [2]]))


def test_nulls_are_bad_rows_with_their_row_numbers(read_parquet: Read) -> None:
    outcome = read_parquet(
        user=pa.array([None, "b", "c", "d"]),
        item=pa.array(["x", None, "y", "z"]).dictionary_encode(),
        time=pa.array([T, T, None, T]),
    )
    assert outcome.users_and_items == [("d", "z")]
    assert outcome.bad == [
        ("log.parquet", 1, "user is empty", ",x,1600000000"),
        ("log.parquet", 2, "item is empty", "b,,1600000000"),
        ("log.parquet", 3, "timestamp None is not a time from 1970 to 2200 in seconds", "c,y,"),
    ]


def test_a_missing_number_in_a_column_of_whole_ids_is_a_bad_row(read_parquet: Read) -> None:
    # Tools without integer nulls write such columns as floats.
    outcome = read_parquet(user=pa.array([1.0, None]))
    assert outcome.rows[0][0] == "1"
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [(2, "user is empty")]


def test_nan_is_no_id(read_parquet: Read) -> None:
    outcome = read_parquet(user=pa.array([1.0, float("nan")]))
    assert [row[0] for row in outcome.rows] == ["1"]


def test_float_ids_beyond_the_integers_stay_apart_or_are_refused(read_parquet: Read) -> None:
    users = [row[0] for row in read_parquet(user=pa.array([1e20, 2e20])).rows]
    assert len(set(users)) == len(users)


def test_invalid_utf_8_is_a_bad_row(read_parquet: Read) -> None:
    outcome = read_parquet(user=pa.array([b"a", b"\xff"]))
    assert [row[0] for row in outcome.rows] == ["a"]
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [(2, "user is not UTF-8")]


def test_row_numbers_and_positions_go_on_from_batch_to_batch(read_parquet: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 3)
    users = pa.array([f"u{n}" if n not in (4, 9) else None for n in range(11)])
    outcome = read_parquet(user=users, item=users.fill_null("x"), time=pa.array([T] * 11), row_group_size=5)
    assert [row[0] for row in outcome.rows] == [f"u{n}" for n in range(11) if n not in (4, 9)]
    assert [line for _, line, _, _ in outcome.bad] == [5, 10]


def test_a_missing_column_is_a_configuration_error_that_lists_the_columns(read_parquet: Read) -> None:
    with pytest.raises(ConfigError, match=r"columns\.user: .*log\.parquet has no column 'who'; its columns are other, user, item, time"):
        read_parquet(columns=Columns(user="who", item="item", timestamp="time"))


def test_a_file_without_rows_is_an_error_that_names_it(read_parquet: Read) -> None:
    with pytest.raises(ComponentError, match=r"log\.parquet: the file has no rows"):
        read_parquet(pa.array([], pa.string()), pa.array([], pa.string()), pa.array([], pa.int64()))


@pytest.fixture
def parquet_file(tmp_path: Path, columns: Columns) -> tuple[Path, ParquetConfig]:
    path = tmp_path / "log.parquet"
    return path, ParquetConfig(path=str(path), columns=columns, feedback={"click": CLICK})


def test_a_file_that_is_no_parquet_is_an_error_that_names_it(parquet_file: tuple[Path, ParquetConfig], read: Read) -> None:
    path, config = parquet_file
    for content in (b"user,item,time\na,x,1\n", b"PAR1" + b"\xff" * 50 + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(ComponentError, match=r"log\.parquet: not a Parquet file: "):
            read(config)


def test_a_damaged_file_is_an_error_that_names_it(parquet_file: tuple[Path, ParquetConfig], read: Read) -> None:
    path, config = parquet_file
    count = 20_000
    users = pa.array([f"user-{n * n}" for n in range(count)])
    pq.write_table(pa.table({"user": users, "item": users, "time": pa.array([T] * count)}), path, use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    damaged[200:2000] = b"\xaa" * 1800
    path.write_bytes(damaged)
    with pytest.raises(ComponentError, match=r"log\.parquet"):
        read(config)
