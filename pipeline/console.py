"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from components.base import Task

if TYPE_CHECKING:
    from pipeline.local import StepResult

_LINE_EVERY_SECONDS = 15.0
_WIDE = 150


class ConsoleProgress:
    """Progress of the running step.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Shows a piece of work until the block is left."""
        bar = self._bars.add_task(description, total=total, note=unit)
        yield _ConsoleTask(self, bar, description, total, unit)
        self._bars.remove_task(bar)

    def log(self, message: str) -> None:
        """Prints a line above the bars."""
        self._console.print(f"    {message}", style="dim", highlight=False, markup=False)

    def _advance(self, bar: TaskID, amount: float, note: str | None) -> None:
        if note:
            self._bars.update(bar, advance=amount, note=note)
        else:
            self._bars.update(bar, advance=amount)

    @property
    def is_drawn(self) -> bool:
        """True on a terminal."""
        return self._console.is_terminal


class _ConsoleTask:
    def __init__(self, progress: ConsoleProgress, bar: TaskID, description: str, total: float | None, unit: str):
        self._progress = progress
        self._bar = bar
        self._description = description
        self._total = total
        self._unit = unit
        self._done = 0.0
        self._printed = time.monotonic()

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        self._done += amount
        if self._progress.is_drawn:
            self._progress._advance(self._bar, amount, note)
        elif time.monotonic() - self._printed > _LINE_EVERY_SECONDS:
            self._printed = time.monotonic()
            of = f" of {self._total:,.0f}" if self._total else ""
            self._progress.log(f"{self._description}: {self._done:,.0f}{of} {self._unit}" + (f", {note}" if note else ""))


def step_line(step: StepResult) -> str:
    """What became of a step of a run, in one line."""
    from components.registry import COMPONENTS

    describe = COMPONENTS[step.name].describe
    line = describe(step.properties()) if describe and step.status != "failed" else ""
    return f"  {step.name:<18} {step.status:<9} {step.seconds:6.1f} s  {line}"


def metric_table(metrics: Mapping[str, Mapping[str, list[float]]], title: str, width: int) -> Table:
    """Models against the metrics that are looked at first, with intervals where there are any and the terminal is wide enough."""
    shown = [
        name for name in ("ndcg@10", "hit_rate@10", "purchase/ndcg@10", "click/ndcg@10", "coverage@10") if name in metrics["candidate"]
    ]
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("model", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for model, values in metrics.items():
        cells = [_cell(values.get(name), with_interval=width >= _WIDE) for name in shown]
        table.add_row(model, *cells, style="bold" if model == "candidate" else None)
    return table


def _cell(entry: Any, with_interval: bool) -> str:
    if entry is None:
        return "-"
    value, low, high = entry
    return f"{value:.4f}" if low == high or not with_interval else f"{value:.4f} ({low:.4f} to {high:.4f})"


def quieten() -> None:
    """Keeps the frameworks' start-up chatter off the screen; what was set outside stays."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("absl", "apache_beam", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
