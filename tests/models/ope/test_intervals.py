"""Intervals against formulas worked out by hand, textbook quantiles and their coverage of a known value."""

import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.ope import quantiles
from models.ope.bandit import DR, IPS, SNIPS, ClippedIPS, DirectMethod
from models.ope.base import Bounds
from models.ope.intervals import (
    NoIntervalError,
    bernstein_half_width,
    bootstrap,
    difference,
    empirical_bernstein,
    hoeffding,
    hoeffding_half_width,
    standard_error,
    student_t,
)
from models.ope.log import SessionLog
from models.ope.resampling import Resampling
from models.ope.sequential import PDIS, SNPDIS, TIS
from models.ope.statistics import Panel, Statistics

sys.path.append(str(Path(__file__).parent))
worlds = import_module("worlds")

KNOWN = Bounds(low=0.0, high=1.0, weight=10.0, steps=4)


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        # Tables: Abramowitz and Stegun 26.10; one and two degrees in closed form.
        (0.975, 1, math.tan(math.pi * 0.475)),
        (0.975, 2, 0.95 / math.sqrt(2 * 0.975 * 0.025)),
        (0.975, 5, 2.5705818366147),
        (0.975, 10, 2.2281388519649),
        (0.975, 30, 2.0422724563012),
        (0.995, 7, 3.4994832973505),
        (0.95, 120, 1.6576508993552),
        (0.975, 1e9, 1.9599639864),
    ],
)
def test_quantiles_of_students_t(probability: float, degrees: float, expected: float):
    assert quantiles.student_t(probability, degrees) == pytest.approx(expected, rel=1e-9)
    assert quantiles.student_t(1 - probability, degrees) == pytest.approx(-expected, rel=1e-9)


def test_both_ways_to_a_quantile_meet():
    below, above = (quantiles.student_t(0.975, quantiles.MANY_DEGREES + step) for step in (0, 1))
    assert below == pytest.approx(above, rel=1e-8)
    assert below > above


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_there_is_no_quantile_out_of_range(probability: float, degrees: float):
    with pytest.raises(ValueError, match="no quantile"):
        quantiles.student_t(probability, degrees)


def test_half_widths_of_the_certain_intervals():
    # log(2 / .05) / 2000 under the root, not times it.
    assert hoeffding_half_width(1.0, 1000, 0.025) == pytest.approx(0.042947, abs=1e-6)
    # One-sided at .05, a variance of .01 over n is .01 n / (n - 1) over n - 1.
    assert bernstein_half_width(1.0, 0.01 * 1000 / 999, 1000, 0.05) == pytest.approx(0.017210, abs=1e-6)
    assert hoeffding_half_width(1.0, 4000, 0.025) == pytest.approx(hoeffding_half_width(1.0, 1000, 0.025) / 2)


def test_students_interval_of_a_mean_is_the_textbook_one():
    log = worlds.worked_bandit()
    terms = log.weight * log.reward
    half = 3.182446305284264 * terms.std(ddof=1) / 2
    found = student_t(Statistics.of(IPS(), log))
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75 - half, 0.75 + half))


def test_the_error_of_a_ratio_is_that_of_its_parts():
    log = worlds.worked_bandit()
    parts = log.weight * (log.reward - 6 / 7) / 3.5
    assert standard_error(Statistics.of(SNIPS(), log)) == pytest.approx(math.sqrt((parts**2).sum() * 4 / 3))


def test_rounds_of_one_session_are_one_unit():
    once = worlds.random_log(50, 3, max_length=1)
    tripled = SessionLog(once.session, 3 * once.offsets, *(np.repeat(column, 3) for column in (once.reward, once.target, once.behaviour)))
    for estimator in (IPS(), SNIPS()):
        one, three = Statistics.of(estimator, once), Statistics.of(estimator, tripled)
        assert standard_error(three) == pytest.approx(standard_error(one), rel=1e-9)
    panels = [Panel([IPS()], Resampling(num_resamples=50)).add(log).statistics["ips"] for log in (once, tripled)]
    assert panels[1].resampled_values() == pytest.approx(panels[0].resampled_values(), rel=1e-12)
    assert hoeffding(three_ips := Statistics.of(IPS(), tripled), KNOWN).high == pytest.approx(
        hoeffding(Statistics.of(IPS(), once), KNOWN).high
    )
    assert empirical_bernstein(three_ips, KNOWN).low == pytest.approx(empirical_bernstein(Statistics.of(IPS(), once), KNOWN).low)


def test_a_resample_is_the_estimate_of_the_sessions_as_often_as_they_count():
    log = worlds.random_log(40, 5)
    resampling = Resampling(num_resamples=6, seed=2)
    statistics = Panel([SNPDIS(discount=0.9)], resampling).add(log).statistics["snpdis@0.9"]
    weights = resampling.weights(log.session)
    for resample, found in enumerate(statistics.resampled_values()):
        chosen = np.repeat(np.arange(40), weights[:, resample].astype(int))
        rounds = [np.arange(log.offsets[s], log.offsets[s + 1]) for s in chosen]
        index = np.concatenate(rounds)
        repeated = SessionLog.from_rounds(
            np.repeat(worlds.keys(len(chosen)), [len(each) for each in rounds]), log.reward[index], log.target[index], log.behaviour[index]
        )
        assert found == pytest.approx(Statistics.of(SNPDIS(discount=0.9), repeated).estimate(), rel=1e-12)


