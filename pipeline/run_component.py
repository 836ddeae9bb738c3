"""`python -m pipeline.run_component`: one component in a container, artifact folders in, artifact folders out.

Kubeflow's steps call it, and any other scheduler can.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Nothing of the project is imported before the command line is read, so that --help answers at once.
if TYPE_CHECKING:
    from components.artifacts import Artifact
    from pipeline.job import Job

EXIT_FAILED, EXIT_USAGE = 1, 2
RUN_ID_VARIABLE = "LONGPLAY_RUN_ID"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code. 0: done, 1: the step failed, 2: bad usage or configuration.
    """
    options = _parser().parse_args(arguments)
    from components.base import ComponentError
    from pipeline.job import check_code, check_digests, prepare
    from pipeline.termination import EXIT_TERMINATED, TERMINATED
    from schemas.config import ConfigError

    try:
        job = prepare(
            options.component,
            options.config,
            options.input,
            options.output,
            root=options.root,
            scratch=options.scratch,
            run_id=options.run_id or os.environ.get(RUN_ID_VARIABLE),
        )
        if options.code:
            check_code(job.component, options.code)
        check_digests(job, options.expect)
        announce = _announcer(job, options)
        started = time.time()
        outputs = _run(job)
        if outputs:
            announce(outputs, started)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ComponentError as error:
        print(f"error: {options.component} failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        if TERMINATED.is_set():
            return EXIT_TERMINATED
        traceback.print_exc(file=sys.stderr)
        print(f"error: {options.component} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _run(job: Job) -> dict[str, Artifact]:
    """Executes the job and says what came out."""
    from rich.console import Console

    from pipeline.console import ConsoleProgress, quieten
    from pipeline.job import execute

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    quieten()
    console = Console(soft_wrap=True)
    say(f"longplay {job.component.name}: pipeline {job.config.name}, run {job.run_id}")
    begun = time.monotonic()
    with ConsoleProgress(console) as progress:
        outputs = execute(job, progress)
    describe = job.component.describe
    line = describe({name: artifact.properties for name, artifact in outputs.items()}) if describe and outputs else ""
    say(f"  {job.component.name} executed in {time.monotonic() - begun:.1f} s  {line}")
    for name, artifact in outputs.items():
        say(f"  {name:<18} {artifact.path}  sha256 {artifact.digest}")
    return outputs


def _announcer(job: Job, options: argparse.Namespace) -> Callable[[dict[str, Artifact], float], None]:
    """What a scheduler is told when the job is done; what is wrong with where it wants it is said before the work begins."""
    from pipeline import executor_output
    from pipeline.card import Card, write_card
    from pipeline.job import digest_files

    digests = digest_files(job.component, options.digest)
    if options.executor_input:
        executor_output.output_file(options.executor_input)

    def announce(outputs: dict[str, Artifact], started: float) -> None:
        for name, path in digests.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(outputs[name].digest, encoding="utf-8")
        if options.card:
            write_card(Path(options.card), Card(job.component.name, job.run_id, started, time.time() - started, outputs))
        if options.executor_input:
            executor_output.write(options.executor_input, {name: executor_output.describe(made) for name, made in outputs.items()})

    return announce


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.run_component",
        description="Run one component: artifact folders in, artifact folders out.",
        epilog="Exit codes: 0 done, 1 the step failed, 2 bad usage or configuration.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--component", required=True, metavar="NAME", help="what to run, such as trainer")
    add("--config", required=True, metavar="JSON|@FILE", help="configuration of the whole run; the component takes its part")
    add(
        "--input",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="folder of an input, once for each; an optional one may be absent or empty",
    )
    add("--output", action="append", default=[], metavar="NAME=PATH", help="folder of an output, once for each")
    add("--root", metavar="DIR", help="existing folder that relative destinations are below (default: the working directory)")
    add(
        "--scratch",
        metavar="DIR",
        help="where an unfinished attempt leaves what the next one of the same run can use (default: scratch below --root; "
        "nothing is kept without either)",
    )
    add("--run-id", metavar="ID", help=f"the run that this belongs to (default: {RUN_ID_VARIABLE}, else a new one)")
    add("--code", metavar="DIGEST", help="digest of the component's code; other code is refused")
    add("--expect", action="append", default=[], metavar="NAME=DIGEST", help="digest of an input; another content is refused")
    add("--digest", action="append", default=[], metavar="NAME=FILE", help="file to write the digest of an output to")
    add("--card", metavar="DIR", help="folder for what a report needs of this step")
    add("--executor-input", metavar="JSON", help="what Kubeflow tells a task; numbers for its pages are written where it says")
    return parser


if __name__ == "__main__":
    from pipeline.termination import unwind_on_sigterm

    unwind_on_sigterm()
    sys.exit(main())
