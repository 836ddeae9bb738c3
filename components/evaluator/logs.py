"""The evaluated split as a log: what was decided, how likely that was, and what a ranker would have decided instead."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from components.base import ComponentError
from components.evaluation import Decisions
from components.evaluator.config import OpeConfig
from models.ope.behaviour import LATEST_STEP, Counts, CrossFittedBehaviour, Rounds
from models.ope.diagnostics import Calibration, Overlap, WeightStatistics
from models.ope.exact import MAX_TERMS, ExactSums
from models.ope.log import SessionLog
from models.ope.resampling import folds
from models.ope.support import Evidence

Kind = Literal["event", "return", "session"]
"""What is estimated; see `components.evaluator.config.OpeConfig`."""

_PRIOR_ROUNDS = 3.0
"""Rounds that the mean of all counts as for an item, and that of the item for one that stood in the session."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Logged:
    """The evaluated states in the order of time within each session.

    Attributes:
        rows: [n] their places among the evaluated states.
        session: [n] keys.
        rounds: [n] histories and logged items.
        known: [n] False where the logged item is unknown, which no policy can choose.
        reward: [n].
        to_go: [n] return from the event on.
        chance: [n] probability of the logged item; 1 where it is unknown, because all policies do there as was logged.
        num_items: N.
        behaviour: Model of the logging policy, by which the support of other items is judged.
        calibration: Of that model; None where propensities were logged.
        random_outside: Mean share of the catalogue without support, of decisions that are drawn from all of it.
    """

    rows: Ints
    session: Keys
    rounds: Rounds
    known: Bools
    reward: Floats
    to_go: Floats
    chance: Floats
    num_items: int
    behaviour: CrossFittedBehaviour
    calibration: Calibration | None
    random_outside: float

    @property
    def num_rounds(self) -> int:
        """Rounds on known items."""
        return int(self.known.sum())

    @cached_property
    def step(self) -> Ints:
        """[n] `Rounds.step`."""
        return self.rounds.step

    def arms(self, item: Ints) -> Ints:
        """[n, K] number of each item [n, K], another one where it stands in the history."""
        repeated = np.zeros(item.shape, bool)
        for step in range(self.rounds.history.shape[1]):
            repeated |= self.rounds.history[:, step, None] == item
        arms: Ints = np.where(item < self.num_items, item * 2 + (repeated & (item > 0)), 0)
        return arms


def read_logged(ope: OpeConfig, decisions: Decisions, other: Counts | None, num_items: int) -> Logged:
    """The log of an evaluated split.

    Args:
        ope: How.
        decisions: The split.
        other: Counts of other sessions, by which the logging policy is modelled besides.
        num_items: N.

    Raises:
        ComponentError: Logged propensities are wanted and there are none.
        ValueError: There are too few sessions for the folds.
    """
    rows = np.lexsort((decisions.time, decisions.session))
    session = decisions.session[rows].astype(np.uint64)
    rounds = Rounds(decisions.history[rows].astype(np.int64), decisions.target[rows].astype(np.int64))
    known = rounds.item < num_items
    behaviour = CrossFittedBehaviour(num_items, ope.num_folds)
    places = np.flatnonzero(known)
    behaviour.fit(session[places], rounds.take(places), other)
    logged = decisions.propensity[rows][known].astype(np.float64)
    is_logged = len(logged) > 0 and bool((logged > 0.0).all())
    if ope.propensities == "logged" and not is_logged:
        missing = int((logged <= 0.0).sum())
        raise ComponentError(
            f"evaluator.ope.propensities is logged, but {missing:,} of {len(logged):,} events have no propensity; map "
            "trajectory_gen.dataset.columns.propensity or take auto"
        )
    estimated = not is_logged or ope.propensities == "estimated"
    chance = np.ones(len(rows))
    if estimated:
        asked = rounds.take(places)
        chance[places] = behaviour.probabilities(session[places], asked.history, asked.item[:, None])[:, 0]
    else:
        chance[places] = np.minimum(1.0, logged)
    calibration, outside = None, 0.0
    if estimated or ope.as_random:
        found, outside = behaviour.check(session[places], rounds.take(places), ope.min_propensity)
        calibration = found if estimated else None
    values = (decisions.reward[rows].astype(np.float64), decisions.to_go[rows].astype(np.float64))
    return Logged(rows, session, rounds, known, *values, chance, num_items, behaviour, calibration, outside)


