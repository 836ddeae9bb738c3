"""Over many logs of worlds with known values: what is unbiased is right on average, and intervals hold as often as they say."""

import numpy as np
import pytest
import worlds

from models.ope.base import Bounds, Estimator
from models.ope.intervals import NoIntervalError, bootstrap, empirical_bernstein, hoeffding, student_t
from models.ope.log import SessionLog
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling
from models.ope.statistics import Panel

DISCOUNT = 0.9
RESAMPLES = 200
ROUGH = worlds.MEANS + np.array([[0.1, -0.1, 0.05], [-0.15, 0.1, 0.0]])
"""A reward model that is wrong everywhere."""
BANDIT = ("ips", "snips", "dr", "sndr")
SESSIONS = ("tis", "pdis", "sntis", "snpdis", "sequential_dr", "wdr", "magic")
UNBIASED = ("ips", "dr", "tis", "pdis", "sequential_dr")


def replications(number: int, size: int) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Estimator to method to (value, low, high) of every log, for rounds and for sessions."""
    rng = np.random.default_rng(17)
    rows = list(worlds.outcomes())
    chances = np.array([row[0] for row in rows])
    columns = [np.array([row[k] for row in rows]) for k in (1, 2, 3)]
    chain = worlds.Chain()
    q, v = chain.values(DISCOUNT)
    rough = q + rng.normal(0.0, 0.2, q.shape)
    expected = np.broadcast_to((chain.target * rough).sum(axis=2), v[:-1].shape)
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}

    def keep(estimators: list[Estimator], log: SessionLog, known: Bounds) -> None:
        panel = Panel(estimators, Resampling(num_resamples=RESAMPLES)).add(log)
        for statistics in panel.statistics.values():
            methods = found.setdefault(str(getattr(statistics.estimator, "name")), {})  # noqa: B009
            for make in (bootstrap, student_t, hoeffding, empirical_bernstein):
                try:
                    interval = make(statistics, known) if make in (hoeffding, empirical_bernstein) else make(statistics)  # type: ignore[operator]
                except NoIntervalError:
                    continue
                methods.setdefault(interval.method, []).append((interval.value, interval.low, interval.high))

    for _ in range(number):
        drawn = rng.choice(len(rows), size, p=chances)
        log = worlds.bandit_log(*(column[drawn] for column in columns), ROUGH)
        keep([ESTIMATORS[name]() for name in BANDIT], log, Bounds(-0.2, 1.0, weight=2.8))
        # The greatest ratio of the chain is .6 / .25, its rewards run to 2.
        sessions = chain.drawn(rng, size, rough, expected)
        sequential = [ESTIMATORS[name].model_validate({"discount": DISCOUNT}) for name in SESSIONS]
        keep(sequential, sessions, Bounds(-2.0, 6.0, weight=2.4, steps=3))
    return found


def judged(number: int, size: int) -> None:
    truth = {**dict.fromkeys(BANDIT, worlds.BANDIT_VALUE), **dict.fromkeys(SESSIONS, float(worlds.Chain().values(DISCOUNT)[1][0, 0]))}
    found = replications(number, size)
    assert set(found) == set(truth)
    # Three standard errors of a share of .95, and what a bootstrap of few sessions is short of.
    least = 0.95 - 3.0 * (0.05 * 0.95 / number) ** 0.5 - 0.02
    for name, methods in found.items():
        values = np.array([value for value, _, _ in methods["bootstrap"]])
        error = values.std(ddof=1) / number**0.5
        bias = 3.0 * error if name in UNBIASED else 3.0 * error + 0.02 * abs(truth[name])
        assert abs(values.mean() - truth[name]) < bias, name
        for method, intervals in methods.items():
            covered = np.mean([low <= truth[name] <= high for _, low, high in intervals])
            assert covered >= (0.99 if method in ("hoeffding", "empirical_bernstein") else least), (name, method, covered)
            # The interval of magic is that of wdr, whatever its model promises.
            if method in ("bootstrap", "student_t") and name != "magic":
                # Not by being too wide: about four standard deviations of the estimate from end to end.
                width = np.mean([high - low for _, low, high in intervals])
                assert width == pytest.approx(3.92 * values.std(ddof=1), rel=0.15 + 3.0 / (2.0 * number) ** 0.5), (name, method)
    # Certain intervals exist where terms are bounded, and nowhere else.
    certain = {name for name, methods in found.items() if "hoeffding" in methods}
    assert certain == {"ips", "dr", "tis", "pdis"}


def test_estimates_and_intervals_hold_on_a_few_logs():
    judged(40, 200)


@pytest.mark.slow
def test_estimates_and_intervals_hold_on_two_hundred_logs():
    judged(200, 400)
