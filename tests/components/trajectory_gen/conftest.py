"""Runs ingestion on small logs, with Beam or stage by stage, and reads the records back."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.datasets.base import Columns
from components.datasets.delimited import DelimitedConfig
from components.trajectory_gen.config import SplitConfig, TrajectoryGenConfig
from schemas.reward import CLICK, PURCHASE

Record = dict[str, tuple[Any, ...]]


@dataclass
class Ingested:
    """What ingestion made.

    Attributes:
        folder: Folder of the examples.
        records: Split to its records, file after file.
        ledger: Rows by what became of them.
        properties: Properties of all outputs; empty where the stages were driven by hand.
        outputs: Folder of each output.
        vocabulary: (item, count) in order of id.
        boundaries: Seconds at which eval and test begin.
    """

    folder: Path
    records: dict[str, list[Record]]
    ledger: dict[str, int]
    properties: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    vocabulary: list[tuple[str, int]] = field(default_factory=list)
    boundaries: tuple[int, int] = (0, 0)

    def sorted(self) -> dict[str, list[Record]]:
        """Records in an order that does not depend on shards."""
        return {split: sorted(records, key=repr) for split, records in self.records.items()}

    def every(self) -> list[Record]:
        return [record for records in self.records.values() for record in records]


def read_records(folder: Path) -> dict[str, list[Record]]:
    """Reads all records of an examples folder back with tf.data: feature name to its values, which keep their types."""
    import tensorflow as tf

    found: dict[str, list[Record]] = {}
    for split in sorted(folder.glob("Split-*")):
        found[split.name.removeprefix("Split-")] = records = []
        for serialized in tf.data.TFRecordDataset([str(path) for path in sorted(split.glob("*.gz"))], compression_type="GZIP"):
            features = tf.train.Example.FromString(serialized.numpy()).features.feature
            records.append({name: tuple(getattr(value, value.WhichOneof("kind")).value) for name, value in features.items()})
    return found


@pytest.fixture(scope="session")
def records_of() -> Callable[[Path], dict[str, list[Record]]]:
    return read_records


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., Ingested]:
    """Runs the whole step with Beam in a folder of its own."""
    return lambda config, name="out", **context: run_ingestion(config, tmp_path / name, **context)


@pytest.fixture(scope="module")
def ingest_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ingested]:
    """The same for fixtures of a whole module."""
    return lambda config, **context: run_ingestion(config, tmp_path_factory.mktemp("ingested"), **context)


def run_ingestion(config: TrajectoryGenConfig, folder: Path, **context: Any) -> Ingested:
    import pyarrow.parquet as pq

    from components.base import Context
    from components.trajectory_gen.executor import execute

    outputs = {name: folder / name for name in ("examples", "vocabulary", "quarantine")}
    properties = dict(execute(config, {}, outputs, Context(folder / "scratch", **context)))
    table = pq.read_table(outputs["vocabulary"] / "items.parquet")
    return Ingested(
        folder=outputs["examples"],
        records=read_records(outputs["examples"]),
        ledger=properties["examples"]["ledger"],
        properties=properties,
        outputs=outputs,
        vocabulary=list(zip(table["item"].to_pylist(), table["count"].to_pylist(), strict=True)),
        boundaries=(properties["examples"]["split"].get("eval_begins", 0), properties["examples"]["split"].get("test_begins", 0)),
    )


@pytest.fixture(scope="session")
def drive() -> Callable[..., Ingested]:
    return drive_stages


def drive_stages(config: TrajectoryGenConfig, folder: Path, num_shards: int = 2, spill: Path | None = None, seed: int = 0) -> Ingested:
    """Calls the stages one after the other without Beam, a hundred times as fast.

    Elements reach every stage in an order that the seed shuffles, as a cluster would deliver them.
    """
    from components.datasets.reading import plan_ranges
    from components.trajectory_gen import stages
    from components.trajectory_gen.vocabulary import MergeCounts, build_vocabulary

    draw = random.Random(seed)

    def shuffled(elements: list[Any]) -> list[Any]:
        return draw.sample(elements, len(elements))

    tagged: dict[str, list[Any]] = {}

    def run(do_fn: Any, element: Any, *sides: Any) -> list[Any]:
        main = []
        for out in do_fn.process(element, *sides):
            if type(out).__name__ == "TaggedOutput":
                tagged.setdefault(out.tag, []).append(out.value)
            else:
                main.append(out)
        return main

    def combined(combine: Any, elements: list[Any]) -> Any:
        accumulators = []
        for element in shuffled(elements):
            if not accumulators or draw.random() < 0.3:
                accumulators.append(combine.create_accumulator())
            at = draw.randrange(len(accumulators))
            accumulators[at] = combine.add_input(accumulators[at], element)
        return combine.extract_output(combine.merge_accumulators(accumulators) if accumulators else combine.create_accumulator())

    if spill is not None:
        spill.mkdir(parents=True, exist_ok=True)
    place = None if spill is None else str(spill)
    blocks: dict[int, list[Any]] = {number: [None] for number in range(num_shards)}
    for part in shuffled(plan_ranges(config.dataset.sources())):
        for partition, ref in run(stages.ReadAndPartition(num_shards, place, ""), part):
            blocks[partition].append(ref)
    sessions = [
        out for item in shuffled(list(blocks.items())) for out in run(stages.BuildSessions(config, place, ""), (item[0], shuffled(item[1])))
    ]
    boundaries = stages.choose_boundaries(combined(stages.MergeStarts(), tagged.pop("starts", [])), config.split)
    rare = None
    if config.rare_items == "drop" and config.min_item_events > 1:
        from components.trajectory_gen.executor import _rarer_than

        counts = [out for element in shuffled(sessions) for out in run(stages.CountItems(config, False), element, boundaries, None)]
        rare = _rarer_than(combined(MergeCounts(), counts), config.min_item_events)
    counts = [out for element in shuffled(sessions) for out in run(stages.CountItems(config, True), element, boundaries, rare)]
    vocabulary = build_vocabulary(combined(MergeCounts(), counts), 1 if config.rare_items == "drop" else config.min_item_events)
    for element in shuffled(sessions):
        run(stages.WriteRecords(config, str(folder), num_shards, ""), element, boundaries, rare, vocabulary)
    return Ingested(
        folder=folder,
        records=read_records(folder),
        ledger=combined(stages.SumLedgers(), tagged["ledger"]),
        vocabulary=list(zip(vocabulary["item"].to_pylist(), vocabulary["count"].to_pylist(), strict=True)),
        boundaries=boundaries,
    )


COLUMNS = Columns(user="user", item="item", timestamp="time", feedback="event")


def config_maker(folder: Path) -> Callable[..., TrajectoryGenConfig]:
    def make(lines: list[str] | Path, name: str = "log.csv", with_session: bool = False, **changes: Any) -> TrajectoryGenConfig:
        path = lines
        if not isinstance(lines, Path):
            path = folder / name
            header = "user,item,time,event" + (",session" if with_session else "")
            path.write_text("\n".join([header, *lines]) + "\n")
        columns = COLUMNS.model_copy(update={"session": "session"}) if with_session else COLUMNS
        feedback = {"click": CLICK, "buy": PURCHASE}
        dataset = DelimitedConfig(path=str(path), columns=columns, feedback=feedback, ignored_feedback=("search",))
        defaults = {"num_shards": 2, "split": SplitConfig(train_fraction=0.5, eval_fraction=0.25)}
        return TrajectoryGenConfig(dataset=dataset, **{**defaults, **changes})

    return make


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., TrajectoryGenConfig]:
    """Configuration of a log with the columns user, item, time, event and, if asked for, session.

    Takes the lines of the log without its header, or a path, and changes of the configuration.
    """
    return config_maker(tmp_path)


@pytest.fixture(scope="module")
def module_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrajectoryGenConfig]:
    """The same for fixtures of a whole module; every log is written to one file."""
    return config_maker(tmp_path_factory.mktemp("logs"))
