"""Rounds of playing and learning, their measures, checkpoints, and what stops them."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import HEALTH
from components.base import Context
from components.model_io import LoadedModel, read_weights, write_weights
from components.online_tuner.config import OnlineTunerConfig
from components.online_tuner.measures import evaluation_row, round_row
from components.online_tuner.offline import OfflineSessions
from components.trainer.config import TrainerConfig
from components.trainer.step import TrainStep
from components.trainer.trainable import make_optimizer
from models.algorithms.cql import CQL
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.health import Q_BOUND, Q_SCALE
from models.online.batches import as_batch, failures_of
from models.online.buffer import ReplayBuffer, Sessions
from models.online.drop import DropTest
from models.online.recommenders import Exploration, recommender_of
from models.online.rollout import PASSED_ITEM, Played, roll_out
from models.online.world import ItemWorld

_PLAY, _BASELINE, _EVALUATION, _REPLAY, _LOGS = range(5)
"""What a seed is for; sessions of different purposes meet different chance."""

_VALUES, _POLICY = "values", "policy"


@dataclass
class TuningState:
    """Where a tuning is; saved with every checkpoint.

    Attributes:
        round: Rounds that are done.
        update: Updates of the weights that are done.
        best: Greatest return of an evaluation.
        kept: Place in `evaluations` of the weights that are kept.
        q_bound: Greatest return that the rewards seen so far allow.
        drop: State of the test for a drop.
        rounds: A row for each round: rewards with their intervals, losses, buffer.
        evaluations: A row for each evaluation without exploration.
        stopped: Why the tuning ended, or None.
        dropped: True where it ended because the reward had dropped.
        diverged: True where it ended because a loss or a value had gone out of bounds.
    """

    round: int = 0
    update: int = 0
    best: float = -math.inf
    kept: int = 0
    q_bound: float = 0.0
    drop: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None
    dropped: bool = False
    diverged: bool = False


def training_config(config: OnlineTunerConfig) -> TrainerConfig:
    """What the trainer's optimiser and generators need to know."""
    return TrainerConfig(
        learning_rate=config.learning_rate, warmup_steps=config.warmup_steps, gradient_clip_norm=config.gradient_clip_norm, seed=config.seed
    )


