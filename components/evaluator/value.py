"""The estimated value of the candidate and of what is deployed, from what was logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components.base import Context
from components.evaluation import Decisions
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED
from components.evaluator.config import SEQUENTIAL, EvaluatorConfig, OpeConfig
from components.evaluator.logs import ItemModels, Kind, Mixture, as_logged, mixture, read_logged
from components.evaluator.slices import MIN_SESSIONS
from components.ope import PanelJob, estimate_panels
from models.metrics.ranking import RankedSteps
from models.ope import intervals
from models.ope.base import Estimator
from models.ope.behaviour import Counts
from models.ope.diagnostics import Calibration
from models.ope.log import SessionLog
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling
from models.ope.sensitivity import tipping_factor
from models.ope.statistics import Panel, Statistics
from models.ope.support import Evidence, Requirements, judge, refuse

LOGGED = "logging_policy"
"""The policy that logged, where no model is deployed."""

MAX_STEPS = 256
"""Longest session that sequential estimators look at."""
_GREATEST_LOG_WEIGHT = 140.0
"""Squares of greater products of weights do not fit into floats."""
_KINDS: tuple[Kind, ...] = ("event", "return", "session")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def estimate_value(
    config: EvaluatorConfig,
    ranked: Mapping[str, RankedSteps],
    decisions: Decisions,
    num_items: int,
    context: Context,
    *,
    other: Counts | None = None,
    masks: Mapping[str, Bools] | None = None,
    discount: float = 1.0,
) -> dict[str, Any]:
    """Values of the candidate, of what is deployed, and of their difference, each an interval or the reasons why there is none.

    Args:
        config: How.
        ranked: Ranks with the best items, of the candidate and, where there is one, of the last blessed model.
        decisions: The split that was ranked.
        num_items: N.
        context: How Beam runs.
        other: Counts of sessions that are not among them, by which the logging policy is modelled besides.
        masks: Members of slices by what is known before a decision, [M] each.
        discount: Factor of one step, of sequential estimators.

    Raises:
        ComponentError: Logged propensities are wanted and there are none.
    """
    ope = config.ope
    try:
        log = read_logged(ope, decisions, other, num_items)
    except ValueError as error:
        return _nothing(ope, str(error))
    models = ItemModels.of(log, ope.num_folds)
    policies: dict[str, Mixture] = {}
    for name in (CANDIDATE, LAST_BLESSED):
        if name in ranked:
            best = ranked[name].best
            assert best is not None, "the best items are needed"
            policies[name] = mixture(ope, log, models, best[log.rows, : ope.k])
    deployed = LAST_BLESSED if LAST_BLESSED in policies else LOGGED
    if deployed == LOGGED:
        policies[LOGGED] = as_logged(log, models)
    work = _Work(ope, policies, deployed, _estimators(ope, discount))
    slices = {name: mask[log.rows] for name, mask in (masks or {}).items()}
    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    slice_logs = work.slice_logs(slices)
    panels = estimate_panels({**work.jobs(), **work.slice_jobs(slice_logs)}, resampling, context)
    candidate = work.logs["event", CANDIDATE]
    return {
        "key": ope.key,
        "decided_by": ope.decider,
        "deployed": deployed,
        "propensities": "estimated" if log.calibration else "logged",
        "rounds": log.num_rounds,
        "rounds_left_out": len(log.rows) - log.num_rounds,
        "sessions": candidate.num_sessions,
        **work.values(panels),
        "diagnostics": work.diagnostics(),
        "weights": _weight_histogram(candidate.weight),
        "calibration": None if log.calibration is None else _reliability(log.calibration),
        "tipping_factor": _tipping_factor(ope, policies[CANDIDATE]),
        "slices": work.slice_values(panels, slices, slice_logs),
    }


def _nothing(ope: OpeConfig, why: str) -> dict[str, Any]:
    reason = {"policy": CANDIDATE, "code": "too_few_sessions", "found": None, "bound": None, "text": why}
    found = {"interval": None, "deployed_value": None, "reasons": [reason]}
    return {"key": ope.key, "decided_by": ope.decider, "difference": found, "differences": {}, "values": {}, "slices": {}}


def _estimators(ope: OpeConfig, discount: float) -> dict[Kind, dict[str, Estimator]]:
    """Estimators of each kind of value, by their names."""
    names = dict.fromkeys([ope.decided_by, *ope.estimators])
    bandit: dict[str, Estimator] = {name: ESTIMATORS[name]() for name in names if name not in SEQUENTIAL}
    sequential: dict[str, Estimator] = {
        name: ESTIMATORS[name].model_validate({"discount": discount}) for name in names if name in SEQUENTIAL
    }
    return {"event": bandit, "return": bandit, "session": sequential}


class _Work:
    """Estimates of all kinds for all policies."""

    def __init__(self, ope: OpeConfig, policies: Mapping[str, Mixture], deployed: str, estimators: Mapping[Kind, Mapping[str, Estimator]]):
        self._ope = ope
        self._policies = policies
        self._deployed = deployed
        self._estimators = estimators
        self._required = Requirements(
            min_sessions=ope.min_sessions,
            min_effective_size=ope.min_effective_size,
            max_unsupported_mass=ope.max_unsupported_mass,
            max_calibration_error=ope.max_calibration_error,
        )
        kinds = [kind for kind in _KINDS if estimators[kind] or kind == "event"]
        self.logs = {(kind, name): policy.session_log(kind) for kind in kinds for name, policy in policies.items()}
        self._hopeless = [
            {"policy": name, **reason} for (kind, name), log in self.logs.items() if kind == "session" for reason in _hopeless(log)
        ]
        if self._hopeless:
            kinds.remove("session")
            self.logs = {(kind, name): log for (kind, name), log in self.logs.items() if kind != "session"}
        self._kinds = kinds
        self._evidence = {(kind, name): self._known_of(name, policies[name], kind, log) for (kind, name), log in self.logs.items()}

    def _known_of(self, name: str, policy: Mixture, kind: Kind, log: SessionLog, rows: Bools | None = None) -> Evidence:
        found = policy.evidence(kind, log, rows)
        # Its own log supports the logging policy, whatever a model of it says.
        return Evidence(found.weights) if name == LOGGED else found

    def jobs(self) -> dict[str, PanelJob]:
        """What is summed up."""
        return {
            f"{kind}|{name}": (log, list(self._estimators[kind].values()))
            for (kind, name), log in self.logs.items()
            if self._estimators[kind]
        }

    def values(self, panels: Mapping[str, Panel]) -> dict[str, Any]:
        """`values`, `differences` and the `difference` that decides."""
        values: dict[str, dict[str, Any]] = {}
        differences: dict[str, dict[str, Any]] = {}
        for kind in self._kinds:
            for name, estimator in self._estimators[kind].items():
                found = {policy: panels[f"{kind}|{policy}"].statistics[estimator.key] for policy in self._policies}
                known = {policy: self._evidence[kind, policy] for policy in self._policies}
                values[f"{kind}/{name}"] = {policy: self._verdict(statistics, known[policy]) for policy, statistics in found.items()}
                differences[f"{kind}/{name}"] = self._difference(found, known, self._required)
        if self._hopeless:
            for name in self._estimators["session"]:
                refused = {"key": name, "interval": None, "reasons": self._hopeless, "effective_size": 0.0}
                values[f"session/{name}"] = dict.fromkeys(self._policies, refused)
                differences[f"session/{name}"] = {"interval": None, "deployed_value": None, "reasons": self._hopeless}
        return {"values": values, "differences": differences, "difference": differences[self._ope.decider]}

    def _verdict(self, statistics: Statistics, evidence: Evidence) -> dict[str, Any]:
        try:
            interval = intervals.bootstrap(statistics)
        except intervals.NoIntervalError:
            interval = None
        return judge(statistics, interval, evidence, self._required).as_dict()

    def _difference(self, found: Mapping[str, Statistics], known: Mapping[str, Evidence], required: Requirements) -> dict[str, Any]:
        """How far the candidate is above what is deployed, on the same resampled sessions; refused where either value is."""
        one, other = found[CANDIDATE], found[self._deployed]
        reasons = [
            {"policy": policy, "code": reason.code, "found": reason.found, "bound": reason.bound}
            for policy in (CANDIDATE, self._deployed)
            for reason in refuse(found[policy], known[policy], required)
        ]
        try:
            interval = intervals.difference(one, other)
        except intervals.NoIntervalError:
            reasons.append({"policy": CANDIDATE, "code": "no_interval", "found": None, "bound": None})
            interval = None
        given = None if interval is None or reasons else {"value": interval.value, "low": interval.low, "high": interval.high}
        value = other.estimate()
        return {"interval": given, "deployed_value": value if np.isfinite(value) else None, "reasons": reasons}

    # A slice is part of the log: what decides is estimated on its rounds alone.

    @property
    def _decider(self) -> tuple[Kind, Estimator]:
        kind, _, name = self._ope.decider.partition("/")
        assert kind in _KINDS
        return kind, self._estimators[kind][name]

    def slice_logs(self, slices: Mapping[str, Bools]) -> dict[str, dict[str, SessionLog]]:
        """Logs of the policies in the slices that are large enough; a sequential estimator takes those of whole sessions."""
        kind, _ = self._decider
        logs: dict[str, dict[str, SessionLog]] = {}
        if kind not in self._kinds:
            return logs
        for slice_name, rows in slices.items():
            log = self._policies[CANDIDATE].log
            if len(np.unique(log.session[rows & log.known])) < MIN_SESSIONS:
                continue
            if kind == "session" and np.isin(log.session[rows], log.session[~rows]).any():
                continue
            logs[slice_name] = {name: policy.session_log(kind, rows) for name, policy in self._policies.items()}
        return logs

    def slice_jobs(self, logs: Mapping[str, Mapping[str, SessionLog]]) -> dict[str, PanelJob]:
        """What is summed up for the slices."""
        _, estimator = self._decider
        return {f"{slice_name}|{name}": (log, [estimator]) for slice_name, made in logs.items() for name, log in made.items()}

    def slice_values(
        self, panels: Mapping[str, Panel], slices: Mapping[str, Bools], logs: Mapping[str, Mapping[str, SessionLog]]
    ) -> dict[str, Any]:
        """By slice, how far the candidate is above what is deployed."""
        kind, estimator = self._decider
        # A slice of fewer sessions than a whole log needs is still worth a look.
        required = self._required.model_copy(update={"min_sessions": MIN_SESSIONS, "min_effective_size": float(MIN_SESSIONS)})
        found = {}
        for slice_name, made in logs.items():
            statistics = {name: panels[f"{slice_name}|{name}"].statistics[estimator.key] for name in self._policies}
            rows = slices[slice_name]
            known = {name: self._known_of(name, policy, kind, made[name], rows) for name, policy in self._policies.items()}
            counts = {"events": statistics[CANDIDATE].num_rounds, "sessions": statistics[CANDIDATE].num_sessions}
            found[slice_name] = {**counts, **self._difference(statistics, known, required)}
        return found

    def diagnostics(self) -> dict[str, dict[str, float | None]]:
        """Numbers of the weights, by policy; those of whole sessions under a name of their own."""
        found = {name: _diagnostics(self._evidence["event", name]) for name in self._policies}
        if "session" in self._kinds:
            found |= {f"{name}, sessions": _diagnostics(self._evidence["session", name]) for name in self._policies if name != LOGGED}
        return found


def _hopeless(log: SessionLog) -> list[dict[str, Any]]:
    """Why not even sums over whole sessions are made: those of very long ones take much room and products of weights leave all bounds."""
    longest = int(log.lengths.max(initial=0))
    if longest > MAX_STEPS:
        return [{"code": "too_long_sessions", "found": longest, "bound": MAX_STEPS}]
    sizes = np.log(np.maximum(log.weight, 1e-300))
    before = np.cumsum(sizes) - sizes
    along = before + sizes - np.repeat(before[log.offsets[:-1]], log.lengths)
    greatest = float(along.max(initial=0.0))
    return [{"code": "dominant_weight", "found": None, "bound": None}] if greatest > _GREATEST_LOG_WEIGHT else []


def _diagnostics(evidence: Evidence) -> dict[str, float | None]:
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


def _tipping_factor(ope: OpeConfig, policy: Mixture) -> float | None:
    """By which factor logging probabilities may be off before the candidate may be no better than the policy that logged."""
    log, known = policy.log, policy.log.known
    values = log.reward if ope.decider.startswith("event/") else log.to_go
    chosen = np.maximum(0.0, policy.target - ope.as_logged * log.chance) / log.chance
    return tipping_factor(chosen[known], ope.as_logged, values[known])


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
    return {
        "error": calibration.error(),
        "chance_error": calibration.chance_error(),
        "log_loss": calibration.mean_log_loss(),
        "rounds": calibration.num_rounds,
        "bins": rows.tolist(),
    }
