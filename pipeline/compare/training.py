"""Trains and measures what a comparison asks for. The content of this module and of all it imports is part of every run's key."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import HEALTH, Artifact
from components.base import ComponentError, Context, Progress
from components.trainer.config import TrainerConfig
from models.baselines import BASELINES
from models.co_visitation import Neighbours
from models.frameworks import keras, tf
from models.metrics.ranking import MAX_RANK, RankedSteps, SessionSums, beyond_accuracy, sum_by_session, values_by_session
from models.serving import RankedPolicy
from models.simulators.rollout import HistoryPolicy, Rollout, roll_out
from models.simulators.session_shop import SessionShop
from pipeline.compare.runs import RETURN, Run
from schemas.config import ConfigError

if TYPE_CHECKING:
    from components.trainer.loop import SeedSeries, Trainable
    from models.algorithms.base import Algorithm

ONLY_HEAD = "baseline"
"""What the one head of a baseline is called."""


@dataclass(frozen=True)
class Simulation:
    """How policies are rolled out; see `models.simulators.rollout.roll_out`."""

    shop: SessionShop
    num_sessions: int
    seed: int
    discount: float
    max_turns: int


@dataclass(frozen=True)
class Judgement:
    """What models are trained on and how they are measured.

    Attributes:
        examples: Trajectories.
        vocabulary: Table with columns item and count; row i is id i + 1.
        split: Split that is ranked.
        min_history: States with fewer earlier events are left out.
        exclude_seen: True takes the session's items out of the ranking.
        max_states: Rank about this many states, None for all.
        neighbours: Which items occur in the same sessions.
        simulation: How the true return is found, or None.
    """

    examples: Artifact
    vocabulary: Any
    split: str
    min_history: int
    exclude_seen: bool
    max_states: int | None
    neighbours: Neighbours
    simulation: Simulation | None

    @property
    def num_items(self) -> int:
        """N, padding included."""
        return int(self.vocabulary.num_rows) + 1

    @property
    def max_steps(self) -> int:
        """T, most events of a history."""
        return int(self.examples.properties["max_length"])


class ModelBench:
    """One model of a comparison: trained from one seed after the other, and measured with all its heads.

    What is compiled is compiled once; see `SeedSeries`. `close` when the last seed is done.

    Args:
        config: The trainer's configuration; its seed does not count.
        seeds: What it is trained from.
        judgement: Data and measures.
        progress: Where to report.
    """

    def __init__(self, config: TrainerConfig, seeds: tuple[int, ...], judgement: Judgement, progress: Progress):
        self._config = config
        self._seeds = seeds
        self._judgement = judgement
        self._progress = progress
        self._series: SeedSeries | None = None
        self._heads: dict[str, _Head] = {}
        self._served: Algorithm | None = None

    def run(self, seed: int, scratch: Path) -> Run:
        """Trains from one of the seeds and measures.

        Args:
            seed: The seed.
            scratch: Empty folder for the weights; what explains a failure stays in it.

        Returns:
            The run; also one that failed because its values diverged or its configuration does not fit the data.
        """
        from components.trainer.loop import SeedSeries, TrainingLoop

        judgement, config = self._judgement, self._config.model_copy(update={"seed": seed})
        facts: dict[str, Any] = {
            "kind": "model",
            "error": None,
            "seed": seed,
            "trainer": config.model_dump(mode="json"),
            "heads": {},
            "training": {},
        }
        begun = time.monotonic()
        try:
            if self._series is None:
                self._series = SeedSeries(config, judgement.vocabulary, judgement.examples, self._seeds, judgement.neighbours)
            with self._series.training(seed) as trainable:
                ready = time.monotonic()
                context = Context(scratch, progress=self._progress)
                state = TrainingLoop(trainable, config, judgement.examples, context, scratch / "logs").run()
        except (ComponentError, ConfigError) as error:
            facts["error"] = str(error)
            facts["training"] = {"seconds": round(time.monotonic() - begun, 3)}
            return Run(facts)
        trained = time.monotonic()
        speeds = [row["transitions_per_second"] for row in state.steps]
        facts["training"] = {
            "seconds": round(trained - ready, 3),
            "preparing_seconds": round(ready - begun, 3),
            "transitions_per_second": round(statistics.median(speeds), 1) if speeds else 0.0,
            "parameters": trainable.num_parameters,
            "epochs": len(state.epochs),
            "steps": state.step,
            "stopped": state.stopped,
            "best_epoch": state.best_epoch + 1,
            "metric": config.early_stopping.metric,
            "best": state.best,
            "health": {name.removeprefix(HEALTH): value for name, value in state.steps[-1].items() if name.startswith(HEALTH)},
        }
        facts["history"] = {"steps": state.steps, "epochs": state.epochs}
        run = self._measure(trainable, self._as_served(trainable.algorithm, config), facts)
        facts["measuring_seconds"] = round(time.monotonic() - trained, 3)
        return run

    def _as_served(self, algorithm: Algorithm, config: TrainerConfig) -> Algorithm:
        """The model in the precision it is served in."""
        from components.model_io import ModelConfig, build_model
        from models.targets import copy_variables

        if not config.mixed_precision:
            return algorithm
        if self._served is None:
            model = ModelConfig(algorithm=config.algorithm, network=config.network, max_steps=self._judgement.max_steps)
            self._served = build_model(model, self._judgement.vocabulary, config.seed)
        copy_variables(algorithm, self._served)
        return self._served

    def _measure(self, trainable: Trainable, algorithm: Algorithm, facts: dict[str, Any]) -> Run:
        from components.evaluation import rank_model

        judgement, context = self._judgement, Context(Path(), progress=self._progress)
        sums, returns = {}, {}
        for name in algorithm.heads:
            is_main, head = name == algorithm.recommender, self._heads.get(name)
            if head is None or head.algorithm is not algorithm:
                # The head that recommends is compiled already: it was validated with.
                known = trainable.ranked if is_main and algorithm is trainable.algorithm else None
                head = self._heads[name] = _Head(algorithm, name, known)
            steps = rank_model(head.ranked.rank, judgement.vocabulary, judgement.examples, judgement.split, protocol(judgement), context)
            sums[name] = sum_by_session(steps)
            facts["heads"][name] = {"is_main": is_main, **_facts_of_head(steps, judgement)}
            facts["counts"] = counts(steps)
            if judgement.simulation is not None:
                played = play(judgement.simulation, judgement, head.next_item)
                returns[name], facts["heads"][name]["rollout"] = _returns(played)
        return Run(facts, sums, returns)

    def close(self) -> None:
        """Lets go of the graphs, which Keras and the functions' cycles keep otherwise."""
        self._heads.clear()
        self._served = None
        self._series = None
        keras.backend.clear_session()
        gc.collect()


