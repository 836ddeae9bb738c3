"""The section of the report on online tuning: rewards with their intervals, losses and buffer over the rounds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.artifacts import HEALTH
from pipeline import charts
from pipeline.charts import Axis, Interval

_REWARDS = {"return": "Return of a session", "click_rate": "Click rate"}
_CURVES = {
    f"{HEALTH}policy_entropy": "Entropy of the policy, nats",
    f"{HEALTH}temperature": "Temperature: weight of the entropy",
    "entropy_shown": "Entropy of what was shown, nats",
    "drop_evidence": "Evidence for a drop",
    "buffer_return": "Buffer: mean return of its sessions",
    "buffer_length": "Buffer: mean events of its sessions",
    "buffer_offline_share": "Buffer: share of sessions from the logs",
}
_NOT_A_LOSS = {"round", "step", "cut_share", "buffer_sessions", *_REWARDS, *_CURVES}
_MAX_ROWS = 12


def figures_of(rounds: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, Any]], kept: int) -> list[tuple[str, charts.Svg]]:
    """Captions and charts.

    Args:
        rounds: A row for each round, under exploration.
        evaluations: A row for each evaluation without exploration; rewards as value, lower and upper bound.
        kept: Round of the weights that were kept.
    """
    figures = []
    for name, caption in _REWARDS.items():
        label = f"{caption.lower()}, 95 % interval"
        rows = [
            Interval("offline" if not row["round"] else f"round {row['round']}", value, low, high, row["round"] == kept)
            for row in _some(evaluations, kept)
            for value, low, high in [row[name]]
        ]
        figures.append((f"{caption} without exploration", charts.interval_plot(caption, rows, Axis(label))))
        for bound, words in (("", ""), ("_low", ", lower bound of its interval"), ("_high", ", upper bound of its interval")):
            figures.append((f"{caption} while exploring{words}", _curve(rounds, f"{name}{bound}", caption, "step", "items shown")))
    measured = {name for row in rounds for name in row}
    bounds = {f"{name}{bound}" for name in _REWARDS for bound in ("_low", "_high")}
    figures += [(caption, _curve(rounds, name, caption)) for name, caption in _CURVES.items() if name in measured]
    losses = [name for name in dict.fromkeys(name for row in rounds for name in row) if name not in _NOT_A_LOSS | bounds]
    figures += [(caption, _curve(rounds, name, caption)) for name in losses if (caption := _caption(name))]
    return [(caption, figure) for caption, figure in figures if figure]


def _some(rows: Sequence[Mapping[str, Any]], kept: int) -> Iterable[Mapping[str, Any]]:
    """The first, the last, the kept and some between: an interval plot has a row for each."""
    every = -(-len(rows) // _MAX_ROWS)
    return [row for place, row in enumerate(rows) if place % every == 0 or place == len(rows) - 1 or row["round"] == kept]


def _caption(name: str) -> str:
    return f"Health: {name.removeprefix(HEALTH)}" if name.startswith(HEALTH) else f"Loss: {name}"


def _curve(rows: Iterable[Mapping[str, float]], y: str, caption: str, x: str = "round", label: str = "round") -> charts.Svg:
    points = [(float(row[x]), float(row[y])) for row in rows if y in row]
    return charts.line_chart(caption, points, Axis(label, integer=True), Axis(y.removeprefix(HEALTH)))
