"""Delimited text: separators, quotes, line ends, compression, and rows that do not parse."""

import bz2
import gzip
from collections.abc import Callable
from typing import Any

import pytest

from components.base import ComponentError
from components.datasets.base import Columns, TextFormat
from schemas.config import ConfigError

Read = Callable[..., Any]

T = 1_600_000_000
US = T * 1_000_000
TWO_ROWS = f"user,item,time\na,x,{T}\nb,y,{T + 1}\n"
READ_TWO_ROWS = [("a", None, "x", US, 0, 0.2, None), ("b", None, "y", US + 1_000_000, 0, 0.2, None)]


def test_rows_become_interactions(read_text: Read) -> None:
    outcome = read_text(TWO_ROWS)
    assert outcome.rows == READ_TWO_ROWS
    assert (outcome.rows_read, outcome.ignored, outcome.bad) == (2, 0, [])


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", " "])
def test_any_one_character_delimits(read_text: Read, delimiter: str) -> None:
    assert read_text(TWO_ROWS.replace(",", delimiter), text=TextFormat(delimiter=delimiter)).rows == READ_TWO_ROWS


def test_columns_are_found_by_name_whatever_their_place(read_text: Read) -> None:
    outcome = read_text(f"extra,time,item,more,user\n1,{T},x,2,a\n3,{T + 1},y,4,b\n")
    assert outcome.rows == READ_TWO_ROWS


def test_without_a_header_the_first_line_is_a_row(read_text: Read) -> None:
    text = TextFormat(header=False, column_names=("user", "item", "time"))
    assert read_text(TWO_ROWS.removeprefix("user,item,time\n"), text=text).rows == READ_TWO_ROWS


def test_a_quoted_field_may_hold_the_delimiter_and_doubled_quotes(read_text: Read) -> None:
    outcome = read_text(f'"user","item","time"\n"a,b","say ""x""","{T}"\n')
    assert outcome.users_and_items == [("a,b", 'say "x"')]


def test_without_a_quote_character_quotes_are_text(read_text: Read) -> None:
    outcome = read_text(f'user\titem\ttime\n"a\tx"y\t{T}\n', text=TextFormat(delimiter="\t", quote=""))
    assert outcome.users_and_items == [('"a', 'x"y')]


def test_a_quote_inside_a_field_is_text(read_text: Read) -> None:
    assert read_text(f'user,item,time\na,7"screen,{T}\n').users_and_items == [("a", '7"screen')]


def test_carriage_returns_before_line_feeds_are_no_content(read_text: Read) -> None:
    assert read_text(TWO_ROWS.replace("\n", "\r\n")).rows == READ_TWO_ROWS


@pytest.mark.parametrize("header", [True, False])
def test_a_byte_order_mark_is_no_content(read_text: Read, header: bool) -> None:
    text = TextFormat() if header else TextFormat(header=False, column_names=("user", "item", "time"))
    content = TWO_ROWS if header else TWO_ROWS.removeprefix("user,item,time\n")
    assert read_text(b"\xef\xbb\xbf" + content.encode(), text=text).rows == READ_TWO_ROWS
    with_bad_row = read_text(b"\xef\xbb\xbf" + content.encode() + b"c,,1\n", text=text)
    assert with_bad_row.rows == READ_TWO_ROWS


def test_the_last_line_needs_no_line_end(read_text: Read) -> None:
    outcome = read_text(TWO_ROWS.rstrip("\n"))
    assert outcome.rows == READ_TWO_ROWS
    assert outcome.rows_read == 2


def test_blank_lines_are_no_rows(read_text: Read) -> None:
    outcome = read_text(TWO_ROWS.replace("\n", "\n\n\r\n"))
    assert outcome.rows == READ_TWO_ROWS
    assert outcome.rows_read == 2


@pytest.mark.parametrize(("name", "compress"), [("log.csv.gz", gzip.compress), ("log.csv.bz2", bz2.compress)])
def test_compressed_files_are_read_by_their_ending(read_text: Read, name: str, compress: Callable[[bytes], bytes]) -> None:
    assert read_text(compress(TWO_ROWS.encode()), name=name).rows == READ_TWO_ROWS


def test_words_that_stand_for_null_elsewhere_are_ids_here(read_text: Read) -> None:
    assert read_text(f"user,item,time\nNULL,nan,{T}\nNA,null,{T}\n").users_and_items == [("NULL", "nan"), ("NA", "null")]


