"""The estimated value of the candidate and of what is deployed, from what was logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from components.artifacts import Artifact
from components.base import ComponentError, Context
from components.evaluation import Decisions, Protocol, read_decisions
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED
from components.evaluator.config import EvaluatorConfig, OpeConfig
from components.ope import estimate_panels
from models.metrics.ranking import RankedSteps
from models.ope import intervals
from models.ope.behaviour import Counts, CrossFittedBehaviour, Rounds
from models.ope.diagnostics import NUM_BINS, Calibration, Overlap, WeightStatistics
from models.ope.exact import ExactSums
from models.ope.log import SessionLog
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling, folds
from models.ope.statistics import Panel
from models.ope.support import Evidence, Requirements, judge, refuse

LOGGED = "logging_policy"
"""The policy that logged, where no model is deployed."""

_CALIBRATED_CELLS = 10_000_000
_CHUNK = 64
_PRIOR_ROUNDS = 3.0
"""Rounds that the mean of all counts as for an item, and that of the item for one that stood in the session."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Log:
    """Rounds on known items, with what the logging policy and the reward model say of them.

    Attributes:
        rows: [n] their places among the evaluated states.
        session: [n] keys.
        decisions: The rounds.
        reward: [n].
        chance: [n] probability of the logged item.
        behaviour: Model of the logging policy, by which the support of other items is judged.
        calibration: Of that model; None where propensities were logged.
    """

    rows: Ints
    session: npt.NDArray[np.uint64]
    rounds: Rounds
    reward: Floats
    chance: Floats
    behaviour: CrossFittedBehaviour
    calibration: Calibration | None


def estimate_value(
    config: EvaluatorConfig, ranked: Mapping[str, RankedSteps], examples: Artifact, split: str, num_items: int, context: Context
) -> dict[str, Any]:
    """Values of the candidate, of what is deployed, and of their difference, each an interval or the reasons why there is none.

    Args:
        config: How.
        ranked: Ranks with the best items, of the candidate and, where there is one, of the last blessed model.
        examples: Trajectories.
        split: Split that was ranked.
        num_items: N.
        context: How Beam runs.

    Raises:
        ComponentError: Logged propensities are wanted and there are none.
    """
    ope = config.ope
    protocol = Protocol(config.min_history, False, config.max_states)
    decisions = read_decisions(examples, split, num_items, protocol)
    try:
        log = _read(ope, decisions, _train_counts(examples, split, num_items), num_items)
    except ValueError as error:
        return _nothing(ope, str(error))
    policies, evidence = {}, {}
    for name in (CANDIDATE, LAST_BLESSED):
        if name in ranked:
            policies[name], evidence[name] = _policy(ope, log, ranked[name])
    deployed = LAST_BLESSED if LAST_BLESSED in policies else LOGGED
    if deployed == LOGGED:
        kept = policies[CANDIDATE]
        policies[LOGGED] = SessionLog(
            kept.session, kept.offsets, kept.reward, kept.behaviour, kept.behaviour, kept.predicted, kept.predicted
        )
        evidence[LOGGED] = Evidence(WeightStatistics.of_rounds(policies[LOGGED]))
    names = dict.fromkeys([ope.decided_by, *ope.estimators])
    estimators = {name: ESTIMATORS[name]() for name in names}
    panels = estimate_panels(policies, list(estimators.values()), Resampling(num_resamples=config.num_resamples, seed=config.seed), context)
    required = Requirements(
        min_sessions=ope.min_sessions,
        min_effective_size=ope.min_effective_size,
        max_unsupported_mass=ope.max_unsupported_mass,
        max_calibration_error=ope.max_calibration_error,
    )
    values = {
        name: {policy: _verdict(panels[policy], estimator.key, evidence[policy], required) for policy in policies}
        for name, estimator in estimators.items()
    }
    decider = estimators[ope.decided_by].key
    return {
        "key": policy_key(ope),
        "split": split,
        "decided_by": ope.decided_by,
        "deployed": deployed,
        "propensities": "estimated" if log.calibration else "logged",
        "rounds": len(log.rows),
        "rounds_left_out": len(decisions.target) - len(log.rows),
        "sessions": policies[CANDIDATE].num_sessions,
        "values": values,
        "difference": _difference(panels, decider, deployed, evidence, required),
        "diagnostics": {name: _diagnostics(found) for name, found in evidence.items()},
        "weights": _weight_histogram(policies[CANDIDATE].weight),
        "calibration": None if log.calibration is None else _reliability(log.calibration),
    }


