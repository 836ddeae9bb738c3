"""Sessions from a partition's interactions: pure array work on rows of complete users.

Rows are ordered by user, the log's own session where it has one, time, and place in the input; that order does not depend on
how the input was cut or in which order its parts arrived.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.datasets.normalising import SCHEMA
from components.trajectory_gen.config import TrajectoryGenConfig
from schemas import interaction
from schemas.interaction import MICROSECONDS_PER_SECOND

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sessions:
    """Rows of whole sessions, one after the other, in order.

    Attributes:
        rows: Table with the columns of an interaction, `item` as a dictionary, `session` the name of the session.
        lengths: [S] events of each session.
        is_cut: [S] True where events of the session were taken off its end, None where of no session.
    """

    rows: pa.Table
    lengths: Ints
    is_cut: Mask | None = None

    @property
    def starts(self) -> Ints:
        """[S] row of each session's first event."""
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """A column as an array."""
        column: npt.NDArray[np.generic] = self.rows.column(name).to_numpy()
        return column

    def start_times(self) -> Ints:
        """[S] time of each session's first event, microseconds."""
        times: Ints = self.column(interaction.TIME).astype(np.int64)[self.starts]
        return times

    def keep_rows(self, kept: Mask) -> "Sessions":
        """The sessions without some of their rows; a session that has none left disappears."""
        if kept.all():
            return self
        session = np.repeat(np.arange(len(self.lengths)), self.lengths)
        lengths = np.bincount(session[kept], minlength=len(self.lengths))
        is_cut = None if self.is_cut is None else self.is_cut[lengths > 0]
        return Sessions(self.rows.filter(pa.array(kept)), lengths[lengths > 0].astype(np.int64), is_cut)

    def keep_sessions(self, kept: Mask) -> "Sessions":
        """Only the sessions of a mask [S]."""
        return self.keep_rows(np.repeat(kept, self.lengths))


def build_sessions(table: pa.Table, config: TrajectoryGenConfig) -> Sessions:
    """Orders the rows of complete users and cuts them into sessions.

    Args:
        table: Interactions in order of position.
        config: Where a session ends.

    Returns:
        Every session, whatever its length.
    """
    table = table.combine_chunks()
    if table.num_rows == 0:
        return no_sessions()
    owner = _rank(table.column(interaction.USER))
    if table.column(interaction.SESSION).null_count < table.num_rows:
        own = _rank(table.column(interaction.SESSION))
        owner = owner * (int(own.max()) + 1) + own
    time = table.column(interaction.TIME).to_numpy()
    order = _stable_order(owner, time)
    owner, time = owner[order], time[order]
    begins = np.ones(len(order), bool)
    begins[1:] = owner[1:] != owner[:-1]
    if config.session_gap_seconds is not None:
        begins[1:] |= np.diff(time) > config.session_gap_seconds * MICROSECONDS_PER_SECOND
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(order)).astype(np.int64)
    rows = _with_dictionary(table.take(pa.array(order)).combine_chunks())
    return Sessions(_named(rows, starts, lengths), lengths)


def no_sessions() -> Sessions:
    """No sessions, with all columns."""
    none = np.zeros(0, np.int64)
    return Sessions(_named(_with_dictionary(SCHEMA.empty_table()), none, none), none)


def _with_dictionary(table: pa.Table) -> pa.Table:
    index = table.schema.get_field_index(interaction.ITEM)
    return table.set_column(index, interaction.ITEM, table.column(interaction.ITEM).combine_chunks().dictionary_encode())


def _named(rows: pa.Table, starts: Ints, lengths: Ints) -> pa.Table:
    """Rows with the session's name: the log's own, or the user and the second it begins, `user@1735689600`.

    Where a pause cut a session of the log in two, the parts are told apart by user and beginning as well, `own/user@1735689600`.
    """
    at = pa.array(starts)
    users = rows.column(interaction.USER).take(at).combine_chunks()
    own = rows.column(interaction.SESSION).take(at).combine_chunks()
    seconds = pa.array(rows.column(interaction.TIME).to_numpy()[starts] // MICROSECONDS_PER_SECOND).cast(pa.string())
    names = made = pc.binary_join_element_wise(users, seconds, "@")
    if own.null_count < len(own):
        own = pc.coalesce(own, made)
        # All sessions of a user are in one part, so this does not depend on how the users are divided.
        pair = pc.binary_join_element_wise(users, own, "\0").dictionary_encode().indices.to_numpy(zero_copy_only=False)
        repeated = pa.array(np.bincount(pair)[pair] > 1)
        names = pc.if_else(repeated, pc.binary_join_element_wise(own, made, "/"), own)
    index = pa.array(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths))
    place = rows.schema.get_field_index(interaction.SESSION)
    return rows.set_column(place, interaction.SESSION, pa.DictionaryArray.from_arrays(index, names))


def _rank(column: pa.ChunkedArray) -> Ints:
    """Rank of every value among the distinct ones; nulls rank first."""
    encoded = column.combine_chunks().dictionary_encode()
    by_value = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(by_value) + 1, np.int64)
    rank[by_value] = np.arange(1, len(by_value) + 1)
    rank[-1] = 0
    ranks: Ints = rank[pc.fill_null(encoded.indices, len(by_value)).to_numpy(zero_copy_only=False)]
    return ranks


def _stable_order(major: Ints, minor: Ints) -> Ints:
    """Order by (major, minor), ties as they stand; one sort of packed 64-bit keys where they fit."""
    count = len(major)
    span = int(minor.max()) - int(minor.min()) + 1
    bits = [int(major.max()).bit_length(), span.bit_length(), count.bit_length()]
    if sum(bits) > 62:
        order: Ints = np.lexsort((minor, major)).astype(np.int64)
        return order
    packed = (((major << bits[1]) | (minor - minor.min())) << bits[2]) | np.arange(count, dtype=np.int64)
    packed.sort()
    packed_order: Ints = packed & ((1 << bits[2]) - 1)
    return packed_order


def session_ids(sessions: Sessions) -> pa.StringArray:
    """[S] name of each session."""
    names = sessions.rows.column(interaction.SESSION).take(pa.array(sessions.starts)).combine_chunks()
    return names.dictionary_decode()


@dataclass(frozen=True)
class Records:
    """Where each record lies in the rows: whole sessions, or stretches of long ones.

    Attributes:
        first: [R] first row, context included.
        length: [R] steps, context included.
        num_context: [R] leading steps that an earlier record already had as targets.
        session: [R] session it belongs to.
        is_terminal: [R] True where it ends its session.
    """

    first: Ints
    length: Ints
    num_context: Ints
    session: Ints
    is_terminal: Mask


def cut_records(lengths: Ints, max_length: int, context_length: int) -> Records:
    """Cuts sessions into records of at most `max_length` steps.

    The first record of a session has up to `max_length` targets; a later one has `context_length` steps of context and up to
    `max_length - context_length` targets. Targets of all records together are every event exactly once.
    """
    stride = max_length - context_length
    extra = np.maximum(lengths - max_length, 0)
    counts = 1 + -(-extra // stride)
    session = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(session)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * stride
    start = (np.cumsum(lengths) - lengths)[session]
    length = np.minimum(lengths[session] - offset, max_length)
    return Records(
        first=start + offset,
        length=length,
        num_context=np.where(number > 0, context_length, 0),
        session=session,
        is_terminal=offset + length == lengths[session],
    )
