"""Off-policy estimates over any amount of data: a Beam combiner around `models.ope.statistics.Panel`."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np

from components.base import Context
from components.beam_runner import beam_pipeline
from models.ope.base import Estimator
from models.ope.log import SessionLog
from models.ope.resampling import Resampling
from models.ope.statistics import Panel

_ROUNDS_OF_A_PART = 200_000
_COLUMNS = ("session", "offsets", "reward", "target", "behaviour", "predicted", "expected")


class CombinePanels(beam.CombineFn):
    """Adds logs of whole sessions, in any order and on any number of machines, to the sums of one machine.

    Args:
        estimators: Whose sums.
        resampling: Resamples; None for none.
    """

    def __init__(self, estimators: Sequence[Estimator], resampling: Resampling | None):
        self._estimators = tuple(estimators)
        self._resampling = resampling

    def create_accumulator(self) -> Panel:
        return Panel(self._estimators, self._resampling)

    def add_input(self, accumulator: Panel, element: SessionLog) -> Panel:
        return accumulator.add(element)

    def merge_accumulators(self, accumulators: Iterable[Panel]) -> Panel:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: Panel) -> Panel:
        return accumulator


class ReadLog(beam.DoFn):
    """Reads (policy, file of a part of its log) as (policy, log)."""

    def process(self, element: tuple[str, str]) -> Iterator[tuple[str, SessionLog]]:
        policy, path = element
        yield policy, read_log(Path(path))


def write_log(log: SessionLog, path: Path) -> None:
    """Writes a log as plain arrays."""
    columns = {name: getattr(log, name) for name in _COLUMNS}
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})


def read_log(path: Path) -> SessionLog:
    """Reads what `write_log` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return SessionLog(**{name: stored[name] for name in stored.files})


PanelJob = tuple[SessionLog, Sequence[Estimator]]
"""A log and the estimators whose sums over it are wanted."""


def estimate_panels(
    jobs: Mapping[str, PanelJob], resampling: Resampling | None, context: Context, rounds_of_a_part: int = _ROUNDS_OF_A_PART
) -> dict[str, Panel]:
    """Panels of several logs, equal to the last bit to `Panel.add` on one machine.

    Args:
        jobs: By any name; logs whose values are to be compared in pairs are of the same sessions.
        resampling: Resamples; None for none.
        context: How Beam runs; parts lie in its scratch folder.
        rounds_of_a_part: About how many rounds a worker takes at a time.
    """
    folder = context.scratch / "ope"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, (_, estimators) in jobs.items():
        groups.setdefault(tuple(estimator.key for estimator in estimators), []).append(name)
    places = {name: place for place, name in enumerate(jobs)}
    with beam_pipeline(context) as pipeline:
        for number, names in enumerate(groups.values()):
            parts = [(name, path) for name in names for path in _write_parts(jobs[name][0], folder, places[name], rounds_of_a_part)]
            _ = (
                pipeline
                | f"CreateParts{number}" >> beam.Create(parts)
                | f"SpreadParts{number}" >> beam.Reshuffle()
                | f"ReadLog{number}" >> beam.ParDo(ReadLog())
                | f"CombinePanels{number}" >> beam.CombinePerKey(CombinePanels(jobs[names[0]][1], resampling))
                | f"ToDict{number}" >> beam.combiners.ToDict()
                | f"WritePanels{number}" >> beam.Map(_write, str(folder / f"panels-{number}.pickle"))
            )
    found: dict[str, Panel] = {}
    for number in range(len(groups)):
        found |= pickle.loads((folder / f"panels-{number}.pickle").read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _write_parts(log: SessionLog, folder: Path, place: int, rounds: int) -> list[str]:
    """Files of a log's parts, at least one."""
    paths = []
    for number, (begin, end) in enumerate(_cuts(log, rounds)):
        paths.append(str(folder / f"{place}-{number:05d}.npz"))
        write_log(log.select(begin, end), Path(paths[-1]))
    return paths


def _cuts(log: SessionLog, rounds: int) -> Iterator[tuple[int, int]]:
    """Stretches of sessions with about so many rounds."""
    begin = 0
    if not log.num_sessions:
        yield 0, 0
    while begin < log.num_sessions:
        end = max(begin + 1, int(np.searchsorted(log.offsets, log.offsets[begin] + rounds, side="right")) - 1)
        yield begin, end
        begin = end


def _write(panels: dict[str, Panel], path: str) -> None:
    Path(path).write_bytes(pickle.dumps(panels))
