"""Dividing sessions into train, eval and test: by time and by hash."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.datasets.normalising import SCHEMA
from components.trajectory_gen.config import SplitConfig, TrajectoryGenConfig
from components.trajectory_gen.sessions import Sessions, build_sessions, session_ids
from components.trajectory_gen.stages import MergeStarts, choose_boundaries, divide, drop_by_length, from_boundaries, with_boundaries

Config = Callable[..., TrajectoryGenConfig]


def sessions_of(config: TrajectoryGenConfig, *histories: tuple[str, list[tuple[str, int]]], own: dict[str, str] | None = None) -> Sessions:
    """(user, [(item, seconds), …]) of each session; `own` gives users a session of the log's own."""
    rows = [(user, item, seconds) for user, events in histories for item, seconds in events]
    count = len(rows)
    table = pa.table(
        [
            pa.array([row[0] for row in rows], pa.string()),
            pa.array([(own or {}).get(row[0]) for row in rows], pa.string()),
            pa.array([row[1] for row in rows], pa.string()),
            pa.array([row[2] * 1_000_000 for row in rows], pa.int64()),
            pa.array([0] * count, pa.int8()),
            pa.array([1.0] * count, pa.float32()),
            pa.nulls(count, pa.float32()),
            pa.array(range(count), pa.int64()),
        ],
        schema=SCHEMA,
    )
    return build_sessions(table, config)


def described(sessions: Sessions) -> dict[str, str]:
    items = sessions.rows.column("item").combine_chunks().dictionary_decode().to_pylist()
    starts = sessions.starts
    return {
        name: "".join(items[start : start + length])
        for name, start, length in zip(session_ids(sessions).to_pylist(), starts, sessions.lengths, strict=True)
    }


# === Where eval and test begin ===


def boundaries(seconds: list[int], counts: list[int], train: float = 0.5, evaluation: float = 0.25) -> tuple[int, int]:
    split = SplitConfig(train_fraction=train, eval_fraction=evaluation)
    return choose_boundaries((np.array(seconds, np.int64), np.array(counts, np.int64)), split)


def test_a_split_ends_after_the_second_that_fills_it() -> None:
    # Half of four sessions begin at 10 or 20; three quarters until 30.
    assert boundaries([10, 20, 30, 40], [1, 1, 1, 1]) == (21, 31)


def test_sessions_of_one_second_are_not_torn_apart() -> None:
    # 1 of 10 until 10, 8 of 10 until 20: the half lies within 20.
    assert boundaries([10, 20, 30, 40], [1, 7, 1, 1]) == (21, 21)


def test_shares_that_are_no_binary_fractions_are_met_exactly() -> None:
    # 0.7 + 0.2 is 0.8999999999999999 in binary, and 0.8 + 0.1 is 0.9000000000000001 of 10 sessions.
    assert boundaries(list(range(10)), [1] * 10, 0.7, 0.2) == (7, 9)
    assert boundaries(list(range(10)), [1] * 10, 0.8, 0.1) == (8, 9)


def test_without_sessions_there_are_boundaries_all_the_same() -> None:
    assert boundaries([], []) == (0, 0)


def test_fractions_must_leave_a_test_split() -> None:
    with pytest.raises(ValueError, match="must leave something for the test split"):
        SplitConfig(train_fraction=0.9, eval_fraction=0.1)


@given(st.lists(st.lists(st.integers(0, 20), max_size=8), min_size=1, max_size=5), st.randoms())
def test_start_times_merge_in_any_order(parts: list[list[int]], draw: Any) -> None:
    merge = MergeStarts()
    pairs = [np.unique(np.array(part, np.int64), return_counts=True) for part in parts]
    draw.shuffle(pairs)
    accumulators = [merge.add_input(merge.create_accumulator(), pair) for pair in pairs]
    seconds, counts = merge.extract_output(merge.merge_accumulators([merge.create_accumulator(), *accumulators]))
    expected = np.unique(np.array([second for part in parts for second in part], np.int64), return_counts=True)
    assert (seconds.tolist(), counts.tolist()) == (expected[0].tolist(), expected[1].tolist())


