"""However a log is cut into ranges and blocks, the same interactions and the same quarantine come out."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.datasets import reading
from components.datasets.base import Columns, TextFormat
from components.datasets.delimited import DelimitedConfig
from components.datasets.jsonl import JsonLinesConfig
from schemas.reward import CLICK

Read = Callable[..., Any]

T = 1_600_000_000
COLUMNS = Columns(user="user", item="item", timestamp="time")

# A kind of line: what stands there, and the reason it does not parse. None: a good row. "": no row at all.
DELIMITED_KINDS: list[tuple[bytes, str | None]] = [
    (b"u%d,i%d,1600000000", None),
    (b'"u,%d","i""%d",1600000000', None),
    (b"u%d-" + b"long" * 12 + b",i%d,1600000000", None),
    (b"", ""),
    (b"u%d,,%d", "item is empty"),
    (b"u%d,i%d", "2 columns, expected 3"),
    (b"u%d,i%d,5,6", "4 columns, expected 3"),
    (b"u%d,i%d,soon", "timestamp 'soon' is not a time from 1970 to 2200 in seconds"),
    (b"\xffu%d,i%d,1600000000", "user is not UTF-8"),
]
JSON_KINDS: list[tuple[bytes, str | None]] = [
    (b'{"user": "u%d", "item": "i%d", "time": 1600000000}', None),
    (b'{"time": 1600000000, "item": "i\\u00e9", "user": %d, "more": [%d]}', None),
    (b"", ""),
    (b'{"user": "u%d", "item": null, "time": %d}', "item is empty"),
    (b"[%d, %d]", "a JSON list, expected an object"),
    (b'{"user": "u%d", "item": "i%d", "time": "soon"}', "timestamp 'soon' is not a time from 1970 to 2200 in seconds"),
]


def filled(template: bytes, number: int) -> bytes:
    return template % ((number,) * template.count(b"%d"))


def make_log(kinds: list[tuple[bytes, str | None]], chosen: list[int], header: bool, newline: bytes, ends: bool) -> tuple[bytes, Any]:
    """A log, and the (line, reason) of every row that does not parse."""
    lines = [b"user,item,time"] if header else []
    bad = []
    for number, kind in enumerate(chosen):
        template, reason = kinds[kind]
        lines.append(filled(template, number))
        if reason:
            bad.append((len(lines), reason))
    return newline.join(lines) + (newline if ends else b""), bad


def read_cut(config: Any, range_bytes: int, block_bytes: int, read: Read) -> Any:
    """Reads with small ranges and blocks; monkeypatch would last for all examples of a property."""
    before = reading.RANGE_BYTES, reading.BLOCK_BYTES
    reading.RANGE_BYTES, reading.BLOCK_BYTES = range_bytes, block_bytes
    try:
        return read(config)
    finally:
        reading.RANGE_BYTES, reading.BLOCK_BYTES = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuts")


cut_sizes = st.integers(1, 300)


@given(
    chosen=st.lists(st.integers(0, len(DELIMITED_KINDS) - 1), min_size=1, max_size=25),
    header=st.booleans(),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    ends=st.booleans(),
    range_bytes=cut_sizes,
    block_bytes=cut_sizes,
    packed=st.booleans(),
)
def test_delimited_text_is_the_same_however_it_is_cut(
    chosen: list[int],
    header: bool,
    newline: bytes,
    ends: bool,
    range_bytes: int,
    block_bytes: int,
    packed: bool,
    folder: Path,
    read: Read,
) -> None:
    content, bad = make_log(DELIMITED_KINDS, [0, *chosen], header, newline, ends)
    path = folder / ("log.csv.gz" if packed else "log.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    text = TextFormat() if header else TextFormat(header=False, column_names=("user", "item", "time"))
    config = DelimitedConfig(path=str(path), columns=COLUMNS, feedback={"click": CLICK}, text=text)
    whole = read_cut(config, 1 << 30, 1 << 30, read)
    cut = read_cut(config, range_bytes, block_bytes, read)
    assert [(line, reason) for _, line, reason, _ in whole.bad] == bad
    good = [number for number, kind in enumerate([0, *chosen]) if DELIMITED_KINDS[kind][1] is None]
    assert [row[0] for row in whole.rows] == [user_of(number, ([0, *chosen])[number]) for number in good]
    assert cut == whole


def user_of(number: int, kind: int) -> str:
    first = filled(DELIMITED_KINDS[kind][0], number).decode()
    return f"u,{number}" if first.startswith('"') else first.split(",")[0]


@given(
    chosen=st.lists(st.integers(0, len(JSON_KINDS) - 1), min_size=1, max_size=20),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    ends=st.booleans(),
    range_bytes=cut_sizes,
    block_bytes=cut_sizes,
)
def test_json_lines_are_the_same_however_they_are_cut(
    chosen: list[int], newline: bytes, ends: bool, range_bytes: int, block_bytes: int, folder: Path, read: Read
) -> None:
    content, bad = make_log(JSON_KINDS, [0, *chosen], False, newline, ends)
    path = folder / "log.jsonl"
    path.write_bytes(content)
    config = JsonLinesConfig(path=str(path), columns=COLUMNS, feedback={"click": CLICK})
    whole = read_cut(config, 1 << 30, 1 << 30, read)
    cut = read_cut(config, range_bytes, block_bytes, read)
    assert [(line, reason) for _, line, reason, _ in whole.bad] == bad
    assert cut == whole


@pytest.mark.parametrize("size", [1, 2, 14, 15, 16, 29, 30, 31, 1000])
def test_a_line_that_begins_at_a_cut_is_read_once(read_text: Read, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    # The header is 15 bytes with its line end, each row 15 too: cuts of 15 and 30 fall between lines, others inside them.
    monkeypatch.setattr(reading, "RANGE_BYTES", size)
    content = "user,item,time\n" + "".join(f"a{n},x{n},{n:08d}\n" for n in range(8))
    assert len(content) == 15 * 9
    outcome = read_text(content)
    assert outcome.users_and_items == [(f"a{n}", f"x{n}") for n in range(8)]


def test_a_line_longer_than_several_ranges_is_read_once(read_text: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "RANGE_BYTES", 10)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 7)
    long = "x" * 95
    outcome = read_text(f"user,item,time\na,{long},{T}\nb,,{T}\nc,z,{T}\n")
    assert outcome.users_and_items == [("a", long), ("c", "z")]
    assert [line for _, line, _, _ in outcome.bad] == [3]


def test_large_text_is_cut_and_compressed_text_is_not(read_text: Read, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "RANGE_BYTES", 40)
    content = "user,item,time\n" + "".join(f"a,x,{T + n}\n" for n in range(20))
    plain, packed = write("log.csv", content), write("packed.csv.gz", gzip.compress(content.encode()))

    def ranges(path: Path) -> list[tuple[int, int | None]]:
        config = DelimitedConfig(path=str(path), columns=COLUMNS, feedback={"click": CLICK})
        return [(part.start, part.end) for part in reading.plan_ranges(config.sources())]

    # 15 + 20 * 15 = 315 bytes make eight ranges of 40, the last with 35.
    assert ranges(plain) == [(40 * n, 40 * (n + 1)) for n in range(8)]
    assert ranges(packed) == [(0, None)]


def test_positions_order_files_by_name_and_then_by_place(write: Callable[..., Path], tmp_path: Path, read: Read) -> None:
    write("logs/b.csv", f"user,item,time\nb,1,{T}\nb,2,{T}\n")
    write("logs/a.csv", f"user,item,time\na,1,{T}\na,2,{T}\n")
    write("logs/c/a.csv", f"user,item,time\nc,1,{T}\n")
    config = DelimitedConfig(path=str(tmp_path / "logs"), columns=COLUMNS, feedback={"click": CLICK})
    assert read(config).users_and_items == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1")]


@pytest.mark.slow
def test_a_log_of_many_megabytes_is_the_same_however_it_is_cut(folder: Path, read: Read) -> None:
    draw = random.Random(7)
    chosen = [draw.choices(range(len(DELIMITED_KINDS)), [2000, 50, 50, 1, 1, 1, 1, 1, 1])[0] for _ in range(300_000)]
    content, bad = make_log(DELIMITED_KINDS, chosen, True, b"\n", True)
    path = folder / "large.csv"
    path.write_bytes(content)
    config = DelimitedConfig(path=str(path), columns=COLUMNS, feedback={"click": CLICK})
    whole = read_cut(config, 1 << 30, 1 << 30, read)
    assert [(line, reason) for _, line, reason, _ in whole.bad] == bad
    for range_bytes, block_bytes in ((1 << 20, 1 << 18), (3_000_017, 777_777)):
        assert read_cut(config, range_bytes, block_bytes, read) == whole


def test_the_kinds_of_json_lines_are_what_they_say() -> None:
    for template, reason in JSON_KINDS:
        if reason is None:
            assert isinstance(json.loads(filled(template, 3)), dict)
