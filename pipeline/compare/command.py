"""`longplay compare`: makes the data, trains what is not trained yet, and writes the leaderboard."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from components.artifacts import Artifact
from components.base import ComponentError, Progress, Task
from models.algorithms.registry import ALGORITHMS
from pipeline.cache import content_key
from pipeline.compare.config import Comparison, Model
from pipeline.compare.page import write_page
from pipeline.compare.results import Leaderboard, leaderboard, write_leaderboard
from pipeline.compare.runs import RETURN, Run, RunStore
from pipeline.compare.table import leaderboard_table
from pipeline.compare.training import Given, Judgement, ModelBench, Simulation, plays_of, run_baselines
from pipeline.config import PipelineConfig
from pipeline.console import ConsoleProgress, step_line
from pipeline.local import LocalRunner, RunResult
from pipeline.termination import EXIT_TERMINATED, TERMINATED
from schemas.config import canonical_json

LAST_STEP = "neighbour_gen"
"""Last step of the pipeline that a comparison runs for all of its rows."""
_PREPARED = {"relabeller": "relabelled", "reward_trainer": "reward_model", "user_model_trainer": "user_model"}
"""Steps that are run, besides, for rows that need what they make, with its name."""
_ASKED = {"target_returns", "draw"}
"""What only policies conditioned on a return are asked for: another target is no reason to train the others again."""
_MEASURED_BY = "pipeline.compare.training"


def compare(comparison: Comparison, root: Path, console: Console) -> Leaderboard | None:
    """Runs a comparison, or what is left of it.

    Args:
        comparison: What to compare.
        root: Folder that holds artifacts and comparisons.
        console: Where to report.

    Returns:
        The leaderboard, which is also written below `root`/compare; None when the data could not be made.

    Raises:
        ConfigError: The configuration does not fit its data.
    """
    console.print(f"longplay compare [bold]{comparison.config.name}[/bold]", highlight=False)
    with ConsoleProgress(console) as progress:
        result = _make_data(comparison.pipeline, root, progress, console)
        if result.failed:
            print(f"error: {result.failed.name} failed: {result.failed.error}", file=sys.stderr)
            return None
        folder = root / "compare" / comparison.config.name
        with _alone(folder, progress):
            prepared = _prepare(comparison, root, progress, console)
            board = _Work(comparison, result, prepared, folder, progress, console).run()
    console.print(leaderboard_table(board, console))
    for name in ("csv", "json", "html"):
        console.print(f"{name:<5} {folder / f'leaderboard.{name}'}", highlight=False, markup=False)
    return board


def _make_data(config: PipelineConfig, root: Path, progress: Progress, console: Console, last: str = LAST_STEP) -> RunResult:
    for outcome in LocalRunner(root, progress).run(config, None, last):
        if isinstance(outcome, RunResult):
            return outcome
        # What was made for all rows is not told again.
        if last in (LAST_STEP, outcome.name):
            console.print(step_line(outcome), highlight=False, markup=False)
    raise AssertionError("a run ends with its result")


_Prepared = dict[tuple[str, str], Artifact | str]
"""What a step made from a configuration, by the names of both, or why it could not."""


def _prepare(comparison: Comparison, root: Path, progress: Progress, console: Console) -> _Prepared:
    """What rows are trained on or learn from beside the logs; once for each configuration."""
    found: _Prepared = {}
    for model in comparison.models:
        for step, config in model.preparations().items():
            key = step, canonical_json(config)
            if key in found:
                continue
            pipeline = comparison.pipeline.model_copy(update={step: config, "trainer": model.trainer})
            result = _make_data(pipeline, root, progress, console, step)
            failed = result.failed
            found[key] = f"{failed.name} failed: {failed.error}" if failed else _output(result, step, _PREPARED[step])
    return found


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Two processes at the same comparison would train the same models; the second waits and finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.log("another process is at work on this comparison; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Work:
    """A comparison in progress."""

    def __init__(
        self,
        comparison: Comparison,
        data: RunResult,
        prepared: _Prepared,
        folder: Path,
        progress: Progress,
        console: Console,
    ):
        self._comparison = comparison
        self._prepared = prepared
        self._folder = folder
        self._progress = progress
        self._quiet = _Quiet(progress)
        self._console = console
        self._store = RunStore(folder / "runs")
        examples, vocabulary = (_output(data, "trajectory_gen", name) for name in ("examples", "vocabulary"))
        neighbours = _output(data, "neighbour_gen", "neighbours")
        self._judgement = _judgement(comparison, examples, vocabulary, neighbours)
        self._measured = {
            "data": [examples.digest, vocabulary.digest, neighbours.digest],
            "evaluator": {name: getattr(self._judgement, name) for name in ("split", "min_history", "exclude_seen", "max_states")},
            "simulate": comparison.config.simulate.model_dump(mode="json", exclude=_ASKED) if comparison.config.simulate else None,
            "shop": self._judgement.simulation.shop.config.model_dump(mode="json") if self._judgement.simulation else None,
        }
        self._runs: dict[tuple[int, int], Run] = {}
        self._baselines: dict[str, Run] = {}
        self._exact: dict[str, float] = {}

    def run(self) -> Leaderboard:
        keys = {(place, seed): self._key(model, seed) for place, model in enumerate(self._comparison.models) for seed in model.seeds}
        self._runs = {entry: run for entry, key in keys.items() if (run := self._store.find(key)) is not None}
        finished = len(self._runs)
        self._print(f"  {len(keys):,} trainings of {len(self._comparison.models):,} models, {finished:,} of them finished before")
        self._measure_baselines()
        self._find_exact()
        board = None
        with self._progress.task("compare", len(keys), "trainings") as task:
            task.advance(finished)
            for place, model in enumerate(self._comparison.models):
                missing = {seed: keys[place, seed] for seed in model.seeds if (place, seed) not in self._runs}
                if missing:
                    self._train(place, model, missing, task)
                    # Hours may lie between the first model and the last.
                    board = self._write()
        return board or self._write()

    def _key(self, model: Model, seed: int) -> str:
        measured, simulate = {**self._measured, "trainer": canonical_json(model.trainer_of(seed))}, self._comparison.config.simulate
        if simulate is not None and ALGORITHMS[model.algorithm].is_return_conditioned:
            measured["asked"] = simulate.model_dump(mode="json", include=_ASKED)
        for name, made in self._made(model).items():
            measured[name] = made if isinstance(made, str) else made.digest
        if model.online_tuner.enabled:
            measured["online_tuner"] = canonical_json(model.tuner_of(seed))
        return content_key(_MEASURED_BY, measured)

    def _made(self, model: Model) -> dict[str, Artifact | str]:
        """What was made for a row, by its name."""
        return {_PREPARED[step]: self._prepared[step, canonical_json(config)] for step, config in model.preparations().items()}

    def _measure_baselines(self) -> None:
        names = self._comparison.config.baselines
        keys = {name: content_key(_MEASURED_BY, {**self._measured, "baseline": name}) for name in names}
        self._baselines = {name: found for name, key in keys.items() if (found := self._store.find(key)) is not None}
        missing = tuple(name for name in keys if name not in self._baselines)
        if missing:
            begun = time.monotonic()
            for name, run in run_baselines(missing, self._judgement, self._quiet).items():
                self._store.write(keys[name], run)
                self._baselines[name] = run
            self._print(f"  {', '.join(missing)}: {time.monotonic() - begun:.1f} s")
        self._baselines = {name: self._baselines[name] for name in keys}

    def _find_exact(self) -> None:
        from models.simulators.rollout import exact_returns

        simulation = self._judgement.simulation
        if simulation is None:
            return
        key = content_key("models.simulators.rollout", {"shop": self._measured["shop"], "discount": simulation.discount})
        found = self._store.find(key)
        if found is None:
            found = Run({"kind": "exact", "error": None, "heads": {}, "returns": exact_returns(simulation.shop, simulation.discount)})
            self._store.write(key, found)
        self._exact = dict(found.facts["returns"])

    def _train(self, place: int, model: Model, seeds: dict[int, str], task: Task) -> None:
        """Trains a model from the seeds that are missing; what fails becomes a row that says why."""
        bench = None
        made = self._made(model)
        tuner = model.online_tuner if model.online_tuner.enabled else None
        try:
            for seed, key in seeds.items():
                begun = time.monotonic()
                try:
                    failed = [reason for reason in made.values() if isinstance(reason, str)]
                    if failed:
                        raise ComponentError(failed[0])
                    given = Given(**{name: found for name, found in made.items() if isinstance(found, Artifact)})
                    bench = bench or ModelBench(model.trainer, tuple(seeds), self._judgement, self._quiet, given, tuner)
                    run = bench.run(seed, self._store.scratch(key))
                    self._store.write(key, run)
                    if run.error is None:
                        self._store.discard(key)
                except ComponentError as failure:
                    run = Run({"error": str(failure), "heads": {}})
                except Exception as failure:
                    if TERMINATED.is_set():
                        raise SystemExit(EXIT_TERMINATED) from failure
                    # Not one of the ways in which trainings fail: it is not kept, so that it is tried again.
                    traceback.print_exc(file=sys.stderr)
                    run = Run({"error": f"{type(failure).__name__}: {failure}", "heads": {}})
                    if bench is not None:
                        bench.close()
                        bench = None
                self._runs[place, seed] = run
                task.advance()
                self._print(self._line(model, seed, run, time.monotonic() - begun))
        finally:
            if bench is not None:
                bench.close()

    def _line(self, model: Model, seed: int, run: Run, seconds: float) -> str:
        number = f"{len(self._runs):>{len(str(self._comparison.num_runs))}}/{self._comparison.num_runs}"
        title = f"{model.label}, {model.backbone}, seed {seed}"
        if run.error is not None:
            return f"  {number}  {title:<34} failed    {seconds:6.1f} s  {run.error.splitlines()[0]}"
        head, training, metric = run.main_head, run.facts["training"], self._comparison.config.metric
        values = run.sums[head].values()
        text = f"{training['epochs']} epochs, {metric} {values[metric]:.4f}" if metric in values else f"{training['epochs']} epochs"
        if head in run.returns:
            text += f", return {run.returns[head].values()[RETURN]:.3f}"
        return f"  {number}  {title:<34} trained   {seconds:6.1f} s  {text}"

    def _write(self) -> Leaderboard:
        evaluator = self._comparison.pipeline.evaluator
        board = leaderboard(self._comparison, self._runs, self._baselines, self._exact, evaluator.num_resamples, evaluator.seed)
        write_leaderboard(board, self._folder)
        write_page(board, self._comparison, self._folder / "leaderboard.html")
        return board

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def _judgement(comparison: Comparison, examples: Artifact, vocabulary: Artifact, neighbours: Artifact) -> Judgement:
    from components.datasets.session_shop import SessionShopDatasetConfig
    from components.neighbours import read_neighbours
    from components.trajectory_gen.vocabulary import read_vocabulary
    from models.simulators.session_shop import SessionShop

    evaluator, simulate = comparison.pipeline.evaluator, comparison.config.simulate
    dataset, simulation = comparison.pipeline.trajectory_gen.dataset, None
    if simulate is not None:
        assert isinstance(dataset, SessionShopDatasetConfig)  # checked when the configuration was read
        shop = SessionShop(dataset.shop)
        simulation = Simulation(shop, simulate.num_sessions, simulate.seed, simulate.discount, simulate.max_turns, plays_of(simulate))
    return Judgement(
        examples=examples,
        vocabulary=read_vocabulary(vocabulary),
        split=evaluator.splits[-1],
        min_history=evaluator.min_history,
        exclude_seen=evaluator.protocols[:1] == ("seen_removed",),
        max_states=evaluator.max_states,
        neighbours=read_neighbours(neighbours),
        simulation=simulation,
    )


def _output(result: RunResult, step: str, name: str) -> Artifact:
    artifact = result.output(step, name)
    assert artifact is not None, f"{step} makes {name}"
    return artifact


class _Quiet:
    """Progress whose bars are drawn and whose lines are not: those of one training are many."""

    def __init__(self, progress: Progress):
        self._progress = progress

    def task(self, description: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        shown: AbstractContextManager[Task] = self._progress.task(description, total, unit)
        return shown

    def log(self, message: str) -> None:
        pass
