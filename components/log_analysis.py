"""Reads trajectories for `models.suitability`: counts over all of them and a sample of sessions, in one Beam pass.

shards -> CountShard -> sum
                     -> sessions of the sample
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from components.artifacts import Artifact, write_json
from components.base import ComponentError, Context
from components.beam_runner import report, reporting_pipeline
from components.trajectory_io import parse, raw_records, shard_files
from models.frameworks import tf
from models.ope.behaviour import Rounds
from models.ope.resampling import mixed
from models.suitability import LogSample, Totals
from schemas import trajectory
from schemas.interaction import FEEDBACK_ROLES
from schemas.trajectory import SPLITS

_BATCH = 2048
_PURCHASE = FEEDBACK_ROLES.index("purchase")
_FLOATS = (trajectory.REWARD, trajectory.RETURN_TO_GO, trajectory.PROPENSITY)
_COLUMNS = ("session", "history", "item", "reward", "to_go", "propensity")

Columns = dict[str, npt.NDArray[Any]]


def read_log(examples: Artifact, max_sessions: int, context: Context) -> tuple[LogSample, Totals]:
    """Counts all splits and samples sessions by a hash of their names.

    Args:
        examples: Trajectories.
        max_sessions: About how many sessions the sample has.
        context: How Beam runs, where to report.

    Raises:
        ComponentError: No event of the sample is on an item of the vocabulary.
    """
    splits = examples.properties["splits"]
    sessions, records = (sum(int(splits[name][key]) for name in SPLITS) for key in ("sessions", "trajectories"))
    num_items = int(examples.properties["num_items"])
    # A key below the limit is in the sample.
    limit = min(1.0, max_sessions / max(1, sessions))
    folder = context.scratch / "analysis"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = [path for name in SPLITS for path in shard_files(examples, name)]
    with reporting_pipeline(context, "analyse", records, "records") as (pipeline, token):
        counted = (
            pipeline
            | "CreateShards" >> beam.Create(list(enumerate(paths)))
            | "SpreadShards" >> beam.Reshuffle()
            | "CountShard" >> beam.ParDo(CountShard(num_items, limit, token)).with_outputs(CountShard.SAMPLE, main="counts")
        )
        _ = (
            counted.counts
            | "SumCounts" >> beam.CombineGlobally(_sum)
            | "WriteCounts" >> beam.Map(_write_counts, str(folder / "counts.json"))
        )
        _ = (
            counted[CountShard.SAMPLE]
            | "ListSample" >> beam.combiners.ToList()
            | "WriteSample" >> beam.Map(_write_sample, str(folder / "sample.npz"))
        )
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    with np.load(folder / "sample.npz") as stored:
        sample = _sample(dict(stored))
    shutil.rmtree(folder, ignore_errors=True)
    if not len(sample.reward):
        raise ComponentError(f"{examples.path}: no event of the sample is on an item of the vocabulary")
    return sample, _totals(splits, counts, num_items)


class CountShard(beam.DoFn):
    """Counts a shard and takes its part of the sample.

    Outputs: counts by name; tagged `sample`, (number of the shard, columns).
    """

    SAMPLE = "sample"

    def __init__(self, num_items: int, limit: float, progress: str):
        self._num_items = num_items
        self._limit = limit
        self._progress = progress

    def process(self, element: tuple[int, str]) -> Iterator[Any]:
        number, path = element
        counts: dict[str, int] = {}
        for place, serialized in enumerate(raw_records([path]).batch(_BATCH)):
            columns, found = read_rounds(serialized, self._num_items)
            for name, count in found.items():
                counts[name] = counts.get(name, 0) + count
            # The top 53 bits as a share of one.
            share = (mixed(columns["session"]) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
            kept = (share < self._limit) & (columns["item"] < self._num_items)
            yield beam.pvalue.TaggedOutput(self.SAMPLE, ((number, place), {name: column[kept] for name, column in columns.items()}))
            report(self._progress, found["records"])
        yield counts


def read_rounds(serialized: tf.Tensor, num_items: int) -> tuple[Columns, dict[str, int]]:
    """Every target of [R] records with what stood before it, and counts.

    Args:
        serialized: [R] records.
        num_items: N; unknown items, which are all the same here, are no repeats of each other.

    Returns:
        `session`, `history` [n, T-1], `item`, `reward`, `to_go`, `propensity` (NaN where there is none); and counts by name.
    """
    parsed = parse(serialized, (trajectory.PROPENSITY,))
    session = parsed["session"].numpy().astype(np.uint64)
    item = parsed[trajectory.ITEM_ID].to_tensor().numpy()
    length = parsed["length"].numpy()
    step = np.arange(item.shape[1])
    target = (step < length[:, None]) & (step >= parsed[trajectory.NUM_CONTEXT].numpy()[:, None])
    row, place = np.nonzero(target)
    history = np.where(step[None, :] < place[:, None], item[row], 0)[:, : max(1, item.shape[1] - 1)]
    values = {name: parsed[name].to_tensor(np.nan, shape=[None, item.shape[1]]).numpy()[row, place].astype(np.float64) for name in _FLOATS}
    logged = item[row, place]
    rounds, known = Rounds(history, logged), logged < num_items
    bought = parsed[trajectory.FEEDBACK].to_tensor().numpy()[row, place] == _PURCHASE
    counts = {
        "records": len(length),
        "with_history": int((known & (place > 0)).sum()),
        "repeats": int((known & ~rounds.is_fresh).sum()),
        "repeats_of_last": int((known & (rounds.last == logged)).sum()),
        # A session of several records counts once for each in which it has one.
        "sessions_with_purchase": len(np.unique(row[bought])),
        "sessions_with_reward": len(np.unique(row[values[trajectory.REWARD] > 0.0])),
    }
    columns = {
        "session": session[row],
        "history": history.astype(np.int32),
        "item": logged,
        "reward": values[trajectory.REWARD],
        "to_go": values[trajectory.RETURN_TO_GO],
        "propensity": values[trajectory.PROPENSITY],
    }
    return columns, counts


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def _write_counts(counts: dict[str, int], path: str) -> None:
    write_json(Path(path), counts)


def _write_sample(parts: list[tuple[tuple[int, int], Columns]], path: str) -> None:
    """Writes the sample in an order that does not depend on who came first."""
    ordered = [columns for _, columns in sorted(parts, key=lambda part: part[0])]
    width = max((columns["history"].shape[1] for columns in ordered), default=1)
    joined: Columns = {}
    for name in _COLUMNS:
        columns = [part[name] for part in ordered]
        if name == "history":
            columns = [np.pad(column, ((0, 0), (0, width - column.shape[1]))) for column in columns]
        joined[name] = np.concatenate(columns) if columns else np.zeros((0, 1) if name == "history" else 0)
    np.savez(path, **joined)


def _sample(stored: Mapping[str, npt.NDArray[Any]]) -> LogSample:
    propensity = stored["propensity"]
    known = len(propensity) > 0 and bool(np.isfinite(propensity).all() and propensity.min() > 0.0)
    rounds = Rounds(stored["history"].astype(np.int64), stored["item"].astype(np.int64))
    return LogSample(stored["session"].astype(np.uint64), rounds, stored["reward"], stored["to_go"], propensity if known else None)


def _totals(splits: Mapping[str, Any], counts: Mapping[str, int], num_items: int) -> Totals:
    purchases = sum(int(splits[name]["role_events"]["purchase"]) for name in SPLITS)
    lengths = np.sum([splits[name]["lengths"] for name in SPLITS], axis=0)
    return Totals(
        sessions=sum(int(splits[name]["sessions"]) for name in SPLITS),
        events=sum(int(splits[name]["events"]) for name in SPLITS),
        purchases=purchases,
        rewarded_sessions=counts["sessions_with_purchase" if purchases else "sessions_with_reward"],
        reward=sum(float(splits[name]["reward"]) for name in SPLITS),
        repeats=counts["repeats"],
        repeats_of_last=counts["repeats_of_last"],
        with_history=counts["with_history"],
        lengths=tuple(int(count) for count in lengths),
        num_items=num_items,
        test_sessions=int(splits["test"]["sessions"]),
    )
