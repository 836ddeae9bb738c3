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
"""Arrow schema of a batch of interactions; `session` and `propensity` are all null where the log has none."""

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
        bad_reasons: Why, for each of them.
    """

    batch: pa.RecordBatch
    num_rows: int
    num_ignored: int
    bad_rows: list[int] = field(default_factory=list)
    bad_reasons: list[str] = field(default_factory=list)


class _Problems:
    """Collects rows that do not parse; the first reason of a row counts."""

    def __init__(self, num_rows: int):
        self.bad: Mask = np.zeros(num_rows, bool)
        self.reasons: dict[int, str] = {}

    def add(self, mask: Mask, reason: str | Callable[[int], str]) -> None:
        for row in np.flatnonzero(mask & ~self.bad):
            self.reasons[int(row)] = reason if isinstance(reason, str) else reason(int(row))
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
    problems = _Problems(num_rows)
    user = _text(columns[mapped.user], "user", problems)
    item = _text(columns[mapped.item], "item", problems)
    session = _text(columns[mapped.session], "session", problems) if mapped.session else pa.nulls(num_rows, pa.string())
    time = _microseconds(columns[mapped.timestamp], source, problems)
    feedback, reward, ignored = _feedback(columns[mapped.feedback] if mapped.feedback else None, source, num_rows, problems)
    if mapped.reward:
        reward = _number(columns[mapped.reward], mapped.reward, problems)
    propensity = pa.nulls(num_rows, pa.float32())
    if mapped.propensity:
        values = _number(columns[mapped.propensity], mapped.propensity, problems)
        problems.add(~((values > 0) & (values <= 1)), lambda row: f"propensity {values[row]:g} is not in (0, 1]")
        propensity = pa.array(values)
    arrays = [user, session, item, pa.array(time), pa.array(feedback), pa.array(reward), propensity, pa.array(positions)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    ignored &= ~problems.bad
    dropped = problems.bad | ignored
    if dropped.any():
        batch = batch.filter(pa.array(~dropped))
    rows = sorted(problems.reasons)
    return Normalised(batch, num_rows, int(ignored.sum()), rows, [problems.reasons[row] for row in rows])


def _text(column: pa.Array, name: str, problems: _Problems) -> pa.StringArray:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        # 123.0 is how a whole number with gaps comes out of many tools; anything finer is no id.
        rounded = pc.round(column)
        if pc.all(pc.equal(rounded, column)).as_py() is not False:
            column = rounded.cast(pa.int64(), safe=False)
    try:
        text = column.cast(pa.string())
    except pa.ArrowInvalid:
        valid = [_is_utf8(value) for value in column.cast(pa.binary()).to_pylist()]
        problems.add(~np.array(valid), f"{name} is not UTF-8")
        text = pa.array([v if ok else None for v, ok in zip(column.to_pylist(), valid, strict=True)], pa.binary()).cast(pa.string())
    lengths = pc.fill_null(pc.binary_length(text), 0)
    if len(text) and pc.min(lengths).as_py() == 0:
        problems.add(lengths.to_numpy(zero_copy_only=False) == 0, f"{name} is empty")
    broken = pc.match_substring_regex(text, r"[\n\r\x00]")
    if pc.any(broken).as_py():
        # Ids end up as lines of vocabulary files.
        problems.add(pc.fill_null(broken, False).to_numpy(zero_copy_only=False), f"{name} holds a line break or a NUL")
    return text


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _microseconds(column: pa.Array, source: LogSource, problems: _Problems) -> npt.NDArray[np.int64]:
    unit = source.timestamp_unit
    kind = column.type
    if pa.types.is_timestamp(kind):
        values = pc.fill_null(column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64()), -1)
        time: npt.NDArray[np.int64] = values.to_numpy(zero_copy_only=False)
    elif pa.types.is_integer(kind):
        raw = pc.fill_null(column, -1).to_numpy(zero_copy_only=False).astype(np.int64)
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
        problems.add(wrong, lambda row: f"timestamp {_shown(column[row])} is not a time from 1970 to 2200 in {unit}")
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
    integers = pc.utf8_trim_whitespace(column.filter(whole).cast(pa.string())).cast(pa.int64()).to_numpy(zero_copy_only=False)
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


def _number(column: pa.Array, name: str, problems: _Problems) -> npt.NDArray[np.float32]:
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    else:
        values = _parsed_numbers(_as_binary(column))
    with np.errstate(over="ignore"):
        result: npt.NDArray[np.float32] = values.astype(np.float32)
    if not np.isfinite(result).all():
        problems.add(~np.isfinite(result), lambda row: f"{name} {_shown(column[row])} is not a finite number")
    return result


def _parsed_numbers(column: pa.BinaryArray) -> npt.NDArray[np.float64]:
    numeric = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
    result = np.full(len(column), np.nan)
    trimmed = pc.utf8_trim_whitespace(column.filter(numeric).cast(pa.string()))
    result[numeric.to_numpy(zero_copy_only=False)] = trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return result


def _feedback(
    column: pa.Array | None, source: LogSource, num_rows: int, problems: _Problems
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], Mask]:
    """Role and reward of each row, and which rows are of events to leave out."""
    if column is None:
        (rule,) = source.feedback.values()
        role = np.full(num_rows, FEEDBACK_ROLES.index(rule.role), np.int8)
        return role, np.full(num_rows, rule.reward, np.float32), np.zeros(num_rows, bool)
    encoded = _as_binary(column).dictionary_encode()
    names = [_decoded(value) for value in encoded.dictionary.to_pylist()] + [""]
    codes = pc.fill_null(encoded.indices, len(names) - 1).to_numpy(zero_copy_only=False)
    rules = [source.feedback.get(name) for name in names]
    role_of = np.array([FEEDBACK_ROLES.index(rule.role) if rule else 0 for rule in rules], np.int8)
    reward_of = np.array([rule.reward if rule else 0.0 for rule in rules], np.float32)
    is_ignored = np.array([name in source.ignored_feedback for name in names])
    unknown = np.array([rule is None for rule in rules]) & ~is_ignored
    if unknown[codes].any():
        known = ", ".join([*source.feedback, *source.ignored_feedback])
        problems.add(unknown[codes], lambda row: f"unknown event {names[codes[row]]!r}; known: {known}")
    return role_of[codes], reward_of[codes], is_ignored[codes]


def _decoded(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace").strip()


def _as_binary(column: pa.Array) -> pa.BinaryArray:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_binary(column.type):
        return column
    return column.cast(pa.string()).cast(pa.binary())


def _shown(value: pa.Scalar) -> str:
    plain = value.as_py()
    return repr(_decoded(plain)[:80] if isinstance(plain, bytes) else plain)