def test_ids_keep_leading_zeros_and_outer_spaces(read_text: Read) -> None:
    assert read_text(f"user,item,time\n007, x ,{T}\n").users_and_items == [("007", " x ")]


# === Rows that do not parse ===


def test_every_bad_row_lands_in_quarantine_with_line_reason_and_text(read_text: Read) -> None:
    lines = [
        b"user,item,time",  # 1
        b"a,x,%d" % T,
        b",x,%d" % T,  # 3
        b"a,,%d" % T,
        b"",
        b"a,x",  # 6
        b"a,x,%d,9" % T,
        b"a,x,soon",  # 8
        b"\xff,x,%d" % T,
        b"a,caf\xe9,%d" % T,  # 10
        b"a,x\x00,%d" % T,
        b"b,y,%d" % (T + 1),  # 12
        b"   ",
    ]
    outcome = read_text(b"\n".join(lines) + b"\n")
    assert outcome.rows == READ_TWO_ROWS
    when = "timestamp {} is not a time from 1970 to 2200 in seconds"
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [
        (3, "user is empty"),
        (4, "item is empty"),
        (6, "2 columns, expected 3"),
        (7, "4 columns, expected 3"),
        (8, when.format("'soon'")),
        (9, "user is not UTF-8"),
        (10, "item is not UTF-8"),
        (11, "item holds a line break or a NUL"),
        (13, "1 columns, expected 3"),
    ]
    assert {name for name, _, _, _ in outcome.bad} == {"log.csv"}
    assert outcome.bad[3][3] == f"a,x,{T},9"
    assert outcome.bad[5][3] == f"\ufffd,x,{T}"
    assert outcome.rows_read == 11


def test_the_first_reason_of_a_row_counts(read_text: Read) -> None:
    assert read_text("user,item,time\n,,never\na,x,1\n").bad == [("log.csv", 2, "user is empty", ",,never")]


def test_a_long_bad_row_is_cut_in_quarantine(read_text: Read) -> None:
    ((_, _, _, text),) = read_text(f"user,item,time\na,{'x' * 2000},never\na,x,1\n").bad
    assert text == "a," + "x" * 498


def test_bad_bytes_in_a_column_that_is_not_mapped_do_not_matter(read_text: Read) -> None:
    content = b"user,item,time,title\na,x,%d,\xff\nb,y,%d,z\n" % (T, T + 1)
    assert read_text(content).rows == READ_TWO_ROWS
    outcome = read_text(content + b"c,,1,z\n")
    assert outcome.rows == READ_TWO_ROWS
    assert [reason for _, _, reason, _ in outcome.bad] == ["item is empty"]


def test_bad_rows_in_a_block_of_several_megabytes_keep_their_line_numbers(read_text: Read) -> None:
    # The CSV reader below works in pieces of a megabyte.
    lines = ["user,item,time"]
    expected = []
    for number in range(60_000):
        if number % 977 == 0:
            lines.append(("a,x", "a,x,1,2", "a,,1")[number % 3])
            expected.append(len(lines))
        elif number % 1501 == 0:
            lines.append("")
        else:
            lines.append(f"user{number},item{number:030d},{T}")
    content = "\n".join(lines)
    assert len(content) > 3 << 20
    outcome = read_text(content)
    assert [line for _, line, _, _ in outcome.bad] == expected
    assert outcome.rows_read == len([line for line in lines if line]) - 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f'user,item,time\na,"x,{T}\nb,y,{T}\nc,z,{T}\n', id="an unclosed quote"),
        pytest.param(f"user,item,time\na,x\ry,{T}\nb,y,{T}\nc,z,{T}\n", id="a lone carriage return"),
    ],
)
def test_one_row_with_a_stray_character_goes_to_quarantine_alone(read_text: Read, content: str) -> None:
    outcome = read_text(content)
    assert [line for _, line, _, _ in outcome.bad] == [2]
    assert outcome.users_and_items == [("b", "y"), ("c", "z")]


def test_a_quoted_line_break_makes_two_bad_lines_whether_or_not_another_row_is_bad(read_text: Read) -> None:
    content = f'user,item,time,title\na,x,{T},"two\nlines"\nb,y,{T},z\n'
    for also, lines in (("", [2, 3]), (f"c,,{T},z\n", [2, 3, 5])):
        outcome = read_text(content + also)
        assert [line for _, line, _, _ in outcome.bad] == lines
        assert outcome.users_and_items == [("b", "y")]