class TuningLoop:
    """Tunes a model until its rounds are done, its reward drops, or its values diverge.

    A round plays sessions under exploration, takes them into the buffer with the returns that really came, and trains on what it
    draws from the buffer, by the algorithm's own losses. Interrupted and started again with the same scratch folder it goes on from
    its last checkpoint, as if nothing had happened: weights, moments, buffer and generators are those of the checkpoint, and
    everything else is drawn by numbers of sessions and updates.

    Args:
        model: What is tuned.
        world: Where it is tried.
        offline: What the logs hold.
        config: How.
        context: Scratch folder and progress.

    References:
        Zheng et al. (2022), Online Decision Transformer, algorithm 1; Chen et al. (2024), EDT4Rec, algorithm 2. Many sessions a round
        instead of one.
    """

    def __init__(self, model: LoadedModel, world: ItemWorld, offline: OfflineSessions, config: OnlineTunerConfig, context: Context):
        self._algorithm = algorithm = model.algorithm
        self._world, self._config, self._context = world, config, context
        self._step = TrainStep(algorithm, partial(make_optimizer, training_config(config)), xla=False)
        explore = config.exploration
        by_values = algorithm.recommender == _VALUES
        drawn = {"auto": "softmax" if by_values else _POLICY}.get(explore.draw, explore.draw)
        self._exploration: Any = Exploration(drawn, explore.floor, explore.temperature)  # type: ignore[arg-type]
        self._exploring = recommender_of(algorithm, min(explore.top, algorithm.catalogue.num_items - 1), explores=True)
        self._greedy = recommender_of(algorithm, 1)
        self._discount = float(getattr(model.config.algorithm, "return_discount", 1.0))
        has_values = _VALUES in algorithm.heads
        # Only what learns nothing but values can learn from what was passed: a policy would imitate it.
        self._learns_from_passes = has_values and not algorithm.has_policy
        share = config.offline_share if config.offline_share is not None else 0.5 * has_values
        self._num_offline = round(share * config.batch_size) if len(offline.some.length) else 0
        self._logs = ReplayBuffer(max(1, len(offline.some.length)), algorithm.catalogue.max_steps)
        self._logs.add(offline.some)
        self._buffer = ReplayBuffer(config.buffer_sessions, algorithm.catalogue.max_steps)
        self._buffer.add(offline.best)
        self._num_seeded = len(self._buffer)
        self._drop = DropTest(config.num_rounds, config.drop.false_alarm_rate, config.drop.tolerated)
        self._before = np.zeros(0)
        self._best = context.scratch / "best"
        self._folder = context.scratch / "checkpoints"
        self._checkpoint = tf.train.Checkpoint(
            model=algorithm.trackable(), optimizers=self._step.optimizers, generators=algorithm.random_generators()
        )
        self._saved_at = time.monotonic()
        self.state = TuningState()

    def run(self) -> TuningState:
        """Tunes; afterwards the algorithm has the weights that are kept."""
        config = self._config
        resumed = self._restore()
        state = self.state
        if not resumed:
            self._drop.fit(self._play(_BASELINE, np.arange(config.drop.baseline_sessions)).returns)
            self._evaluate()
            self._save()
        with self._context.progress.task("tune", config.num_rounds * config.sessions_per_round, "sessions") as task:
            task.advance(state.round * config.sessions_per_round)
            while state.stopped is None:
                self._round()
                row = state.rounds[-1]
                task.advance(
                    config.sessions_per_round, f"round {state.round}, return {row['return']:.3f}, click rate {row['click_rate']:.1%}"
                )
                if time.monotonic() - self._saved_at > config.checkpoint_every_seconds:
                    self._save()
        if config.keep == "best" or state.dropped or state.diverged:
            read_weights(self._algorithm, self._best)
        else:
            state.kept = len(state.evaluations) - 1
        if isinstance(self._algorithm, CQL):
            # Whoever trains these weights on, from logs, is as careful as configured.
            self._algorithm.relax(1.0)
        state.drop = self._drop.get_state()
        return state

    def _play(self, purpose: int, number: Any, explores: bool = True) -> Played:
        """Sessions of the policy as it is."""
        return roll_out(
            self._world,
            self._exploring if explores else self._greedy,
            self._exploration if explores else Exploration("greedy"),
            number,
            _seed(self._config.seed, purpose),
            self._algorithm.catalogue.max_steps,
            self._config.max_turns,
            self._discount,
        )

    def _round(self) -> None:
        config, state = self._config, self.state
        if isinstance(self._algorithm, CQL):
            done = state.round / max(1, config.num_rounds - 1)
            self._algorithm.relax(1.0 - done * (1.0 - config.final_conservatism))
        first = state.round * config.sessions_per_round
        played = self._play(_PLAY, first + np.arange(config.sessions_per_round))
        alarm = self._drop.update(played.returns)
        useful = played.sessions.length > 0
        if self._learns_from_passes:
            useful |= (played.sessions.facts[PASSED_ITEM] > 0).any(axis=1)
        self._buffer.add(played.sessions.take(np.flatnonzero(useful)))
        learned: Mapping[str, float] = {}
        if alarm:
            state.dropped = True
            state.stopped = (
                f"the reward dropped: returns of the last rounds are below {self._drop.floor:.4g}, which the offline policy's were not "
                f"(online_tuner.drop allows a false alarm with probability {config.drop.false_alarm_rate:g})"
            )
        else:
            learned = self._learn()
        state.round += 1
        earlier = state.rounds[-1]["step"] if state.rounds else 0
        row = round_row(state.round, earlier, played, self._buffer, self._num_seeded)
        state.rounds.append({**row, "drop_evidence": self._drop.evidence, **learned})
        if state.stopped is None and state.round >= config.num_rounds:
            state.stopped = f"num_rounds = {config.num_rounds} reached"
        is_last = state.round == config.num_rounds
        if not (state.dropped or state.diverged) and (is_last or state.round % config.evaluate_every == 0):
            self._evaluate()

    def _learn(self) -> dict[str, float]:
        """The round's updates; means of their losses and health."""
        config, state = self._config, self.state
        sums: dict[str, float] = {}
        if not self._buffer.length.any():
            # Nobody has taken anything yet.
            return sums
        for _ in range(config.updates_per_round):
            batch = self._batch(state.update)
            losses, health, _ = self._step(batch, state.update)
            values = {name: float(value) for name, value in losses.items()}
            signs = {f"{HEALTH}{name}": float(value) for name, value in health.items()}
            state.update += 1
            if (trouble := self._trouble(values, signs)) is not None:
                state.stopped, state.diverged = trouble, True
                break
            for name, value in {**values, **signs}.items():
                sums[name] = sums.get(name, 0.0) + value / config.updates_per_round
        return sums

    def _batch(self, number: int) -> TrajectoryBatch:
        config = self._config
        parts: list[Sessions] = []
        num_online = config.batch_size - self._num_offline
        if self._num_offline:
            parts.append(self._logs.draw(self._num_offline, _seed(config.seed, _LOGS), number, by_length=False))
        if num_online:
            # What is to tell shares of those who took an item must not count long sessions more.
            drawn = self._buffer.draw(num_online, _seed(config.seed, _REPLAY), number, by_length=not self._learns_from_passes)
            parts.append(drawn)
            if self._learns_from_passes:
                parts.append(failures_of(drawn))
        return as_batch(*(part for part in parts if len(part.length)))

    def _trouble(self, values: Mapping[str, float], signs: Mapping[str, float]) -> str | None:
        """Why no more can be learned, if so."""
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            return f"loss is not finite: {', '.join(bad)} at update {self.state.update}; lower online_tuner.learning_rate"
        if HEALTH + Q_SCALE in signs:
            self.state.q_bound = max(self.state.q_bound, signs[HEALTH + Q_BOUND])
            scale, bound = signs[HEALTH + Q_SCALE], self.state.q_bound
            if bound > 0 and scale > self._config.divergence_factor * bound:
                return (
                    f"values diverge: at update {self.state.update} the mean size of Q is {scale:.4g}, and no return can pass {bound:.4g} "
                    f"(online_tuner.divergence_factor allows {self._config.divergence_factor:g} times that)"
                )
        return None

    def _evaluate(self) -> None:
        """Measures the policy without exploration, on the same sessions as ever, and keeps its weights if they are the best."""
        state = self.state
        played = self._play(_EVALUATION, np.arange(self._config.evaluation_sessions), explores=False)
        if not state.evaluations:
            self._before = played.returns
        row = evaluation_row(state.round, state.update, played, self._before)
        state.evaluations.append(row)
        better = row["return"][0] > state.best
        if better:
            write_weights(self._algorithm, self._best)
            state.best, state.kept = row["return"][0], len(state.evaluations) - 1
        self._context.progress.log(
            f"round {state.round}: return {row['return'][0]:.3f}, click rate {row['click_rate'][0]:.1%}"
            + (", the best so far" if better else "")
        )

    # === Checkpoints ===

    def _save(self) -> None:
        """Writes everything beside its place and moves it there, so that a checkpoint is whole or is not there."""
        self.state.drop = self._drop.get_state()
        making = self._folder / f".making-{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        self._checkpoint.write(str(making / "variables"))
        np.savez(making / "buffer.npz", before=self._before, **self._buffer.get_state())
        (making / "state.json").write_text(json.dumps(asdict(self.state)), encoding="utf-8")
        final = self._folder / f"round-{self.state.round:06d}"
        shutil.rmtree(final, ignore_errors=True)
        making.rename(final)
        for old in self._found()[:-1]:
            shutil.rmtree(old, ignore_errors=True)
        self._saved_at = time.monotonic()

    def _found(self) -> list[Path]:
        return sorted(self._folder.glob("round-*"))

    def _restore(self) -> bool:
        found = self._found()
        if not found:
            return False
        self._checkpoint.read(str(found[-1] / "variables")).assert_existing_objects_matched()
        with np.load(found[-1] / "buffer.npz") as arrays:
            self._buffer.set_state({name: arrays[name] for name in arrays.files if name != "before"})
            self._before = arrays["before"]
        self.state = TuningState(**json.loads((found[-1] / "state.json").read_text(encoding="utf-8")))
        self._drop = DropTest.from_state(self.state.drop)
        self._context.progress.log(f"resumed at round {self.state.round}, update {self.state.update}")
        return True


def _seed(seed: int, purpose: int) -> int:
    """A seed of its own for each purpose."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0])
