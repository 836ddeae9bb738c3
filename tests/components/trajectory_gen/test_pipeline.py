"""The whole step with Beam, on a log small enough to work out every record by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.base import ComponentError
from components.trajectory_gen import executor, stages
from components.trajectory_gen.config import SplitConfig, TrajectoryGenConfig
from schemas.config import ConfigError
from schemas.trajectory import FEATURES

Config = Callable[..., TrajectoryGenConfig]
Ingest = Callable[..., Any]

LOG = [
    "u1,a,100,click",
    "u1,a,120,buy",  # out of order
    "u1,b,110,click",
    "u2,a,200,click",
    "u2,c,200,click",  # a tie: after a
    "u5,a,150,click",  # a session of one event
    "u6,a,160,search",  # ignored
    "u3,b,5000,click",
    "u3,d,5000,buy",  # d is not in the train split
    "u4,a,9000,click",
    "u4,z,9001,click",
    "u4,b,9002,buy",
    "u4,b,9003,click",
    "u4,c,9004,click",
    "u4,,9005,click",  # no item
]

# Train: a 3 times, b and c once each; so a = 1, b = 2, c = 3, N = 4, and what is unknown is 4.
# Clicks are worth 0.2, purchases 1, and a step later counts half.
# u1: 0.2 + (0.2 + 1/2)/2 = 0.55, 0.2 + 1/2 = 0.7, 1.
# u4: 0.2, then 0.2 + 0.2/2 = 0.3, 1 + 0.3/2 = 1.15, 0.2 + 1.15/2 = 0.775, 0.2 + 0.775/2 = 0.5875, from the end.
# Its five events are a record of three and one of two with one step of context.
EXPECTED = {
    "train": [
        {
            "user_id": (b"u1",),
            "session_id": (b"u1@100",),
            "item_id": (1, 2, 1),
            "feedback": (0, 0, 1),
            "timestamp": (100, 110, 120),
            "reward": (0.2, 0.2, 1.0),
            "return_to_go": (0.55, 0.7, 1.0),
            "num_context": (0,),
            "is_terminal": (1,),
        },
        {
            "user_id": (b"u2",),
            "session_id": (b"u2@200",),
            "item_id": (1, 3),
            "feedback": (0, 0),
            "timestamp": (200, 200),
            "reward": (0.2, 0.2),
            "return_to_go": (0.3, 0.2),
            "num_context": (0,),
            "is_terminal": (1,),
        },
    ],
    "eval": [
        {
            "user_id": (b"u3",),
            "session_id": (b"u3@5000",),
            "item_id": (2, 4),
            "feedback": (0, 1),
            "timestamp": (5000, 5000),
            "reward": (0.2, 1.0),
            "return_to_go": (0.7, 1.0),
            "num_context": (0,),
            "is_terminal": (1,),
        }
    ],
    "test": [
        {
            "user_id": (b"u4",),
            "session_id": (b"u4@9000",),
            "item_id": (1, 4, 2),
            "feedback": (0, 0, 1),
            "timestamp": (9000, 9001, 9002),
            "reward": (0.2, 0.2, 1.0),
            "return_to_go": (0.5875, 0.775, 1.15),
            "num_context": (0,),
            "is_terminal": (0,),
        },
        {
            "user_id": (b"u4",),
            "session_id": (b"u4@9000",),
            "item_id": (2, 2, 3),
            "feedback": (1, 0, 0),
            "timestamp": (9002, 9003, 9004),
            "reward": (1.0, 0.2, 0.2),
            "return_to_go": (1.15, 0.3, 0.2),
            "num_context": (1,),
            "is_terminal": (1,),
        },
    ],
}

SETTINGS = {"discount": 0.5, "max_length": 3, "context_length": 1, "max_bad_fraction": 0.1, "num_shards": 2}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, ingest_once: Ingest, module_config: Config) -> Any:
    return ingest_once(module_config(LOG, **SETTINGS))


def rounded(records: list[dict[str, tuple[Any, ...]]]) -> list[dict[str, tuple[Any, ...]]]:
    """Records with floats as short as they were written, in order of their first event."""
    short = [
        {name: tuple(round(v, 6) if isinstance(v, float) else v for v in values) for name, values in record.items()} for record in records
    ]
    return sorted(short, key=lambda record: record["timestamp"])


def test_every_record_is_as_worked_out_by_hand(ingested: Any) -> None:
    assert {split: rounded(records) for split, records in ingested.records.items()} == EXPECTED


def test_features_have_the_names_and_types_of_the_contract(ingested: Any) -> None:
    kinds = {"bytes": bytes, "int64": int, "float32": float}
    for record in ingested.every():
        assert set(record) == {name for name, feature in FEATURES.items() if not feature.optional}
        for name, values in record.items():
            assert {type(value) for value in values} == {kinds[FEATURES[name].dtype]}
            assert FEATURES[name].per_step or len(values) == 1


def test_a_record_is_spelt_in_the_one_deterministic_way(ingested: Any) -> None:
    # The features of a tf.Example are a map, whose order in bytes would else change from process to process.
    import tensorflow as tf

    files = [str(path) for path in sorted(ingested.folder.rglob("*.gz"))]
    spelt = [record.numpy() for record in tf.data.TFRecordDataset(files, compression_type="GZIP")]
    assert len(spelt) == 5
    assert spelt == [tf.train.Example.FromString(record).SerializeToString(deterministic=True) for record in spelt]


def test_the_vocabulary_counts_the_train_split_alone(ingested: Any) -> None:
    assert ingested.vocabulary == [("a", 3), ("b", 1), ("c", 1)]
    assert ingested.properties["vocabulary"] == {"num_items": 4, "events": 5, "popularity": [[1, 3], [2, 1], [3, 1]]}


def test_the_ledger_says_what_became_of_every_row(ingested: Any) -> None:
    assert {name: count for name, count in ingested.ledger.items() if count} == {
        "rows_read": 15,
        "quarantined": 1,
        "ignored_feedback": 1,
        "short_session": 1,
        "events": 12,
    }


def test_the_splits_are_described(ingested: Any) -> None:
    examples = ingested.properties["examples"]
    assert examples["split"] == {"by": "time", "eval_begins": 201, "test_begins": 5001}
    assert (examples["num_items"], examples["num_shards"], examples["max_length"], examples["discount"]) == (4, 2, 3, 0.5)
    train, test = examples["splits"]["train"], examples["splits"]["test"]
    assert (train["trajectories"], train["sessions"], train["events"], train["unknown_events"]) == (2, 2, 5, 0)
    assert (train["role_events"], train["reward"]) == ({"click": 4, "purchase": 1}, 1.8)
    assert (train["first_time"], train["last_time"], train["propensity_events"]) == (100, 200, 0)
    assert [(length, count) for length, count in enumerate(train["lengths"]) if count] == [(2, 1), (3, 1)]
    # Two records, one session, and its five events counted once each although one stands in both records.
    assert (test["trajectories"], test["sessions"], test["events"], test["unknown_events"]) == (2, 1, 5, 1)
    assert (test["role_events"], test["reward"]) == ({"click": 4, "purchase": 1}, 1.8)


def test_the_row_that_does_not_parse_is_in_quarantine(ingested: Any) -> None:
    rows = [json.loads(line) for line in (ingested.outputs["quarantine"] / "rows.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).name, row["line"], row["reason"], row["row"]) for row in rows] == [
        ("log.csv", 16, "item is empty", "u4,,9005,click")
    ]
    properties = ingested.properties["quarantine"]
    assert (properties["rows"], properties["rows_read"], properties["reasons"]) == (1, 15, {"item is empty": 1})
    assert [(row["line"], row["row"]) for row in properties["samples"]] == [(16, "u4,,9005,click")]


def test_every_split_has_every_shard_under_the_ecosystems_name_and_nothing_else(ingested: Any) -> None:
    names = sorted(path.relative_to(ingested.folder).as_posix() for path in ingested.folder.rglob("*") if path.is_file())
    assert names == sorted(f"Split-{split}/data_tfrecord-0000{n}-of-00002.gz" for split in ("train", "eval", "test") for n in range(2))


def test_the_same_configuration_twice_gives_the_same_bytes(ingested: Any, ingest: Ingest, module_config: Config) -> None:
    again = ingest(module_config(LOG, **SETTINGS))
    assert bytes_of(again) == bytes_of(ingested)
    assert again.properties["examples"] == ingested.properties["examples"]


def test_blocks_that_travel_by_value_give_the_same_bytes_as_blocks_in_files(
    ingested: Any, ingest: Ingest, module_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "runs_locally", lambda options: False)
    assert bytes_of(ingest(module_config(LOG, **SETTINGS))) == bytes_of(ingested)


def bytes_of(ingested: Any) -> dict[str, bytes]:
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for name, folder in ingested.outputs.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_nothing_is_left_in_the_scratch_folder_but_small_results(ingested: Any) -> None:
    scratch = ingested.folder.parent / "scratch"
    assert not (scratch / "spill").exists()
    assert sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) < 10_000


def test_bad_rows_of_files_in_many_ranges_keep_their_line_numbers(
    ingest: Ingest, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from components.datasets import reading

    header = "user,item,time,event\n"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv").write_text(header + "".join(f"u{n},{'x' if n % 4 else ''},{1000 + n},click\n" for n in range(20)))
    (tmp_path / "logs" / "b.csv").write_text(header + "".join(f"v{n},y,{'soon' if n in (3, 17) else 2000 + n},click\n" for n in range(20)))
    expected = [("a.csv", n + 2, "item is empty") for n in range(0, 20, 4)]
    expected += [("b.csv", n + 2, "timestamp 'soon' is not a time from 1970 to 2200 in seconds") for n in (3, 17)]
    monkeypatch.setattr(reading, "RANGE_BYTES", 70)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 31)
    out = ingest(config(tmp_path / "logs", max_bad_fraction=0.5, min_session_events=1))
    rows = [json.loads(line) for line in (out.outputs["quarantine"] / "rows.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).name, row["line"], row["reason"]) for row in rows] == expected
    assert out.ledger["rows_read"] == 40
    assert out.ledger["events"] == 33


def test_too_many_bad_rows_stop_the_step_with_counts_and_samples(ingest: Ingest, config: Config, tmp_path: Path) -> None:
    lines = [*LOG, "u4,b,soon,click", "u4,b,9,look", "u4,,9,click"]
    with pytest.raises(ComponentError) as caught:
        ingest(config(lines, **{**SETTINGS, "max_bad_fraction": 0.2}))
    text = str(caught.value).replace(str(tmp_path), "")
    assert text.splitlines() == [
        "4 of 18 rows do not parse (22.22%), more than trajectory_gen.max_bad_fraction = 20.00%",
        "  2 x item is empty",
        "  1 x timestamp is not a time from 1970 to 2200 in seconds",
        "  1 x unknown event",
        "samples:",
        "  /log.csv:16: item is empty: u4,,9005,click",
        "  /log.csv:17: timestamp 'soon' is not a time from 1970 to 2200 in seconds: u4,b,soon,click",
        "  /log.csv:18: unknown event 'look'; known: click, buy, search: u4,b,9,look",
    ]
    # The quarantine is worth keeping; the examples are not.
    assert caught.value.outputs is not None
    assert list(caught.value.outputs) == ["quarantine"]
    assert caught.value.outputs["quarantine"]["rows"] == 4
    assert len((tmp_path / "out" / "quarantine" / "rows.jsonl").read_text().splitlines()) == 4


def finish(tmp_path: Path, bad: int, read: int, settings: TrajectoryGenConfig) -> Any:
    """Calls the end of the step with a ledger and as many quarantined rows."""
    results = tmp_path / "results"
    (results / "quarantine").mkdir(parents=True)
    ledger = {"rows_read": read, "quarantined": bad, "short_session": read - bad}
    empty = {"trajectories": 0}
    for name, value in {"failed": [], "ledger": ledger, "summaries": {"train": empty, "eval": empty, "test": empty}}.items():
        (results / f"{name}.json").write_text(json.dumps(value))
    rows = [{"file": "x", "line": n, "kind": "bad", "reason": "bad", "row": "r"} for n in range(bad)]
    (results / "quarantine" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return executor._finish(settings, results, {"quarantine": tmp_path / "quarantine"}, 1)


def test_exactly_the_allowed_fraction_of_bad_rows_passes(tmp_path: Path, config: Config) -> None:
    with pytest.raises(ComponentError, match="no sessions in train"):
        finish(tmp_path / "a", 1, 100, config([], max_bad_fraction=0.01))
    with pytest.raises(ComponentError, match="2 of 100 rows do not parse"):
        finish(tmp_path / "b", 2, 100, config([], max_bad_fraction=0.01))


def test_the_message_about_bad_rows_stays_short_however_many_values_are_bad(ingest: Ingest, config: Config) -> None:
    # A hundred different bad times and a hundred different unknown events are two kinds.
    lines = [f"u,a,-{n},click" for n in range(1, 101)] + [f"u,a,{n},event{n}" for n in range(100)]
    with pytest.raises(ComponentError) as caught:
        ingest(config(lines))
    assert [line for line in str(caught.value).splitlines() if " x " in line] == [
        "  100 x timestamp is not a time from 1970 to 2200 in seconds",
        "  100 x unknown event",
    ]


def test_rows_that_are_lost_are_noticed(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_collect_quarantine", lambda *_: {})
    for name, value in {"failed": [], "ledger": {"rows_read": 5, "quarantined": 0, "events": 4}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(AssertionError, match="rows were lost or counted twice"):
        executor._finish(config([]), tmp_path, {"quarantine": tmp_path / "q"}, 1)


def test_a_log_without_sessions_for_every_split_is_an_error_that_says_where_the_rows_went(ingest: Ingest, config: Config) -> None:
    with pytest.raises(ComponentError, match=r"^no sessions in eval and test; rows by what became of them: .*events 2"):
        ingest(config(["u1,a,100,click", "u1,a,100,buy", "u2,a,100,click"]))


def test_a_file_that_cannot_be_read_stops_the_step_with_its_message(ingest: Ingest, config: Config, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv").write_text("user,item,time,event\nu1,a,1,click\n")
    (tmp_path / "logs" / "b.csv").write_text("user,item,event\nu1,a,click\n")
    with pytest.raises(ConfigError, match=r"columns\.timestamp: .*b\.csv has no column 'time'; its columns are user, item, event"):
        ingest(config(tmp_path / "logs"))


def test_a_crash_while_writing_leaves_no_shard_and_no_manifest(
    ingest: Ingest, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, *arguments: Any) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        raise OSError("disk full")

    monkeypatch.setattr(stages, "write_records", broken)
    with pytest.raises(Exception, match="disk full"):
        ingest(config(LOG, **SETTINGS))
    left = [path.name for path in (tmp_path / "out" / "examples").rglob("*") if path.is_file()]
    assert [name for name in left if not name.startswith(".")] == []


def test_a_crash_inside_a_shard_leaves_no_file_under_the_shards_name(
    config: Config, tmp_path: Path, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.trajectory_gen import records

    def broken(*_: Any) -> Any:
        raise MemoryError("in the middle")

    monkeypatch.setattr(records, "encode", broken)
    with pytest.raises(MemoryError):
        drive(config(LOG, **SETTINGS), tmp_path / "driven")
    assert list((tmp_path / "driven").rglob("data_tfrecord*")) == []


def test_rare_items_can_be_dropped(ingest: Ingest, config: Config) -> None:
    # z and d stand once each in sessions that count, c twice.
    out = ingest(config(LOG, **SETTINGS, rare_items="drop", min_item_events=2))
    assert out.ledger["rare_item"] == 2
    assert out.vocabulary == [("a", 3), ("b", 1), ("c", 1)]


def test_two_files_with_like_paths_do_not_share_a_quarantine(ingest: Ingest, config: Config, tmp_path: Path) -> None:
    for name in ("a/b.csv", "a_b.csv"):
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("user,item,time,event\n,x,1,click\n" + "".join(f"u{n},x,{m},click\n" for n in range(4) for m in (n, n + 1)))
    out = ingest(config(tmp_path / "logs", max_bad_fraction=0.5))
    assert out.properties["quarantine"]["rows"] == 2


def test_sessions_can_be_divided_by_hash(ingest: Ingest, config: Config) -> None:
    lines = [f"u{n},a,{100 + n + m},click" for n in range(40) for m in (0, 1)]
    out = ingest(config(lines, split=SplitConfig(by="session", train_fraction=0.5, eval_fraction=0.25), num_shards=1))
    assert out.properties["examples"]["split"] == {"by": "session"}
    assert sum(map(len, out.records.values())) == 40
    assert {name for name, records in out.records.items() if records} == {"train", "eval", "test"}


@pytest.mark.data
def test_the_published_purchasers_have_the_published_numbers_of_sessions(ingest: Ingest, data_folder: Path) -> None:
    from components.datasets.retailrocket import RetailRocketConfig

    dataset = RetailRocketConfig(path=str(data_folder / "retailrocket" / "purchasers.csv.gz"))
    settings = {"min_session_events": 1, "session_gap_seconds": 1800, "split": SplitConfig(by="session")}
    splits = ingest(TrajectoryGenConfig(dataset=dataset, **settings)).properties["examples"]["splits"].values()
    # A pause of half an hour gives 15,877 sessions, 7,600 of them with three events or more, of 97,381 events.
    assert sum(split["sessions"] for split in splits) == 15_877
    assert sum(sum(split["lengths"][3:]) for split in splits) == 7_600
    assert sum(split["events"] for split in splits) == 97_381
