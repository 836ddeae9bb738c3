"""From runs to a leaderboard: averages over seeds, intervals over sessions, and comparisons in pairs."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.artifacts import write_json
from models.metrics.ranking import Estimate, SessionSums, average, bootstrap, difference, intervals
from pipeline.compare.config import Comparison, Model, as_text
from pipeline.compare.runs import RETURN, Run
from schemas.interaction import FEEDBACK_ROLES

BySeed = dict[int | None, SessionSums]
"""Sums of a row by seed; what has no seed has them under None."""

Kind = Literal["model", "head", "play", "baseline", "exact"]


@dataclass(frozen=True)
class Paired:
    """A row against the reference, in one metric.

    Attributes:
        value: Mean difference over the seeds that both have; positive where the row is greater.
        low: Lower bound of its 95 % interval over sessions.
        high: Upper bound.
        agree: In how many of these seeds the difference has the same sign.
        seeds: How many there are.
    """

    value: float
    low: float
    high: float
    agree: int
    seeds: int

    @property
    def verdict(self) -> str:
        """`higher` or `lower` where the interval leaves 0 out and all seeds agree, else `undecided`."""
        if self.agree < self.seeds:
            return "undecided"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "undecided"


@dataclass
class Row:
    """One line of the leaderboard.

    Attributes:
        name: What it is called: its label, and in brackets the head where it is not the one that recommends, or how it is played.
        kind: A model as it recommends, another head of a model, the model played in another way, a baseline, or an exact value of the
            simulated shop.
        label: As configured.
        backbone: Of a model.
        head: Of a model.
        seeds: What finished.
        planned: Seeds that were asked for.
        errors: Seed -> why it failed.
        metrics: Metric -> value, low, high; the bounds are the value where there is no interval.
        by_seed: Seed -> metric -> value.
        against: Name of the row it is compared with.
        paired: Metric -> comparison with that row.
        training: Over seeds, what the training took and how it ended: the median of `seconds`, means of all else.
        rollout: Of the simulated sessions of all seeds: `turns` on average, how many were `cut` off, `sessions`.
        target_return: What a policy conditioned on a return was asked for, on average over seeds.
        is_drawn: Its items were drawn with their probabilities.
        family: Of a model, what it and all that differ in the varied settings alone are called.
        settings: Varied key -> value, as configured.
        tuning: Of a model that went on online, one entry for each evaluation without exploration: `round`, items shown as `step`, `seeds`
            that have it, and `return` and `click_rate` as mean over seeds, least and greatest.
        promised: Of a model that learned from a user model, the mean return that this promises of it and of the logs.
    """

    name: str
    kind: Kind
    label: str
    backbone: str | None = None
    head: str | None = None
    seeds: list[int] = field(default_factory=list)
    planned: int = 0
    errors: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    by_seed: dict[int, dict[str, float]] = field(default_factory=dict)
    against: str | None = None
    paired: dict[str, Paired] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, float] = field(default_factory=dict)
    target_return: float | None = None
    is_drawn: bool = False
    family: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    tuning: list[dict[str, Any]] = field(default_factory=list)
    promised: tuple[float, float] | None = None

    def value(self, metric: str) -> float | None:
        """A metric, if the row has it."""
        return self.metrics[metric][0] if metric in self.metrics else None

    @property
    def title(self) -> str:
        """Name and backbone."""
        return f"{self.name}, {self.backbone}" if self.backbone else self.name


@dataclass(frozen=True)
class Leaderboard:
    """All rows, the best first.

    Attributes:
        name: The comparison.
        metric: What they are sorted by.
        reference: Label of the rows they are compared with.
        rows: Models and baselines, then exact values.
        counts: Events and sessions that were ranked.
        resamples: Of the bootstrap.
        finished: Trainings that came to an end, failed ones included.
        planned: Trainings in all.
    """

    name: str
    metric: str
    reference: str
    rows: list[Row]
    counts: dict[str, int]
    resamples: int
    finished: int
    planned: int

    @property
    def role_metrics(self) -> list[str]:
        """The sorting metric on the events of each role, as far as it was measured, purchases first."""
        base = self.metric.rpartition("/")[2]
        names = [f"{role}/{base}" for role in reversed(FEEDBACK_ROLES)]
        return [name for name in names if any(name in row.metrics for row in self.rows)]

    def is_reference(self, row: Row) -> bool:
        """True for the rows that the others are compared with."""
        return row.label == self.reference and row.kind in ("model", "baseline")

    @property
    def backbones(self) -> list[str]:
        """Backbones in the order of the rows."""
        return list(dict.fromkeys(row.backbone for row in self.rows if row.backbone))


def leaderboard(
    comparison: Comparison,
    runs: Mapping[tuple[int, int], Run],
    baselines: Mapping[str, Run],
    exact: Mapping[str, float],
    num_resamples: int,
    seed: int,
) -> Leaderboard:
    """Compares what has been measured so far.

    Args:
        comparison: What was asked for.
        runs: (place of the model, seed) -> run.
        baselines: Name -> run.
        exact: Name -> exact return of policies of the simulated shop.
        num_resamples: Of the bootstrap; every row is resampled with the same weights.
        seed: Of the bootstrap.
    """
    found: list[_Measured] = []
    for place, model in enumerate(comparison.models):
        measured = _rows_of_model(model, {s: runs[place, s] for s in model.seeds if (place, s) in runs})
        for one in measured:
            one.row.family, one.row.settings = model.family, dict(model.settings)
        found += measured
    for name, run in baselines.items():
        head = run.main_head
        row = Row(name, "baseline", name, metrics=_beyond_accuracy([run], head), rollout=_rollout([run], head))
        found.append(_Measured(row, {None: run.sums[head]}, {None: run.returns[head]} if head in run.returns else {}))
    _estimate([(one.row, one.sums) for one in found], comparison.reference, num_resamples, seed)
    _estimate([(one.row, one.returns) for one in found], comparison.reference, num_resamples, seed)
    rows = [one.row for one in found]
    rows.sort(key=lambda row: _place(row, comparison.config.metric))
    rows += [
        Row(name, "exact", name, metrics={RETURN: (value, value, value)})
        for name, value in sorted(exact.items(), key=lambda entry: -entry[1])
    ]
    some = [*baselines.values(), *(run for run in runs.values() if run.error is None)]
    return Leaderboard(
        name=comparison.config.name,
        metric=comparison.config.metric,
        reference=comparison.reference,
        rows=rows,
        counts=dict(some[0].facts["counts"]) if some else {},
        resamples=num_resamples,
        finished=len(runs),
        planned=comparison.num_runs,
    )


def _place(row: Row, metric: str) -> tuple[int, float]:
    """Where a row stands: by the metric, then other ways to play a model, which are not ranked, by their return, then failures."""
    for number, name in enumerate((metric, RETURN)):
        if (value := row.value(name)) is not None:
            return number, -value
    return 2, 0.0


@dataclass(frozen=True)
class _Measured:
    """A row with the sums it is made from: ranking metrics, and returns where they are known."""

    row: Row
    sums: BySeed
    returns: BySeed


def _rows_of_model(model: Model, runs: Mapping[int, Run]) -> list[_Measured]:
    """A row for each head, the one that recommends first, and for each play; one without numbers where no seed came to an end."""
    done = {seed: run for seed, run in runs.items() if run.error is None}
    errors = {seed: run.error for seed, run in runs.items() if run.error is not None}
    main = next((run.main_head for run in done.values()), None)
    if main is None:
        row = Row(model.label, "model", model.label, model.backbone, planned=len(model.seeds), errors=errors)
        return [_Measured(row, {}, {})]
    measured = []
    heads = {head: None for run in done.values() for head in run.sums}
    for head in sorted(heads, key=lambda head: head != main):
        row = Row(
            name=model.label if head == main else f"{model.label} [{head}]",
            kind="model" if head == main else "head",
            label=model.label,
            backbone=model.backbone,
            head=head,
            seeds=list(done),
            planned=len(model.seeds),
            errors=errors,
            metrics=_beyond_accuracy(list(done.values()), head),
            training=_training([run.facts["training"] for run in done.values()]),
            rollout=_rollout(list(done.values()), head),
            target_return=_target_return([run.facts["heads"][head] for run in done.values()]),
            tuning=_tuning([run.facts["tuning"] for run in done.values() if "tuning" in run.facts]) if head == main else [],
            promised=_promised([run.facts["promised"] for run in done.values() if "promised" in run.facts]) if head == main else None,
        )
        measured.append(_Measured(row, {seed: run.sums[head] for seed, run in done.items()}, _returns(done, head)))
    plays = {play: None for run in done.values() for play in run.facts.get("plays", ())}
    measured += [_Measured(_row_of_play(model, done, errors, play), {}, _returns(done, play)) for play in plays]
    return measured


def _row_of_play(model: Model, done: Mapping[int, Run], errors: dict[int, str], play: str) -> Row:
    found = {seed: run.facts["plays"][play] for seed, run in done.items() if play in run.facts.get("plays", ())}
    return Row(
        name=f"{model.label} [{play}]",
        kind="play",
        label=model.label,
        backbone=model.backbone,
        seeds=list(found),
        planned=len(model.seeds),
        errors=errors,
        rollout=_total([one["rollout"] for one in found.values()]),
        target_return=_target_return(list(found.values())),
        is_drawn=any(one["is_drawn"] for one in found.values()),
    )


def _promised(found: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    """Means over seeds."""
    return (statistics.fmean(one["policy"] for one in found), statistics.fmean(one["logs"] for one in found)) if found else None


def _returns(runs: Mapping[int, Run], name: str) -> BySeed:
    return {seed: run.returns[name] for seed, run in runs.items() if name in run.returns}


def _target_return(found: Sequence[Mapping[str, Any]]) -> float | None:
    targets = [one["target_return"] for one in found if "target_return" in one]
    return statistics.fmean(targets) if targets else None


def _estimate(rows: Sequence[tuple[Row, BySeed]], reference: str, num_resamples: int, seed: int) -> None:
    """Fills in metrics, their intervals and the comparisons; all rows are resampled together."""
    jobs: list[tuple[Row, SessionSums, list[dict[str, float]] | None]] = []
    for row, sums in rows:
        if not sums:
            continue
        for number, one in sums.items():
            if number is not None:
                row.by_seed.setdefault(number, {}).update(one.values())
        jobs.append((row, average(list(sums.values())), None))
        other = _reference(row, rows, reference)
        gaps = [difference(one, two) for one, two in _pairs(sums, other[1])] if other else []
        if other and gaps:
            row.against = other[0].title
            jobs.append((row, average(gaps), [gap.values() for gap in gaps]))
    if not jobs:
        return
    for (row, sums_of_row, by_seed), resampled in zip(jobs, bootstrap([job[1] for job in jobs], num_resamples, seed), strict=True):
        found = intervals(sums_of_row, resampled)
        if by_seed is None:
            row.metrics.update({name: (one.value, one.low, one.high) for name, one in found.items()})
        else:
            row.paired.update({name: _paired(one, [values[name] for values in by_seed]) for name, one in found.items()})


def _paired(found: Estimate, by_seed: Sequence[float]) -> Paired:
    agree = sum(_sign(value) == _sign(found.value) for value in by_seed)
    return Paired(found.value, found.low, found.high, agree, len(by_seed))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _reference(row: Row, rows: Sequence[tuple[Row, BySeed]], label: str) -> tuple[Row, BySeed] | None:
    """The row to compare with: on the same backbone if it is there, else the first; None for that row itself, or if it failed."""
    known = [(other, sums) for other, sums in rows if other.label == label and other.kind not in ("head", "play")]
    chosen = next((entry for entry in known if entry[0].backbone == row.backbone), known[0] if known else None)
    return None if chosen is None or chosen[0] is row or not chosen[1] else chosen


def _pairs(one: BySeed, other: BySeed) -> list[tuple[SessionSums, SessionSums]]:
    """Sums of two rows by the seeds that both have; what has no seed goes with every seed of the other."""
    if None in one:
        return [(one[None], sums) for sums in other.values()]
    if None in other:
        return [(sums, other[None]) for sums in one.values()]
    return [(one[seed], other[seed]) for seed in one if seed in other]


def _beyond_accuracy(runs: Sequence[Run], head: str) -> dict[str, tuple[float, float, float]]:
    """How recommendations spread over the catalogue: one number for the whole split, without an interval over sessions."""
    found = [run.facts["heads"][head]["beyond_accuracy"] for run in runs]
    means = {name: statistics.fmean(values[name] for values in found) for name in found[0]}
    return {name: (value, value, value) for name, value in means.items()}


def _training(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds; of the seconds the median, because the first seed compiles for all."""
    names = ("transitions_per_second", "parameters", "epochs", "best")
    health = {name for run in runs for name in run["health"]}
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        **{name: statistics.fmean(run[name] for run in runs) for name in names},
        "metric": runs[0]["metric"],
        "health": {name: statistics.fmean(run["health"][name] for run in runs if name in run["health"]) for name in sorted(health)},
    }


