"""`python -m pipeline.run_report`: the report of a run from the cards of its steps. Kubeflow's last step calls it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.card import Card
    from pipeline.config import PipelineConfig
    from pipeline.local import RunResult

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code. 0: done, 2: bad usage or configuration.
    """
    from pipeline.run_component import RUN_ID_VARIABLE

    options = _parser().parse_args(arguments)
    from components.artifacts import ArtifactError
    from pipeline.card import read_card
    from pipeline.job import decode_config
    from pipeline.provenance import new_run_id
    from schemas.config import ConfigError

    try:
        config = decode_config(options.config)
        cards = [read_card(Path(folder)) for folder in options.card]
        _write(_result(config, options.run_id or os.environ.get(RUN_ID_VARIABLE) or new_run_id(), cards), options)
    except (ConfigError, ArtifactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def _result(config: PipelineConfig, run_id: str, cards: Sequence[Card]) -> RunResult:
    """The run as the local runner would give it; what another run made came from the scheduler's cache."""
    from pipeline.graph import step_names
    from pipeline.local import RunResult, StepResult

    made = {card.component: card for card in cards}
    own = [card.started for card in cards if card.run_id == run_id]
    steps = []
    for name in step_names():
        if name in made:
            card = made[name]
            status, seconds = ("executed", card.seconds) if card.run_id == run_id else ("cached", 0.0)
            steps.append(StepResult(name, status, seconds, dict(card.outputs)))
    return RunResult(run_id, config, steps, min(own, default=time.time()))


def _write(result: RunResult, options: argparse.Namespace) -> None:
    from components.artifacts import write_json
    from pipeline import executor_output
    from pipeline.report import write_report
    from pipeline.summary import summarise

    if options.html:
        write_report(result, Path(options.html))
    if options.summary:
        write_json(Path(options.summary) / "summary.json", summarise(result))
    evaluation, examples = result.output("evaluator", "evaluation"), result.output("trajectory_gen", "examples")
    if options.executor_input:
        curve = executor_output.roc_curve(evaluation, examples.properties["num_items"] - 1) if evaluation and examples else None
        executor_output.write(options.executor_input, {"roc": curve} if curve else {})
    for step in result.steps:
        print(f"  {step.name:<18} {step.status}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.run_report",
        description="Make the report of a run from the cards that its steps left.",
        epilog="Exit codes: 0 done, 2 bad usage or configuration.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="JSON|@FILE", help="configuration of the whole run")
    add("--card", action="append", default=[], metavar="DIR", help="what a step left for the report, once for each")
    add("--html", metavar="FILE", help="page to write")
    add("--summary", metavar="DIR", help="folder for summary.json")
    add("--run-id", metavar="ID", help="the run (default: LONGPLAY_RUN_ID, else a new one)")
    add("--executor-input", metavar="JSON", help="what Kubeflow tells a task; curves for its pages are written where it says")
    return parser


if __name__ == "__main__":
    sys.exit(main())