# === By time ===


def test_a_session_belongs_to_the_split_in_which_it_begins(config: Config) -> None:
    settings = config([])
    sessions = sessions_of(settings, ("u", [("a", 19), ("b", 20)]), ("v", [("c", 21), ("d", 22)]), ("w", [("e", 31), ("f", 99)]))
    splits, ledger = divide(sessions, (21, 31), None, settings)
    assert {name: described(part) for name, part in splits.items()} == {
        "train": {"u@19": "ab"},
        "eval": {"v@21": "cd"},
        "test": {"w@31": "ef"},
    }
    assert ledger == {"rare_item": 0, "after_split_end": 0, "short_session": 0}


def test_a_session_that_goes_on_after_its_split_is_cut_there(config: Config) -> None:
    settings = config([])
    sessions = sessions_of(settings, ("u", [("a", 19), ("b", 20), ("c", 21), ("d", 40)]), ("v", [("e", 22), ("f", 30), ("g", 31)]))
    splits, ledger = divide(sessions, (21, 31), None, settings)
    assert described(splits["train"]) == {"u@19": "ab"}
    assert described(splits["eval"]) == {"v@22": "ef"}
    assert len(splits["test"].lengths) == 0
    assert ledger == {"rare_item": 0, "after_split_end": 3, "short_session": 0}


def test_what_is_left_of_a_cut_session_is_dropped_when_it_is_too_short(config: Config) -> None:
    settings = config([])
    sessions = sessions_of(settings, ("u", [("a", 20), ("b", 21), ("c", 22)]), ("v", [("d", 5), ("e", 6)]))
    splits, ledger = divide(sessions, (21, 31), None, settings)
    assert described(splits["train"]) == {"v@5": "de"}
    assert ledger == {"rare_item": 0, "after_split_end": 2, "short_session": 1}


