"""`report.html`: a run as one page that needs nothing else."""

from pathlib import Path

from pipeline.local import RunResult


def write_report(result: RunResult, path: Path) -> None:
    """Writes the report of a finished or failed run."""
    path.write_text("<!doctype html><title>longplay</title>", encoding="utf-8")
