"""Reads raw logs in Arrow batches: whole blocks of lines or row groups, never rows one by one.

A file is read in ranges, which may run in parallel; a range is read in blocks, so memory does not grow with the file.
Every row has a position, file then place, which is the same however the work is cut.
"""

import contextlib
import csv
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
import pydantic

from components.base import ComponentError
from components.datasets.base import LogSource, SimulatedSource, Source, header_of, require_columns
from components.datasets.files import LogFile, is_compressed, is_remote, list_files, open_log
from components.datasets.lines import to_first_line
from components.datasets.normalising import SCHEMA, Normalised, normalise
from models.simulators.chance import NOISE, Chance
from models.simulators.noise import AnyNoise
from models.simulators.session_shop import LoggedEvents, SessionShop, SessionShopConfig
from schemas.config import ConfigError
from schemas.interaction import FEEDBACK_ROLES, MICROSECONDS_PER_SECOND
from schemas.reward import CLICK, PURCHASE

RANGE_BYTES = 128 << 20
"""Uncompressed text is cut into ranges of this size."""
BLOCK_BYTES = 16 << 20
"""Text is parsed in blocks of about this size."""
BATCH_ROWS = 262_144
"""Parquet is read in batches of this many rows."""

_FILE_SHIFT = 44
"""A position holds the file's number above this bit and the place in the file, in bytes or rows, below it."""
_MAX_ROW_TEXT = 500
_MAX_BRACKETS = 500


@dataclass(frozen=True)
class ReadRange:
    """A part of one input that is read by itself.

    Attributes:
        source: What the columns mean.
        path: File, or a name for a simulated part.
        file_number: Place of the file among all inputs.
        start: First byte, or first chunk of a simulation.
        end: Byte after the last; a line that begins before it belongs to this range. None for "to the end".
        weight: Roughly how many bytes there are to read, for progress.
    """

    source: Source
    path: str
    file_number: int
    start: int
    end: int | None
    weight: int


@dataclass
class Block:
    """Interactions of one block and what became of its rows.

    Attributes:
        normalised: Interactions and rows that do not parse.
        bad_lines: Line within the range, from 0, of each row that does not parse.
        bad_texts: What stands there, cut short.
        num_lines: Lines of the block, blank ones included.
    """

    normalised: Normalised
    bad_lines: list[int]
    bad_texts: list[str]
    num_lines: int


def plan_ranges(sources: tuple[Source, ...]) -> list[ReadRange]:
    """Cuts all inputs into ranges.

    Raises:
        ConfigError: A path matches no file.
        ComponentError: A file is empty.
    """
    ranges: list[ReadRange] = []
    file_number = 0
    for source in sources:
        if isinstance(source, SimulatedSource):
            ranges.append(ReadRange(source, "session_shop", file_number, 0, None, source.num_events * 40))
            file_number += 1
            continue
        for file in list_files(source.paths, source.key):
            if file.num_bytes == 0:
                raise ComponentError(f"{file.path}: the file is empty (0 bytes)")
            ranges.extend(_file_ranges(source, file, file_number))
            file_number += 1
    return ranges


def _file_ranges(source: LogSource, file: LogFile, file_number: int) -> list[ReadRange]:
    if source.format == "parquet" or is_compressed(file.path) or file.num_bytes <= RANGE_BYTES:
        return [ReadRange(source, file.path, file_number, 0, None, file.num_bytes)]
    starts = range(0, file.num_bytes, RANGE_BYTES)
    return [ReadRange(source, file.path, file_number, start, start + RANGE_BYTES, RANGE_BYTES) for start in starts]


def read_range(part: ReadRange) -> Iterator[Block]:
    """Reads one range block by block.

    Raises:
        ConfigError: The file lacks a mapped column, or has it in a type that cannot be read.
        ComponentError: The file cannot be read as what it should be.
    """
    try:
        if isinstance(part.source, SimulatedSource):
            yield from _simulated(part, part.source)
        elif part.source.format == "parquet":
            yield from _parquet(part, part.source)
        else:
            yield from _text(part, part.source)
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise ComponentError(f"{part.path}: cannot be read: {type(error).__name__}: {error}") from error


def _positions(part: ReadRange, first: int, count: int) -> npt.NDArray[np.int64]:
    return (part.file_number << _FILE_SHIFT) + first + np.arange(count, dtype=np.int64)


# === Text ===