@given(
    st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(0, 100),
    st.integers(0, 50),
)
def test_no_event_of_a_split_is_later_than_any_of_the_next(times: list[list[int]], eval_begins: int, more: int) -> None:
    settings = TrajectoryGenConfig.model_construct(session_gap_seconds=None, min_session_events=2, split=SplitConfig())
    histories = [(f"u{number}", [("a", second) for second in sorted(seconds)]) for number, seconds in enumerate(times)]
    limits = (eval_begins, eval_begins + more)
    splits, ledger = divide(sessions_of(settings, *histories), limits, None, settings)
    seconds = {name: part.column("time") // 1_000_000 for name, part in splits.items()}
    assert (seconds["train"] < limits[0]).all()
    assert ((seconds["eval"] >= limits[0]) & (seconds["eval"] < limits[1])).all()
    assert (seconds["test"] >= limits[1]).all()
    assert sum(map(len, seconds.values())) + sum(ledger.values()) == sum(map(len, times))


# === By hash ===


def test_hashes_divide_sessions_in_the_wanted_shares(config: Config) -> None:
    settings = config([], split=SplitConfig(by="session", train_fraction=0.6, eval_fraction=0.3))
    histories = [(f"u{n}", [("a", n), ("b", n)]) for n in range(4000)]
    splits, ledger = divide(sessions_of(settings, *histories), (0, 0), None, settings)
    shares = {name: len(part.lengths) / 4000 for name, part in splits.items()}
    # Five standard errors of a binomial share of 4,000.
    for name, expected in (("train", 0.6), ("eval", 0.3), ("test", 0.1)):
        assert abs(shares[name] - expected) < 5 * (expected * (1 - expected) / 4000) ** 0.5
    assert sum(shares.values()) == 1.0
    assert sum(ledger.values()) == 0


def test_a_hashed_session_is_whole_and_stays_in_its_split_when_others_come(config: Config) -> None:
    settings = config([], split=SplitConfig(by="session", train_fraction=0.5, eval_fraction=0.25))
    histories = [(f"u{n}", [("a", n), ("b", n + 1), ("c", n + 2)]) for n in range(40)]
    all_of_them, _ = divide(sessions_of(settings, *histories), (0, 0), None, settings)
    some_of_them, _ = divide(sessions_of(settings, *histories[5:9]), (0, 0), None, settings)
    for name, part in some_of_them.items():
        assert described(part).items() <= described(all_of_them[name]).items()
    assert {text for part in all_of_them.values() for text in described(part).values()} == {"abc"}


# === Rare items, lengths ===


def test_rare_items_are_taken_out_before_sessions_are_cut_at_the_end_of_a_split(config: Config) -> None:
    settings = config([], rare_items="drop", min_item_events=2)
    sessions = sessions_of(settings, ("u", [("z", 5), ("a", 6), ("b", 7), ("z", 30)]), ("v", [("z", 8)]))
    splits, ledger = divide(sessions, (21, 31), pa.array(["z"]), settings)
    assert described(splits["train"]) == {"u@5": "ab"}
    assert ledger == {"rare_item": 3, "after_split_end": 0, "short_session": 0}


def test_whether_a_session_is_kept_does_not_depend_on_the_sessions_beside_it(config: Config) -> None:
    settings = config([], rare_items="drop", min_item_events=2)
    left_with_one = ("u", [("a", 5), ("z", 6)])
    crossing = ("v", [("a", 7), ("b", 8), ("a", 22)])
    rare = pa.array(["z"])
    together, _ = divide(sessions_of(settings, left_with_one, crossing), (21, 31), rare, settings)
    apart = [divide(sessions_of(settings, one), (21, 31), rare, settings)[0] for one in (left_with_one, crossing)]
    assert described(together["train"]) == {**described(apart[0]["train"]), **described(apart[1]["train"])}


def test_sessions_of_the_wrong_length_are_dropped_and_their_events_counted(config: Config) -> None:
    settings = config([], min_session_events=2, max_session_events=3)
    sessions = sessions_of(
        settings, ("u", [("a", 1)]), ("v", [("a", 1), ("b", 2)]), ("w", [("a", n) for n in range(3)]), ("x", [("a", n) for n in range(4)])
    )
    kept, ledger = drop_by_length(sessions, settings)
    assert described(kept) == {"v@1": "ab", "w@0": "aaa"}
    assert ledger == {"short_session": 1, "long_session": 4}


def test_without_a_most_length_long_sessions_stay(config: Config) -> None:
    settings = config([], max_session_events=None)
    kept, ledger = drop_by_length(sessions_of(settings, ("u", [("a", n) for n in range(500)])), settings)
    assert kept.lengths.tolist() == [500]
    assert ledger == {"short_session": 0, "long_session": 0}


def test_sessions_survive_being_stored_as_one_table(config: Config) -> None:
    sessions = sessions_of(config([]), ("u", [("a", 1), ("b", 2)]), ("v", [("c", 1)]), ("w", [("a", n) for n in range(3)]))
    again = from_boundaries(with_boundaries(sessions))
    assert described(again) == described(sessions) == {"u@1": "ab", "v@1": "c", "w@0": "aaa"}
    assert again.lengths.tolist() == [2, 1, 3]


def test_two_halves_of_a_session_in_two_splits_have_two_names(config: Config) -> None:
    settings = config([])
    events = [("a", 0), ("b", 1), ("c", 5000), ("d", 5001)]
    splits, _ = divide(sessions_of(settings, ("u", events), own={"u": "s1"}), (4000, 9000), None, settings)
    assert [described(splits["train"]), described(splits["eval"])] == [{"s1/u@0": "ab"}, {"s1/u@5000": "cd"}]
