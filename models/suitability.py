"""Whether reinforcement learning can pay on a log, from its numbers alone and before any training.

What is looked at: how much reward there is to learn from, how much of it lies behind the next step, how freely the logging policy
chose, whether items that are good now are others than items that are good in the long run, and how exactly a new policy could be
judged from the log.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from models.ope import intervals
from models.ope.bandit import SNIPS
from models.ope.behaviour import LATEST_STEP, CrossFittedBehaviour, Rounds
from models.ope.diagnostics import WeightStatistics
from models.ope.log import SessionLog
from models.ope.resampling import folds
from models.ope.statistics import Panel
from schemas.config import Config

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

Code = Literal["reward", "horizon", "exploration", "long_term_gap", "evaluation"]
Verdict = Literal["yes", "perhaps", "no"]

SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of decisions that a new policy makes otherwise."""
_SLATE = 10
_PRIOR_EVENTS = 20.0
_BEST_SHARE = 0.1
_NORMAL_QUANTILE = 1.959964


class Rules(Config):
    """From where on a number speaks for or against."""

    min_rewarded_sessions: int = pydantic.Field(default=200, ge=1)
    """Sessions with a purchase, or, in a log without purchases, with any reward."""
    min_future_share: float = pydantic.Field(default=0.3, ge=0.0, le=1.0)
    """Share of the return after an event that comes later than the event itself."""
    min_choices: float = pydantic.Field(default=2.0, ge=1.0)
    """Items that the logging policy chose between, as the exponential of its entropy."""
    max_calibration_error: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """Of the model of the logging policy."""
    max_half_width: float = pydantic.Field(default=0.1, gt=0.0)
    """Half width of the gain in return of a policy that makes a quarter of all decisions otherwise, by the test split, as a share of the
    return."""


@dataclass(frozen=True)
class LogSample:
    """n rounds of some sessions.

    Attributes:
        session: [n] key of each round's session.
        rounds: Histories and logged items, all of the vocabulary.
        reward: [n].
        to_go: [n] return from the event on, its own reward included.
        propensity: [n] logged probabilities, or None.
    """

    session: Keys
    rounds: Rounds
    reward: Floats
    to_go: Floats
    propensity: Floats | None = None


@dataclass(frozen=True)
class Totals:
    """Counts over the whole log.

    Attributes:
        sessions: Sessions.
        events: Events.
        purchases: Events that are purchases.
        rewarded_sessions: Sessions with a purchase, or with any reward where there are no purchases.
        reward: Sum of rewards.
        repeats: Events on a known item that stood in the session before.
        repeats_of_last: Those on the very last item.
        with_history: Events on known items with an event before them.
        lengths: Sessions by number of events, the last entry for all longer ones.
        num_items: N, padding included.
        test_sessions: Sessions by which a policy will be judged; 0 for all.
    """

    sessions: int
    events: int
    purchases: int
    rewarded_sessions: int
    reward: float
    repeats: int
    repeats_of_last: int
    with_history: int
    lengths: tuple[int, ...]
    num_items: int
    test_sessions: int = 0


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    Attributes:
        code: Which.
        holds: True where it speaks for reinforcement learning.
        value: What was measured; None where it could not be.
        bound: From where on it speaks for it.
        text: The same in words.
    """

    code: Code
    holds: bool
    value: float | None
    bound: float
    text: str


@dataclass(frozen=True)
class Analysis:
    """The answer.

    Attributes:
        verdict: In a word.
        recommendation: In a sentence or two.
        findings: What it rests on.
        numbers: Everything that was measured, plain data.
    """

    verdict: Verdict
    recommendation: str
    findings: tuple[Finding, ...]
    numbers: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, never NaN."""
        return asdict(self)


def analyse(sample: LogSample, totals: Totals, rules: Rules | None = None) -> Analysis:
    """Answers from the numbers of a log.

    Raises:
        ValueError: The sample has too few sessions for three folds.
    """
    rules = rules or Rules()
    behaviour = CrossFittedBehaviour(totals.num_items)
    behaviour.fit(sample.session, sample.rounds)
    # [n, 10] where the logged item stands among the likeliest.
    likeliest = behaviour.best(sample.session, sample.rounds.history, _SLATE) == sample.rounds.item[:, None]
    numbers: dict[str, Any] = {
        "reward": _reward(totals),
        "horizon": _horizon(sample, totals),
        "repeats": _repeats(totals),
        "logging": _logging(sample, behaviour, likeliest, totals.num_items),
        "long_term_gap": long_term_gap(sample),
        "evaluation": _evaluation(sample, behaviour, likeliest.any(axis=1), totals.test_sessions or totals.sessions),
        "sample": {"sessions": len(np.unique(sample.session)), "events": len(sample.reward)},
    }
    findings = tuple(_findings(numbers, rules))
    verdict, recommendation = _conclude({finding.code: finding for finding in findings}, numbers)
    return Analysis(verdict, recommendation, findings, numbers)


