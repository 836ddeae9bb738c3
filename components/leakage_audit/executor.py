"""Work of leakage_audit: one Beam pass over all splits.

shards -> CountShard -> sum by split
                     -> keys of sessions -> group by part -> FindShared
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.artifacts import AUDIT_FILE, Artifact, write_json
from components.base import ComponentError, Context, Properties
from components.beam_runner import pipeline_options, report, reporting_pipeline, runs_locally
from components.leakage_audit.checks import Check, Evidence, Shared, audit
from components.leakage_audit.config import LeakageAuditConfig
from components.leakage_audit.findings import Keys, RecordBatch, SplitFindings, copy_keys
from components.neighbours import read_sessions
from components.trajectory_gen.shuffle import BlockRef, store_blocks
from components.trajectory_gen.vocabulary import ITEM, read_vocabulary
from components.trajectory_io import parse_named, raw_records, shard_files
from models.frameworks import tf
from schemas import trajectory
from schemas.interaction import FEEDBACK_ROLES
from schemas.trajectory import SPLITS

_BATCH = 4096
_SESSIONS_OF_A_PART = 2_000_000
"""Sessions whose keys are compared at a time; about 50 bytes each."""
_SAMPLES = 5
_NAME, _CONTENT = "name", "content"
_KINDS = (_NAME, _CONTENT)

Bounds = Mapping[str, tuple[int, int] | None]


def execute(
    config: LeakageAuditConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    stated = read_sessions(inputs["neighbours"])
    num_items = vocabulary.num_rows + 1
    if len(stated) != num_items:
        raise ComponentError(
            f"{inputs['neighbours'].path}: neighbours of {len(stated):,} item ids, the vocabulary has {num_items:,}; "
            "both must be made from one run"
        )
    bounds = _bounds(examples)
    findings, shared, compared = _count(config, examples, num_items, bounds, context)
    counts = np.stack([np.append(0, vocabulary[role].to_numpy()) for role in FEEDBACK_ROLES])
    names = vocabulary[ITEM]
    evidence = Evidence(
        splits=findings,
        is_by_time=bounds["train"] is not None,
        has_returns=_discount(examples) is not None,
        same_name=shared[_NAME],
        same_content=shared[_CONTENT],
        compared=compared,
        vocabulary=counts,
        neighbour_sessions=stated,
        names=lambda item: str(names[item - 1]),
    )
    checks = audit(evidence, config)
    failed = [check for check in checks if check.status == "failed"]
    properties = {"passed": int(not failed), "checks": [asdict(check) for check in checks], "splits": _splits(findings)}
    write_json(outputs["audit"] / AUDIT_FILE, properties)
    for check in checks:
        if check.status == "warned":
            context.progress.log(f"leakage_audit: {check.name}: {check.reason}")
    if failed:
        raise ComponentError(_message(failed), outputs={"audit": properties})
    return {"audit": properties}


def _bounds(examples: Artifact) -> dict[str, tuple[int, int] | None]:
    """First second of every split and first after it; None where no moment divides them."""
    split = examples.properties["split"]
    if split["by"] != "time":
        return dict.fromkeys(SPLITS)
    limits = [np.iinfo(np.int64).min, int(split["eval_begins"]), int(split["test_begins"]), np.iinfo(np.int64).max]
    return {name: (limits[place], limits[place + 1]) for place, name in enumerate(SPLITS)}


def _discount(examples: Artifact) -> float | None:
    found = examples.properties.get("discount")
    return None if found is None else float(found)


def _count(
    config: LeakageAuditConfig, examples: Artifact, num_items: int, bounds: Bounds, context: Context
) -> tuple[dict[str, SplitFindings], dict[str, Shared], dict[str, int]]:
    """Counts all splits; returns findings by split, shared sessions by kind of key, and compared sessions by split."""
    written = {name: int(examples.properties["splits"][name]["trajectories"]) for name in SPLITS}
    results, spill = context.scratch / "results", context.scratch / "spill"
    for folder in (results, spill):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    num_parts = -(-max(1, sum(written.values())) // _SESSIONS_OF_A_PART)
    with reporting_pipeline(context, "audit", sum(written.values()), "records") as (pipeline, token):
        local = runs_locally(pipeline_options(context.beam_args))
        counter = CountShard(
            config.min_copied_events, num_items, bounds, _discount(examples), num_parts, str(spill) if local else None, token
        )
        counted = (
            pipeline
            | "CreateShards" >> beam.Create([(name, path) for name in SPLITS for path in shard_files(examples, name)])
            | "SpreadShards" >> beam.Reshuffle()
            | "CountShard" >> beam.ParDo(counter).with_outputs(CountShard.KEYS, main="findings")
        )
        _ = (
            counted.findings
            | "SumFindings" >> beam.CombinePerKey(SumFindings(num_items))
            | "WriteFindings" >> beam.Map(_write_findings, str(results))
        )
        _ = (
            counted[CountShard.KEYS]
            | "GroupByPart" >> beam.GroupByKey()
            | "FindShared" >> beam.ParDo(FindShared())
            | "ListShared" >> beam.combiners.ToList()
            | "WriteShared" >> beam.Map(_write_shared, str(results / "shared.json"))
        )
    findings = {name: _read_findings(results / f"{name}.npz", num_items) for name in SPLITS}
    for name, count in written.items():
        if findings[name].records != count:
            raise ComponentError(
                f"{examples.split(name)}: {findings[name].records:,} records were audited, {count:,} were written; "
                "records were lost on the way"
            )
    shared, compared = _read_shared(results / "shared.json")
    shutil.rmtree(spill, ignore_errors=True)
    return findings, shared, compared


class CountShard(beam.DoFn):
    """Counts the records of a shard.

    Outputs: (split, findings); tagged `keys`, (part, block reference) with the keys of sessions, the split they are in and, of
    evaluated splits, their names.
    """

    KEYS = "keys"

    def __init__(
        self,
        min_copied_events: int,
        num_items: int,
        bounds: Bounds,
        discount: float | None,
        num_parts: int,
        spill: str | None,
        progress: str,
    ):
        self._min_copied_events = min_copied_events
        self._num_items = num_items
        self._bounds = bounds
        self._discount = discount
        self._num_parts = num_parts
        self._spill = spill
        self._progress = progress

    def process(self, element: tuple[str, str]) -> Iterator[Any]:
        split, path = element
        findings = SplitFindings.none(self._num_items)
        keys: dict[str, list[Keys]] = {kind: [] for kind in _KINDS}
        names: dict[str, list[npt.NDArray[np.object_]]] = {kind: [] for kind in _KINDS}
        for serialized in raw_records([path]).batch(_BATCH):
            batch, session_keys, session = parse_records(serialized)
            findings = findings + SplitFindings.of(batch, self._num_items, self._bounds[split], self._discount)
            # Every record has the key of its session, because any stretch of it may have gone astray.
            for kind, (chosen, found) in {
                _NAME: (np.arange(len(session)), session_keys),
                _CONTENT: copy_keys(batch, self._min_copied_events),
            }.items():
                keys[kind].append(found)
                names[kind].append(session[chosen])
            report(self._progress, len(session))
        yield split, findings
        for kind in _KINDS:
            if keys[kind]:
                yield from self._store(kind, split, np.concatenate(keys[kind]), np.concatenate(names[kind]))

    def _store(self, kind: str, split: str, keys: Keys, names: npt.NDArray[np.object_]) -> Iterator[Any]:
        keys, first = np.unique(keys, return_index=True)
        part = (keys % np.uint64(self._num_parts)).astype(np.int64)
        shown = None if split == SPLITS[0] else names[first]
        blocks = []
        for number in np.unique(part):
            rows = np.flatnonzero(part == number)
            column = pa.nulls(len(rows), pa.string()) if shown is None else pa.array([_text(name) for name in shown[rows]], pa.string())
            table = pa.table({"key": keys[rows], "split": np.full(len(rows), SPLITS.index(split), np.int8), _NAME: column})
            blocks.append((int(number), 0, table.replace_schema_metadata({"kind": kind})))
        for number, ref in store_blocks(blocks, self._spill):
            yield beam.pvalue.TaggedOutput(self.KEYS, ((kind, number), ref))


def _text(name: bytes) -> str:
    return name.partition(b"\x00")[2].decode("utf-8", "backslashreplace")


def parse_records(serialized: tf.Tensor) -> tuple[RecordBatch, Keys, npt.NDArray[np.object_]]:
    """Columns of [R] serialized records, keys of their sessions [R], and [R] user and session name of each, with a zero byte between."""
    parsed = parse_named(serialized, (trajectory.TIMESTAMP,))
    item, feedback, time = (parsed[name].flat_values.numpy() for name in (trajectory.ITEM_ID, trajectory.FEEDBACK, trajectory.TIMESTAMP))
    reward, to_go = (parsed[name].flat_values.numpy().astype(np.float64) for name in (trajectory.REWARD, trajectory.RETURN_TO_GO))
    batch = RecordBatch(
        parsed["length"].numpy().astype(np.int64),
        parsed[trajectory.NUM_CONTEXT].numpy(),
        item,
        feedback,
        time,
        reward,
        to_go,
        parsed[trajectory.IS_TERMINAL].numpy(),
    )
    return batch, parsed["session"].numpy().astype(np.uint64), parsed["name"].numpy()


class SumFindings(beam.CombineFn):
    """Adds the findings of a split's shards."""

    def __init__(self, num_items: int):
        self._num_items = num_items

    def create_accumulator(self) -> SplitFindings:
        return SplitFindings.none(self._num_items)

    def add_input(self, accumulator: SplitFindings, element: SplitFindings) -> SplitFindings:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[SplitFindings]) -> SplitFindings:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = merged + accumulator
        return merged

    def extract_output(self, accumulator: SplitFindings) -> SplitFindings:
        return accumulator