def test_whether_a_row_parses_does_not_depend_on_the_rows_beside_it(read_text: Read) -> None:
    row = "a,x,0x5F5E1000\n"
    alone = read_text("user,item,time\n" + row)
    beside_a_bad_row = read_text("user,item,time\n" + row + f"b,,{T}\n")
    assert beside_a_bad_row.rows == alone.rows


@pytest.mark.parametrize("row", [f"a,x,+{T},1", f"a,x,{T},+1"])
def test_a_plus_sign_before_a_number_is_harmless(read_text: Read, row: str) -> None:
    rewarded = Columns(user="user", item="item", timestamp="time", reward="reward")
    outcome = read_text(f"user,item,time,reward\n{row}\n", columns=rewarded)
    assert outcome.rows == [("a", None, "x", US, 0, 1.0, None)]


# === Files that cannot be read ===


def test_a_missing_column_is_a_configuration_error_that_lists_the_columns(read_text: Read) -> None:
    with pytest.raises(
        ConfigError, match=r"^trajectory_gen\.dataset\.columns\.user: .*log\.csv has no column 'user'; its columns are who, item, time$"
    ):
        read_text("who,item,time\na,x,1\n")
    with pytest.raises(ConfigError, match=r"columns\.item: .* has no column 'item'; its columns are user;item;time"):
        read_text("user;item;time\na;x;1\n", columns=Columns(user="user;item;time", item="item", timestamp="time"))


def test_a_missing_column_of_a_later_file_is_found_too(read_text: Read, write: Callable[..., Any], tmp_path: Any) -> None:
    write("logs/a.csv", TWO_ROWS)
    write("logs/b.csv", "user,item\na,x\n")
    from components.datasets.delimited import DelimitedConfig
    from schemas.reward import CLICK

    config = DelimitedConfig(
        path=str(tmp_path / "logs"), columns=Columns(user="user", item="item", timestamp="time"), feedback={"click": CLICK}
    )
    from components.datasets.reading import plan_ranges, read_range

    _, second = plan_ranges(config.sources())
    with pytest.raises(ConfigError, match=r"columns\.timestamp: .*b\.csv has no column 'time'; its columns are user, item"):
        list(read_range(second))


def test_an_empty_file_is_an_error_that_names_it(read_text: Read) -> None:
    with pytest.raises(ComponentError, match=r"log\.csv: the file is empty \(0 bytes\)"):
        read_text("")
    with pytest.raises(ComponentError, match=r"log\.csv: the file has no rows, only a header"):
        read_text("user,item,time\n")
    with pytest.raises(ComponentError, match=r"log\.csv\.gz: the file has no rows, only a header"):
        read_text(gzip.compress(b"user,item,time\n\n"), name="log.csv.gz")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress("".join(f"a{i * i},x{i},{T}\n" for i in range(3000)).encode())[:-200], id="cut short"),
        pytest.param(b"a,x,1\n", id="no gzip at all"),
    ],
)
def test_a_broken_compressed_file_is_an_error_that_names_it(read_text: Read, content: bytes) -> None:
    text = TextFormat(header=False, column_names=("user", "item", "time"))
    with pytest.raises(ComponentError, match=r"log\.csv\.gz"):
        read_text(content, name="log.csv.gz", text=text)


def test_a_file_with_carriage_returns_alone_is_an_error_that_names_it(read_text: Read) -> None:
    with pytest.raises((ConfigError, ComponentError), match=r"log\.csv"):
        read_text(TWO_ROWS.replace("\n", "\r"))


def test_a_delimiter_or_quote_that_is_not_ascii_is_a_configuration_error(read_text: Read) -> None:
    with pytest.raises(ValueError, match="delimiter"):
        read_text(TWO_ROWS.replace(",", "¦"), text=TextFormat(delimiter="¦"))


def test_a_header_that_names_a_mapped_column_twice_is_an_error(read_text: Read) -> None:
    with pytest.raises(ConfigError, match="user"):
        read_text(f"user,item,time,user\na,x,{T},b\n")


def test_the_text_format_refuses_what_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="column_names is for files without a header"):
        TextFormat(column_names=("a",))
    with pytest.raises(ValueError, match="without a header, column_names must name every column"):
        TextFormat(header=False)
    with pytest.raises(ValueError, match="column_names repeats a name"):
        TextFormat(header=False, column_names=("a", "a"))
    with pytest.raises(ValueError, match="at most 1 character"):
        TextFormat(delimiter="::")