def _reward(totals: Totals) -> dict[str, Any]:
    return {
        "sessions": totals.sessions,
        "events": totals.events,
        "purchase_share": totals.purchases / max(1, totals.events),
        "rewarded_sessions": totals.rewarded_sessions,
        "rewarded_session_share": totals.rewarded_sessions / max(1, totals.sessions),
        "reward_per_event": totals.reward / max(1, totals.events),
        "return_per_session": totals.reward / max(1, totals.sessions),
    }


def _horizon(sample: LogSample, totals: Totals) -> dict[str, Any]:
    lengths = np.array(totals.lengths)
    cumulative = np.cumsum(lengths) / max(1, lengths.sum())
    to_go = float(sample.to_go.sum())
    return {
        "mean_length": totals.events / max(1, totals.sessions),
        "median_length": int(np.searchsorted(cumulative, 0.5)),
        "ninth_decile_length": int(np.searchsorted(cumulative, 0.9)),
        "future_share": 1.0 - float(sample.reward.sum()) / to_go if to_go > 0.0 else 0.0,
        "lengths": list(totals.lengths),
    }


def _repeats(totals: Totals) -> dict[str, Any]:
    return {"rate": totals.repeats / max(1, totals.with_history), "of_last_rate": totals.repeats_of_last / max(1, totals.with_history)}


def _logging(sample: LogSample, behaviour: CrossFittedBehaviour, likeliest: Bools, num_items: int) -> dict[str, Any]:
    """How freely the logging policy chose, and whether a model of it can be believed."""
    counts = np.bincount(sample.rounds.item, minlength=num_items).astype(np.float64)
    shares = counts[counts > 0] / counts.sum()
    calibration, _ = behaviour.check(sample.session, sample.rounds)
    logged = sample.propensity
    loss = calibration.mean_log_loss() if logged is None else float(-np.log(logged).mean())
    return {
        "propensities_logged": logged is not None,
        "entropy_bits": loss / math.log(2.0),
        "predicted": float(likeliest[:, 0].mean()),
        "predicted_among_ten": float(likeliest.any(axis=1).mean()),
        "least_propensity": None if logged is None else float(logged.min()),
        "items": num_items - 1,
        "effective_items": float(np.exp(-(shares * np.log(shares)).sum())),
        "effective_choices": math.exp(loss),
        "calibration_error": calibration.error(),
        "calibrated_on_events": calibration.num_rounds,
    }


def long_term_gap(sample: LogSample) -> dict[str, Any]:
    """What is lost by choosing for the reward of the event instead of for the return of the session.

    Choices are items, told apart by whether they stood in the session already. On one half of the sessions they are put in order of
    their mean reward and of their mean return to go, each less the mean of the same step; on the other half the tenth of all events that
    each order holds best is compared by its return to go. Then the halves change places. Sessions that differ for reasons of their own
    lie in the number too: it says whether there is something to look for, not what a policy will gain.

    Returns:
        `value`, `low`, `high`: difference of return to go, 95 % interval over sessions; `relative`, as a share of the mean return to go;
        `agreement`: share of the events of one choice that are in the other.
    """
    arm = np.unique(sample.rounds.item * 2 + ~sample.rounds.is_fresh, return_inverse=True)[1].ravel()
    step = sample.rounds.step
    half = folds(sample.session, 2, seed=1)
    values, variances, agreements = [], [], []
    for number in range(2):
        known, asked = np.flatnonzero(half != number), np.flatnonzero(half == number)
        scores, residual = [], np.zeros(0)
        for column in (sample.reward, sample.to_go):
            level = _means(step[known], column[known], LATEST_STEP + 1, float(column[known].mean()))
            scores.append(_means(arm[known], column[known] - level[step[known]], int(arm.max()) + 1, 0.0))
            residual = column[asked] - level[step[asked]]
        greedy, patient = (_best(score, arm[asked]) for score in scores)
        parts = np.zeros(len(asked))
        parts[patient] += (residual[patient] - residual[patient].mean()) / len(patient)
        parts[greedy] -= (residual[greedy] - residual[greedy].mean()) / len(greedy)
        by_session = np.bincount(np.unique(sample.session[asked], return_inverse=True)[1].ravel(), weights=parts)
        values.append(float(residual[patient].mean() - residual[greedy].mean()))
        variances.append(float((by_session**2).sum()))
        agreements.append(len(np.intersect1d(greedy, patient)) / len(patient))
    value, error = float(np.mean(values)), math.sqrt(sum(variances)) / 2.0
    mean = float(sample.to_go.mean())
    return {
        "value": value,
        "low": value - _NORMAL_QUANTILE * error,
        "high": value + _NORMAL_QUANTILE * error,
        "relative": value / mean if mean > 0.0 else 0.0,
        "agreement": float(np.mean(agreements)),
    }


