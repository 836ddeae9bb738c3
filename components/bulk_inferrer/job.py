"""The Beam job: parts of histories in, files of recommendations out.

A part that is done has a file of counts beside its answers, which is written last; a job that was killed goes on with the parts
that have none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared

from components.artifacts import QUARANTINE_FILE, write_json
from components.base import ComponentError, Context
from components.beam_runner import report, reporting_pipeline
from components.bulk_inferrer.config import InferenceConfig
from components.bulk_inferrer.rows import BadRow, Part, Row, arrays_of, batches, item_names, num_records, read_part
from components.bulk_inferrer.sinks import SINKS
from components.server.errors import RequestError
from components.server.servable import LoadError, Servable
from schemas import serving

_MAX_QUARANTINED = 10_000
"""Rows of a part whose text is kept; all are counted."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        model: The SavedModel.
        config: What is asked for.
        parts: All parts, in order.
        vocabulary: Folder with the names of items by id, for parts that are trajectories.
    """

    model: str
    config: InferenceConfig
    parts: tuple[Part, ...]
    vocabulary: str | None = None


@dataclass
class Counts:
    """What became of the rows of a part, or of all.

    Attributes:
        read: Rows, sessions or requests.
        answered: Those with an answer.
        quarantined: Those that are no requests.
        without_items: Answers with no item, where nothing was left to recommend.
        items: Items recommended.
        records: Records of the trajectories that were read.
        resumed: Parts that an earlier attempt had done.
    """

    read: int = 0
    answered: int = 0
    quarantined: int = 0
    without_items: int = 0
    items: int = 0
    records: int = 0
    resumed: int = 0


@dataclass(frozen=True)
class _Loaded:
    """What a worker keeps; no tuple, because those cannot be shared."""

    servable: Servable
    names: list[str]


def run(job: Job, scratch: Path, context: Context) -> Counts:
    """Answers everything; what was done before in `scratch` is not done again.

    Args:
        job: What to do.
        scratch: Folder that outlives a killed attempt at the same job; the answers are there afterwards, see `finished_files`.
        context: Beam and progress.

    Raises:
        ComponentError: The model cannot be used, a file cannot be read, or rows were lost.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    done = [part for part in job.parts if _counts_file(scratch, part).is_file()]
    left = [part for part in job.parts if part not in done]
    if left:
        with reporting_pipeline(context, "recommend", len(left), "parts") as (pipeline, token):
            failed = (
                pipeline
                | "CreateParts" >> beam.Create(left)
                | "SpreadParts" >> beam.Reshuffle()
                | "InferPart" >> beam.ParDo(InferPart(job, str(scratch), token))
                | "ListFailures" >> beam.combiners.ToList()
            )
            _ = failed | "WriteFailures" >> beam.Map(_write, str(scratch / "failed.json"))
        failures = json.loads((scratch / "failed.json").read_text(encoding="utf-8"))
        if failures:
            raise ComponentError("\n".join(sorted(failures)))
    total: Counter[str] = Counter()
    for part in job.parts:
        total.update(json.loads(_counts_file(scratch, part).read_text(encoding="utf-8")))
    counts = Counts(**total, resumed=len(done))
    if counts.read != counts.answered + counts.quarantined:
        raise AssertionError(f"rows were lost or counted twice: {counts}")
    if counts.quarantined > job.config.max_bad_fraction * counts.read:
        raise ComponentError(_too_many_bad_rows(job, scratch, counts))
    return counts


def finished_files(job: Job, scratch: Path) -> Iterator[tuple[Path, str]]:
    """Files of a job that is done, with the names they should have: `<split>/prediction_logs-00000-of-00004.gz`."""
    _, begin, end = SINKS[job.config.format]
    groups: dict[str, list[Part]] = {}
    for part in job.parts:
        groups.setdefault(str(Path(part.name).parent), []).append(part)
    for folder, parts in groups.items():
        for number, part in enumerate(parts):
            yield scratch / f"{part.name}{end}", str(Path(folder) / f"{begin}-{number:05}-of-{len(parts):05}{end}")