def policy_key(ope: OpeConfig) -> str:
    """What a ranker is turned into, as it stands in front of a value."""
    return f"top{ope.k}_logged@{ope.as_logged:g}"


def _nothing(ope: OpeConfig, why: str) -> dict[str, Any]:
    reason = {"code": "too_few_sessions", "found": None, "bound": None, "text": why}
    return {"key": policy_key(ope), "decided_by": ope.decided_by, "difference": {"interval": None, "reasons": [reason]}, "values": {}}


def _train_counts(examples: Artifact, split: str, num_items: int) -> Counts | None:
    """Counts of the train split, whose sessions are others than those of the evaluated one."""
    if split == "train":
        return None
    found = read_decisions(examples, "train", num_items, Protocol(min_history=0))
    known = np.flatnonzero(found.target < num_items)
    return Counts.of(Rounds(found.history, found.target).take(known), num_items)


def _read(ope: OpeConfig, decisions: Decisions, other: Counts | None, num_items: int) -> _Log:
    rows = np.flatnonzero(decisions.target < num_items)
    session = decisions.session[rows].astype(np.uint64)
    rounds = Rounds(decisions.history, decisions.target).take(rows)
    behaviour = CrossFittedBehaviour(num_items, ope.num_folds)
    behaviour.fit(session, rounds, other)
    logged = decisions.propensity[rows].astype(np.float64)
    is_logged = len(logged) > 0 and bool((logged > 0.0).all())
    if ope.propensities == "logged" and not is_logged:
        missing = int((logged <= 0.0).sum())
        raise ComponentError(
            f"evaluator.ope.propensities is logged, but {missing:,} of {len(logged):,} events have no propensity; map "
            "trajectory_gen.dataset.columns.propensity or take auto"
        )
    calibration = None
    if is_logged and ope.propensities != "estimated":
        chance = np.minimum(1.0, logged)
    else:
        chance = behaviour.probabilities(session, rounds.history, rounds.item[:, None])[:, 0]
        calibration = _calibrate(behaviour, session, rounds, num_items)
    return _Log(rows, session, rounds, decisions.reward[rows].astype(np.float64), chance, behaviour, calibration)


