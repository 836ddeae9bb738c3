"""Commands for logs: of the simulated shop, and of what was served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.common import EXIT_FAILED, BeamOptions, setting, usage, with_beam

if TYPE_CHECKING:
    from components.base import Context


def generate_logs(
    events: Annotated[int, typer.Option("--events", min=1, help="Number of events; whole sessions are kept.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv, .csv.gz or .parquet.")],
    seed: Annotated[int, typer.Option(help="Seed of users and their choices.")] = 0,
    items: Annotated[int, typer.Option(min=4, help="Items of the shop.")] = 1000,
) -> None:
    """Write logs of the simulated shop, as many events as wanted."""
    from rich.console import Console

    from components.base import ComponentError
    from components.datasets.generate import write_logs
    from pipeline.console import ConsoleProgress

    console = Console(soft_wrap=True)
    try:
        with ConsoleProgress(console) as progress:
            written = write_logs(out, events, seed, items, progress)
    except ComponentError as error:
        usage(str(error))
    print(f"{out}: {written:,} events")


def feedback(
    events: Annotated[str, typer.Argument(metavar="EVENTS", help="What users did, as JSON lines: a path, a glob, a directory.")],
    served: Annotated[str, typer.Option("--served", help="Log of what was served, as log_folder of the server has it.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.")],
    overrides: Annotated[list[str] | None, setting("A setting, such as request_key=recommendation.")] = None,
    beam: BeamOptions = None,
) -> None:
    """Give events the propensities of the recommendations that they came of.

    An event names the request with request_id; what the server logged under that id says with which probability the item was
    shown. Every event is written, with propensity and place, null where it came of no recommendation that was drawn. The next run
    reads the folder with the dataset jsonl and columns.propensity=propensity, so that its off-policy evaluation is exact.

    \b
    longplay serve artifacts/serving/shop --set log_folder=served
    longplay feedback clicks.jsonl --served served --out interactions
    """

    def work(context: Context) -> dict[str, Any]:
        from components.feedback.config import FeedbackConfig
        from components.feedback.join import join
        from schemas.config import from_overrides

        return join(events, served, out, from_overrides(FeedbackConfig, overrides or []), context)

    counts = with_beam(beam, work)
    share = counts["with_propensity"] / max(1, counts["events_read"])
    outcomes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count and name != "samples")
    print(f"{out}: {share:.1%} of the events have a propensity ({outcomes})")


def skew(
    served: Annotated[str, typer.Argument(metavar="LOG", help="Log of what was served: a path, a glob, a directory.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run that made the model.")] = Path("artifacts/runs/latest"),
    out: Annotated[Path, typer.Option("--out", help="Folder for statistics and anomalies, as TFDV has them.")] = Path("skew"),
    overrides: Annotated[list[str] | None, setting("A bound, such as max_item_difference=0.05.")] = None,
    beam: BeamOptions = None,
) -> None:
    """Compare the histories that are served with those that were trained on.

    Last items, unknown items and lengths of histories, by TFDV. Exit code 0: within the bounds, 1: beyond them, or the logs cannot
    be read, 2: bad usage.

    \b
    longplay skew served --run artifacts/runs/latest
    """

    def work(context: Context) -> Any:
        from components.artifacts import open_artifact
        from components.feedback.config import SkewConfig
        from components.feedback.skew import compare, run_artifacts
        from schemas.config import from_overrides

        config, paths = from_overrides(SkewConfig, overrides or []), run_artifacts(run)
        return compare(served, open_artifact(paths["examples"]), open_artifact(paths["vocabulary"]), out, config, context)

    found = with_beam(beam, work)
    print(f"{found.num_served:,} rows served, {found.num_trained:,} states trained on")
    for distance in found.distances:
        mark = "SKEW" if distance.is_skewed else "ok  "
        print(f"{mark} {distance.feature:<16} {distance.value:.4f} {distance.measure}, at most {distance.threshold:g}")
    for text in found.anomalies:
        print(text)
    raise typer.Exit(EXIT_FAILED if found.anomalies else 0)