def link_or_copy(source: Path, target: Path) -> None:
    """The same file in another place; what the job keeps stays as it is, for an attempt that is killed now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_quarantine(job: Job, scratch: Path, path: Path) -> None:
    """Writes the rows that are no requests, with file, place and reason, as JSON lines; no file where there are none."""
    parts = [scratch / f"{part.name}.{QUARANTINE_FILE}" for part in job.parts]
    text = "".join(part.read_text(encoding="utf-8") for part in parts if part.is_file())
    if text:
        path.write_text(text, encoding="utf-8")


class InferPart(beam.DoFn):
    """Answers a part and writes what became of it; its output is messages of what failed.

    Args:
        job: What is asked for.
        folder: Where answers and counts go.
        progress: Token of the task that counts parts.
    """

    def __init__(self, job: Job, folder: str, progress: str):
        self._job, self._folder, self._progress = job, folder, progress
        self._shared = Shared()

    def _load(self) -> _Loaded:
        vocabulary = self._job.vocabulary
        return _Loaded(Servable(Path(self._job.model), 0), item_names(Path(vocabulary)) if vocabulary else [])

    def process(self, part: Part) -> Iterator[str]:
        final = Path(self._folder) / f"{part.name}{SINKS[self._job.config.format][2]}"
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            loaded = self._shared.acquire(self._load, tag=self._job.model)
            counts = self._answer(part, loaded, temporary)
        except (ComponentError, LoadError) as error:
            temporary.unlink(missing_ok=True)
            yield str(error)
            return
        os.replace(temporary, final)
        # Last: a part that has its counts is done.
        write_json(_counts_file(Path(self._folder), part), {name: count for name, count in asdict(counts).items() if name != "resumed"})
        report(self._progress, 1)

    def _answer(self, part: Part, loaded: _Loaded, path: Path) -> Counts:
        config, counts = self._job.config, Counts(records=num_records(part.path) if part.kind == "examples" else 0)
        signature = loaded.servable.signatures.get(serving.RECOMMEND)
        if signature is None:
            raise ComponentError(f"{self._job.model}: no signature {serving.RECOMMEND!r}; found {', '.join(loaded.servable.signatures)}")
        is_conditioned = serving.TARGET_RETURN in signature.inputs
        bad: list[str] = []
        sink = SINKS[config.format][0](path)
        try:
            rows = self._good(read_part(part, loaded.names, is_conditioned), part, counts, bad, is_conditioned)
            for batch in batches(rows, config.batch_size):
                inputs = arrays_of(batch, config.k, config.exclude_seen, is_conditioned)
                outputs = loaded.servable.run(signature, inputs)
                sink.write(batch, inputs, outputs)
                number = outputs[serving.NUM_VALID]
                counts.answered += len(batch)
                counts.items += int(number.sum())
                counts.without_items += int((number == 0).sum())
        except RequestError as error:
            raise ComponentError(f"{part.path}: {error}") from None
        finally:
            sink.close()
        if bad:
            (Path(self._folder) / f"{part.name}.{QUARANTINE_FILE}").write_text("".join(bad), encoding="utf-8")
        return counts

    def _good(self, rows: Iterator[Row | BadRow], part: Part, counts: Counts, bad: list[str], is_conditioned: bool) -> Iterator[Row]:
        """Requests among the rows; the others are counted and noted."""
        for row in rows:
            counts.read += 1
            if isinstance(row, Row) and row.request.is_conditioned and not is_conditioned:
                row = BadRow(f"row {counts.read}", "the model is not conditioned on a return", repr(row.request)[:500])
            if isinstance(row, Row):
                yield row
                continue
            counts.quarantined += 1
            if len(bad) < _MAX_QUARANTINED:
                bad.append(json.dumps({"file": part.path, **row._asdict()}, ensure_ascii=False) + "\n")


def _counts_file(scratch: Path, part: Part) -> Path:
    return scratch / f"{part.name}.counts.json"


def _write(value: Any, path: str) -> None:
    Path(path).write_text(json.dumps(value), encoding="utf-8")


def _too_many_bad_rows(job: Job, scratch: Path, counts: Counts) -> str:
    """The message, with the first bad rows; the job is not done, so that its rows are read again when they were mended."""
    samples: list[str] = []
    for part in job.parts:
        path = scratch / f"{part.name}.{QUARANTINE_FILE}"
        if path.is_file():
            samples += path.read_text(encoding="utf-8").splitlines()[:3]
            _counts_file(scratch, part).unlink()
    lines = [f"  {entry['file']}, {entry['place']}: {entry['reason']}" for entry in map(json.loads, samples[:3])]
    share = f"{counts.quarantined:,} of {counts.read:,} rows are no requests, max_bad_fraction is {job.config.max_bad_fraction:g}:"
    return "\n".join([share, *lines])
