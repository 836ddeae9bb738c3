"""Lines of many files, range by range, with their places."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from components.base import ComponentError
from components.datasets.files import is_compressed, is_remote, list_files, open_log

RANGE_BYTES = 64 << 20


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
    ranges: list[LineRange] = []
    for number, file in enumerate(list_files([path], key)):
        if is_compressed(file.path) or is_remote(file.path) or file.num_bytes <= RANGE_BYTES:
            ranges.append(LineRange(file.path, number, 0, None, file.num_bytes))
            continue
        for begin in range(0, file.num_bytes, RANGE_BYTES):
            ranges.append(LineRange(file.path, number, begin, begin + RANGE_BYTES, RANGE_BYTES))
    return ranges


def lines_of(part: LineRange) -> Iterator[tuple[int, bytes]]:
    """(byte in the file, line) of every line that is not blank.

    Raises:
        ComponentError: The file cannot be read.
    """
    try:
        with open_log(part.path) as stream:
            offset = part.begin
            if part.begin:
                stream.seek(part.begin - 1)
                offset += len(stream.readline()) - 1
            for line in stream:
                if part.end is not None and offset >= part.end:
                    return
                if line.strip():
                    yield offset, line
                offset += len(line)
    except (OSError, EOFError, zlib.error) as error:
        raise ComponentError(f"{part.path}: cannot be read: {type(error).__name__}: {error}") from None