class _Head:
    """A head of a model, compiled to rank and to show the next item."""

    def __init__(self, algorithm: Algorithm, name: str, ranked: RankedPolicy | None):
        self.algorithm = algorithm
        self.ranked = ranked or RankedPolicy(algorithm, MAX_RANK, head=name)

        def top(item_id: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
            return algorithm.rank(algorithm.final_states(item_id, length), item_id, 1, None, name).item_id[:, 0]

        spec = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
        self._top = tf.function(top, autograph=False, input_signature=spec)

    def next_item(self, history: Any, length: Any) -> Any:
        """Histories int [B, T] and their lengths [B] -> the items to show [B]."""
        chunks = range(0, len(length), RankedPolicy.CHUNK_STATES * 8)
        shown = [self._top(*(tf.constant(part[s : s + chunks.step], tf.int32) for part in (history, length))) for s in chunks]
        return tf.concat(shown, axis=0).numpy()


def run_baselines(names: tuple[str, ...], judgement: Judgement, progress: Progress) -> dict[str, Run]:
    """Measures recommenders without training."""
    from components.evaluation import rank_baseline

    runs = {}
    for name in names:
        baseline = BASELINES[name](judgement.num_items, judgement.neighbours)
        context = Context(Path(), progress=progress)
        steps = rank_baseline(baseline, judgement.examples, judgement.split, judgement.num_items, protocol(judgement), context)
        facts: dict[str, Any] = {
            "kind": "baseline",
            "error": None,
            "heads": {ONLY_HEAD: {"is_main": True, **_facts_of_head(steps, judgement)}},
            "counts": counts(steps),
        }
        returns = {}
        if judgement.simulation is not None:
            played = play(judgement.simulation, judgement, lambda history, _: baseline.recommend(history, 1, False)[:, 0])
            returns[ONLY_HEAD], facts["heads"][ONLY_HEAD]["rollout"] = _returns(played)
        runs[name] = Run(facts, {ONLY_HEAD: sum_by_session(steps)}, returns)
    return runs


def play(simulation: Simulation, judgement: Judgement, next_item: Callable[[Any, Any], Any]) -> Rollout:
    """Rolls out what shows the best item; see `HistoryPolicy` for `next_item`."""
    items = judgement.vocabulary["item"].to_pylist()
    policy = HistoryPolicy(simulation.shop, items, next_item, simulation.num_sessions, judgement.max_steps)
    return roll_out(simulation.shop, policy, simulation.num_sessions, simulation.seed, simulation.discount, simulation.max_turns)


def protocol(judgement: Judgement) -> Any:
    """What is ranked; a `components.evaluation.Protocol`."""
    from components.evaluation import Protocol

    return Protocol(judgement.min_history, judgement.exclude_seen, judgement.max_states)


def counts(steps: RankedSteps) -> dict[str, int]:
    """How much was ranked."""
    return {
        "events": len(steps.rank),
        "sessions": len(set(steps.session.tolist())),
        "events_on_unknown_items": int((~steps.known).sum()),
    }


def _facts_of_head(steps: RankedSteps, judgement: Judgement) -> dict[str, Any]:
    return {"beyond_accuracy": beyond_accuracy(steps, judgement.num_items)}


def _returns(played: Rollout) -> tuple[SessionSums, dict[str, float]]:
    facts = {"turns": float(played.turns.mean()), "cut": int(played.is_cut.sum()), "sessions": len(played.returns)}
    return values_by_session(RETURN, played.returns), facts
