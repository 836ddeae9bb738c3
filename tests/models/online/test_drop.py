"""The test for a drop: seldom wrong while nothing drops, soon right when something does."""

import json

import numpy as np
import pytest

from models.online.drop import DropTest

ROUNDS, SESSIONS, BASELINE = 40, 100, 800


def returns(rng: np.random.Generator, mean: float, count: int = SESSIONS) -> np.ndarray:
    """Skewed as returns of sessions are: exponential."""
    return rng.exponential(mean, count)


def alarm_at(seed: int, mean_of: list[float], **changes: float) -> int | None:
    """Round of the alarm, from 0."""
    rng = np.random.default_rng(seed)
    test = DropTest(ROUNDS, **changes)
    test.fit(returns(rng, 1.0, BASELINE))
    return next((number for number, mean in enumerate(mean_of) if test.update(returns(rng, mean))), None)


def test_false_alarms_are_as_rare_as_promised() -> None:
    # The worst case there is: nothing has dropped and no drop is tolerated. 400 tunings at 10 %: at most 40 are expected, and 58 are
    # three standard errors more.
    false_alarms = sum(alarm_at(seed, [1.0] * ROUNDS, false_alarm_rate=0.1, tolerated_drop=0.0) is not None for seed in range(400))
    assert false_alarms <= 58


def test_a_drop_that_is_tolerated_sounds_no_more_alarms() -> None:
    alarms = sum(alarm_at(seed, [0.9] * ROUNDS, false_alarm_rate=0.1, tolerated_drop=0.1) is not None for seed in range(200))
    assert alarms <= 32


@pytest.mark.parametrize("begins", [0, 25])
def test_a_drop_is_found_soon_wherever_it_begins(begins: int) -> None:
    means = [1.3] * begins + [0.6] * (ROUNDS - begins)
    found = [alarm_at(seed, means, false_alarm_rate=0.05, tolerated_drop=0.05) for seed in range(30)]
    assert all(number is not None for number in found)
    # 35 % below 95 % of before, four standard errors of a round and more: a handful of rounds.
    assert max(number - begins for number in found if number is not None) <= 8
    assert min(number for number in found if number is not None) >= begins


def test_there_is_no_alarm_while_the_reward_grows() -> None:
    assert all(alarm_at(seed, list(np.linspace(1.0, 2.0, ROUNDS))) is None for seed in range(50))


def test_evidence_begins_at_one_and_ends_at_what_began_later() -> None:
    test = DropTest(num_rounds=2, floor=0.0)
    # Mean 1 and standard error 1: z = 1, and exp(-l - l^2 / 2) is .5353, .2231, .0183, 6.1e-6 for l = .5, 1, 2, 4.
    assert not test.update(np.array([0.0, 2.0]))
    mean = (np.exp([-0.625, -1.5, -4.0, -12.0])).mean()
    assert test.evidence == pytest.approx(mean / 2 + 0.5)
    test.update(np.array([0.0, 2.0]))
    again = np.exp(np.array([-0.625, -1.5, -4.0, -12.0]))
    assert test.evidence == pytest.approx(((again / 2 + 0.5) * again).mean())


def test_the_floor_is_the_lower_bound_less_what_may_be_lost() -> None:
    test = DropTest(10, false_alarm_rate=0.05, tolerated_drop=0.1)
    test.fit(np.tile([1.0, 3.0], 200))
    # Mean 2, standard error 1.00125 / 20; the bound that fails with probability .025 lies 1.96 of them lower.
    assert test.floor == pytest.approx(0.9 * (2.0 - 1.959964 * 1.001252 / 20.0), rel=1e-5)
    # Of a negative return a tenth more may be lost.
    test.fit(np.tile([-1.0, -3.0], 200))
    assert test.floor == pytest.approx(1.1 * (-2.0 - 1.959964 * 1.001252 / 20.0), rel=1e-5)


def test_returns_that_are_all_alike_are_no_trouble() -> None:
    test = DropTest(5)
    test.fit(np.ones(10))
    assert not test.update(np.ones(10))
    assert np.isfinite(test.evidence)
    assert [test.update(np.zeros(10)) for _ in range(4)][-1]


def test_a_restored_test_goes_on_as_the_other() -> None:
    test = DropTest(10)
    test.fit(np.arange(10.0))
    test.update(np.arange(10.0) - 3.0)
    other = DropTest.from_state(json.loads(json.dumps(test.get_state())))
    for each in (test, other):
        each.update(np.arange(10.0) - 4.0)
    assert other == test