def _tuning(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations of all seeds side by side; a tuning that was stopped early has fewer."""
    by_round: dict[int, list[Mapping[str, Any]]] = {}
    for run in runs:
        for row in run["evaluations"]:
            by_round.setdefault(row["round"], []).append(row)
    return [
        {
            "round": number,
            "step": statistics.fmean(row["step"] for row in rows),
            "seeds": len(rows),
            **{name: _mean_and_range([row[name][0] for row in rows]) for name in ("return", "click_rate")},
        }
        for number, rows in sorted(by_round.items())
    ]


def _mean_and_range(values: Sequence[float]) -> list[float]:
    return [statistics.fmean(values), min(values), max(values)]


def _rollout(runs: Sequence[Run], head: str) -> dict[str, float]:
    return _total([run.facts["heads"][head]["rollout"] for run in runs if "rollout" in run.facts["heads"][head]])


def _total(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not found:
        return {}
    return {
        "turns": statistics.fmean(one["turns"] for one in found),
        "cut": sum(one["cut"] for one in found),
        "sessions": sum(one["sessions"] for one in found),
    }


# === As files ===


def write_leaderboard(board: Leaderboard, folder: Path) -> None:
    """Writes `leaderboard.json` and `leaderboard.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "leaderboard.json", as_json(board))
    metrics = list(dict.fromkeys(name for row in board.rows for name in row.metrics))
    first = [name for name in (board.metric, *board.role_metrics, RETURN) if name in metrics]
    metrics = [*first, *(name for name in metrics if name not in first)]
    compared = [name for name in metrics if any(name in row.paired for row in board.rows)]
    training = ["seconds", "transitions_per_second", "parameters", "epochs", "best"]
    asked = ["target_return", "is_drawn"]
    header = ["model", "kind", "label", "backbone", "head", "seeds", "failed"]
    header += [f"{name}{end}" for name in metrics for end in ("", " low", " high")]
    header += ["against"]
    header += [f"difference {name}{end}" for name in compared for end in ("", " low", " high", " seeds agreeing", " seeds")]
    settings = list(dict.fromkeys(key for row in board.rows for key in row.settings))
    header += training + asked + [f"setting {key}" for key in settings]
    temporary = folder / ".leaderboard.csv"
    with temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in board.rows:
            cells: list[Any] = [row.title, row.kind, row.label, row.backbone, row.head, len(row.seeds), len(row.errors)]
            cells += [number for name in metrics for number in row.metrics.get(name, (None, None, None))]
            cells.append(row.against)
            for name in compared:
                pair = row.paired.get(name)
                cells += [pair.value, pair.low, pair.high, pair.agree, pair.seeds] if pair else [None] * 5
            cells += [*(row.training.get(name) for name in training), row.target_return, int(row.is_drawn)]
            writer.writerow([*cells, *(as_text(row.settings[key]) if key in row.settings else None for key in settings)])
    temporary.replace(folder / "leaderboard.csv")


def as_json(board: Leaderboard) -> dict[str, Any]:
    """The leaderboard as JSON values."""
    found = asdict(board)
    for row, plain in zip(board.rows, found["rows"], strict=True):
        plain["title"] = row.title
        for name, pair in row.paired.items():
            plain["paired"][name]["verdict"] = pair.verdict
    return found