def _text(part: ReadRange, source: LogSource) -> Iterator[Block]:
    names: list[str] = []
    skip_header = source.format == "delimited" and source.text.header
    if source.format == "delimited":
        names = header_of(part.path, source.text) if source.text.header else list(source.text.column_names)
        require_columns(source.columns, names, part.path)
    empty = True
    for offset, block in _line_blocks(part):
        header_lines = 0
        if skip_header and offset == 0:
            newline = block.find(b"\n")
            header_lines, block = 1, b"" if newline < 0 else block[newline + 1 :]
        parse = _parse_delimited if source.format == "delimited" else _parse_json_lines
        parsed = parse(block, names, source, _positions(part, offset, block.count(b"\n") + 1))
        empty = empty and parsed.normalised.num_rows == 0
        yield replace(parsed, num_lines=parsed.num_lines + header_lines, bad_lines=[line + header_lines for line in parsed.bad_lines])
    if empty and part.start == 0 and part.end is None:
        raise ComponentError(f"{part.path}: the file has no rows" + (", only a header" if skip_header else ""))


def _line_blocks(part: ReadRange) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines with their offsets; a line belongs to the range in which it begins."""
    with open_log(part.path) as stream:
        offset = to_first_line(stream, part.start)
        rest = b""
        while part.end is None or offset < part.end:
            size = BLOCK_BYTES if part.end is None else min(BLOCK_BYTES, max(part.end - offset - len(rest), 1))
            data = stream.read(size)
            block = rest + data
            if not data:
                if block:
                    yield offset, block
                return
            if part.end is not None and offset + len(block) >= part.end and not block.endswith(b"\n"):
                block += stream.readline()
            cut = block.rfind(b"\n") + 1
            rest = block[cut:]
            if cut:
                yield offset, block[:cut]
                offset += cut


def _num_lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n") and bool(block))


def _parse_delimited(block: bytes, names: list[str], source: LogSource, positions: npt.NDArray[np.int64]) -> Block:
    """Parses straight into types, and only if that fails as text with every bad row found."""
    columns, num_lines = source.columns, _num_lines(block)
    types = {name: pa.string() for name in columns.names()}
    if source.timestamp_unit != "iso8601":
        types[columns.timestamp] = pa.int64()
    for name in (columns.reward, columns.propensity):
        if name is not None:
            types[name] = pa.float64()
    table = None
    # Arrow's own parser of numbers reads hexadecimal, ours does not; a row must not depend on its neighbours.
    if b"0x" not in block and b"0X" not in block:
        with contextlib.suppress(pa.ArrowInvalid):
            table = _read_csv(block, names, source, types)
    # A quote that spans lines, or a blank line, makes fewer rows than lines.
    if table is not None and table.num_rows == num_lines:
        result = normalise(_columns(table), source, positions[:num_lines])
        if not result.bad_rows:
            return Block(result, [], [], num_lines)
    return _parse_delimited_slowly(block, names, source, positions)


def _parse_delimited_slowly(block: bytes, names: list[str], source: LogSource, positions: npt.NDArray[np.int64]) -> Block:
    invalid: dict[int, tuple[str, str]] = {}

    def note_invalid(row: pa_csv.InvalidRow) -> str:
        invalid[row.number - 1] = _column_count(row.actual_columns, row.expected_columns)
        return "skip"

    lines = _lines(block)
    filled = [number for number, line in enumerate(lines) if line.rstrip(b"\r")]
    types = {name: pa.binary() for name in source.columns.names()}
    table = _read_csv(block, names, source, types, note_invalid)
    if table.num_rows + len(invalid) == len(filled):
        columns = _columns(table)
    else:
        # Something spans lines, or a line holds a line end of its own: then every line must be a row by itself.
        columns, invalid = _parse_each_line([lines[number] for number in filled], names, source)
    return _assemble(columns, source, positions, lines, filled, invalid)


def _column_count(found: int, expected: int) -> tuple[str, str]:
    return "wrong number of columns", f"{found} columns, expected {expected}"


def _parse_each_line(lines: list[bytes], names: list[str], source: LogSource) -> tuple[dict[str, pa.Array], dict[int, tuple[str, str]]]:
    """The mapped columns of the lines that are rows by themselves, and what is wrong with the others."""
    wanted = {name: names.index(name) for name in source.columns.names()}
    values: dict[str, list[bytes]] = {name: [] for name in wanted}
    invalid: dict[int, tuple[str, str]] = {}
    quoting: Any = csv.QUOTE_MINIMAL if source.text.quote else csv.QUOTE_NONE
    for row, line in enumerate(lines):
        # Latin-1 keeps every byte as it is.
        text = line.rstrip(b"\r").decode("latin-1")
        try:
            fields = next(
                csv.reader([text], delimiter=source.text.delimiter, quotechar=source.text.quote or None, quoting=quoting, strict=True)
            )
        except csv.Error as error:
            invalid[row] = ("not a row on one line", f"not a row on one line ({error}); a field cannot hold a line break")
            continue
        if len(fields) != len(names):
            invalid[row] = _column_count(len(fields), len(names))
            continue
        for name, place in wanted.items():
            values[name].append(fields[place].encode("latin-1"))
    return {name: pa.array(column, pa.binary()) for name, column in values.items()}, invalid


def _assemble(
    columns: dict[str, pa.Array],
    source: LogSource,
    positions: npt.NDArray[np.int64],
    lines: list[bytes],
    filled: list[int],
    invalid: dict[int, tuple[str, str]],
) -> Block:
    """Normalises the rows that have columns and joins what is wrong with them to what was wrong before.

    Args:
        columns: Mapped columns of the valid rows.
        source: What they mean.
        positions: Places of the rows.
        lines: All lines of the block.
        filled: Number of the line of each row.
        invalid: Row to kind and reason, for rows without columns.
    """
    valid = np.setdiff1d(np.arange(len(filled)), np.fromiter(invalid, np.int64, len(invalid)))
    result = normalise(columns, source, positions[valid])
    found = dict(invalid)
    for row, kind, reason in zip(result.bad_rows, result.bad_kinds, result.bad_reasons, strict=True):
        found[int(valid[row])] = (kind, reason)
    rows = sorted(found)
    kinds, reasons = [found[row][0] for row in rows], [found[row][1] for row in rows]
    result = replace(result, num_rows=len(filled), bad_rows=rows, bad_kinds=kinds, bad_reasons=reasons)
    bad_lines = [filled[row] for row in rows]
    return Block(result, bad_lines, [_row_text(lines[line]) for line in bad_lines], len(lines))


def _lines(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines


def _read_csv(block: bytes, names: list[str], source: LogSource, types: dict[str, pa.DataType], on_invalid: Any = None) -> pa.Table:
    if not block.strip():
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})
    return pa_csv.read_csv(
        pa.BufferReader(block),
        read_options=pa_csv.ReadOptions(column_names=names, use_threads=on_invalid is None),
        parse_options=pa_csv.ParseOptions(
            delimiter=source.text.delimiter,
            quote_char=source.text.quote or False,
            invalid_row_handler=on_invalid,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            strings_can_be_null=False,
            check_utf8=on_invalid is None,
        ),
    )


def _columns(table: pa.Table) -> dict[str, pa.Array]:
    return {name: _one_array(table.column(name)) for name in table.column_names}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() if column.num_chunks else pa.array([], column.type)


def _parse_json_lines(block: bytes, _: list[str], source: LogSource, positions: npt.NDArray[np.int64]) -> Block:
    """Parses with Arrow where its guesses of types cannot change what a line means, else line by line."""
    num_lines = _num_lines(block)
    table = _read_json(block, source) if _is_shallow(block) else None
    if table is not None and table.num_rows == num_lines:
        result = normalise({name: _one_array(table.column(name)) for name in source.columns.names()}, source, positions[:num_lines])
        if not result.bad_rows:
            return Block(result, [], [], num_lines)
    return _parse_json_lines_slowly(block, source, positions)


def _is_shallow(block: bytes) -> bool:
    """False where a line opens so many brackets that Arrow's parser, which recurses, might run out of stack."""
    data = np.frombuffer(block, np.uint8)
    starts = np.append(0, np.flatnonzero(data == ord("\n")) + 1)
    opened = (data == ord("[")) | (data == ord("{"))
    if not len(data):
        return True
    return int(np.add.reduceat(opened.astype(np.int32), starts[starts < len(data)]).max()) <= _MAX_BRACKETS