class FindShared(beam.DoFn):
    """Finds keys of a part that an earlier split has too.

    Output: kind of the keys, later split to how many it shares, how many it has, and a few of their names.
    """

    def process(self, element: tuple[tuple[str, int], Iterable[BlockRef]]) -> Iterator[dict[str, Any]]:
        (kind, _), refs = element
        rows = pa.concat_tables([ref.read() for ref in refs])
        key, split = rows["key"].to_numpy(), rows["split"].to_numpy()
        earlier = np.zeros(0, np.uint64)
        for place, name in enumerate(SPLITS):
            mine = np.flatnonzero(split == place)
            distinct, first = np.unique(key[mine], return_index=True)
            both = np.isin(distinct, earlier, assume_unique=True)
            samples = sorted(rows[_NAME].take(pa.array(mine[first[both]])).to_pylist()) if place else []
            yield {"kind": kind, "split": name, "shared": int(both.sum()), "sessions": len(distinct), "samples": samples[:_SAMPLES]}
            earlier = np.union1d(earlier, distinct)


def _write_findings(element: tuple[str, SplitFindings], folder: str) -> None:
    split, findings = element
    np.savez(Path(folder) / f"{split}.npz", **findings.arrays())


def _read_findings(path: Path, num_items: int) -> SplitFindings:
    if not path.is_file():
        return SplitFindings.none(num_items)
    with np.load(path) as stored:
        return SplitFindings.from_arrays(dict(stored))


