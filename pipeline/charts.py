"""Charts as inline SVG: pure functions from numbers to markup.

Colours, fonts and stroke widths are classes that the page's style sheet defines, so one drawing serves the light theme, the
dark one and paper. A drawing is as wide as its place; all lengths here are units of the view box.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 400.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 20.0, 28.0, 38.0
"""Margins around the plot area of charts with two axes."""

GUTTER, VALUES, ROW, ROWS_TOP = 116.0, 60.0, 24.0, 6.0
"""Interval plots: least room for names on the left, room for values on the right, height of a row, space above the first."""
_LETTER = 6.6
"""Width of a letter of a name, about."""
_LEAST_PLOT = 200.0
"""Least room between names and values."""

_NAME = 15.0
"""Height of a name at the end of a curve."""
TONES = 6
"""Colours of curves; further ones begin anew, and names tell them apart."""

MAX_POINTS = 240
"""More points than this are averaged in groups: a screen cannot show them, and a page should stay small."""
_MAX_DOTS = 40

Point = tuple[float, float]

# Greatest value from which numbers are written in the unit, the unit, its letter.
_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))


class Svg(str):
    """Finished markup: what came from outside is escaped in it already, so templates print it as it stands."""

    def __html__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: Quantity and unit.
        log: Logarithmic; values that are not positive are left out.
        from_zero: The axis begins at zero.
        integer: Only whole numbers are marked.
        percent: Values are shares, written in percent.
    """

    label: str
    log: bool = False
    from_zero: bool = False
    integer: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps values to places.

    Attributes:
        domain: Values at the two ends.
        places: Places of the two ends.
        ticks: Values that are marked.
        labels: Their texts.
        log: True for equal steps of the logarithm.
    """

    domain: Point
    places: Point
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.domain
        share = math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)
        return self.places[0] + share * (self.places[1] - self.places[0])


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot: a value between its bounds.

    Attributes:
        name: Of the row.
        value: What was measured.
        low: Lower bound.
        high: Upper bound.
        is_main: True for the row to look at.
        tone: A word for the style sheet to colour others by, such as `higher`.
    """

    name: str
    value: float
    low: float
    high: float
    is_main: bool = False
    tone: str = ""


