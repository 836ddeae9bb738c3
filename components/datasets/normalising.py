"""Raw columns of a log as interactions, whole columns at a time; rows that do not parse are set aside with a reason."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.datasets.base import LogSource
from schemas import interaction
from schemas.config import ConfigError
from schemas.interaction import FEEDBACK_ROLES, MICROSECONDS_PER_SECOND

Mask = npt.NDArray[np.bool_]

SCHEMA = pa.schema(
    [
        (interaction.USER, pa.string()),
        (interaction.SESSION, pa.string()),
        (interaction.ITEM, pa.string()),
        (interaction.TIME, pa.int64()),
        (interaction.FEEDBACK, pa.int8()),
        (interaction.REWARD, pa.float32()),
        (interaction.PROPENSITY, pa.float32()),
        (interaction.POSITION, pa.int64()),
    ]
)
"""Arrow schema of a batch of interactions; `session` is all null where the log has none, `propensity` where none was logged."""

LATEST = 7_258_118_400 * MICROSECONDS_PER_SECOND
"""2200-01-01: a later time means that `timestamp_unit` is wrong."""

_FACTORS = {"seconds": MICROSECONDS_PER_SECOND, "milliseconds": 1000, "microseconds": 1}
_INTEGER = r"^\s*[+-]?\d{1,18}\s*$"
_NUMBER = r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass
class Normalised:
    """Outcome of one block.

    Attributes:
        batch: Interactions of the rows that parse, in input order.
        num_rows: Rows that went in.
        num_ignored: Rows of events the dataset leaves out.
        bad_rows: Row numbers within the block that do not parse.
        bad_kinds: What is wrong with each of them, of few kinds, for counting.
        bad_reasons: The same with the value that was found.
    """

    batch: pa.RecordBatch
    num_rows: int
    num_ignored: int
    bad_rows: list[int] = field(default_factory=list)
    bad_kinds: list[str] = field(default_factory=list)
    bad_reasons: list[str] = field(default_factory=list)


class Problems:
    """Rows that do not parse, each with a kind and a reason; the first of a row counts.

    Args:
        num_rows: Rows of the block.
        exempt: [num_rows] rows that nothing can be wrong with, because they are left out anyway.
    """

    def __init__(self, num_rows: int, exempt: Mask | None = None):
        self.bad: Mask = np.zeros(num_rows, bool)
        self.found: dict[int, tuple[str, str]] = {}
        self._exempt = np.zeros(num_rows, bool) if exempt is None else exempt

    def add(self, mask: Mask, kind: str, reason: Callable[[int], str] | None = None) -> None:
        """Adds the rows of a mask; without `reason` the kind says all."""
        mask = mask & ~self._exempt
        for row in np.flatnonzero(mask & ~self.bad).tolist():
            self.found[row] = (kind, reason(row) if reason else kind)
        self.bad |= mask


def normalise(columns: dict[str, pa.Array], source: LogSource, positions: npt.NDArray[np.int64]) -> Normalised:
    """Turns raw columns into interactions.

    Args:
        columns: The mapped columns by their names in the log, any Arrow type, equally long.
        source: What they mean.
        positions: [E] place of each row in the input.

    Returns:
        The interactions, and the rows that do not parse.
    """
    mapped = source.columns
    num_rows = len(positions)
    feedback, reward, ignored, unknown = _feedback(columns[mapped.feedback] if mapped.feedback else None, source, num_rows)
    problems = Problems(num_rows, exempt=ignored)
    problems.add(*unknown)
    user = _text(columns[mapped.user], "user", problems)
    item = _text(columns[mapped.item], "item", problems)
    session = _text(columns[mapped.session], "session", problems) if mapped.session else pa.nulls(num_rows, pa.string())
    time = _microseconds(columns[mapped.timestamp], source, problems)
    if mapped.reward:
        reward = _number(columns[mapped.reward], mapped.reward, problems)
    propensity = pa.nulls(num_rows, pa.float32())
    if mapped.propensity:
        propensity = _propensities(columns[mapped.propensity], mapped.propensity, problems)
    arrays = [user, session, item, pa.array(time), pa.array(feedback), pa.array(reward), propensity, pa.array(positions)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    dropped = problems.bad | ignored
    if dropped.any():
        batch = batch.filter(pa.array(~dropped))
    rows = sorted(problems.found)
    kinds, reasons = [problems.found[row][0] for row in rows], [problems.found[row][1] for row in rows]
    return Normalised(batch, num_rows, int(ignored.sum()), rows, kinds, reasons)


_EXACT_FLOAT = 1 << 53
"""Whole numbers up to here are themselves as floats; beyond, neighbours share one."""


def _text(column: pa.Array, name: str, problems: Problems) -> pa.StringArray:
    """Ids as text; whole numbers in a column of floats (the tools' way to have gaps) as whole numbers."""
    column = plain(column)
    if pa.types.is_floating(column.type):
        values = pc.fill_null(column, np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
        inexact = np.abs(values) > _EXACT_FLOAT
        problems.add(inexact, f"{name} is a number too large to be exact", lambda row: f"{name} {values[row]:g} is too large to be exact")
        text = _numbers_as_text(values, inexact)
    elif pa.types.is_nested(column.type):
        raise ConfigError(f"{name}: the column holds {column.type}, expected text or whole numbers")
    else:
        text = _cast_text(column, name, problems)
    lengths = pc.fill_null(pc.binary_length(text), 0)
    if len(text) and pc.min(lengths).as_py() == 0:
        problems.add(lengths.to_numpy(zero_copy_only=False) == 0, f"{name} is empty")
    broken = pc.match_substring_regex(text, r"[\n\r\x00]")
    if pc.any(broken).as_py():
        # Ids end up as lines of vocabulary files.
        problems.add(pc.fill_null(broken, False).to_numpy(zero_copy_only=False), f"{name} holds a line break or a NUL")
    return text


def _numbers_as_text(values: npt.NDArray[np.float64], excluded: Mask) -> pa.StringArray:
    whole = np.isfinite(values) & ~excluded & (np.floor(values) == values)
    as_whole = pa.array(np.where(whole, values, 0.0).astype(np.int64)).cast(pa.string())
    as_float = pa.array(values, mask=~np.isfinite(values)).cast(pa.string())
    return pc.if_else(pa.array(whole), as_whole, as_float)


def _cast_text(column: pa.Array, name: str, problems: Problems) -> pa.StringArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowNotImplementedError:  # decimals
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    except pa.ArrowInvalid:
        values = column.cast(pa.binary()).to_pylist()
        valid = [_is_utf8(value) for value in values]
        problems.add(~np.array(valid), f"{name} is not UTF-8")
        return pa.array([value if ok else None for value, ok in zip(values, valid, strict=True)], pa.binary()).cast(pa.string())


def plain(column: pa.Array) -> pa.Array:
    """A column without dictionary encoding."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _microseconds(column: pa.Array, source: LogSource, problems: Problems) -> npt.NDArray[np.int64]:
    unit = source.timestamp_unit
    column = plain(column)
    if pa.types.is_decimal(column.type):
        column = _cast_text(column, "timestamp", problems)
    kind = column.type
    if pa.types.is_timestamp(kind):
        values = pc.fill_null(column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64()), -1)
        time: npt.NDArray[np.int64] = values.to_numpy(zero_copy_only=False)
    elif pa.types.is_integer(kind):
        # Beyond int64 there is no time either.
        raw = pc.fill_null(column.cast(pa.int64(), safe=False), -1).to_numpy(zero_copy_only=False)
        # Out of range stays out of range instead of wrapping round.
        limit = LATEST // _FACTORS[unit] if unit in _FACTORS else -1
        time = np.where((raw >= 0) & (raw <= limit), raw, -1) * _FACTORS.get(unit, 1)
    elif pa.types.is_floating(kind) and unit in _FACTORS:
        time = _scaled(pc.fill_null(column, -1.0).to_numpy(zero_copy_only=False).astype(np.float64), _FACTORS[unit])
    elif unit == "iso8601":
        time = _iso_microseconds(_as_binary(column))
    else:
        time = _parsed_microseconds(_as_binary(column), _FACTORS[unit])
    wrong = (time < 0) | (time > LATEST)
    if wrong.any():
        words = f"is not a time from 1970 to 2200 in {unit}"
        problems.add(wrong, f"timestamp {words}", lambda row: f"timestamp {_shown(column[row])} {words}")
    return time


def _scaled(values: npt.NDArray[np.float64], factor: int) -> npt.NDArray[np.int64]:
    """Numbers times a factor as integers, -1 where that is no plausible time; exact to the microsecond until 2200."""
    scaled = values * factor
    with np.errstate(invalid="ignore"):
        return np.where((scaled >= 0) & (scaled <= LATEST), np.round(scaled), -1).astype(np.int64)


def _parsed_microseconds(column: pa.BinaryArray, factor: int) -> npt.NDArray[np.int64]:
    whole = pc.fill_null(pc.match_substring_regex(column, _INTEGER), False)
    result = np.full(len(column), -1, np.int64)
    mask = whole.to_numpy(zero_copy_only=False)
    integers = _unsigned(column.filter(whole)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    limit = LATEST // factor
    result[mask] = np.where((integers >= 0) & (integers <= limit), integers, -1) * factor
    if not mask.all():
        result[~mask] = _scaled(_parsed_numbers(column.filter(pa.array(~mask))), factor)
    return result


def _iso_microseconds(column: pa.BinaryArray) -> npt.NDArray[np.int64]:
    for zone in ("UTC", None):  # with an offset or a Z, or without one, which then means UTC
        try:
            parsed = column.cast(pa.string()).cast(pa.timestamp("us", zone)).cast(pa.int64())
            values: npt.NDArray[np.int64] = pc.fill_null(parsed, -1).to_numpy(zero_copy_only=False)
            return values
        except pa.ArrowInvalid:
            continue
    return np.array([_iso_one(value) for value in column.to_pylist()], np.int64)


def _iso_one(value: bytes | None) -> int:
    try:
        moment = datetime.fromisoformat((value or b"").decode().strip())
    except (UnicodeDecodeError, ValueError):
        return -1
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS_PER_SECOND + delta.microseconds


def _number(column: pa.Array, name: str, problems: Problems) -> npt.NDArray[np.float32]:
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    else:
        values = _parsed_numbers(_as_binary(column))
    with np.errstate(over="ignore"):
        result: npt.NDArray[np.float32] = values.astype(np.float32)
    if not np.isfinite(result).all():
        words = "is not a finite number"
        problems.add(~np.isfinite(result), f"{name} {words}", lambda row: f"{name} {_shown(column[row])} {words}")
    return result


def _propensities(column: pa.Array, name: str, problems: Problems) -> pa.Array:
    """Probabilities; null where none was logged, as of events that no recommendation led to."""
    missing = column.is_null()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        column = _as_binary(column)
        missing = pc.fill_null(pc.equal(pc.binary_length(column), 0), True)
        column = pc.if_else(missing, pa.scalar(b"1", column.type), column)
    else:
        column = pc.fill_null(column, 1)
    values = _number(column, name, problems)
    words = "is not in (0, 1]"
    problems.add(~((values > 0) & (values <= 1)), f"propensity {words}", lambda row: f"propensity {values[row]:g} {words}")
    return pc.if_else(missing, pa.scalar(None, pa.float32()), pa.array(values))


def _parsed_numbers(column: pa.BinaryArray) -> npt.NDArray[np.float64]:
    numeric = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
    result = np.full(len(column), np.nan)
    result[numeric.to_numpy(zero_copy_only=False)] = _unsigned(column.filter(numeric)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return result


def _unsigned(column: pa.BinaryArray) -> pa.StringArray:
    """Numbers without space around them and without a plus sign, which Arrow's cast does not know."""
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(column.cast(pa.string())), r"^\+", "")


def _feedback(
    column: pa.Array | None, source: LogSource, num_rows: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], Mask, tuple[Mask, str, Callable[[int], str]]]:
    """Role and reward of each row, which rows are of events to leave out, and the rows of unknown events as a problem."""
    if column is None:
        (rule,) = source.feedback.values()
        role = np.full(num_rows, FEEDBACK_ROLES.index(rule.role), np.int8)
        none = np.zeros(num_rows, bool)
        return role, np.full(num_rows, rule.reward, np.float32), none, (none, "", str)
    encoded = _event_names(plain(column)).dictionary_encode()
    names = [_decoded(value) for value in encoded.dictionary.to_pylist()] + [""]
    codes = pc.fill_null(encoded.indices, len(names) - 1).to_numpy(zero_copy_only=False)
    rules = [source.feedback.get(name) for name in names]
    role_of = np.array([FEEDBACK_ROLES.index(rule.role) if rule else 0 for rule in rules], np.int8)
    reward_of = np.array([rule.reward if rule else 0.0 for rule in rules], np.float32)
    is_ignored = np.array([name in source.ignored_feedback for name in names])
    unknown = np.array([rule is None for rule in rules]) & ~is_ignored
    known = ", ".join([*source.feedback, *source.ignored_feedback])
    problem = (unknown[codes], "unknown event", lambda row: f"unknown event {names[codes[row]]!r}; known: {known}")
    return role_of[codes], reward_of[codes], is_ignored[codes], problem


def _event_names(column: pa.Array) -> pa.BinaryArray:
    """Names of events; a rating of 4.0 is the event 4."""
    if pa.types.is_floating(column.type):
        values = pc.fill_null(column, np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
        return _numbers_as_text(values, np.abs(values) > _EXACT_FLOAT).cast(pa.binary())
    return _as_binary(column)


def _decoded(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace").strip()


def _as_binary(column: pa.Array) -> pa.BinaryArray:
    column = plain(column)
    if pa.types.is_binary(column.type):
        return column
    if pa.types.is_nested(column.type):
        raise ConfigError(f"a mapped column holds {column.type}, expected text or numbers")
    return column.cast(pa.string()).cast(pa.binary())


def _shown(value: pa.Scalar) -> str:
    plain = value.as_py()
    return repr(_decoded(plain)[:80] if isinstance(plain, bytes) else plain)
