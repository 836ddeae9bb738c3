"""The leaderboard on a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipeline.compare.results import Leaderboard, Paired, Row
from pipeline.compare.runs import RETURN

REWARD_METRIC, COVERAGE = "reward_ndcg@10", "coverage@10"
_MARKS = {"higher": "+", "lower": "-", "undecided": " "}
_STYLES = {"higher": "green", "lower": "red", "undecided": "dim"}


@dataclass(frozen=True)
class _Detail:
    """How much is shown: metrics beside the one that sorts, and where intervals stand."""

    roles: bool = True
    others: bool = True
    intervals: bool = True
    paired_intervals: bool = True


_NAME, _REFERENCE = 48, 20
"""Letters of a line of a name, and of a name in the head of a column."""

_DETAILS = (
    _Detail(),
    _Detail(others=False),
    _Detail(intervals=False),
    _Detail(intervals=False, others=False),
    _Detail(intervals=False, paired_intervals=False),
    _Detail(intervals=False, paired_intervals=False, others=False),
    _Detail(intervals=False, paired_intervals=False, others=False, roles=False),
)
"""From much to little; the first one that fits is taken."""


def leaderboard_table(board: Leaderboard, console: Console) -> Table:
    """The leaderboard, with as much detail as the terminal is wide."""
    for detail in _DETAILS:
        table = _table(board, detail)
        # Without a limit, as a table says that it is no wider than what it is given.
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
            break
    return table


def _table(board: Leaderboard, detail: _Detail) -> Table:
    counts = board.counts
    ranked = f"{counts['events']:,} events of {counts['sessions']:,} sessions; " if counts else ""
    table = Table(
        title=Text(f"{board.name}: {ranked}means over seeds, 95 % intervals over sessions"),
        caption=Text(_caption(board)),
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    others = [*(board.role_metrics if detail.roles else []), *((REWARD_METRIC, COVERAGE) if detail.others else ()), RETURN]
    metrics = [name for name in dict.fromkeys([board.metric, *others]) if any(name in row.metrics for row in board.rows)]
    compared = [name for name in (board.metric, RETURN) if any(name in row.paired for row in board.rows)]
    has_backbones = len(board.backbones) > 1
    # Of a sweep the names are long; what they are compared with is spelled out below the table.
    table.add_column("model", overflow="fold", max_width=_NAME)
    if has_backbones:
        table.add_column("backbone", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
        if name in compared:
            table.add_column(f"against {_shortened(board.reference)}", justify="right", no_wrap=True)
    table.add_column("s/seed", justify="right", no_wrap=True)
    for row in board.rows:
        # As text, because the brackets of a head would be taken for markup.
        cells: list[str | Text] = [Text(f"{row.name} (exact)" if row.kind == "exact" else row.name)]
        if has_backbones:
            cells.append(row.backbone or "")
        cells.append(_seeds(row))
        for name in metrics:
            cells.append(_cell(row, name, detail.intervals))
            if name in compared:
                cells.append(_difference(row.paired.get(name), detail.paired_intervals))
        cells.append(f"{row.training['seconds']:.1f}" if row.training and row.kind == "model" else "")
        table.add_row(*cells, style="bold" if board.is_reference(row) else None)
    return table


def _shortened(name: str) -> str:
    return name if len(name) <= _REFERENCE else f"{name[: _REFERENCE - 1]}…"


def _seeds(row: Row) -> str:
    if not row.planned:
        return ""
    return f"{len(row.seeds)}" if len(row.seeds) == row.planned else f"{len(row.seeds)} of {row.planned}"


def _cell(row: Row, name: str, with_interval: bool) -> str:
    entry = row.metrics.get(name)
    if entry is None:
        return "failed" if row.errors and not row.seeds else "-"
    value, low, high = entry
    return f"{value:.4f}" if low == high or not with_interval else f"{value:.4f} ({low:.4f} to {high:.4f})"


def _difference(pair: Paired | None, with_interval: bool) -> Text:
    if pair is None:
        return Text("")
    interval = f" ({pair.low:+.4f} to {pair.high:+.4f})" if with_interval else f" {_MARKS[pair.verdict]}"
    return Text(f"{pair.value:+.4f}{interval} {pair.agree}/{pair.seeds}", style=_STYLES[pair.verdict])


def _caption(board: Leaderboard) -> str:
    """How to read the comparisons, what was cut off, and what failed."""
    lines = [
        f"against {board.reference}: mean difference over the seeds that both have, and in how many of them it has that sign; + or - "
        "where its interval over resampled sessions, the same for both, leaves 0 out and all seeds agree"
    ]
    cut = [f"{row.title} {row.rollout['cut']:,} of {row.rollout['sessions']:,}" for row in board.rows if row.rollout.get("cut")]
    lines += [f"simulated sessions cut off at the last turn: {'; '.join(cut)}"] if cut else []
    failed = [(row, seed, error) for row in board.rows if row.kind == "model" for seed, error in row.errors.items()]
    lines += [f"{row.title}, seed {seed} failed: {error.splitlines()[0]}" for row, seed, error in failed]
    return "\n".join(lines)
