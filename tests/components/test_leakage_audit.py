"""Every kind of leak is planted and caught by its name; clean data pass."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.artifacts import Artifact
from components.base import ComponentError
from components.leakage_audit import executor
from components.leakage_audit.config import CHECKS, LeakageAuditConfig
from components.neighbours import write_neighbours
from models.co_visitation import Neighbours
from models.frameworks import tf

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

DISCOUNT = 0.9
NUM_ITEMS = 31
"""N: items 1..30, and 31 for the unknown one; the last three never occur in training."""
BEGINS = {"train": 0, "eval": 100_000, "test": 200_000}
SIZES = {"train": 120, "eval": 40, "test": 40}


@dataclass
class Session:
    name: str
    items: list[int]
    times: list[int]
    num_context: int = 0
    is_terminal: bool = True
    later: float = 0.0
    """Discounted reward behind the last event: of the stretch that goes on from here, or of what came after the split."""

    @property
    def rewards(self) -> list[float]:
        """Of an item a fifth of its number, wherever it stands."""
        return [item / 5.0 for item in self.items]

    @property
    def to_go(self) -> list[float]:
        returns = [self.later]
        for reward in reversed(self.rewards):
            returns.append(reward + DISCOUNT * returns[-1])
        return returns[:0:-1]


@dataclass
class Shop:
    """Sessions by split, and what was counted on the train split."""

    splits: dict[str, list[Session]]
    by: str = "time"
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sessions: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def count(self, *splits: str) -> None:
        """Counts events and records of every item, as ingestion and neighbour_gen do."""
        records = [session for split in splits for session in self.splits[split]]
        targets = [item for session in records for item in session.items[session.num_context :]]
        self.counts = np.bincount(targets, minlength=NUM_ITEMS + 1)[:NUM_ITEMS]
        self.sessions = np.bincount([item for session in records for item in set(session.items)], minlength=NUM_ITEMS + 1)[:NUM_ITEMS]


def shop() -> Shop:
    rng = np.random.default_rng(7)
    splits = {}
    for split, size in SIZES.items():
        splits[split] = []
        for number in range(size):
            length = int(rng.integers(2, 9))
            times = BEGINS[split] + 1000 + int(rng.integers(0, 90_000)) + np.cumsum(rng.integers(1, 500, length))
            items = rng.integers(1, NUM_ITEMS - 3, length).tolist()
            # A later stretch of the same session repeats two events of the one before.
            splits[split].append(Session(f"{split}-{number}", items, times.tolist(), 0, is_terminal=length not in (7, 8)))
            if length == 8:
                more = [*times[-2:].tolist(), int(times[-1]) + 5]
                splits[split][-1].later = 1 / 5.0
                splits[split].append(Session(f"{split}-{number}", [*items[-2:], 1], more, 2))
    made = Shop(splits)
    made.count("train")
    return made


def write(folder: Path, made: Shop) -> dict[str, Artifact]:
    for split, sessions in made.splits.items():
        (folder / "examples" / f"Split-{split}").mkdir(parents=True)
        paths = [folder / "examples" / f"Split-{split}" / f"data_tfrecord-0000{shard}-of-00002.gz" for shard in range(2)]
        writers = [tf.io.TFRecordWriter(str(path), "GZIP") for path in paths]
        for number, session in enumerate(sessions):
            integers = {
                "item_id": session.items,
                "feedback": [0] * len(session.items),
                "timestamp": session.times,
                "num_context": [session.num_context],
                "is_terminal": [int(session.is_terminal)],
            }
            floats = {"reward": session.rewards, "return_to_go": session.to_go}
            feature = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=values)) for name, values in integers.items()}
            feature |= {name: tf.train.Feature(float_list=tf.train.FloatList(value=values)) for name, values in floats.items()}
            for name, text in {"user_id": "u", "session_id": session.name}.items():
                feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            writers[number % 2].write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        for writer in writers:
            writer.close()
    split = {"by": made.by, **({"eval_begins": BEGINS["eval"], "test_begins": BEGINS["test"]} if made.by == "time" else {})}
    counts = {name: {"trajectories": len(sessions)} for name, sessions in made.splits.items()}
    names = [f"item-{item}" for item in range(1, NUM_ITEMS)]
    table = pa.table({"item": names, "count": made.counts[1:], "click": made.counts[1:], "purchase": np.zeros(NUM_ITEMS - 1, np.int64)})
    (folder / "vocabulary").mkdir()
    pq.write_table(table, folder / "vocabulary" / "items.parquet")
    (folder / "neighbours").mkdir()
    nothing = np.zeros((NUM_ITEMS, 2))
    write_neighbours(Neighbours(nothing.astype(np.int64), nothing, made.sessions, 1.0), folder / "neighbours")
    return {
        "examples": toy.artifact(folder / "examples", "Examples", {"splits": counts, "split": split, "discount": DISCOUNT}),
        "vocabulary": toy.artifact(folder / "vocabulary", "Vocabulary", {"num_items": NUM_ITEMS}),
        "neighbours": toy.artifact(folder / "neighbours", "Neighbours", {"num_items": NUM_ITEMS}),
    }


def audited(folder: Path, made: Shop, **changes: Any) -> dict[str, Any]:
    inputs = write(folder, made)
    config = LeakageAuditConfig(**changes)
    found = executor.execute(config, inputs, {"audit": folder / "audit"}, toy.context(folder))
    return dict(found["audit"])


def statuses(audit: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in audit["checks"]}


# === Leaks ===


def future_in_training(made: Shop) -> None:
    """A session of the train split takes place when eval is well under way."""
    made.splits["train"][3].times = [BEGINS["eval"] + 50_000 + step for step in range(len(made.splits["train"][3].times))]


def window_over_the_boundary(made: Shop) -> None:
    """A session goes on a second after eval begins, and nothing of eval is as early."""
    made.splits["train"][3].times[-1] = BEGINS["eval"]


def context_over_the_boundary(made: Shop) -> None:
    """The events before the targets are of the split before; no target is."""
    session = made.splits["test"][5]
    session.items, session.num_context = [1, *session.items], 1
    session.times = [max(BEGINS["test"] - 1, max(s.times[-1] for s in made.splits["eval"]) + 1), *session.times]


def item_of_the_future(made: Shop) -> None:
    """An item that came up after training has an id."""
    made.splits["eval"][2].items[0] = NUM_ITEMS - 1


def session_twice(made: Shop) -> None:
    made.splits["test"][4].name = made.splits["train"][9].name


def copied_session(made: Shop) -> None:
    """The same visit under another name, half a year later."""
    original = next(session for session in made.splits["train"] if len(session.items) > 5)
    shift = BEGINS["eval"] + 5000 - original.times[0]
    made.splits["eval"].append(Session("somebody-else", list(original.items), [time + shift for time in original.times]))


def events_in_disorder(made: Shop) -> None:
    session = next(session for session in made.splits["eval"] if len(session.items) > 2)
    session.times[0], session.times[1] = session.times[1], session.times[0]


def events_twice(made: Shop) -> None:
    """Every event of the test split was recorded twice."""
    for session in made.splits["test"]:
        session.items = [item for item in session.items for _ in range(2)]
        session.times = [time for time in session.times for _ in range(2)]
        session.num_context *= 2
        session.later *= 1.0 + DISCOUNT


def reward_of_the_next_split(made: Shop) -> None:
    """A session that ends with its split is credited with a purchase after it: its returns agree with each other, and with nothing else."""
    session = next(session for session in made.splits["train"] if not session.is_terminal and not session.later)
    session.later = 0.7


def return_of_another_session(made: Shop) -> None:
    """A session that has ended goes on to be rewarded."""
    next(session for session in made.splits["test"] if session.is_terminal and not session.num_context).later = 0.7


def vocabulary_of_everything(made: Shop) -> None:
    kept = made.sessions
    made.count("train", "eval")
    made.sessions = kept


def neighbours_of_everything(made: Shop) -> None:
    kept = made.counts
    made.count("train", "test")
    made.counts = kept


LEAKS: dict[str, tuple[Callable[[Shop], None], set[str]]] = {
    # What is late in time also lies outside of its split.
    "future in training": (future_in_training, {"time_order", "window_crosses_boundary"}),
    "window over the boundary": (window_over_the_boundary, {"window_crosses_boundary"}),
    # Whose events go on in another split has returns of that split.
    "context over the boundary": (context_over_the_boundary, {"window_crosses_boundary", "future_reward"}),
    "item of the future": (item_of_the_future, {"future_item"}),
    "session twice": (session_twice, {"duplicated_session"}),
    "copied session": (copied_session, {"copied_session"}),
    "events in disorder": (events_in_disorder, {"future_in_state"}),
    "events twice": (events_twice, {"target_in_state"}),
    "reward of the next split": (reward_of_the_next_split, {"future_reward"}),
    "return of another session": (return_of_another_session, {"future_reward"}),
    "vocabulary of everything": (vocabulary_of_everything, {"vocabulary_counts"}),
    "neighbours of everything": (neighbours_of_everything, {"neighbour_counts"}),
}


def test_every_check_has_a_planted_leak():
    assert set.union(*(names for _, names in LEAKS.values())) == set(CHECKS)


@pytest.mark.parametrize("parts", ["one part", "many parts"])
def test_clean_data_pass_every_check(parts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if parts == "many parts":
        monkeypatch.setattr(executor, "_SESSIONS_OF_A_PART", 20)
        monkeypatch.setattr(executor, "_BATCH", 7)
    made = shop()
    audit = audited(tmp_path, made)
    assert statuses(audit) == dict.fromkeys(CHECKS, "passed")
    assert audit["passed"] == 1
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == audit
    targets = sum(len(session.items) - session.num_context for session in made.splits["train"])
    assert audit["splits"]["train"] == {"records": len(made.splits["train"]), "targets": targets}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_stops_the_run_by_its_name(leak: str, tmp_path: Path):
    plant, names = LEAKS[leak]
    made = shop()
    plant(made)
    if leak in ("window over the boundary", "future in training"):
        made.count("train")
    with pytest.raises(ComponentError) as caught:
        audited(tmp_path, made)
    audit = dict(caught.value.outputs["audit"])
    assert {check["name"] for check in audit["checks"] if check["status"] == "failed"} == names
    assert audit["passed"] == 0
    # What stopped the run is kept for other programs.
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == audit
    for name in names:
        (check,) = [check for check in audit["checks"] if check["name"] == name]
        assert check["found"] > check["allowed"]
        assert f"{name}: {check['reason']}" in str(caught.value)


def test_sessions_are_shared_across_parts_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executor, "_SESSIONS_OF_A_PART", 20)
    made = shop()
    for place in range(6):
        made.splits["test"][place].name = made.splits["train"][2 * place].name
        made.splits["eval"][-1 - place].name = made.splits["train"][20 + 3 * place].name
    moved = {split: {session.name for session in made.splits[split] if session.name.startswith("train-")} for split in ("eval", "test")}
    with pytest.raises(ComponentError) as caught:
        audited(tmp_path, made)
    (check,) = [check for check in caught.value.outputs["audit"]["checks"] if check["name"] == "duplicated_session"]
    assert check["details"]["sessions"] == {split: len(names) for split, names in moved.items()}
    for split, names in moved.items():
        assert set(check["details"]["samples"][split]) <= names
        assert len(check["details"]["samples"][split]) == 5


def test_a_warning_lets_the_run_go_on(tmp_path: Path):
    made = shop()
    session_twice(made)
    audit = audited(tmp_path, made, warn=("duplicated_session",))
    assert statuses(audit)["duplicated_session"] == "warned"
    assert audit["passed"] == 1


def test_a_split_by_hash_warns_that_time_does_not_divide_it(tmp_path: Path):
    made = shop()
    made.by = "session"
    future_in_training(made)
    made.count("train")
    found = statuses(audited(tmp_path, made))
    assert found.pop("time_order") == "warned"
    assert found.pop("window_crosses_boundary") == "not_checked"
    assert set(found.values()) == {"passed"}


def test_an_empty_split_does_not_hide_that_those_around_it_overlap(tmp_path: Path):
    made = shop()
    made.by = "session"
    late = made.splits["train"][0]
    late.times = [second + BEGINS["test"] - BEGINS["train"] + 200_000 for second in late.times]
    made.splits["eval"] = []
    (check, *_) = audited(tmp_path, made)["checks"]
    assert (check["name"], check["status"], list(check["details"]["overlap_seconds"])) == ("time_order", "warned", ["train/test"])


def test_what_a_split_borrows_from_the_next_is_told(tmp_path: Path):
    made = shop()
    reward_of_the_next_split(made)
    return_of_another_session(made)
    with pytest.raises(ComponentError) as caught:
        audited(tmp_path, made)
    (check,) = [check for check in caught.value.outputs["audit"]["checks"] if check["name"] == "future_reward"]
    # The last event of a cut session has .9 times what came later in its return, and so the last one of a session that has ended.
    assert check["details"] == {
        "events": {"train": 0, "eval": 0, "test": 1},
        "borrowed": {"train": pytest.approx(0.9 * 0.7, abs=1e-5), "eval": 0.0, "test": 0.0},
    }
    assert "train +0.63" in check["reason"]


def test_without_a_discount_returns_are_not_looked_at(tmp_path: Path):
    inputs = write(tmp_path, shop())
    properties = {name: value for name, value in inputs["examples"].properties.items() if name != "discount"}
    inputs["examples"] = toy.artifact(inputs["examples"].path, "Examples", properties)
    found = executor.execute(LeakageAuditConfig(), inputs, {"audit": tmp_path / "audit"}, toy.context(tmp_path))["audit"]
    assert statuses(dict(found))["future_reward"] == "not_checked"


def test_few_events_twice_are_what_logs_are_like(tmp_path: Path):
    made = shop()
    session = made.splits["train"][0]
    session.items.append(session.items[-1])
    session.times.append(session.times[-1])
    made.count("train")
    audit = audited(tmp_path, made)
    (check,) = [check for check in audit["checks"] if check["name"] == "target_in_state"]
    assert (check["status"], check["details"]["targets"]["train"]) == ("passed", 1)


def test_sessions_without_times_of_their_own_are_not_compared(tmp_path: Path):
    # Days for times: many sessions are alike, and none is the copy of another.
    made = shop()
    for split in ("train", "eval"):
        made.splits[split].append(Session(f"{split}-crawler", [1, 2, 3, 4, 5, 6], [BEGINS[split] + 2000] * 6))
    made.count("train")
    assert statuses(audited(tmp_path, made))["copied_session"] == "passed"


def test_records_that_are_lost_are_an_error(tmp_path: Path):
    inputs = write(tmp_path, shop())
    examples = inputs["examples"]
    properties = {**examples.properties, "splits": {**examples.properties["splits"], "eval": {"trajectories": 1}}}
    inputs["examples"] = toy.artifact(examples.path, "Examples", properties)
    with pytest.raises(ComponentError, match="records were audited, 1 were written"):
        executor.execute(LeakageAuditConfig(), inputs, {"audit": tmp_path / "audit"}, toy.context(tmp_path))