class ItemValues:
    """What an item brings by the sessions of other folds: the mean of its step in the session, and by how much the item is above it.

    Of an item there are two such numbers, one for where it stands in the session already; each is drawn towards that of the item, and that
    towards 0, where there are few rounds.

    Args:
        log: The rounds; those on unknown items are not learned from.
        values: [n] what each brought.
        num_folds: Folds of sessions.
    """

    def __init__(self, log: Logged, values: Floats, num_folds: int):
        self._log = log
        self._fold = folds(log.session, num_folds, seed=2)
        arm = log.arms(log.rounds.item[:, None])[:, 0]
        steps, size = LATEST_STEP + 1, 2 * log.num_items
        self._levels, self._effects = np.zeros((num_folds, steps)), np.zeros((num_folds, size))
        for number in range(num_folds):
            rows = np.flatnonzero(log.known & (self._fold != number))
            if not len(rows):
                continue
            mean = float(values[rows].mean())
            total = np.bincount(log.step[rows], weights=values[rows], minlength=steps) + _PRIOR_ROUNDS * mean
            self._levels[number] = total / (np.bincount(log.step[rows], minlength=steps) + _PRIOR_ROUNDS)
            above = values[rows] - self._levels[number, log.step[rows]]
            sums = np.bincount(arm[rows], weights=above, minlength=size).reshape(-1, 2)
            counts = np.bincount(arm[rows], minlength=size).reshape(-1, 2)
            of_item = sums.sum(axis=1) / (counts.sum(axis=1) + _PRIOR_ROUNDS)
            self._effects[number] = ((sums + _PRIOR_ROUNDS * of_item[:, None]) / (counts + _PRIOR_ROUNDS)).ravel()

    def of(self, arm: Ints) -> Floats:
        """[n, K] values of arms [n, K]; see `Logged.arms`."""
        fold = self._fold[:, None]
        found: Floats = self._levels[fold, self._log.step[:, None]] + self._effects[fold, arm]
        return found

    def of_catalogue(self) -> Floats:
        """[n] mean value of all items."""
        history = np.sort(self._log.rounds.history, axis=1)
        history[:, 1:][history[:, 1:] == history[:, :-1]] = 0
        stood = (history > 0) & (history < self._log.num_items)
        items = np.where(stood, history, 0)
        fold = self._fold[:, None]
        more = np.where(stood, self._effects[fold, 2 * items + 1] - self._effects[fold, 2 * items], 0.0).sum(axis=1)
        count = max(1, self._log.num_items - 1)
        plain = self._effects[:, 2::2].sum(axis=1)
        found: Floats = self._levels[self._fold, self._log.step] + (plain[self._fold] + more) / count
        return found


@dataclass(frozen=True)
class ItemModels:
    """Cross-fitted values of items, of their reward and of the return from them on."""

    reward: ItemValues
    to_go: ItemValues

    @classmethod
    def of(cls, log: Logged, num_folds: int) -> ItemModels:
        """Fits both."""
        return cls(ItemValues(log, log.reward, num_folds), ItemValues(log, log.to_go, num_folds))


@dataclass(frozen=True)
class Mixture:
    """A ranker as a policy that overlaps with the log, on its rounds.

    Attributes:
        log: The rounds.
        target: [n] probability of the logged item.
        outside: [n] probability of items without support.
        reward: Predicted reward of the logged item and its expectation over the policy, [n] each.
        to_go: The same of the return.
    """

    log: Logged
    target: Floats
    outside: Floats
    reward: tuple[Floats, Floats]
    to_go: tuple[Floats, Floats]

    def session_log(self, kind: Kind, rows: Bools | None = None) -> SessionLog:
        """The rounds as a log for one kind of value.

        Args:
            kind: Which.
            rows: [n] rounds that count; None for all.
        """
        log = self.log
        counted = np.ones(len(log.rows), bool) if kind == "session" else log.known
        chosen = np.flatnonzero(counted if rows is None else counted & rows)
        value = log.to_go if kind == "return" else log.reward
        predicted, expected = self.reward if kind == "event" else self.to_go
        return SessionLog.from_rounds(
            log.session[chosen], value[chosen], self.target[chosen], log.chance[chosen], predicted[chosen], expected[chosen]
        )

    def evidence(self, kind: Kind, made: SessionLog, rows: Bools | None = None) -> Evidence:
        """What is known of the support of such a log."""
        weights = WeightStatistics.of_sessions(made) if kind == "session" else WeightStatistics.of_rounds(made)
        chosen = self.outside[self.log.known if rows is None else self.log.known & rows]
        overlap = Overlap(0, ExactSums.zeros((1,)))
        for begin in range(0, len(chosen), MAX_TERMS):
            part = chosen[begin : begin + MAX_TERMS]
            overlap = overlap.merge(Overlap(len(part), ExactSums.of(part[None])))
        return Evidence(weights, overlap, self.log.calibration, self.log.calibration is not None)


def place_shares(ope: OpeConfig) -> Floats:
    """[k] probability of the item at each place of the ranker, of all decisions."""
    powers = np.ones(ope.k) if ope.temperature is None else np.exp(-np.arange(ope.k) / ope.temperature)
    shares: Floats = (1.0 - ope.as_logged - ope.as_random) * powers / powers.sum()
    return shares


def mixture(ope: OpeConfig, log: Logged, models: ItemModels, best: Ints) -> Mixture:
    """A ranker's policy on the rounds of a log; `best` is [n, k], 0 for places that it leaves empty."""
    shares = place_shares(ope)
    item = log.rounds.item
    chosen = ((best == item[:, None]) * shares).sum(axis=1)
    target = np.minimum(1.0, ope.as_logged * log.chance + ope.as_random / max(1, log.num_items - 1) + chosen)
    chances = log.behaviour.probabilities(log.session, log.rounds.history, best)
    outside = (shares * ((chances < ope.min_propensity) | (best == 0))).sum(axis=1) + ope.as_random * log.random_outside
    logged, others = log.arms(item[:, None]), log.arms(best)

    def modelled(values: ItemValues) -> tuple[Floats, Floats]:
        predicted = values.of(logged)[:, 0]
        # What stays as it was logged is worth what was logged, in expectation.
        expected = ope.as_logged * predicted + (shares * values.of(others)).sum(axis=1)
        if ope.as_random:
            expected += ope.as_random * values.of_catalogue()
        return predicted, np.where(log.known, expected, predicted)

    return Mixture(log, np.where(log.known, target, 1.0), outside, modelled(models.reward), modelled(models.to_go))


def as_logged(log: Logged, models: ItemModels) -> Mixture:
    """The logging policy itself."""
    arm = log.arms(log.rounds.item[:, None])
    predicted, to_go = models.reward.of(arm)[:, 0], models.to_go.of(arm)[:, 0]
    return Mixture(log, log.chance, np.zeros(len(log.rows)), (predicted, predicted), (to_go, to_go))
