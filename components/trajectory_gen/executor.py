"""Work of trajectory_gen: one Beam pipeline from log files to TFRecord shards, and the books that must balance."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.artifacts import QUARANTINE_FILE, Artifact, write_json
from components.base import ComponentError, Context, Properties
from components.beam_runner import beam_pipeline, pipeline_options, reporting_to, runs_locally
from components.datasets.reading import ReadRange, plan_ranges
from components.trajectory_gen import stages
from components.trajectory_gen.config import TrajectoryGenConfig
from components.trajectory_gen.records import SplitSummary
from components.trajectory_gen.stages import BadRow, Ledger
from components.trajectory_gen.vocabulary import COUNT, ITEM, MergeCounts, build_vocabulary, write_vocabulary
from schemas.config import ConfigError
from schemas.interaction import FEEDBACK_ROLES
from schemas.trajectory import SPLITS

_PARTITION_BYTES = 48 << 20
"""Aim for partitions of this much input: a few times as much memory while one is sorted."""
_MAX_SAMPLES = 5


def execute(
    config: TrajectoryGenConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs ingestion; see `components.base.Execute`."""
    ranges = plan_ranges(config.dataset.sources())
    total = sum(part.weight for part in ranges)
    num_shards = config.num_shards or max(2, -(-total // _PARTITION_BYTES))
    results = context.scratch / "results"
    spill = context.scratch / "spill"
    for folder in (results, spill):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with (
        context.progress.task("read logs", total, "bytes") as reading,
        context.progress.task("build sessions", num_shards, "parts") as sorting,
        context.progress.task("write trajectories", num_shards, "shards") as writing,
        reporting_to(reading) as read_token,
        reporting_to(sorting) as sort_token,
        reporting_to(writing) as write_token,
        beam_pipeline(context) as pipeline,
    ):
        local = runs_locally(pipeline_options(context.beam_args))
        plan = _Plan(config, num_shards, str(spill) if local else None, results, outputs, (read_token, sort_token, write_token))
        _build(pipeline, ranges, plan)
    shutil.rmtree(spill, ignore_errors=True)
    return _finish(config, results, outputs, num_shards)


@dataclass(frozen=True)
class _Plan:
    config: TrajectoryGenConfig
    num_shards: int
    spill: str | None
    results: Path
    outputs: Mapping[str, Path]
    tokens: tuple[str, str, str]


def _build(pipeline: beam.Pipeline, ranges: list[ReadRange], plan: _Plan) -> None:
    """Adds all stages to a pipeline; what the driver needs afterwards goes to files in `plan.results`."""
    config = plan.config
    read_tags = stages.ReadAndPartition
    read = (
        pipeline
        | "CreateRanges" >> beam.Create(ranges)
        | "SpreadRanges" >> beam.Reshuffle()
        | "ReadAndPartition"
        >> beam.ParDo(read_tags(plan.num_shards, plan.spill, plan.tokens[0])).with_outputs(
            read_tags.LEDGER, read_tags.BAD, read_tags.LINES, read_tags.FAILED, main="blocks"
        )
    )
    # Every partition gets a shard, also one without users.
    seeds = pipeline | "CreatePartitions" >> beam.Create([(number, None) for number in range(plan.num_shards)])
    build_tags = stages.BuildSessions
    built = (
        (read.blocks, seeds)
        | "AddPartitions" >> beam.Flatten()
        | "GroupByPartition" >> beam.GroupByKey()
        | "BuildSessions"
        >> beam.ParDo(build_tags(config, plan.spill, plan.tokens[1])).with_outputs(build_tags.LEDGER, build_tags.STARTS, main="sessions")
    )
    boundaries = beam.pvalue.AsSingleton(
        built[build_tags.STARTS]
        | "MergeStarts" >> beam.CombineGlobally(stages.MergeStarts())
        | "ChooseBoundaries" >> beam.Map(stages.choose_boundaries, config.split)
    )
    rare = _rare_items(built.sessions, boundaries, config)
    vocabulary = beam.pvalue.AsSingleton(
        built.sessions
        | "CountItems" >> beam.ParDo(stages.CountItems(config, train_only=True), boundaries, rare)
        | "MergeCounts" >> beam.CombineGlobally(MergeCounts())
        | "BuildVocabulary" >> beam.Map(build_vocabulary, 1 if config.rare_items == "drop" else config.min_item_events)
    )
    write_tags = stages.WriteRecords
    written = built.sessions | "WriteRecords" >> beam.ParDo(
        write_tags(config, str(plan.outputs["examples"]), plan.num_shards, plan.tokens[2]), boundaries, rare, vocabulary
    ).with_outputs(write_tags.LEDGER, main="summaries")
    ledger = (
        (read[read_tags.LEDGER], built[build_tags.LEDGER], written[write_tags.LEDGER])
        | "FlattenLedgers" >> beam.Flatten()
        | "SumLedgers" >> beam.CombineGlobally(stages.SumLedgers())
    )
    summaries = (
        written.summaries | "SumSummaries" >> beam.CombinePerKey(stages.SumSummaries()) | "SummariesToDict" >> beam.combiners.ToDict()
    )
    nothing = pipeline | "CreateOne" >> beam.Create([None])
    _ = ledger | "WriteLedger" >> beam.Map(_write_result, str(plan.results / "ledger.json"))
    _ = summaries | "WriteSummaries" >> beam.Map(_write_summaries, str(plan.results / "summaries.json"))
    _ = nothing | "WriteVocabulary" >> beam.Map(_write_vocabulary, str(plan.outputs["vocabulary"]), vocabulary)
    _ = nothing | "WriteBoundaries" >> beam.Map(_write_boundaries, str(plan.results / "boundaries.json"), boundaries)
    failed = beam.pvalue.AsList(read[read_tags.FAILED])
    _ = nothing | "WriteFailures" >> beam.Map(_write_failures, str(plan.results / "failed.json"), failed)
    _write_quarantine(read, plan)


def _rare_items(sessions: beam.PCollection, boundaries: Any, config: TrajectoryGenConfig) -> Any:
    """Items to drop from the whole log, as a side input, or None."""
    if config.rare_items != "drop" or config.min_item_events == 1:
        return None
    return beam.pvalue.AsSingleton(
        sessions
        | "CountAllItems" >> beam.ParDo(stages.CountItems(config, train_only=False), boundaries, None)
        | "MergeAllCounts" >> beam.CombineGlobally(MergeCounts())
        | "FindRareItems" >> beam.Map(_rarer_than, config.min_item_events)
    )


def _rarer_than(counts: pa.Table, min_count: int) -> pa.Array:
    return counts.filter(pc.less(counts[COUNT], min_count))[ITEM].combine_chunks()


def _write_quarantine(read: Any, plan: _Plan) -> None:
    """Rows that do not parse, one JSON object a line, by file and line; ranges know only their own line numbers."""
    tags = stages.ReadAndPartition
    lines = beam.pvalue.AsDict(read[tags.LINES])
    _ = (
        read[tags.BAD]
        | "NumberLines" >> beam.Map(_numbered, lines)
        | "GroupBadRowsByFile" >> beam.GroupByKey()
        | "WriteQuarantine" >> beam.Map(_write_bad_rows, str(plan.results / "quarantine"))
    )


def _numbered(bad: BadRow, lines: Mapping[tuple[str, int], int]) -> tuple[str, tuple[int, str, str, str]]:
    before = sum(count for (path, start), count in lines.items() if path == bad.path and start < bad.start)
    return bad.path, (before + bad.line + 1, bad.kind, bad.reason, bad.text)


def _write_bad_rows(element: tuple[str, Any], folder: str) -> None:
    path, rows = element
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Joined in order of the names, so the readable part comes first; the digest keeps a/b and a_b apart.
    name = f"{path.replace('/', '_').replace(':', '_')[-150:]}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    with (Path(folder) / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
        for line, kind, reason, text in sorted(rows):
            row = {"file": path, "line": line, "kind": kind, "reason": reason, "row": text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_result(value: Any, path: str) -> None:
    write_json(Path(path), value)


def _write_summaries(summaries: Mapping[str, SplitSummary], path: str) -> None:
    write_json(Path(path), {name: asdict(summary) for name, summary in summaries.items()})


def _write_vocabulary(_: None, folder: str, vocabulary: pa.Table) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_vocabulary(vocabulary, Path(folder))


def _write_boundaries(_: None, path: str, boundaries: tuple[int, int]) -> None:
    write_json(Path(path), list(boundaries))


def _write_failures(_: None, path: str, failures: list[tuple[str, bool]]) -> None:
    write_json(Path(path), sorted(failures))


def _finish(config: TrajectoryGenConfig, results: Path, outputs: Mapping[str, Path], num_shards: int) -> Mapping[str, Properties]:
    """Raises what went wrong, checks that the books balance, and states what came out."""
    for message, about_configuration in _read(results / "failed.json"):
        raise ConfigError(message) if about_configuration else ComponentError(message)
    ledger: Ledger = _read(results / "ledger.json")
    quarantine = _collect_quarantine(results / "quarantine", outputs["quarantine"], ledger)
    if ledger[stages.QUARANTINED] > config.max_bad_fraction * ledger[stages.ROWS_READ]:
        raise ComponentError(_too_many_bad_rows(config, ledger, quarantine), outputs={"quarantine": quarantine})
    accounted = sum(count for name, count in ledger.items() if name != stages.ROWS_READ)
    if accounted != ledger[stages.ROWS_READ]:
        raise AssertionError(f"rows were lost or counted twice: {ledger}")
    summaries = _read(results / "summaries.json")
    empty = [name for name in SPLITS if summaries[name]["trajectories"] == 0]
    if empty:
        raise ComponentError(f"no sessions in {' and '.join(empty)}; rows by what became of them: {_ledger_text(ledger)}")
    vocabulary = pq.read_table(outputs["vocabulary"] / "items.parquet")
    boundaries = _read(results / "boundaries.json")
    examples = {
        "splits": {name: _split_properties(summaries[name]) for name in SPLITS},
        "ledger": ledger,
        "split": {
            "by": config.split.by,
            **({"eval_begins": boundaries[0], "test_begins": boundaries[1]} if config.split.by == "time" else {}),
        },
        "num_shards": num_shards,
        "max_length": config.max_length,
        "discount": config.discount,
        "num_items": vocabulary.num_rows + 1,
    }
    counts = vocabulary[COUNT].to_pylist()
    return {
        "examples": examples,
        "vocabulary": {
            "num_items": vocabulary.num_rows + 1,
            "events": int(sum(counts)),
            "popularity": _popularity_curve(counts),
        },
        "quarantine": quarantine,
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _collect_quarantine(parts: Path, folder: Path, ledger: Ledger) -> dict[str, Any]:
    """Joins the files of bad rows into one and states counts and samples."""
    folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, int] = {}
    samples: list[dict[str, Any]] = []
    rows = 0
    with (folder / QUARANTINE_FILE).open("w", encoding="utf-8") as out:
        for part in sorted(parts.glob("*.jsonl")) if parts.is_dir() else []:
            with part.open(encoding="utf-8") as stream:
                for line in stream:
                    out.write(line)
                    row = json.loads(line)
                    kind = row["kind"]
                    if kind not in reasons and len(samples) < _MAX_SAMPLES:
                        samples.append(row)
                    reasons[kind] = reasons.get(kind, 0) + 1
                    rows += 1
    if rows != ledger[stages.QUARANTINED]:
        raise AssertionError(f"{rows} rows in quarantine, {ledger[stages.QUARANTINED]} counted")
    return {"rows": rows, "rows_read": ledger[stages.ROWS_READ], "reasons": reasons, "samples": samples, "ledger": ledger}


def _too_many_bad_rows(config: TrajectoryGenConfig, ledger: Ledger, quarantine: Mapping[str, Any]) -> str:
    bad, read = ledger[stages.QUARANTINED], ledger[stages.ROWS_READ]
    lines = [
        f"{bad:,} of {read:,} rows do not parse ({bad / read:.2%}), "
        f"more than trajectory_gen.max_bad_fraction = {config.max_bad_fraction:.2%}",
        *(f"  {count:,} x {reason}" for reason, count in sorted(quarantine["reasons"].items(), key=lambda entry: -entry[1])),
        "samples:",
        *(f"  {row['file']}:{row['line']}: {row['reason']}: {row['row']}" for row in quarantine["samples"]),
    ]
    return "\n".join(lines)


def _ledger_text(ledger: Ledger) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in ledger.items() if count)


def _split_properties(summary: Mapping[str, Any]) -> dict[str, Any]:
    roles = dict(zip(FEEDBACK_ROLES, summary["role_events"], strict=True))
    # Parts add up in any order, so the last digits of a sum are not part of the result.
    return {**summary, "role_events": roles, "reward": round(summary["reward"], 3)}


def _popularity_curve(counts: list[int], points: int = 200) -> list[list[int]]:
    """Rank and count of some items, dense at the head, for drawing."""
    ranks = sorted({min(len(counts) - 1, round(len(counts) ** (i / (points - 1)) - 1)) for i in range(points)}) if counts else []
    return [[rank + 1, counts[rank]] for rank in ranks]
