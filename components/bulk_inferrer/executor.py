"""Work of bulk_inferrer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from components.artifacts import BLESSED, INFRA_BLESSED, QUARANTINE_FILE, SERVING_FOLDER, Artifact
from components.base import ComponentError, Context, Properties
from components.bulk_inferrer.component import HISTORIES_KEY
from components.bulk_inferrer.config import BulkInferrerConfig


def execute(
    config: BulkInferrerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    folder = outputs["inference_result"]
    folder.mkdir(parents=True, exist_ok=True)
    reasons = _objections(inputs) if config.enabled else ["off"]
    if reasons:
        return {"inference_result": {"inferred": 0, "reasons": reasons}}
    # Beam and TensorFlow are imported only where there is something to do.
    from components.bulk_inferrer.job import Job, finished_files, link_or_copy, run, write_quarantine
    from components.bulk_inferrer.rows import Part, parts_of_files
    from components.trajectory_io import shard_files

    examples = inputs["examples"]
    if config.histories is not None:
        parts, vocabulary = parts_of_files(config.histories, HISTORIES_KEY), None
    else:
        parts = [
            Part(f"Split-{split}/{number:05}", "examples", path)
            for split in dict.fromkeys(config.splits)
            for number, path in enumerate(shard_files(examples, split))
        ]
        vocabulary = str(inputs["vocabulary"].path)
    job = Job(str(inputs["serving_model"].path / SERVING_FOLDER), config, tuple(parts), vocabulary)
    scratch = context.scratch / "parts"
    counts = run(job, scratch, context)
    if config.histories is None:
        written = sum(int(examples.properties["splits"][split]["trajectories"]) for split in dict.fromkeys(config.splits))
        if counts.records != written:
            raise ComponentError(
                f"{examples.path}: {counts.records:,} records were read, the ledger says {written:,} were written; "
                "records were lost on the way"
            )
    for source, name in finished_files(job, scratch):
        link_or_copy(source, folder / name)
    write_quarantine(job, scratch, folder / QUARANTINE_FILE)
    stated = {name: count for name, count in asdict(counts).items() if name != "resumed"}
    return {"inference_result": {"inferred": 1, "reasons": [], "format": config.format, "files": len(parts), **stated}}


def _objections(inputs: Mapping[str, Artifact]) -> list[str]:
    """Why the model must not recommend."""
    found = []
    if not (inputs["blessing"].path / BLESSED).is_file():
        found.append("the model is not blessed")
    if not (inputs["infra_blessing"].path / INFRA_BLESSED).is_file():
        found.append("the exported model does not pass")
    return found
