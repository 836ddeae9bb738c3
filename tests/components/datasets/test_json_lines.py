"""JSON lines: ids as text or numbers, missing and nested values, and lines that are no objects."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.base import ComponentError
from components.datasets.base import Columns
from components.datasets.jsonl import JsonLinesConfig
from schemas.reward import CLICK, PURCHASE

Read = Callable[..., Any]

T = 1_600_000_000
US = T * 1_000_000
BAD_LINE = '{"user": 1, "time": 1}'
"""A line without an item: a block that holds one is parsed line by line."""


@pytest.fixture
def read_json(write: Callable[..., Path], columns: Columns, read: Read) -> Read:
    def run(*lines: object, name: str = "log.jsonl", **changes: Any) -> Any:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
        content = gzip.compress(text.encode()) if name.endswith(".gz") else text
        return read(JsonLinesConfig(path=str(write(name, content)), **{"columns": columns, "feedback": {"click": CLICK}, **changes}))

    return run


def event(**changes: object) -> dict[str, object]:
    return {"user": "a", "item": "x", "time": T, **changes}


def test_objects_become_interactions(read_json: Read) -> None:
    outcome = read_json(event(), event(user="b", item="y", time=T + 1, extra={"deep": [1, 2]}))
    assert outcome.rows == [("a", None, "x", US, 0, 0.2, None), ("b", None, "y", US + 1_000_000, 0, 0.2, None)]
    assert outcome.bad == []


def test_a_compressed_file_is_read(read_json: Read) -> None:
    assert read_json(event(), name="log.jsonl.gz").users_and_items == [("a", "x")]


def test_ids_may_be_whole_numbers(read_json: Read) -> None:
    assert read_json(event(user=7, item=-1), event(user=2**53 + 1, item=0)).users_and_items == [("7", "-1"), ("9007199254740993", "0")]


def test_a_number_and_the_same_number_as_text_are_one_id(read_json: Read) -> None:
    assert read_json(event(user=7), event(user="7")).users_and_items == [("7", "x"), ("7", "x")]


def test_blank_lines_are_no_rows(read_json: Read) -> None:
    outcome = read_json("", event(), "", "  ", event(user="b"))
    assert outcome.users_and_items == [("a", "x"), ("b", "x")]
    assert (outcome.rows_read, outcome.bad) == (2, [])


def test_fractions_of_a_second_are_kept(read_json: Read) -> None:
    assert read_json(event(time=T + 0.25), event(time=T)).times == [US + 250_000, US]


def test_every_bad_line_lands_in_quarantine_with_line_and_reason(read_json: Read) -> None:
    outcome = read_json(
        event(),
        [1, 2],  # 2
        "5",
        "null",  # 4
        "{broken",
        "",
        event(user={"id": 1}),  # 7
        event(item=[1]),
        event(user=None),  # 9
        event(user=True),
        event(time="soon"),  # 11
        event(user="a\nb"),
        event(user="\ud800"),  # 13
        event(time=None),
        event(user="b"),
    )
    assert outcome.users_and_items == [("a", "x"), ("b", "x")]
    assert outcome.rows_read == 14
    when = "timestamp {} is not a time from 1970 to 2200 in seconds"
    broken = "not a JSON object: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [
        (2, "a JSON list, expected an object"),
        (3, "a JSON int, expected an object"),
        (4, "a JSON NoneType, expected an object"),
        (5, broken),
        (7, "user is a JSON dict, expected text or a number"),
        (8, "item is a JSON list, expected text or a number"),
        (9, "user is empty"),
        (10, "user is a JSON bool, expected text or a number"),
        (11, when.format("'soon'")),
        (12, "user holds a line break or a NUL"),
        (13, "user is not UTF-8"),
        (14, when.format("None")),
    ]
    assert outcome.bad[1][3] == "5"


def test_a_missing_key_is_named_with_the_keys_that_are_there(read_json: Read) -> None:
    outcome = read_json(event(), {"user": "a", "time": 1}, {})
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [
        (2, "no key 'item'; found user, time"),
        (3, "no key 'user'; found none"),
    ]


def test_a_missing_key_sends_the_line_to_quarantine(read_json: Read) -> None:
    outcome = read_json(event(), {"user": "a", "time": 1}, {}, event(user="b"))
    assert [line for _, line, _, _ in outcome.bad] == [2, 3]
    assert "no key 'item'; found user, time" in outcome.bad[0][2]
    assert outcome.users_and_items == [("a", "x"), ("b", "x")]


def test_an_object_over_two_lines_is_two_bad_lines(read_json: Read) -> None:
    outcome = read_json('{"user": "a",', f'"item": "x", "time": {T}}}', event(user="b"))
    assert [line for _, line, _, _ in outcome.bad] == [1, 2]
    assert outcome.users_and_items == [("b", "x")]


def test_a_file_that_is_one_array_is_one_bad_line(read_json: Read) -> None:
    outcome = read_json([event(), event()])
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [(1, "a JSON list, expected an object")]


def test_an_empty_file_is_an_error_that_names_it(read_json: Read) -> None:
    with pytest.raises(ComponentError, match=r"log\.jsonl: the file has no rows$"):
        read_json("")


# === The fast path infers types for a whole block; a bad line anywhere in the block sends all of it down the slow path ===


def both_ways(read_json: Read, *lines: object, **changes: Any) -> tuple[Any, Any]:
    """What came of the lines alone, and what came of them in a block with a bad line."""
    fast = read_json(*lines, **changes)
    slow = read_json(*lines, BAD_LINE, **changes)
    assert slow.bad[-1][1] == len(lines) + 1
    slow.bad.pop()
    return fast, slow


@pytest.mark.parametrize(
    "line",
    [
        event(),
        event(user=5, item="05"),
        event(time=T + 0.5),
        event(user="é"),
        event(user=None),
        event(time="x"),
    ],
)
def test_a_line_means_the_same_whatever_stands_beside_it(read_json: Read, line: dict[str, object]) -> None:
    fast, slow = both_ways(read_json, line)
    assert (fast.rows, fast.bad) == (slow.rows, slow.bad)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(event(user=True), id="a boolean becomes the user 'true'"),
        pytest.param(event(user=123.0), id="123.0 is '123' or '123.0'"),
        pytest.param(event(item="2020-01-01"), id="an item that looks like a date gets a time of day"),
        pytest.param(event(time="2020-01-01 00:00:00"), id="text is a time although the unit is seconds"),
    ],
)
def test_a_line_means_the_same_whatever_stands_beside_it_also_where_types_are_inferred(read_json: Read, line: dict[str, object]) -> None:
    fast, slow = both_ways(read_json, line)
    assert (fast.rows, fast.bad) == (slow.rows, slow.bad)


def test_ids_beyond_63_bits_stay_apart(read_json: Read) -> None:
    outcome = read_json(event(user=2**64 - 1), event(user=2**64 - 2), event(user=2**53 + 1))
    assert [user for user, _ in outcome.users_and_items] == ["18446744073709551615", "18446744073709551614", "9007199254740993"]


def test_large_whole_ids_survive_a_fraction_in_the_same_block(read_json: Read) -> None:
    outcome = read_json(event(user=2**53 + 1), event(user=1.5))
    assert outcome.users_and_items[0] == ("9007199254740993", "x")


def test_a_rating_is_the_same_event_whatever_stands_beside_it(read_json: Read) -> None:
    columns = Columns(user="user", item="item", timestamp="time", feedback="stars")
    fast, slow = both_ways(read_json, event(stars=4.0), columns=columns, feedback={"4": CLICK, "5": PURCHASE})
    assert (fast.rows, fast.bad) == (slow.rows, slow.bad)


def test_a_deeply_nested_line_does_not_end_the_process(write: Callable[..., Path], repository: Path) -> None:
    path = write("deep.jsonl", '{"user": "a", "item": "x", "time": 1, "more": ' + "[" * 20_000 + "]" * 20_000 + "}\n")
    program = f"""
from components.datasets.base import Columns
from components.datasets.jsonl import JsonLinesConfig
from components.datasets.reading import plan_ranges, read_range
from schemas.reward import CLICK
columns = Columns(user="user", item="item", timestamp="time")
config = JsonLinesConfig(path={str(path)!r}, columns=columns, feedback={{"click": CLICK}})
for part in plan_ranges(config.sources()):
    list(read_range(part))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
