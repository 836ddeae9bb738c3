"""Cutting rows into sessions, naming them, and cutting sessions into records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.datasets.normalising import SCHEMA
from components.trajectory_gen.config import TrajectoryGenConfig
from components.trajectory_gen.sessions import Sessions, build_sessions, cut_records, no_sessions, session_ids

Config = Callable[..., TrajectoryGenConfig]

GAP = 1800


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    """(user, own session or None, item, seconds) as interactions; the place in the list is the position."""
    user, session, item, seconds = ([row[i] for row in rows] for i in range(4))
    count = len(rows)
    return pa.table(
        [
            pa.array(user, pa.string()),
            pa.array(session, pa.string()),
            pa.array(item, pa.string()),
            pa.array([round(s * 1_000_000) for s in seconds], pa.int64()),
            pa.array([0] * count, pa.int8()),
            pa.array([1.0] * count, pa.float32()),
            pa.nulls(count, pa.float32()),
            pa.array(range(count), pa.int64()),
        ],
        schema=SCHEMA,
    )


@pytest.fixture
def cut(config: Config) -> Callable[..., list[tuple[str, str]]]:
    """Rows to (session id, its items in order)."""

    def run(*rows: tuple[Any, ...], **changes: Any) -> list[tuple[str, str]]:
        return described(build_sessions(table(list(rows)), config([], **changes)))

    return run


def described(sessions: Sessions) -> list[tuple[str, str]]:
    items = sessions.rows.column("item").combine_chunks().dictionary_decode().to_pylist() if sessions.rows.num_rows else []
    parts = np.split(np.array(items, object), np.cumsum(sessions.lengths)[:-1]) if len(sessions.lengths) else []
    return list(zip(session_ids(sessions).to_pylist(), ["".join(part) for part in parts], strict=True))


def test_a_pause_longer_than_the_gap_begins_a_new_session(cut: Any) -> None:
    rows = [("u", None, "a", 0), ("u", None, "b", GAP), ("u", None, "c", 2 * GAP + 0.000001)]
    assert cut(*rows, session_gap_seconds=GAP) == [("u@0", "ab"), ("u@3600", "c")]
    assert cut(*rows, session_gap_seconds=2 * GAP) == [("u@0", "abc")]


def test_without_a_gap_the_whole_history_is_one_session(cut: Any) -> None:
    assert cut(("u", None, "a", 0), ("u", None, "b", 10**9), session_gap_seconds=None) == [("u@0", "ab")]


def test_rows_are_put_in_order_of_time_within_a_user(cut: Any) -> None:
    rows = [("v", None, "c", 5), ("u", None, "b", 9), ("v", None, "a", 1), ("u", None, "d", 3)]
    assert cut(*rows) == [("u@3", "db"), ("v@1", "ac")]


def test_ties_of_time_keep_the_order_of_the_input(cut: Any) -> None:
    assert cut(*[("u", None, item, 7) for item in "zyxa"]) == [("u@7", "zyxa")]


def test_microseconds_order_events_of_one_second(cut: Any) -> None:
    assert cut(("u", None, "b", 7.000002), ("u", None, "a", 7.000001)) == [("u@7", "ab")]


def test_the_logs_own_sessions_are_not_joined_and_may_overlap(cut: Any) -> None:
    rows = [("u", "s1", "a", 0), ("u", "s2", "b", 1), ("u", "s1", "c", 2), ("u", "s2", "d", 3)]
    assert cut(*rows) == [("s1", "ac"), ("s2", "bd")]


def test_rows_without_a_session_are_not_joined_to_a_named_one(cut: Any) -> None:
    rows = [("u", "s1", "a", 0), ("u", None, "b", 1), ("u", "s1", "c", 2), ("v", None, "d", 0)]
    assert sorted(cut(*rows)) == [("s1", "ac"), ("u@1", "b"), ("v@0", "d")]


def test_a_pause_cuts_the_logs_own_session_too_and_both_parts_get_names_of_their_own(cut: Any) -> None:
    rows = [("u", "s1", "a", 0), ("u", "s1", "b", 5000), ("u", "s2", "c", 9)]
    assert cut(*rows) == [("s1/u@0", "a"), ("s1/u@5000", "b"), ("s2", "c")]
    assert cut(*rows, session_gap_seconds=None) == [("s1", "ab"), ("s2", "c")]


def test_one_session_name_of_two_users_is_two_sessions(cut: Any) -> None:
    # The name stays the log's own: whether another user has it, too, a part that does not hold that user cannot know.
    assert cut(("u", "s", "a", 0), ("v", "s", "b", 0)) == [("s", "a"), ("s", "b")]


@pytest.mark.parametrize("users", [["1", "11"], ["a", "a "], ["", "\u00e9"], ["a@0", "a"]])
def test_users_with_like_names_are_not_mixed(cut: Any, users: list[str]) -> None:
    first, second = sorted(users)
    found = cut((second, None, "b", 0), (first, None, "a", 0), (second, None, "d", 1), (first, None, "c", 1))
    assert found == [(f"{first}@0", "ac"), (f"{second}@0", "bd")]


def test_very_late_times_and_many_users_do_not_overflow_the_sort(cut: Any) -> None:
    # 2200-01-01 in microseconds takes 53 bits; with users and rows that no longer fits into one 64-bit key.
    last = 7_258_118_400
    rows = [(f"u{n % 600:03d}", None, "ab"[n // 600], last if n >= 600 else 0) for n in reversed(range(1200))]
    assert cut(*rows, session_gap_seconds=None) == [(f"u{n:03d}@0", "ab") for n in range(600)]


def test_no_rows_are_no_sessions(cut: Any) -> None:
    assert cut() == []
    assert described(no_sessions()) == []


events = st.lists(
    st.tuples(st.sampled_from(["u", "v", "w"]), st.just(None), st.sampled_from("abc"), st.integers(0, 60)), min_size=1, max_size=30
)


@given(events, st.integers(1, 20))
def test_sessions_equal_a_loop_over_users(rows: list[tuple[Any, ...]], gap: int) -> None:
    expected = []
    for user in sorted({row[0] for row in rows}):
        history = sorted((row[3], place, row[2]) for place, row in enumerate(rows) if row[0] == user)
        last = None
        for seconds, _, item in history:
            if last is None or seconds - last > gap:
                expected.append([f"{user}@{seconds}", ""])
            expected[-1][1] += item
            last = seconds
    settings = TrajectoryGenConfig.model_construct(session_gap_seconds=gap)
    assert [list(entry) for entry in described(build_sessions(table(rows), settings))] == expected


def test_dropping_rows_keeps_the_rest_of_a_session_and_forgets_empty_ones(config: Config) -> None:
    rows = [("u", None, "a", 0), ("u", None, "b", 1), ("u", None, "c", 2), ("v", None, "d", 0)]
    sessions = build_sessions(table(rows), config([]))
    kept = sessions.keep_rows(np.array([True, False, True, False]))
    assert described(kept) == [("u@0", "ac")]
    assert described(sessions.keep_sessions(np.array([False, True]))) == [("v@0", "d")]
    assert described(sessions.keep_rows(np.zeros(4, bool))) == []


# === Records ===


def cuts(lengths: list[int], most: int, context: int) -> list[tuple[int, int, int, int, bool]]:
    records = cut_records(np.array(lengths, np.int64), most, context)
    columns = (records.session, records.first, records.length, records.num_context, records.is_terminal)
    return [tuple(row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def test_a_short_session_is_one_record() -> None:
    assert cuts([3, 1, 5], 5, 2) == [(0, 0, 3, 0, True), (1, 3, 1, 0, True), (2, 4, 5, 0, True)]


def test_a_long_session_is_several_records_that_repeat_context() -> None:
    # 12 events, 5 at most, 2 of context, so 3 new ones a record: 0-4, 3-7, 6-10, 9-11. Row 5 is where the next session begins.
    assert cuts([5, 12], 5, 2) == [
        (0, 0, 5, 0, True),
        (1, 5, 5, 0, False),
        (1, 8, 5, 2, False),
        (1, 11, 5, 2, False),
        (1, 14, 3, 2, True),
    ]


def test_a_session_one_event_too_long_has_a_last_record_with_one_target() -> None:
    assert cuts([6], 5, 4) == [(0, 0, 5, 0, False), (0, 1, 5, 4, True)]


def test_no_sessions_have_no_records() -> None:
    assert cuts([], 5, 2) == []


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(2, 12), st.data())
def test_every_event_is_a_target_exactly_once(lengths: list[int], most: int, data: st.DataObject) -> None:
    context = data.draw(st.integers(1, most - 1))
    starts = np.cumsum(lengths) - lengths
    targets: list[int] = []
    for session, first, length, num_context, is_terminal in cuts(lengths, most, context):
        begin, end = starts[session], starts[session] + lengths[session]
        assert 1 <= length <= most
        assert begin <= first
        assert first + length <= end
        assert num_context == (0 if first == begin else context)
        assert num_context < length
        assert is_terminal == (first + length == end)
        targets += range(first + num_context, first + length)
    assert targets == list(range(sum(lengths)))


def test_the_context_must_be_shorter_than_the_record(config: Config) -> None:
    with pytest.raises(ValueError, match="context_length 5 must be less than max_length 5"):
        config([], max_length=5, context_length=5)
