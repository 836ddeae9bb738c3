"""One place that decides how Apache Beam runs, and how its workers report back."""

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from components.base import Context, Task

_LOCAL_RUNNERS = {"fnapirunner", "fnapi", "directrunner", "direct", "bundlebaseddirectrunner", "switchingdirectrunner"}


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Options from arguments; without `--runner` the in-process engine, which downloads nothing."""
    options = PipelineOptions(list(beam_args), save_main_session=False)
    if options.view_as(StandardOptions).runner is None:
        options.view_as(StandardOptions).runner = "FnApiRunner"
    return options


def runs_locally(options: PipelineOptions) -> bool:
    """True where workers share this machine's disk."""
    runner = str(options.view_as(StandardOptions).runner).rsplit(".", 1)[-1].lower()
    return runner in _LOCAL_RUNNERS


@contextlib.contextmanager
def beam_pipeline(context: Context) -> Iterator[beam.Pipeline]:
    """A pipeline that has run to its end when the block is left."""
    # Beam logs every worker start at INFO level.
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    pipeline = beam.Pipeline(options=pipeline_options(context.beam_args))
    yield pipeline
    pipeline.run().wait_until_finish()


_reporters: dict[str, Callable[[float], None]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def reporting_to(task: Task) -> Iterator[str]:
    """Gives a token with which workers of this process advance a task; elsewhere the token does nothing."""
    token = uuid.uuid4().hex

    def advance(amount: float) -> None:
        with _lock:
            task.advance(amount)

    _reporters[token] = advance
    try:
        yield token
    finally:
        del _reporters[token]


@contextlib.contextmanager
def reporting_pipeline(context: Context, description: str, total: float, unit: str) -> Iterator[tuple[beam.Pipeline, str]]:
    """A pipeline as `beam_pipeline` gives it, and the token with which its workers advance the one task that shows how far it is.

    Args:
        context: How Beam runs, where to report.
        description: Of the task.
        total: How much there is to do.
        unit: Of what.
    """
    with (
        context.progress.task(description, total, unit) as task,
        reporting_to(task) as token,
        beam_pipeline(context) as pipeline,
    ):
        yield pipeline, token


def report(token: str, amount: float) -> None:
    """Advances the task behind a token, if it is in this process."""
    reporter = _reporters.get(token)
    if reporter is not None:
        reporter(amount)
