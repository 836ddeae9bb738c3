"""Random logs against a plain-Python ingestion, in every cut, order and number of shards."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets import reading
from components.trajectory_gen.config import SplitConfig, TrajectoryGenConfig

Drive = Callable[..., Any]
Config = Callable[..., TrajectoryGenConfig]
Row = tuple[str, str, int, str]

REWARDS = {"click": 0.2, "buy": 1.0}


def hash_share(text: str) -> float:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD % 2**64
    value ^= value >> 33
    return (value >> 11) / 2**53


def reference(rows: list[Row], config: TrajectoryGenConfig) -> tuple[dict[str, list[dict[str, Any]]], Counter[str], list[tuple[str, int]]]:
    """What ingestion should make of rows (user, item, seconds, event), row by row; slow and obvious."""
    ledger: Counter[str] = Counter(rows_read=len(rows))
    history: dict[str, list[tuple[int, int, str, str]]] = {}
    for place, (user, item, seconds, event) in enumerate(rows):
        if event == "search":
            ledger["ignored_feedback"] += 1
        else:
            history.setdefault(user, []).append((seconds, place, item, event))
    sessions: list[tuple[str, list[Any]]] = []
    for user, events in history.items():
        events.sort()
        for index, event in enumerate(events):
            gap = config.session_gap_seconds
            if index == 0 or (gap is not None and event[0] - events[index - 1][0] > gap):
                sessions.append((user, []))
            sessions[-1][1].append(event)
    kept = []
    for user, events in sessions:
        if len(events) < config.min_session_events:
            ledger["short_session"] += len(events)
        elif config.max_session_events is not None and len(events) > config.max_session_events:
            ledger["long_session"] += len(events)
        else:
            kept.append((user, events))
    starts = sorted(events[0][0] for _, events in kept)
    train, until_test = config.split.train_fraction, config.split.train_fraction + config.split.eval_fraction

    def ends_at(share: float) -> int:
        # The first second at which at least this share of the sessions has begun, and one more.
        return next((s + 1 for s in starts if sum(t <= s for t in starts) >= share * len(starts) - 1e-9), 0)

    limits = [ends_at(train), ends_at(until_test), 1 << 62]
    if config.rare_items == "drop":
        everywhere = Counter(event[2] for _, events in kept for event in events)
        rare = {item for item, count in everywhere.items() if count < config.min_item_events}
        ledger["rare_item"] += sum(event[2] in rare for _, events in kept for event in events)
        kept = [(user, [event for event in events if event[2] not in rare]) for user, events in kept]
        kept = [(user, events) for user, events in kept if events]
    splits: dict[str, list[tuple[str, list[Any]]]] = {"train": [], "eval": [], "test": []}
    for user, events in kept:
        begin = events[0][0]
        if config.split.by == "session":
            share = hash_share(f"{user}@{begin}")
            splits["train" if share < train else "eval" if share < until_test else "test"].append((user, events))
            continue
        number = sum(begin >= limit for limit in limits)
        inside = [event for event in events if event[0] < limits[number]]
        ledger["after_split_end"] += len(events) - len(inside)
        if len(inside) < len(events) and len(inside) < config.min_session_events:
            ledger["short_session"] += len(inside)
        else:
            splits[("train", "eval", "test")[number]].append((user, inside))
    counts = Counter(event[2] for _, events in splits["train"] for event in events)
    least = 1 if config.rare_items == "drop" else config.min_item_events
    vocabulary = [(item, n) for item, n in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) if n >= least]
    ids = {item: number for number, (item, _) in enumerate(vocabulary, 1)}
    records = {name: [record for user, events in part for record in encode(user, events, ids, config)] for name, part in splits.items()}
    ledger["events"] = sum(len(events) for part in splits.values() for _, events in part)
    return records, ledger, vocabulary


def encode(user: str, events: list[Any], ids: dict[str, int], config: TrajectoryGenConfig) -> list[dict[str, Any]]:
    rewards = [REWARDS[event[3]] for event in events]
    returns = [sum(r * config.discount**k for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    out, begin = [], 0
    while True:
        part = slice(begin, begin + config.max_length)
        last = begin + config.max_length >= len(events)
        out.append(
            {
                "user_id": user,
                "session_id": f"{user}@{events[0][0]}",
                "item_id": [ids.get(event[2], len(ids) + 1) for event in events[part]],
                "feedback": [int(event[3] == "buy") for event in events[part]],
                "timestamp": [event[0] for event in events[part]],
                "reward": [round(r, 4) for r in rewards[part]],
                "return_to_go": [round(r, 4) for r in returns[part]],
                "num_context": config.context_length if begin else 0,
                "is_terminal": int(last),
            }
        )
        if last:
            return out
        begin += config.max_length - config.context_length


def plain(records: dict[str, list[dict[str, tuple[Any, ...]]]]) -> dict[str, list[str]]:
    """Records as sorted text, to compare sets of them."""
    single = {"user_id", "session_id", "num_context", "is_terminal"}

    def value(name: str, values: tuple[Any, ...]) -> Any:
        values = tuple(v.decode() if isinstance(v, bytes) else round(v, 4) if isinstance(v, float) else v for v in values)
        return values[0] if name in single else list(values)

    return {
        split: sorted(json.dumps({name: value(name, values) for name, values in record.items()}, sort_keys=True) for record in part)
        for split, part in records.items()
    }


rows_of_a_log = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2", "u3", "u4", "u5", "u6", "ü"]),
        st.sampled_from("aaaabbcdefgh"),
        st.integers(0, 40).map(lambda n: 1000 + n * n),
        st.sampled_from(["click", "click", "click", "buy", "search"]),
    ),
    min_size=1,
    max_size=45,
)
configurations = st.fixed_dictionaries(
    {
        "session_gap_seconds": st.sampled_from([None, 30, 90]),
        "min_session_events": st.integers(1, 3),
        "max_session_events": st.sampled_from([None, 6]),
        "max_length": st.integers(3, 6),
        "context_length": st.integers(1, 2),
        "discount": st.sampled_from([0.0, 0.5, 1.0]),
        "min_item_events": st.integers(1, 3),
        "rare_items": st.sampled_from(["unknown", "drop"]),
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


def as_lines(rows: list[Row]) -> list[str]:
    return [f"{user},{item},{seconds},{event}" for user, item, seconds, event in rows]


@settings(max_examples=40)
@given(
    rows=rows_of_a_log,
    changes=configurations,
    by=st.sampled_from(["time", "session"]),
    num_shards=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_ingestion_equals_a_loop_over_rows(
    rows: list[Row], changes: dict[str, Any], by: Any, num_shards: int, seed: int, folder: Path, drive: Drive, module_config: Config
) -> None:
    if changes["rare_items"] == "drop":
        by = "session"  # what is left of a session by time depends on its neighbours; test_splits.py shows it
    split = SplitConfig(by=by, train_fraction=0.5, eval_fraction=0.25)
    config = module_config(as_lines(rows), split=split, **changes)
    found = drive(config, fresh(folder), num_shards=num_shards, seed=seed)
    records, ledger, vocabulary = reference(rows, config)
    assert found.vocabulary == vocabulary
    assert {name: count for name, count in found.ledger.items() if count} == {name: count for name, count in ledger.items() if count}
    assert plain(found.records) == {split: sorted(json.dumps(record, sort_keys=True) for record in part) for split, part in records.items()}
    assert sum(count for name, count in found.ledger.items() if name != "rows_read") == found.ledger["rows_read"] == len(rows)


def fresh(folder: Path) -> Path:
    return folder / f"out{len(list(folder.iterdir()))}"


@settings(max_examples=12)
@given(
    rows=rows_of_a_log,
    range_bytes=st.integers(20, 200),
    block_bytes=st.integers(20, 200),
    num_shards=st.integers(1, 5),
    seed=st.integers(1, 9),
    by_value=st.booleans(),
)
def test_cuts_order_of_delivery_and_shards_do_not_change_the_trajectories(
    rows: list[Row],
    range_bytes: int,
    block_bytes: int,
    num_shards: int,
    seed: int,
    by_value: bool,
    folder: Path,
    drive: Drive,
    module_config: Config,
) -> None:
    config = module_config(as_lines(rows), min_session_events=1, session_gap_seconds=90)
    whole = drive(config, fresh(folder), num_shards=2)
    before = reading.RANGE_BYTES, reading.BLOCK_BYTES
    reading.RANGE_BYTES, reading.BLOCK_BYTES = range_bytes, block_bytes
    try:
        spill = None if by_value else folder / "spill"
        cut = drive(config, fresh(folder), num_shards=num_shards, spill=spill, seed=seed)
    finally:
        reading.RANGE_BYTES, reading.BLOCK_BYTES = before
    assert cut.sorted() == whole.sorted()
    assert (cut.ledger, cut.vocabulary, cut.boundaries) == (whole.ledger, whole.vocabulary, whole.boundaries)


def test_ties_keep_the_order_of_the_input_however_its_blocks_arrive(
    folder: Path, drive: Drive, module_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All events of a user in one second, and blocks of two lines: only the place in the input orders them.
    rows = [(f"u{n % 4}", f"i{n:02d}", 1000 * (1 + n % 4), "click") for n in range(48)]
    config = module_config(as_lines(rows), max_length=50)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 40)
    monkeypatch.setattr(reading, "RANGE_BYTES", 200)
    for seed in (1, 2, 3):
        out = drive(config, fresh(folder), num_shards=2, seed=seed)
        items = {name: number for number, (name, _) in enumerate(out.vocabulary, 1)}
        found = {record["user_id"][0].decode(): list(record["item_id"]) for record in out.records["train"]}
        # Train is u0 and u1; the vocabulary knows their items.
        assert found == {f"u{u}": [items[f"i{n:02d}"] for n in range(u, 48, 4)] for u in (0, 1)}


def test_the_same_stages_in_another_order_write_the_same_bytes(folder: Path, drive: Drive, module_config: Config) -> None:
    rows = [(f"u{n % 17}", "abcdef"[n * n % 6], 1000 + n * 7 % 501, "click") for n in range(300)]
    config = module_config(as_lines(rows), min_session_events=1)
    one, other = (drive(config, fresh(folder), num_shards=3, seed=seed) for seed in (1, 2))
    files = [{path.relative_to(run.folder): path.read_bytes() for path in run.folder.rglob("*.gz")} for run in (one, other)]
    assert len(files[0]) == 9
    assert files[0] == files[1]


def test_users_that_share_a_hash_share_no_session(
    folder: Path, drive: Drive, module_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from components.trajectory_gen import shuffle

    rows = [(f"u{n % 5}", "abc"[n % 3], 10_000 * (n % 5) + n, "click") for n in range(60)]
    config = module_config(as_lines(rows))
    apart = drive(config, fresh(folder), num_shards=3)
    monkeypatch.setattr(shuffle, "stable_hash", lambda strings: np.full(len(strings), 7, np.uint64))
    together = drive(config, fresh(folder), num_shards=3)
    assert together.sorted() == apart.sorted()
    # All of them are in part 7 % 3 = 1.
    assert [path.name for path in sorted(together.folder.glob("Split-train/*")) if path.stat().st_size > 100] == [
        "data_tfrecord-00001-of-00003.gz"
    ]


OWN = [f"u{n % 12},{'abcd'[n % 4]},{10_000 * (n % 12) + n},click,s{n % 2}" for n in range(120)]


@pytest.mark.parametrize("by", ["time", "session"])
def test_the_logs_own_sessions_get_the_same_names_in_any_number_of_shards(
    folder: Path, drive: Drive, module_config: Config, by: Any
) -> None:
    # Two session names that twelve users share.
    split = SplitConfig(by=by, train_fraction=0.5, eval_fraction=0.25)
    config = module_config(OWN, with_session=True, split=split)
    assert drive(config, fresh(folder), num_shards=1).sorted() == drive(config, fresh(folder), num_shards=4).sorted()


def test_a_session_that_its_splits_end_cuts_off_is_not_terminal(folder: Path, drive: Drive, module_config: Config) -> None:
    # u goes on after train has ended: what follows is unknown, not nothing.
    lines = ["t,a,50,click", "t,a,51,click", "u,a,100,click", "u,b,100,click", "u,c,101,click", "v,a,200,click", "v,a,200,click"]
    lines += ["w,a,300,click", "w,a,300,click"]
    out = drive(module_config(lines), fresh(folder), num_shards=1)
    cut = next(record for record in out.records["train"] if record["user_id"] == (b"u",))
    assert cut["timestamp"] == (100, 100)
    assert cut["is_terminal"] == (0,)


def test_propensities_are_written_where_the_log_has_them(folder: Path, drive: Drive, tmp_path: Path) -> None:
    from components.datasets.base import Columns
    from components.datasets.delimited import DelimitedConfig
    from schemas.reward import CLICK

    (tmp_path / "log.csv").write_text("u,i,t,p\n" + "".join(f"u{n},a,{100 * n},0.{n + 1}\n" for n in range(4) for _ in range(2)))
    columns = Columns(user="u", item="i", timestamp="t", propensity="p")
    dataset = DelimitedConfig(path=str(tmp_path / "log.csv"), columns=columns, feedback={"seen": CLICK})
    split = SplitConfig(train_fraction=0.5, eval_fraction=0.25)
    out = drive(TrajectoryGenConfig(dataset=dataset, split=split), fresh(folder), num_shards=2)
    found = {record["user_id"][0]: [round(p, 6) for p in record["propensity"]] for record in out.every()}
    assert found == {b"u0": [0.1, 0.1], b"u1": [0.2, 0.2], b"u2": [0.3, 0.3], b"u3": [0.4, 0.4]}
    # An event for which none was logged has 0, which no event that was shown can have.
    lines = (tmp_path / "log.csv").read_text().splitlines()
    (tmp_path / "log.csv").write_text("\n".join([*lines[:-1], lines[-1].removesuffix("0.4")]) + "\n")
    out = drive(TrajectoryGenConfig(dataset=dataset, split=split), fresh(folder), num_shards=2)
    found = {record["user_id"][0]: [round(p, 6) for p in record["propensity"]] for record in out.every()}
    assert found == {b"u0": [0.1, 0.1], b"u1": [0.2, 0.2], b"u2": [0.3, 0.3], b"u3": [0.4, 0.0]}