def nice_ticks(low: float, high: float, count: int = 5, integer: bool = False) -> tuple[float, ...]:
    """Round numbers at equal distances that enclose an interval.

    Args:
        low: Least value to enclose.
        high: Greatest value to enclose.
        count: About how many are wanted.
        integer: Whole numbers only.

    Returns:
        Ascending multiples of 1, 2 or 5 times a power of ten; the first is at most `low`, the last at least `high`.
    """
    if high <= low:
        pad = 1.0 if integer or low == 0.0 else abs(low) * 0.1
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((multiple * power for multiple in (1.0, 2.0, 5.0, 10.0)), key=lambda step: abs(math.log(step / rough)))
    step = max(1.0, step) if integer else step
    # Rounding takes off what binary fractions leave behind, as in 0.30000000000000004.
    digits = max(0, 1 - math.floor(math.log10(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(number * step, digits) for number in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten that enclose an interval of positive numbers."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    marks = [multiple * 10.0**exponent for exponent in exponents for multiple in (1, 2, 5)]
    first = max(mark for mark in marks if mark <= low * (1 + 1e-9))
    last = next(mark for mark in marks if mark >= high * (1 - 1e-9) and mark > first)
    return tuple(mark for mark in marks if first <= mark <= last)


def tick_labels(ticks: Sequence[float], percent: bool = False) -> tuple[str, ...]:
    """Texts of ticks at equal distances: one unit for all, and as many decimals as the distance needs."""
    greatest = max(abs(tick) for tick in ticks)
    size, letter = (0.01, " %") if percent else next(((size, letter) for least, size, letter in _UNITS if greatest >= least), (1.0, ""))
    step = (ticks[1] - ticks[0]) / size if len(ticks) > 1 else 1.0
    decimals = next((d for d in range(9) if math.isclose(step * 10**d, round(step * 10**d), rel_tol=1e-6)), 9)
    return tuple(f"{tick / size:,.{decimals}f}{letter}" if tick or percent else "0" for tick in ticks)


def number_text(value: float, percent: bool = False) -> str:
    """A number as a person reads it: shares in percent, thousands apart, four digits of a fraction."""
    if percent:
        return f"{value:.2%}".replace("%", " %")
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def make_scale(values: Iterable[float], axis: Axis, places: Point, is_tight: bool = False) -> Scale:
    """A scale that holds all values.

    Args:
        values: At least one; positive for a logarithmic axis.
        axis: What is shown.
        places: Places of the two ends.
        is_tight: The ends are the least and the greatest value and ticks lie between them; else the ends are ticks.
    """
    found = list(values)
    low, high = min(found), max(found)
    low = min(low, 0.0) if axis.from_zero else low
    if axis.log:
        marks = log_ticks(low, high)
        decades = tuple(mark for mark in marks if math.isclose(math.log10(mark), round(math.log10(mark)), abs_tol=1e-9))
        shown = decades if len(decades) > 2 else marks
        return Scale(
            (marks[0], marks[-1]), places, shown, tuple(tick_labels([mark])[0] if mark >= 1 else f"{mark:g}" for mark in shown), True
        )
    ticks = nice_ticks(low, high, integer=axis.integer)
    labels = tick_labels(ticks, axis.percent)
    if not is_tight or high <= low:
        return Scale((ticks[0], ticks[-1]), places, ticks, labels)
    inside = [(tick, label) for tick, label in zip(ticks, labels, strict=True) if low <= tick <= high]
    return Scale((low, high), places, tuple(tick for tick, _ in inside), tuple(label for _, label in inside))


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points, each the mean of as many neighbours."""
    size = max(1, math.ceil(len(points) / limit))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def line_chart(title: str, points: Sequence[Point], x: Axis, y: Axis, best: tuple[float, float, str] | None = None) -> Svg:
    """A curve through points in ascending order of x; every point tells its numbers.

    Args:
        title: What is shown, for those who hear it.
        points: (x, y); what is not finite, or not positive on a logarithmic axis, is left out.
        x: Horizontal axis.
        y: Vertical axis.
        best: A point to mark, and its text.
    """
    shown = thin([point for point in points if _can_be_shown(point[0], x) and _can_be_shown(point[1], y)])
    if not shown:
        return Svg("")
    across = make_scale((px for px, _ in shown), x, (LEFT, WIDTH - RIGHT), is_tight=not x.log)
    up = make_scale([*(py for _, py in shown), *([best[1]] if best else [])], y, (HEIGHT - BOTTOM, TOP))
    places = [(across(px), up(py)) for px, py in shown]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    tips = [f"{x.label} {number_text(px, x.percent)}: {number_text(py, y.percent)}" for px, py in shown]
    parts = [_frame(across, up, x, y), f'<path class="line" d="{path}"/>']
    parts += _dots(places, tips) if len(places) <= _MAX_DOTS else _columns(places, tips)
    if best:
        parts.append(_best(across(best[0]), up(best[1]), best[2]))
    ends = f"from {number_text(shown[0][1], y.percent)} to {number_text(shown[-1][1], y.percent)}"
    summary = f"{title}: {ends}, along {x.label} {number_text(shown[0][0])} to {number_text(shown[-1][0])}"
    return _svg(HEIGHT, summary, parts)


def reliability_chart(title: str, bins: Sequence[tuple[float, float, int]], x: Axis, y: Axis) -> Svg:
    """What was observed against what was predicted, and the line on which the two are equal.

    Args:
        title: What is shown, for those who hear it.
        bins: (mean predicted, mean observed, events) in ascending order; what is not finite is left out.
        x: Horizontal axis: predicted.
        y: Vertical axis: observed.
    """
    shown = [row for row in bins if math.isfinite(row[0]) and math.isfinite(row[1])]
    if not shown:
        return Svg("")
    # One interval of values for both, so that the line of equals is the diagonal.
    ends = [value for row in shown for value in row[:2]]
    across, up = make_scale(ends, x, (LEFT, WIDTH - RIGHT)), make_scale(ends, y, (HEIGHT - BOTTOM, TOP))
    (x1, y1), (x2, y2) = ((across(end), up(end)) for end in across.domain)
    places = [(across(predicted), up(observed)) for predicted, observed, _ in shown]
    tips = [
        f"predicted {number_text(predicted)}, observed {number_text(observed)}, {count:,} events" for predicted, observed, count in shown
    ]
    parts = [
        _frame(across, up, x, y),
        f'<line class="mark" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>',
        f'<path class="line" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in places)}"/>',
        *_dots(places, tips),
    ]
    return _svg(HEIGHT, f"{title}: {'; '.join(tips)}", parts)


def histogram(title: str, counts: Sequence[int], x: Axis, y: Axis, marks: Sequence[tuple[int, str]] = (), is_open: bool = False) -> Svg:
    """Bars of counts, from the first that is not zero to the last.

    Args:
        title: What is shown, for those who hear it.
        counts: How often each number 0, 1, 2 … occurred.
        x: Horizontal axis: the numbers.
        y: Vertical axis: how often.
        marks: Numbers to mark, such as the median, and their texts.
        is_open: The last count is of that number and all greater ones.
    """
    present = [number for number, count in enumerate(counts) if count > 0]
    if not present:
        return Svg("")
    first, last, total = present[0], present[-1], sum(counts)
    labels = {len(counts) - 1: f"{len(counts) - 1} or more"} if is_open else {}
    across = make_scale((first - 0.5, last + 0.5), x, (LEFT, WIDTH - RIGHT), is_tight=True)
    up = make_scale(counts, Axis(y.label, from_zero=True, integer=True), (HEIGHT - BOTTOM, TOP))
    width = across(1.0) - across(0.0)
    parts = [_frame(across, up, x, y)]
    for number in present:
        # Rare lengths stay visible: no bar is thinner or lower than a line.
        height = max(1.0, up(0.0) - up(counts[number]))
        share = counts[number] / total
        tip = f"{labels.get(number, number)} {x.label}: {counts[number]:,} {y.label} ({share:.1%})".replace("%", " %")
        parts.append(
            f'<rect class="bar" x="{across(number - 0.5) + width * 0.06:.1f}" y="{up(0.0) - height:.1f}" '
            f'width="{max(1.0, width * 0.88):.1f}" height="{height:.1f}">{_tip(tip)}</rect>'
        )
    for row, (number, text) in enumerate(marks):
        place = across(number)
        parts.append(f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP:.1f}" y2="{HEIGHT - BOTTOM:.1f}"/>')
        end = place < WIDTH * 0.7
        parts.append(_text(place + (4 if end else -4), TOP + 10 + 14 * row, text, "note", "start" if end else "end"))
    return _svg(HEIGHT, f"{title}: {', '.join(text for _, text in marks)}", parts)


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float, float, float]]], x: Axis, y: Axis, width: float = WIDTH) -> Svg:
    """Several curves in one frame, each with its band and its name at its end.

    Args:
        title: What is shown, for those who hear it.
        lines: Name -> (x, value, lower bound, upper bound) in ascending order of x; what is not finite is left out.
        x: Horizontal axis.
        y: Vertical axis.
        width: Of the drawing; names take as much of it as the longest needs.
    """
    shown = {name: [point for point in points if all(math.isfinite(number) for number in point)] for name, points in lines.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return Svg("")
    gutter = _LETTER * max(map(len, shown)) + 14
    right = max(width, LEFT + _LEAST_PLOT + gutter) - gutter
    across = make_scale((point[0] for points in shown.values() for point in points), x, (LEFT, right), is_tight=True)
    bounds = [number for points in shown.values() for point in points for number in point[1:]]
    # Names need a row each.
    height = max(HEIGHT, TOP + BOTTOM + _NAME * len(shown))
    up = make_scale(bounds, y, (height - BOTTOM, TOP))
    parts = [_frame(across, up, x, y, right, height)]
    ends = _apart({name: up(points[-1][1]) for name, points in shown.items()}, TOP, height - BOTTOM)
    for number, (name, points) in enumerate(shown.items()):
        path = "M" + "L".join(f"{across(px):.1f} {up(value):.1f}" for px, value, _, _ in points)
        band = [*((px, high) for px, _, _, high in points), *((px, low) for px, _, low, _ in reversed(points))]
        edge = "M" + "L".join(f"{across(px):.1f} {up(py):.1f}" for px, py in band) + "Z"
        places = [(across(px), up(value)) for px, value, _, _ in points]
        tips = [f"{name}, {x.label} {number_text(px)}: {number_text(v, y.percent)}, {low:.4g} to {high:.4g}" for px, v, low, high in points]
        parts.append(f'<g class="tone{number % TONES}"><path class="band" d="{edge}"/><path class="line" d="{path}"/>')
        parts += _dots(places, tips)
        parts.append(_text(right + 8, ends[name] + 4, name, "name", "start") + "</g>")
    summary = "; ".join(f"{name} from {number_text(p[0][1], y.percent)} to {number_text(p[-1][1], y.percent)}" for name, p in shown.items())
    return _svg(height, f"{title}: {summary}", parts, right + gutter)


def _apart(places: Mapping[str, float], top: float, bottom: float) -> dict[str, float]:
    """Places of names, as near to where they belong as a row each allows."""
    found: dict[str, float] = {}
    last = top - _NAME
    for name, place in sorted(places.items(), key=lambda entry: entry[1]):
        last = found[name] = max(place, last + _NAME)
    # Whoever was pushed out below goes up again, and takes those above along.
    least = bottom
    for name in reversed(found):
        least = found[name] = min(found[name], least)
        least -= _NAME
    return found


def interval_plot(title: str, rows: Sequence[Interval], x: Axis, at: float | None = None, width: float = WIDTH) -> Svg:
    """Values with their intervals, one row each, in the order given; a line leads down from the main one.

    Args:
        title: What is shown, for those who hear it.
        rows: The rows; what is not finite is left out.
        x: Horizontal axis.
        at: A value to compare with, such as 0 for differences: it is marked, and values have a sign.
        width: Of the drawing; names take as much of it as the longest needs, and make it wider where too little would be left.
    """
    rows = [row for row in rows if all(math.isfinite(number) for number in (row.value, row.low, row.high))]
    if not rows:
        return Svg("")
    form = ".4f" if at is None else "+.4f"
    bottom = ROWS_TOP + ROW * len(rows)
    bounds = [bound for row in rows for bound in (row.low, row.high)]
    gutter = max(GUTTER, _LETTER * max(len(row.name) for row in rows) + 16)
    width = max(width, gutter + _LEAST_PLOT + VALUES)
    across = make_scale([*bounds, *([] if at is None else [at])], x, (gutter, width - VALUES))
    parts = [f'<line class="grid" x1="{across(t):.1f}" x2="{across(t):.1f}" y1="{ROWS_TOP:.1f}" y2="{bottom:.1f}"/>' for t in across.ticks]
    parts += [_text(across(tick), bottom + 15, label, "tick") for tick, label in zip(across.ticks, across.labels, strict=True)]
    parts.append(_text((gutter + width - VALUES) / 2, bottom + 32, x.label, "axis"))
    parts += [
        f'<line class="mark" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="{ROWS_TOP:.1f}" y2="{bottom:.1f}"/>'
        for value in [*(row.value for row in rows if row.is_main), *([] if at is None else [at])]
    ]
    for number, row in enumerate(rows):
        y, kind = ROWS_TOP + ROW * (number + 0.5), "main" if row.is_main else f"other {row.tone}".strip()
        # A value without an interval is exact, or has none that resampling sessions could give.
        interval = f", 95 % interval {row.low:{form}} to {row.high:{form}}" if row.low != row.high or at is not None else ""
        parts.append(
            f'<g class="{kind}">{_tip(f"{row.name}: {row.value:{form}}{interval}")}'
            f'<line class="whisker" x1="{across(row.low):.1f}" x2="{across(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f"{_marker(across(row.value), y, row.is_main)}{_text(gutter - 10, y + 4, row.name, 'name', 'end')}"
            f"{_text(width - VALUES + 8, y + 4, f'{row.value:{form}}', 'value', 'start')}</g>"
        )
    summary = "; ".join(f"{row.name} {row.value:{form}}, {row.low:{form}} to {row.high:{form}}" for row in rows)
    return _svg(bottom + 38, f"{title}: {summary}", parts, width)


def identity_chart(title: str, points: Sequence[tuple[float, float, float, float]], x: Axis, y: Axis) -> Svg:
    """What came of what was asked for: values with their intervals, and the line on which both are the same.

    Args:
        title: What is shown, for those who hear it.
        points: (asked for, value, lower bound, upper bound); what is not finite is left out.
        x: Horizontal axis.
        y: Vertical axis; in the unit of the other.
    """
    shown = sorted(point for point in points if all(math.isfinite(number) for number in point))
    if not shown:
        return Svg("")
    asked = [point[0] for point in shown]
    across = make_scale(asked, x, (LEFT, WIDTH - RIGHT))
    up = make_scale([number for point in shown for number in point[1:]], y, (HEIGHT - BOTTOM, TOP))
    # As much of the line as lies within both axes.
    low, high = max(across.domain[0], up.domain[0]), min(across.domain[1], up.domain[1])
    same = f'<line class="mark" x1="{across(low):.1f}" y1="{up(low):.1f}" x2="{across(high):.1f}" y2="{up(high):.1f}"/>'
    places = [(across(point[0]), up(point[1])) for point in shown]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    parts = [_frame(across, up, x, y), same if low < high else "", f'<path class="line" d="{path}"/>']
    parts += [
        f'<line class="whisker" x1="{px:.1f}" x2="{px:.1f}" y1="{up(bottom):.1f}" y2="{up(top):.1f}"/>'
        for (px, _), (_, _, bottom, top) in zip(places, shown, strict=True)
    ]
    texts = [f"{number_text(wanted)} asked for, {number_text(value)} ({low:.4g} to {high:.4g})" for wanted, value, low, high in shown]
    return _svg(HEIGHT, f"{title}: {'; '.join(texts)}", [*parts, *_dots(places, texts)])


def _can_be_shown(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _svg(height: float, label: str, parts: Sequence[str], width: float = WIDTH) -> Svg:
    return Svg(f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _marker(x: float, y: float, is_main: bool) -> str:
    """A diamond for the main row and a circle for others, so that shape tells them apart as well as colour."""
    if is_main:
        return f'<path class="point" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
    return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _dots(places: Sequence[Point], tips: Sequence[str]) -> list[str]:
    return [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3">{_tip(tip)}</circle>' for (x, y), tip in zip(places, tips, strict=True)]


def _columns(places: Sequence[Point], tips: Sequence[str]) -> list[str]:
    """Invisible columns that tell the numbers of points too close together to be met one by one."""
    ends = [LEFT, *((a[0] + b[0]) / 2 for a, b in pairwise(places)), WIDTH - RIGHT]
    height = HEIGHT - BOTTOM - TOP
    return [
        f'<rect class="hit" x="{begin:.1f}" y="{TOP:g}" width="{end - begin:.1f}" height="{height:g}">{_tip(tip)}</rect>'
        for (begin, end), tip in zip(pairwise(ends), tips, strict=True)
    ]


def _best(x: float, y: float, text: str) -> str:
    """A ring and its text: above, where the curve of a greatest value is not, or beside it where the axis has its title."""
    ring = f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
    if x < WIDTH * 0.3 and y < TOP + 20:
        return ring + _text(x + 11, y + 4, text, "note", "start")
    side = "start" if x < WIDTH * 0.3 else "end" if x > WIDTH * 0.7 else "middle"
    return ring + _text(x, y - 12, text, "note", side)


def _frame(across: Scale, up: Scale, x: Axis, y: Axis, right: float = WIDTH - RIGHT, height: float = HEIGHT) -> str:
    """Grid, ticks and titles of both axes."""
    left, bottom = LEFT, height - BOTTOM
    parts = [_text(0, 12, y.label, "axis", "start"), _text((left + right) / 2, height - 6, x.label, "axis")]
    for tick, label in zip(up.ticks, up.labels, strict=True):
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(_text(left - 6, up(tick) + 4, label, "tick", "end"))
    for tick, label in zip(across.ticks, across.labels, strict=True):
        parts.append(f'<line class="stub" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>')
        parts.append(_text(across(tick), bottom + 16, label, "tick"))
    parts.append(f'<line class="base" x1="{left:.1f}" x2="{right:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>')
    return "".join(parts)
