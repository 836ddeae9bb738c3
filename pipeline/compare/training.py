"""Trains and measures what a comparison asks for. The content of this module and of all it imports is part of every run's key."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import HEALTH, Artifact
from components.base import ComponentError, Context, Progress
from components.trainer.config import TrainerConfig
from models.algorithms.base import Condition
from models.baselines import BASELINES
from models.co_visitation import Neighbours
from models.frameworks import keras, tf
from models.metrics.ranking import MAX_RANK, RankedSteps, SessionSums, beyond_accuracy, sum_by_session, values_by_session
from models.ranked_policy import RankedPolicy
from models.ranking import draw
from models.simulators.rollout import Histories, HistoryPolicy, Recommend, Rollout, roll_out
from models.simulators.session_shop import SessionShop
from pipeline.compare.runs import RETURN, Play, Run
from schemas.config import ConfigError

if TYPE_CHECKING:
    from components.online_tuner.config import OnlineTunerConfig
    from components.trainer.seeds import SeedSeries
    from components.trainer.trainable import Trainable
    from models.algorithms.base import Algorithm
    from pipeline.compare.config import SimulateConfig

AS_RECOMMENDED = Play()
ONLY_HEAD = "baseline"
"""What the one head of a baseline is called."""


@dataclass(frozen=True)
class Simulation:
    """How policies are rolled out; see `models.simulators.rollout.roll_out`.

    Attributes:
        plays: What policies conditioned on a return are also asked for.
    """

    shop: SessionShop
    num_sessions: int
    seed: int
    discount: float
    max_turns: int
    plays: tuple[Play, ...] = ()


def plays_of(config: SimulateConfig) -> tuple[Play, ...]:
    """All ways to play a policy conditioned on a return but that in which it recommends."""
    found = [Play(target, is_drawn) for is_drawn in (False, True)[: 1 + config.draw] for target in (None, *config.target_returns)]
    return tuple(found[1:])


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


@dataclass(frozen=True)
class Given:
    """What earlier steps made for the models of a row.

    Attributes:
        relabelled: Trajectories to train on in place of the train split, with other returns.
        reward_model: What each event was worth on average.
        user_model: What might have come.
    """

    relabelled: Artifact | None = None
    reward_model: Artifact | None = None
    user_model: Artifact | None = None


class ModelBench:
    """One model of a comparison: trained from one seed after the other, and measured with all its heads.

    What is compiled is compiled once; see `SeedSeries`. `close` when the last seed is done.

    Args:
        config: The trainer's configuration; its seed does not count.
        seeds: What it is trained from.
        judgement: Data and measures.
        progress: Where to report.
        given: What earlier steps made for it.
        tuner: How each trained model goes on online, its seed being that of the training; None measures it as it was trained.
    """

    def __init__(
        self,
        config: TrainerConfig,
        seeds: tuple[int, ...],
        judgement: Judgement,
        progress: Progress,
        given: Given | None = None,
        tuner: OnlineTunerConfig | None = None,
    ):
        self._config = config
        self._given = given or Given()
        self._tuner = tuner
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
        from components.trainer.loop import TrainingLoop
        from components.trainer.seeds import SeedSeries

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
                made = self._given.reward_model, self._given.user_model
                self._series = SeedSeries(config, judgement.vocabulary, judgement.examples, self._seeds, judgement.neighbours, *made)
            with self._series.training(seed) as trainable:
                ready = time.monotonic()
                context = Context(scratch, progress=self._progress)
                state = TrainingLoop(trainable, config, judgement.examples, context, scratch / "logs", self._given.relabelled).run()
                trained = time.monotonic()
                if self._tuner is not None:
                    facts["tuning"] = self._tune(trainable, self._tuner.model_copy(update={"seed": seed}), context)
        except (ComponentError, ConfigError) as error:
            facts["error"] = str(error)
            facts["training"] = {"seconds": round(time.monotonic() - begun, 3)}
            return Run(facts)
        tuned = time.monotonic()
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
        facts["measuring_seconds"] = round(time.monotonic() - tuned, 3)
        return run

    def _tune(self, trainable: Trainable, config: OnlineTunerConfig, context: Context) -> dict[str, Any]:
        """Goes on online, and says what came of it."""
        from components.online_tuner.tuning import tune_model

        begun = time.monotonic()
        scratch = context.scratch / "online"
        scratch.mkdir(exist_ok=True)
        state = tune_model(trainable.model, self._judgement.examples, config, Context(scratch, progress=self._progress))
        shown = {0: 0.0, **{int(row["round"]): row["step"] for row in state.rounds}}
        return {
            "seconds": round(time.monotonic() - begun, 3),
            "rounds": state.rounds,
            "evaluations": [{**row, "step": shown[row["round"]]} for row in state.evaluations],
            "kept": state.kept,
            "stopped": state.stopped,
            "dropped": state.dropped,
        }

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
            steps = rank_model(head.ranked, judgement.vocabulary, judgement.examples, judgement.split, protocol(judgement), context)
            sums[name] = sum_by_session(steps)
            facts["heads"][name] = {"is_main": is_main, **_facts_of_head(steps, judgement)}
            facts["counts"] = counts(steps)
            if judgement.simulation is not None:
                played = play(judgement.simulation, judgement, head.next_item(AS_RECOMMENDED))
                returns[name], facts["heads"][name]["rollout"] = _returns(played)
                if algorithm.is_return_conditioned:
                    facts["heads"][name]["target_return"] = head.target_return
        if judgement.simulation is not None and algorithm.is_return_conditioned:
            head, facts["plays"] = self._heads[algorithm.recommender], {}
            for one in judgement.simulation.plays:
                returns[one.name], rollout = _returns(play(judgement.simulation, judgement, head.next_item(one), one.is_drawn))
                asked = head.target_return if one.target_return is None else one.target_return
                facts["plays"][one.name] = {"target_return": asked, "is_drawn": one.is_drawn, "rollout": rollout}
        if judgement.simulation is not None and self._given.user_model is not None:
            facts["promised"] = self._promised(algorithm, judgement.simulation)
        return Run(facts, sums, returns)

    def _promised(self, algorithm: Algorithm, simulation: Simulation) -> dict[str, float]:
        """What the user model that the policy learned from says of it, and of the logs."""
        from components.judged_model import load_judged
        from components.user_model_io import USER_MODEL
        from models.user_model.promise import promised

        assert self._given.user_model is not None
        loaded = load_judged(USER_MODEL, self._given.user_model)
        items = self._judgement.vocabulary["item"].to_pylist()
        found = promised(loaded.model, algorithm, items, simulation.num_sessions, simulation.seed, simulation.max_turns)
        return dict(found._asdict())

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
        self._name = name
        self._shows: dict[bool, Callable[..., tf.Tensor]] = {}

    @property
    def target_return(self) -> float:
        """What a policy conditioned on a return asks for by itself."""
        return float(self.algorithm.default_target.numpy()[0])

    def next_item(self, how: Play) -> Recommend:
        """From histories to the items to show, played in one way.

        What is wanted goes down by the rewards before the history, and a session without a target begins anew, as when served.
        """
        show, target = self._show(how.is_drawn), math.nan if how.target_return is None else how.target_return
        # A draw needs the scores of the whole catalogue.
        size = RankedPolicy.CHUNK_STATES * (1 if how.is_drawn else 8)

        def recommend(histories: Histories) -> Any:
            shown = []
            for start in range(0, len(histories), size):
                part = histories.rows(slice(start, start + size))
                given = (target - part.earlier_reward, part.reward, part.uniform)
                events = (tf.constant(part.item_id, tf.int32), tf.constant(part.length, tf.int32))
                shown.append(show(*events, *(tf.constant(values, tf.float32) for values in given)))
            return tf.concat(shown, axis=0).numpy()

        return recommend

    def _show(self, is_drawn: bool) -> Callable[..., tf.Tensor]:
        """The compiled choice: the best item, or one drawn; made when it is first asked for."""
        algorithm, name = self.algorithm, self._name
        k = algorithm.catalogue.num_items - 1 if is_drawn else 1

        def show(item_id: tf.Tensor, length: tf.Tensor, target: tf.Tensor, reward: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
            condition = Condition(target, reward) if algorithm.is_return_conditioned else None
            ranking = algorithm.rank(algorithm.final_states(item_id, length, condition), item_id, k, None, name)
            return draw(ranking, uniform) if is_drawn else ranking.item_id[:, 0]

        if is_drawn not in self._shows:
            rows, table = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, None], tf.float32)
            spec = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32), rows, table, rows]
            self._shows[is_drawn] = tf.function(show, autograph=False, input_signature=spec)
        return self._shows[is_drawn]


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
            played = play(judgement.simulation, judgement, lambda asked: baseline.recommend(asked.item_id, 1, False)[:, 0])
            returns[ONLY_HEAD], facts["heads"][ONLY_HEAD]["rollout"] = _returns(played)
        runs[name] = Run(facts, {ONLY_HEAD: sum_by_session(steps)}, returns)
    return runs


def play(simulation: Simulation, judgement: Judgement, next_item: Recommend, draws: bool = False) -> Rollout:
    """Rolls a recommender out; see `HistoryPolicy`."""
    items = judgement.vocabulary["item"].to_pylist()
    policy = HistoryPolicy(simulation.shop, items, next_item, simulation.num_sessions, judgement.max_steps, draws)
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