def _means(group: Ints, values: Floats, size: int, prior: float) -> Floats:
    """[size] mean of each group, drawn towards a prior where there are few."""
    sums, counts = np.bincount(group, weights=values, minlength=size), np.bincount(group, minlength=size)
    means: Floats = (sums + _PRIOR_EVENTS * prior) / (counts + _PRIOR_EVENTS)
    return means


def _best(score: Floats, arm: Ints) -> Ints:
    """Places of the events whose choices are best, about a tenth of them; equal scores by the number of the choice."""
    order = np.lexsort((arm, -score[arm]))
    return np.sort(order[: max(1, int(_BEST_SHARE * len(arm)))])


def _evaluation(sample: LogSample, behaviour: CrossFittedBehaviour, likely: Bools, test_sessions: int) -> dict[str, Any]:
    """How exactly a policy could be judged that makes some decisions otherwise: it shows one of the ten likeliest items there.

    `half_width` is that of the reward of an event by this sample; `test_half_width` and `test_return_half_width` are those of the
    difference to the logging policy by as many sessions as will judge, of the reward of an event and of the return from it on, each as a
    share of what the logging policy has.
    """
    item = sample.rounds.item
    estimated = behaviour.probabilities(sample.session, sample.rounds.history, item[:, None])[:, 0]
    chance = estimated if sample.propensity is None else sample.propensity
    place = np.unique(sample.session, return_inverse=True)[1].ravel()
    shrinks = math.sqrt((int(place.max()) + 1) / test_sessions)
    rows = []
    for part in SHARES:
        target = np.minimum(1.0, (1.0 - part) * chance + part * likely / _SLATE)
        log = SessionLog.from_rounds(sample.session, sample.reward, target, chance)
        panel = Panel([SNIPS()]).add(log)
        weights = WeightStatistics.of_rounds(log)
        (statistics,) = panel.statistics.values()
        try:
            interval = intervals.student_t(statistics)
            half = (interval.high - interval.low) / 2.0
        except intervals.NoIntervalError:
            half = math.nan
        value = statistics.estimate()
        relative = half / abs(value) if math.isfinite(half) and value else None
        paired = {name: _paired(place, target / chance, column) for name, column in (("", sample.reward), ("return_", sample.to_go))}
        rows.append(
            {
                "share": part,
                "value": value if math.isfinite(value) else None,
                "half_width": half if math.isfinite(half) else None,
                "relative_half_width": relative,
                **{f"test_{name}half_width": None if width is None else width * shrinks for name, width in paired.items()},
                "effective_share": weights.effective_size() / max(1, weights.size),
                "largest_weight_share": weights.largest_share(),
            }
        )
    return {"policies": rows, "propensities_logged": sample.propensity is not None, "test_sessions": test_sessions}


def _paired(place: Ints, weight: Floats, values: Floats) -> float | None:
    """Half width of the 95 % interval of sum w r / sum w less mean r on the same sessions, as a share of mean r; None where there is none.

    Args:
        place: [n] session of each round, from 0.
        weight: [n] w.
        values: [n] r.
    """
    total, mean = float(weight.sum()), float(values.mean())
    if total <= 0.0 or mean == 0.0:
        return None
    # What each round has in the error of either, by the delta method; sessions add up.
    parts = weight * (values - float((weight * values).sum()) / total) / total - (values - mean) / len(values)
    return _NORMAL_QUANTILE * math.sqrt(float((np.bincount(place, weights=parts) ** 2).sum())) / abs(mean)