def _write_shared(found: list[dict[str, Any]], path: str) -> None:
    write_json(Path(path), found)


def _read_shared(path: Path) -> tuple[dict[str, Shared], dict[str, int]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    shared = {}
    for kind in _KINDS:
        count = {name: sum(row["shared"] for row in found if (row["kind"], row["split"]) == (kind, name)) for name in SPLITS[1:]}
        samples = {
            name: sorted(sample for row in found if (row["kind"], row["split"]) == (kind, name) for sample in row["samples"])[:_SAMPLES]
            for name in SPLITS[1:]
        }
        shared[kind] = Shared(count, samples)
    compared = {name: sum(row["sessions"] for row in found if (row["kind"], row["split"]) == (_CONTENT, name)) for name in SPLITS}
    return shared, compared


def _splits(findings: Mapping[str, SplitFindings]) -> dict[str, dict[str, int]]:
    return {name: {"records": split.records, "targets": split.targets} for name, split in findings.items()}


def _message(failed: list[Check]) -> str:
    names = ", ".join(check.name for check in failed)
    return "\n".join(
        [
            f"{len(failed)} {'leak stops' if len(failed) == 1 else 'leaks stop'} the run:",
            *(f"  {check.name}: {check.reason}" for check in failed),
            f"correct the data, or go on with {names} in leakage_audit.warn",
        ]
    )