def _calibrate(behaviour: CrossFittedBehaviour, session: npt.NDArray[np.uint64], rounds: Rounds, num_items: int) -> Calibration:
    """Calibration on rounds spread evenly over the split, as many as a large catalogue leaves time for."""
    count = min(len(session), max(_CHUNK, _CALIBRATED_CELLS // num_items))
    rows = np.unique(np.linspace(0, len(session) - 1, count).astype(np.int64))
    total = Calibration(0, ExactSums.zeros((3, NUM_BINS)), ExactSums.zeros((1,)))
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK]
        total = total.merge(Calibration.of(behaviour.table(session[part], rounds.history[part]), rounds.item[part] - 1))
    return total


def _policy(ope: OpeConfig, log: _Log, ranked: RankedSteps) -> tuple[SessionLog, Evidence]:
    """The log as the mixed ranker sees it, and what is known of its support."""
    assert ranked.best is not None, "the best items are needed"
    best = ranked.best[log.rows, : ope.k]
    hit = (best == log.rounds.item[:, None]).any(axis=1)
    share = 1.0 - ope.as_logged
    target = np.minimum(1.0, ope.as_logged * log.chance + share * hit / ope.k)
    model = _RewardModel(ope.num_folds, log)
    predicted = model.predict(log.rounds.item[:, None])[:, 0]
    # What stays as it was logged is worth what was logged, in expectation; the rest is that of the best items.
    expected = ope.as_logged * predicted + share * model.predict(best).mean(axis=1)
    chances = log.behaviour.probabilities(log.session, log.rounds.history, best)
    outside = share * ((chances < ope.min_propensity) | (best == 0)).mean(axis=1)
    overlap = Overlap(0, ExactSums.zeros((1,)))
    for begin in range(0, len(outside), 4096):
        part = outside[begin : begin + 4096]
        overlap = overlap.merge(Overlap(len(part), ExactSums.of(part[None])))
    made = SessionLog.from_rounds(log.session, log.reward, target, log.chance, predicted, expected)
    return made, Evidence(WeightStatistics.of_rounds(made), overlap, log.calibration, log.calibration is not None)


class _RewardModel:
    """Mean reward of every item, apart for items that stood in the session, by the sessions of other folds."""

    def __init__(self, num_folds: int, log: _Log):
        self._rounds = log.rounds
        self._fold = folds(log.session, num_folds, seed=2)
        arm = self._arms(log.rounds.item[:, None])[:, 0]
        # One place more, for items that were never logged.
        size = 2 * (int(log.rounds.item.max(initial=0)) + 2)
        self._tables = []
        for number in range(num_folds):
            rows = self._fold != number
            sums = np.bincount(arm[rows], weights=log.reward[rows], minlength=size).reshape(-1, 2)
            counts = np.bincount(arm[rows], minlength=size).reshape(-1, 2)
            mean = float(log.reward[rows].mean())
            of_item = (sums.sum(axis=1) + _PRIOR_ROUNDS * mean) / (counts.sum(axis=1) + _PRIOR_ROUNDS)
            table = (sums + _PRIOR_ROUNDS * of_item[:, None]) / (counts + _PRIOR_ROUNDS)
            self._tables.append(table.ravel())

    def _arms(self, item: Ints) -> Ints:
        repeated = np.zeros(item.shape, bool)
        for step in range(self._rounds.history.shape[1]):
            repeated |= (self._rounds.history[:, step, None] == item) & (item > 0)
        arms: Ints = item * 2 + repeated
        return arms

    def predict(self, item: Ints) -> Floats:
        """[n, K] predicted rewards of items [n, K]."""
        arm = np.minimum(self._arms(item), len(self._tables[0]) - 1)
        found = np.empty(item.shape)
        for number, table in enumerate(self._tables):
            rows = self._fold == number
            found[rows] = table[arm[rows]]
        return found


def _verdict(panel: Panel, key: str, evidence: Evidence, required: Requirements) -> dict[str, Any]:
    statistics = panel.statistics[key]
    try:
        interval = intervals.bootstrap(statistics)
    except intervals.NoIntervalError:
        interval = None
    return judge(statistics, interval, evidence, required).as_dict()


def _difference(
    panels: Mapping[str, Panel], key: str, deployed: str, evidence: Mapping[str, Evidence], required: Requirements
) -> dict[str, Any]:
    """How far the candidate is above what is deployed, on the same resampled sessions; refused where either value is."""
    one, other = panels[CANDIDATE].statistics[key], panels[deployed].statistics[key]
    reasons = [
        {"policy": policy, "code": reason.code, "found": reason.found, "bound": reason.bound}
        for policy, statistics in ((CANDIDATE, one), (deployed, other))
        for reason in (refuse(statistics, evidence[policy], required) if policy != LOGGED else ())
    ]
    try:
        found = intervals.difference(one, other)
    except intervals.NoIntervalError:
        reasons.append({"policy": CANDIDATE, "code": "no_interval", "found": None, "bound": None})
        found = None
    given = found is not None and not reasons
    assert found is not None or reasons
    return {
        "interval": {"value": found.value, "low": found.low, "high": found.high} if given and found else None,
        "deployed_value": other.estimate() if np.isfinite(other.estimate()) else None,
        "reasons": reasons,
    }


def _diagnostics(evidence: Evidence) -> dict[str, Any]:
    weights = evidence.weights
    numbers = {
        "effective_size": weights.effective_size(),
        "effective_share": weights.effective_size() / max(1, weights.size),
        "largest_weight_share": weights.largest_share(),
        "mean_weight": weights.mean(),
        "tail_index": weights.tail_index(),
        "unsupported_mass": evidence.overlap.unsupported_mass() if evidence.overlap else 0.0,
        "calibration_error": evidence.calibration.error() if evidence.calibration else None,
    }
    return {name: value if value is None or np.isfinite(value) else None for name, value in numbers.items()}


def _weight_histogram(weight: Floats) -> list[list[float]]:
    """Weights by halvings: upper end of each bin, share of events, share of the sum of weights."""
    exponent = np.ceil(np.log2(np.maximum(weight, 2.0**-10))).astype(int)
    total, count = max(float(weight.sum()), 1e-300), max(1, len(weight))
    return [
        [float(2.0**power), float((exponent == power).sum() / count), float(weight[exponent == power].sum() / total)]
        for power in range(int(exponent.min(initial=0)), int(exponent.max(initial=0)) + 1)
    ]


def _reliability(calibration: Calibration) -> dict[str, Any]:
    """Of every bin of probabilities, what was predicted and what was logged."""
    pairs, predicted, logged = calibration.sums.value()
    used = pairs > 0
    rows = np.stack([predicted[used] / pairs[used], logged[used] / pairs[used], pairs[used]], axis=1)
    return {"error": calibration.error(), "log_loss": calibration.mean_log_loss(), "rounds": calibration.num_rounds, "bins": rows.tolist()}