def _findings(numbers: dict[str, Any], rules: Rules) -> list[Finding]:
    reward, horizon, logging = numbers["reward"], numbers["horizon"], numbers["logging"]
    gap = numbers["long_term_gap"]
    row = next(row for row in numbers["evaluation"]["policies"] if row["share"] == 0.25)
    width, kind = row["test_return_half_width"], "purchase" if reward["purchase_share"] > 0 else "reward"
    calibrated = logging["propensities_logged"] or logging["calibration_error"] <= rules.max_calibration_error
    how = "logged" if logging["propensities_logged"] else f"estimated, calibration error {logging['calibration_error']:.1%}"
    return [
        Finding(
            "reward",
            reward["rewarded_sessions"] >= rules.min_rewarded_sessions,
            reward["rewarded_sessions"],
            rules.min_rewarded_sessions,
            f"{reward['rewarded_sessions']:,} sessions ({reward['rewarded_session_share']:.1%}) have a {kind}; "
            f"{reward['purchase_share']:.2%} of {reward['events']:,} events are purchases",
        ),
        Finding(
            "horizon",
            horizon["future_share"] >= rules.min_future_share,
            horizon["future_share"],
            rules.min_future_share,
            f"{horizon['future_share']:.0%} of the return from an event on comes after it; a session has "
            f"{horizon['mean_length']:.1f} events, median {horizon['median_length']}",
        ),
        Finding(
            "exploration",
            logging["effective_choices"] >= rules.min_choices,
            logging["effective_choices"],
            rules.min_choices,
            f"what was logged is as uncertain as an even choice between {logging['effective_choices']:,.1f} of {logging['items']:,} items "
            f"({logging['entropy_bits']:.1f} bits); a model of it has {logging['predicted_among_ten']:.0%} of the events among its ten "
            "likeliest items",
        ),
        Finding(
            "long_term_gap",
            gap["low"] > 0.0,
            gap["low"],
            0.0,
            f"events on what is best for the return bring {gap['value']:+.4f} more of it than events on what is best for the "
            f"moment ({gap['low']:+.4f} to {gap['high']:+.4f}, {gap['relative']:+.1%} of the mean); "
            f"{gap['agreement']:.0%} of the two are the same",
        ),
        Finding(
            "evaluation",
            bool(calibrated and width is not None and width <= rules.max_half_width),
            width,
            rules.max_half_width,
            "the log cannot judge a policy that makes a quarter of all decisions otherwise"
            if width is None
            else f"of a policy that makes a quarter of all decisions otherwise, {numbers['evaluation']['test_sessions']:,} sessions tell "
            f"the gain in return to plus or minus {width:.1%} of the return (propensities {how})",
        ),
    ]


def _conclude(found: dict[Code, Finding], numbers: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict and what to do, with the numbers it rests on."""
    reward, future = numbers["reward"], f"{numbers['horizon']['future_share']:.0%}"
    if not found["reward"].holds:
        return "no", (
            f"There is too little reward to learn from: {reward['rewarded_sessions']:,} of {reward['sessions']:,} sessions have any of "
            f"what counts, {found['reward'].bound:,.0f} are little. Collect more sessions, or give clicks a reward of their own."
        )
    if not found["horizon"].holds:
        return "no", (
            f"Nearly all reward comes at once, {future} of it later: there is no long term to plan for. Train a supervised ranker "
            "(trainer.algorithm.name: bc); it needs less data and is judged by its ranking."
        )
    if not found["exploration"].holds:
        choices = numbers["logging"]["effective_choices"]
        return "no", (
            f"The logging policy hardly ever chose otherwise, as if between {choices:.1f} items: the log cannot say what would have "
            "happened. Explore first, a few percent."
        )
    width, error = found["evaluation"].value, numbers["logging"]["calibration_error"]
    if found["evaluation"].holds:
        judged = f"Its gain can be judged from this log before any traffic, to plus or minus {width:.1%}."
    elif width is not None and width <= found["evaluation"].bound:
        judged = (
            f"This log cannot judge it: the model of its propensities is off by {error:.1%}. Log propensities, or compare on live traffic."
        )
    else:
        told = "not at all" if width is None else f"only to plus or minus {width:.1%}"
        judged = f"This log can judge its gain {told}: take more sessions, log propensities, or compare on live traffic."
    gap = numbers["long_term_gap"]
    if not found["long_term_gap"].holds:
        return "perhaps", (
            f"{future} of the reward comes later, but what is good now and what is good in the long run are the same items as far as this "
            f"log shows ({gap['relative']:+.1%} of the return, not certainly above 0). Begin with a supervised ranker and keep it as the "
            f"bar that a policy for long-term reward has to clear. {judged}"
        )
    return ("yes" if found["evaluation"].holds else "perhaps"), (
        f"Choosing for the long run is something else than choosing for the moment ({gap['relative']:+.1%} of the return between the two, "
        f"{gap['agreement']:.0%} of the choices the same): a policy for long-term reward can pay. {judged}"
    )
