"""`longplay infer`: recommendations for many histories with a pushed model, outside of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.artifacts import QUARANTINE_FILE, write_json
from components.base import Context
from components.bulk_inferrer.config import InferenceConfig

PARTS_FOLDER = ".parts"
JOB_FILE = "job.json"
COUNTS_FILE = "counts.json"


class InferError(ValueError):
    """A folder that cannot be written to; the message says why."""


def infer(histories: str, model: Path, out: Path, config: InferenceConfig, context: Context) -> dict[str, Any]:
    """Answers all histories of files; called again after it was killed, it goes on.

    Args:
        histories: JSON lines or Parquet: a path, a glob or a directory.
        model: A SavedModel.
        out: Folder for the answers; new, empty, or that of the same job when it was killed.
        config: What is asked for.
        context: Beam and progress.

    Returns:
        What became of the rows, see `components.bulk_inferrer.job.Counts`, and the files.

    Raises:
        InferError: The folder holds something else.
        ConfigError: No file matches.
        ComponentError: The job fails.
    """
    from components.bulk_inferrer.job import Job, finished_files, link_or_copy, run, write_quarantine
    from components.bulk_inferrer.rows import parts_of_files

    parts = parts_of_files(histories, "histories")
    job = Job(str(model), config, tuple(parts))
    scratch = out / PARTS_FOLDER
    _prepare(out, scratch, {"histories": _state(parts), "model": _files(model), "config": config.model_dump(mode="json")})
    counts = run(job, scratch, context)
    names = []
    for source, name in finished_files(job, scratch):
        link_or_copy(source, out / name)
        names.append(name)
    write_quarantine(job, scratch, out / QUARANTINE_FILE)
    stated = {**asdict(counts), "files": names}
    write_json(out / COUNTS_FILE, stated)
    shutil.rmtree(scratch, ignore_errors=True)
    return stated


def _prepare(out: Path, scratch: Path, job: Mapping[str, Any]) -> None:
    """Makes the folder, or keeps what an earlier attempt at the same job left in it."""
    known = scratch / JOB_FILE
    is_same = known.is_file() and json.loads(known.read_text(encoding="utf-8")) == json.loads(json.dumps(job))
    others = [path.name for path in out.iterdir() if path.name != PARTS_FOLDER] if out.is_dir() else []
    # Answers of another job, which was killed when it had begun to put them there, would stay among those of this one.
    if others and not is_same:
        raise InferError(f"--out: {out} is not empty, it holds {', '.join(sorted(others)[:3])}")
    if not is_same:
        shutil.rmtree(scratch, ignore_errors=True)
    write_json(known, job)


def _state(parts: list[Any]) -> list[Any]:
    from components.datasets.files import file_states

    return file_states(list(dict.fromkeys(part.path for part in parts)), "histories")


def _files(model: Path) -> list[Any]:
    files = [path for path in sorted(model.rglob("*")) if path.is_file()]
    return [[str(path), path.stat().st_size, path.stat().st_mtime] for path in files]