def _read_json(block: bytes, source: LogSource) -> pa.Table | None:
    """The mapped columns, or None where a column's guessed type is not exactly what the lines say."""
    columns = source.columns
    texts = {name for name in (columns.user, columns.item, columns.session, columns.feedback) if name is not None}
    numbers = {name for name in (columns.reward, columns.propensity) if name is not None}
    if source.timestamp_unit == "iso8601":
        texts |= {columns.timestamp}
    explicit: dict[str, pa.DataType] = {}
    for _ in range(2):
        options = pa_json.ParseOptions(unexpected_field_behavior="infer", explicit_schema=pa.schema(explicit) if explicit else None)
        try:
            table = pa_json.read_json(pa.BufferReader(block), parse_options=options)
        except pa.ArrowInvalid:
            return None
        if not set(columns.names()) <= set(table.column_names):
            return None
        # Text that looks like a time comes back as one; asked for as text it stays as it is.
        guessed = [name for name in texts if pa.types.is_timestamp(table.schema.field(name).type)]
        if not guessed:
            break
        explicit = {name: pa.string() for name in guessed}
    kinds = {name: table.schema.field(name).type for name in columns.names()}
    exact = all(pa.types.is_string(kinds[name]) or (pa.types.is_int64(kinds[name]) and name not in explicit) for name in texts)
    numeric = all(pa.types.is_int64(kinds[name]) or pa.types.is_float64(kinds[name]) for name in numbers)
    timed = source.timestamp_unit == "iso8601" or pa.types.is_int64(kinds[columns.timestamp])
    return table if exact and numeric and timed else None