def test_the_bootstrap_error_is_that_of_the_delta_method():
    log = worlds.random_log(3000, 7)
    panel = Panel([IPS(), SNIPS(), DR()], Resampling(num_resamples=1000)).add(log)
    for statistics in panel.statistics.values():
        assert statistics.resampled_values().std() == pytest.approx(standard_error(statistics), rel=0.1)
        interval, by_t = bootstrap(statistics), student_t(statistics)
        assert (interval.low, interval.high) == pytest.approx((by_t.low, by_t.high), abs=0.4 * standard_error(statistics))


def test_intervals_cover_the_true_value_as_often_as_they_say():
    rng = np.random.default_rng(11)
    rows = list(worlds.outcomes())
    chances = np.array([row[0] for row in rows])
    columns = [np.array([row[k] for row in rows]) for k in (1, 2, 3)]
    covered = {"bootstrap": 0, "student_t": 0, "hoeffding": 0, "empirical_bernstein": 0}
    known = Bounds(0.0, 1.0, weight=2.8)
    for _ in range(200):
        drawn = rng.choice(len(rows), 300, p=chances)
        log = worlds.bandit_log(*(column[drawn] for column in columns), worlds.MEANS)
        statistics = Panel([IPS()], Resampling(num_resamples=200)).add(log).statistics["ips"]
        intervals = (bootstrap(statistics), student_t(statistics), hoeffding(statistics, known), empirical_bernstein(statistics, known))
        for interval in intervals:
            covered[interval.method] += interval.low <= worlds.BANDIT_VALUE <= interval.high
    assert 0.89 <= covered["bootstrap"] / 200 <= 0.99
    assert 0.90 <= covered["student_t"] / 200 <= 0.99
    # Certain intervals are wide: they promise 95%, and hold nearly always.
    assert min(covered["hoeffding"], covered["empirical_bernstein"]) >= 198


def test_the_difference_of_two_policies_is_paired():
    log = worlds.random_log(500, 9)
    nearly = SessionLog(log.session, log.offsets, log.reward, np.minimum(1.0, log.target * 1.01), log.behaviour)
    resampling = Resampling(num_resamples=300)
    one, other = (Panel([IPS()], resampling).add(each).statistics["ips"] for each in (nearly, log))
    found = difference(one, other)
    assert found.value == pytest.approx(one.estimate() - other.estimate())
    assert found.low > 0.0
    assert found.high - found.low < 0.1 * (bootstrap(one).high - bootstrap(one).low)
    with pytest.raises(NoIntervalError, match="same log"):
        difference(one, Panel([IPS()], resampling).add(worlds.random_log(20)).statistics["ips"])


def test_bounds_of_clipped_weights_are_narrower():
    log = worlds.random_log(100, 1, max_length=1)
    wide, narrow = (hoeffding(Statistics.of(estimator, log), KNOWN) for estimator in (IPS(), ClippedIPS(cap=2.0)))
    assert wide.high - wide.low == pytest.approx(5 * (narrow.high - narrow.low))
    doubly = hoeffding(Statistics.of(DR(), log), KNOWN)
    assert doubly.high - doubly.low == pytest.approx(2.1 * (wide.high - wide.low))


@pytest.mark.parametrize(
    ("estimator", "known", "message"),
    [
        (SNIPS(), KNOWN, "no mean of independent terms"),
        (IPS(), Bounds(0.0, 0.5, 10.0), "outside of the stated bounds"),
        (IPS(), Bounds(0.0, 1.0, 1.5), "above the stated bound 1.5"),
        (DirectMethod(), Bounds(0.1, 1.0, 10.0), "outside of the stated bounds"),
        (PDIS(), Bounds(0.0, 1.0, 10.0, steps=2), "above the stated bound 2"),
        (SNPDIS(), KNOWN, "take its bootstrap"),
    ],
)
def test_certain_intervals_need_bounds_that_hold(estimator, known: Bounds, message: str):
    with pytest.raises(NoIntervalError, match=message):
        hoeffding(Statistics.of(estimator, worlds.random_log(50, 2)), known)


def test_the_bound_of_a_session_grows_with_its_steps():
    log = worlds.random_log(50, 2, max_length=2)
    two, three = (hoeffding(Statistics.of(TIS(), log), Bounds(0.0, 1.0, 10.0, steps=steps)) for steps in (2, 3))
    # 10^2 times two rewards against 10^3 times three.
    assert (three.high - three.low) / (two.high - two.low) == pytest.approx(15.0)


def test_what_was_not_kept_gives_no_interval():
    log = worlds.random_log(20)
    with pytest.raises(NoIntervalError, match="not resampled"):
        bootstrap(Statistics.of(IPS(), log))
    with pytest.raises(NoIntervalError, match="keeps no products"):
        student_t(Statistics.of(SNPDIS(), log))
    with pytest.raises(NoIntervalError, match="a variance needs two"):
        student_t(Statistics.of(IPS(), worlds.random_log(1)))
    nowhere = SessionLog(log.session, log.offsets, log.reward, np.zeros(log.num_rounds), log.behaviour)
    with pytest.raises(NoIntervalError, match="no weight left"):
        bootstrap(Panel([SNIPS()], Resampling(num_resamples=10)).add(nowhere).statistics["snips"])
