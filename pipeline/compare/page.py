"""`leaderboard.html`: a comparison as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline import charts
from pipeline.charts import Axis, Interval, Svg
from pipeline.compare.config import Comparison, as_text
from pipeline.compare.results import Leaderboard, Paired, Row
from pipeline.compare.runs import RETURN
from pipeline.compare.table import COVERAGE, REWARD_METRIC
from pipeline.pages import environment, write_text
from schemas.config import digest

TEMPLATE = "compare.html.j2"
_WIDTH = 620.0
"""Of a plot, in units of its view box: names of rows are long."""

Figure = tuple[str, Svg]


def write_page(board: Leaderboard, comparison: Comparison, path: Path) -> None:
    """Writes the page of a comparison, finished or not."""
    macros = environment().get_template(TEMPLATE).module
    found = _sections(board, comparison)
    sections = {name: getattr(macros, name)(section) for name, section in found.items() if section is not None}
    write_text(path, macros.page(board, _tiles(board), sections))  # type: ignore[attr-defined]


def _sections(board: Leaderboard, comparison: Comparison) -> dict[str, dict[str, Any] | None]:
    """What the template prints, by the names of its macros; None for what there is nothing to say about."""
    trained = [row for row in board.rows if row.kind == "model" and row.training]
    returns = [row for row in board.rows if RETURN in row.metrics]
    return {
        "leaderboard": {"board": board, "columns": [name for name in _columns(board) if any(name in row.metrics for row in board.rows)]},
        "metric": {"board": board, "figures": [_metric_figure(board, name) for name in (board.metric, *board.role_metrics, REWARD_METRIC)]},
        "against": _against(board),
        "returns": None if not returns else _returns(board, comparison, returns),
        "sweep": _sweep(board),
        "tuning": _tuning(board),
        "training": None if not trained else _training(trained),
        "seeds": None if not trained else _seeds(board),
        "failures": {"rows": [row for row in board.rows if row.kind == "model" and row.errors]}
        if any(r.errors for r in board.rows)
        else None,
        "configuration": _configuration(comparison),
    }


def _columns(board: Leaderboard) -> list[str]:
    return list(dict.fromkeys([board.metric, *board.role_metrics, REWARD_METRIC, COVERAGE, "popularity_share@10", RETURN]))


def _title(row: Row, board: Leaderboard) -> str:
    """Name of a row in a plot; the backbone stands there only where there are several."""
    return row.title if len(board.backbones) > 1 else row.name


def _tiles(board: Leaderboard) -> list[tuple[str, str, str]]:
    """Figures that are looked at first."""
    tiles = []
    for name in (board.metric, RETURN):
        rows = [row for row in board.rows if name in row.metrics and row.kind in ("model", "head", "play")]
        if rows:
            best = max(rows, key=lambda row: row.metrics[name][0])
            value, low, high = best.metrics[name]
            tiles.append(
                (f"best {name}", f"{value:.4f}", f"{_title(best, board)}; {low:.4f} to {high:.4f}{_beside(best.paired.get(name), board)}")
            )
    tiles.append(("trainings", f"{board.finished:,}", f"of {board.planned:,} are done"))
    if board.counts:
        tiles.append(("ranked", f"{board.counts['events']:,}", f"events of {board.counts['sessions']:,} sessions"))
    return tiles


def _beside(pair: Paired | None, board: Leaderboard) -> str:
    return f"; {pair.value:+.4f} against {board.reference}, {pair.agree} of {pair.seeds} seeds agree" if pair else ""


def _metric_figure(board: Leaderboard, name: str) -> Figure:
    rows = [Interval(_title(row, board), *row.metrics[name], board.is_reference(row)) for row in board.rows if name in row.metrics]
    events = name.rpartition("/")[0] or "all"
    return f"{name}, {events} events", charts.interval_plot(name, rows, Axis(f"{name}, 95 % interval over sessions"), width=_WIDTH)


def _difference_figure(board: Leaderboard, name: str, rows: Sequence[Row]) -> Figure:
    shown = [(row, row.paired[name]) for row in rows if name in row.paired]
    intervals = [
        Interval(f"{_title(row, board)}  {pair.agree}/{pair.seeds}", pair.value, pair.low, pair.high, tone=pair.verdict)
        for row, pair in shown
    ]
    axis = Axis(f"{name}, difference to {board.reference}")
    return f"{name} against {board.reference}", charts.interval_plot(f"{name} against {board.reference}", intervals, axis, 0.0, _WIDTH)


def _against(board: Leaderboard) -> dict[str, Any] | None:
    rows = [row for row in board.rows if row.paired]
    names = [name for name in (board.metric, *board.role_metrics, REWARD_METRIC, RETURN) if any(name in row.paired for row in rows)]
    if not rows:
        return None
    compared = sum(1 for row in rows for name in names if name in row.paired)
    figures = [_difference_figure(board, name, rows) for name in dict.fromkeys(names)]
    return {"board": board, "rows": rows, "names": list(dict.fromkeys(names)), "figures": figures, "compared": compared}


def _returns(board: Leaderboard, comparison: Comparison, rows: Sequence[Row]) -> dict[str, Any]:
    ordered = sorted(rows, key=lambda row: -row.metrics[RETURN][0])
    intervals = [
        Interval(f"{row.name} (exact)" if row.kind == "exact" else _title(row, board), *row.metrics[RETURN], board.is_reference(row))
        for row in ordered
    ]
    plot = charts.interval_plot("True return of a session", intervals, Axis("return of a session, 95 % interval"), width=_WIDTH)
    return {
        "board": board,
        "rows": ordered,
        "simulate": comparison.config.simulate,
        "figures": [("True return of a session", plot)],
        "asked": _asked_figures(board),
        "promised": [row for row in ordered if row.promised is not None],
    }


def _asked_figures(board: Leaderboard) -> list[Figure]:
    """For each model that was asked for several returns: what it was asked for against what came."""
    rows: dict[str, list[Row]] = {}
    for row in board.rows:
        if row.kind in ("model", "play") and row.target_return is not None and RETURN in row.metrics:
            name = f"{row.label}, {row.backbone}" if len(board.backbones) > 1 else row.label
            rows.setdefault(f"{name}, drawn" if row.is_drawn else name, []).append(row)
    # From zero, or a small difference would look like an answer to what was asked.
    x, y = Axis("return asked for", from_zero=True), Axis("return that came", from_zero=True)
    figures = []
    for name, found in rows.items():
        points = [(row.target_return, *row.metrics[RETURN]) for row in found if row.target_return is not None]
        if len(points) > 1:
            figures.append((name, charts.identity_chart(f"Returns of {name}", points, x, y)))
    return figures


def _tuning(board: Leaderboard) -> dict[str, Any] | None:
    """Rewards over what was shown online, all models in one drawing."""
    rows = [row for row in board.rows if row.tuning]
    if not rows:
        return None
    figures = []
    for name, y in (("click_rate", Axis("click rate", percent=True)), ("return", Axis("return of a session"))):
        lines = {_title(row, board): [(entry["step"], *entry[name]) for entry in row.tuning] for row in rows}
        figures.append((y.label.capitalize(), charts.curves(y.label, lines, Axis("items shown", integer=True), y, _WIDTH)))
    return {"rows": rows, "board": board, "figures": figures}


@dataclass(frozen=True)
class Sweep:
    """One metric of the models that differ in varied settings alone: the last setting across, all others down.

    Attributes:
        title: What they are called, and the metric.
        down: Keys of the settings down.
        across: Key of the setting across.
        columns: Its values.
        lines: Values of the settings down, and the metric of each column; None where it is not there.
        best: Greatest value of the metric.
    """

    title: str
    down: tuple[str, ...]
    across: str
    columns: tuple[str, ...]
    lines: list[tuple[tuple[str, ...], list[tuple[float, float, float] | None]]]
    best: float


def _sweep(board: Leaderboard) -> dict[str, Any] | None:
    families: dict[tuple[str, str | None, tuple[str, ...]], list[Row]] = {}
    for row in board.rows:
        if row.kind == "model" and row.settings:
            families.setdefault((row.family, row.backbone, tuple(row.settings)), []).append(row)
    sweeps = [
        _pivot(f"{family}, {backbone}" if len(board.backbones) > 1 else family, keys, rows, name)
        for (family, backbone, keys), rows in families.items()
        for name in (board.metric, RETURN)
        if any(name in row.metrics for row in rows)
    ]
    return {"sweeps": sweeps} if sweeps else None


def _pivot(title: str, keys: tuple[str, ...], rows: Sequence[Row], metric: str) -> Sweep:
    cells = {tuple(as_text(value) for value in row.settings.values()): row.metrics.get(metric) for row in rows}
    # Rows come by their metric; a table has them as they were asked for, of which numbers tell the order.
    down, columns = (sorted({cell[part] for cell in cells}, key=_by_number) for part in (slice(0, -1), slice(-1, None)))
    lines = [(line, [cells.get(line + column) for column in columns]) for line in down]
    best = max(value[0] for value in cells.values() if value is not None)
    return Sweep(f"{title}: {metric}", keys[:-1], keys[-1], tuple(column[0] for column in columns), lines, best)


def _by_number(values: tuple[str, ...]) -> list[tuple[int, float, str]]:
    """Numbers by size, after all else."""
    order: list[tuple[int, float, str]] = []
    for value in values:
        try:
            order.append((1, float(value), value))
        except ValueError:
            order.append((0, 0.0, value))
    return order


def _training(rows: Sequence[Row]) -> dict[str, Any]:
    return {"rows": rows, "health": sorted({name for row in rows for name in row.training["health"]}), "metric": rows[0].training["metric"]}


def _seeds(board: Leaderboard) -> dict[str, Any]:
    rows = [row for row in board.rows if row.by_seed]
    names = [name for name in (board.metric, RETURN) if any(name in row.metrics for row in rows)]
    return {"rows": rows, "seeds": sorted({seed for row in rows for seed in row.by_seed}), "names": names}


def _configuration(comparison: Comparison) -> dict[str, Any]:
    written = comparison.config.model_dump(mode="json", exclude_unset=True)
    return {
        "written": yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100),
        "digest": digest(comparison.config),
        "pipeline": yaml.safe_dump(comparison.pipeline.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True),
        "models": comparison.models,
    }
