"""Lines of many files, range by range, with their places."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from components.base import ComponentError
from components.datasets.files import LogFile, is_compressed, is_remote, list_files, open_log

RANGE_BYTES = 64 << 20
"""Text is cut into ranges of this size."""


class LineRange(NamedTuple):
    """Lines that begin in a part of a file.

    Attributes:
        path: File or URL.
        file_number: Place of the file among all.
        begin: First byte.
        end: Byte after the last; None for all that follows.
        weight: Bytes, about.
    """

    path: str
    file_number: int
    begin: int
    end: int | None
    weight: int


def line_ranges(path: str, key: str) -> list[LineRange]:
    """Ranges of the files behind a path, a glob or a directory.

    Raises:
        ConfigError: There are none.
    """
    return [part for number, file in enumerate(list_files([path], key)) for part in ranges_of(file, number)]


def ranges_of(file: LogFile, file_number: int = 0) -> list[LineRange]:
    """Ranges of one file; what cannot be begun in the middle is one."""
    if is_compressed(file.path) or is_remote(file.path) or file.num_bytes <= RANGE_BYTES:
        return [LineRange(file.path, file_number, 0, None, file.num_bytes)]
    starts = range(0, file.num_bytes, RANGE_BYTES)
    return [LineRange(file.path, file_number, start, start + RANGE_BYTES, RANGE_BYTES) for start in starts]


def lines_of(path: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(byte in the file, line) of every line that begins in a range and is not blank.

    Args:
        path: File or URL.
        begin: First byte of the range.
        end: Byte after its last; None for all that follows.

    Raises:
        ComponentError: The file cannot be read.
    """
    try:
        with open_log(path) as stream:
            offset = to_first_line(stream, begin)
            for line in stream:
                if end is not None and offset >= end:
                    return
                if line.strip():
                    yield offset, line
                offset += len(line)
    except (OSError, EOFError, zlib.error) as error:
        raise ComponentError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None


def to_first_line(stream: BinaryIO, begin: int) -> int:
    """Moves a new stream to the first line that begins at a byte or after it; returns where that is."""
    if not begin:
        return 0
    stream.seek(begin - 1)
    return begin - 1 + len(stream.readline())