def _parse_json_lines_slowly(block: bytes, source: LogSource, positions: npt.NDArray[np.int64]) -> Block:
    wanted = source.columns.names()
    lines = _lines(block)
    filled = [number for number, line in enumerate(lines) if line.strip()]
    values: dict[str, list[bytes | None]] = {name: [] for name in wanted}
    invalid: dict[int, tuple[str, str]] = {}
    for row, number in enumerate(filled):
        try:
            record = json.loads(lines[number])
            fields = [_json_scalar(record, name) for name in wanted]
        except _BadRecordError as error:
            invalid[row] = (error.kind, str(error))
            continue
        except (ValueError, RecursionError) as error:
            invalid[row] = ("not a JSON object", f"not a JSON object: {error}")
            continue
        for name, value in zip(wanted, fields, strict=True):
            values[name].append(value)
    columns = {name: pa.array(column, pa.binary()) for name, column in values.items()}
    return _assemble(columns, source, positions, lines, filled, invalid)


class _BadRecordError(Exception):
    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def _json_scalar(record: Any, name: str) -> bytes | None:
    """A value as text; whole numbers written as fractions are whole."""
    if not isinstance(record, dict):
        raise _BadRecordError("not a JSON object", f"a JSON {type(record).__name__}, expected an object")
    if name not in record:
        raise _BadRecordError(f"no key {name!r}", f"no key {name!r}; found {', '.join(map(str, record)) or 'none'}")
    value = record[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        words = f"{name} is a JSON {type(value).__name__}, expected text or a number"
        raise _BadRecordError(words, words)
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    return str(value).encode("utf-8", "surrogatepass")


def _row_text(line: bytes) -> str:
    return line.rstrip(b"\r")[:_MAX_ROW_TEXT].decode(errors="replace")


# === Parquet ===


def _parquet(part: ReadRange, source: LogSource) -> Iterator[Block]:
    stream: Any = open_log(part.path) if is_remote(part.path) else pa.memory_map(part.path)
    with stream:
        try:
            file = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise ComponentError(f"{part.path}: not a Parquet file: {error}") from None
        require_columns(source.columns, file.schema_arrow.names, part.path)
        if file.metadata.num_rows == 0:
            raise ComponentError(f"{part.path}: the file has no rows")
        row = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=source.columns.names()):
            columns = {name: batch.column(batch.schema.get_field_index(name)) for name in source.columns.names()}
            try:
                result = normalise(columns, source, _positions(part, row, batch.num_rows))
            except ConfigError as error:
                raise ConfigError(f"{part.path}: {error}") from None
            texts = [_row_text(_parquet_row(batch, bad).encode()) for bad in result.bad_rows]
            yield Block(result, [int(bad) for bad in result.bad_rows], texts, batch.num_rows)
            row += batch.num_rows


def _parquet_row(batch: pa.RecordBatch, row: int) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([batch.column(i)[row].as_py() for i in range(batch.num_columns)])
    return out.getvalue()


# === Simulation ===


def _simulated(part: ReadRange, source: SimulatedSource) -> Iterator[Block]:
    shop = SessionShop(SessionShopConfig.model_validate_json(json.dumps(source.shop)))
    names = pa.array(shop.item_names)
    noise = pydantic.TypeAdapter(AnyNoise).validate_json(json.dumps(source.noise)) if source.noise is not None else None
    row = 0
    for events in shop.logs(source.num_events, source.seed):
        reward = np.where(events.bought, PURCHASE.reward, CLICK.reward)
        if noise is not None:
            # What happens to an event's reward depends on its row alone, and on no other chance.
            chance = Chance(source.seed % 2**64).uniform(NOISE, row + np.arange(len(reward)), 0, noise.num_draws)
            reward = noise.apply(reward, chance)
        batch = _simulated_batch(events, reward, names, _positions(part, row, len(events.user)))
        row += batch.num_rows
        yield Block(Normalised(batch, batch.num_rows, 0), [], [], batch.num_rows)


def _simulated_batch(
    events: LoggedEvents, reward: npt.NDArray[np.float64], names: pa.Array, positions: npt.NDArray[np.int64]
) -> pa.RecordBatch:
    bought = events.bought
    role = np.where(bought, FEEDBACK_ROLES.index("purchase"), FEEDBACK_ROLES.index("click"))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(events.user).cast(pa.string()),
            pa.nulls(len(bought), pa.string()),
            names.take(pa.array(events.item)),
            pa.array(events.time * MICROSECONDS_PER_SECOND),
            pa.array(role.astype(np.int8)),
            pa.array(reward.astype(np.float32)),
            pa.array(events.propensity.astype(np.float32)),
            pa.array(positions),
        ],
        schema=SCHEMA,
    )
