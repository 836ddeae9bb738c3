"""Noise of rewards: its mean, its spread, and that nothing but the reward changes."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from models.agents.environments import SessionEnvironment
from models.simulators.chance import STEP, Chance
from models.simulators.noise import NOISES, AnyNoise, GaussianNoise, Noise, NoisySimulator, ParetoNoise, StudentNoise, Thinning
from models.simulators.registry import SIMULATORS
from schemas.config import Config, ConfigError, canonical_json, decode

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_worlds")

KINDS = [
    Thinning(kept=0.25),
    GaussianNoise(deviation=0.7),
    StudentNoise(degrees=5.0, scale=0.4),
    StudentNoise(degrees=1.5, scale=0.4),
    ParetoNoise(exponent=4.5, scale=0.3),
    ParetoNoise(exponent=1.4, scale=0.3),
]
LIGHT = [noise for noise in KINDS if np.isfinite(noise.variance(np.ones(1)))[0]]


def _draws(noise: Noise, count: int) -> np.ndarray:
    return Chance(3).uniform(STEP, np.arange(count), 0, noise.num_draws)


def test_every_kind_is_tested() -> None:
    assert {type(noise) for noise in KINDS} == set(NOISES)


@pytest.mark.parametrize("noise", LIGHT, ids=str)
def test_sampled_mean_and_variance_are_the_stated_ones(noise: Noise) -> None:
    count = 400_000
    for reward in (-0.5, 0.0, 1.5):
        paid = noise.apply(np.full(count, reward), _draws(noise, count))
        variance = float(noise.variance(np.array([reward]))[0])
        # Four standard errors.
        assert abs(paid.mean() - reward) <= 4.0 * (variance / count) ** 0.5 + 1e-12
        assert paid.var() == pytest.approx(variance, rel=0.15, abs=1e-12)


@pytest.mark.parametrize("noise", [noise for noise in KINDS if not isinstance(noise, Thinning)], ids=str)
def test_added_noise_is_symmetric_to_the_bit_so_that_its_mean_is_exact(noise: Noise) -> None:
    draws = _draws(noise, 1000)
    # Half a turn, or the other side of the coin.
    opposite = np.stack([draws[:, 0], np.where(draws[:, 1] < 0.5, draws[:, 1] + 0.5, draws[:, 1] - 0.5)], axis=1)
    nothing = np.zeros(1000)
    up, down = noise.apply(nothing, draws), noise.apply(nothing, opposite)
    assert np.isfinite(up).all()
    assert (up != 0).all()
    np.testing.assert_array_equal(up, -down)


def test_thinning_pays_exactly_what_it_takes() -> None:
    # Draws on a grid of sixteenths: 4 of 16 are kept, and 4 / 16 of 3 / .25 is 3.
    paid = Thinning(kept=0.25).apply(np.full(16, 3.0), np.arange(16)[:, None] / 16.0)
    assert paid.tolist() == [12.0] * 4 + [0.0] * 12
    assert paid.mean() == 3.0
    # (3 / .25)^2 * .25 - 9
    assert Thinning(kept=0.25).variance(np.array([3.0])).tolist() == [27.0]
    assert paid.var() == 27.0


def test_tails_are_as_long_as_they_should_be() -> None:
    count = 400_000
    pareto = np.abs(ParetoNoise(exponent=1.4, scale=2.0).apply(np.zeros(count), _draws(ParetoNoise(exponent=1.4, scale=2.0), count)))
    assert pareto.min() >= 2.0
    for times in (2.0, 10.0, 100.0):
        # P(|x| > y) = y^-1.4
        share = times**-1.4
        assert (pareto > 2.0 * times).mean() == pytest.approx(share, abs=4 * (share / count) ** 0.5)
    # Student's t with 2 degrees has P(t < y) = 1/2 + y / (2 sqrt(2 + y^2)).
    student = StudentNoise(degrees=2.0, scale=1.0).apply(np.zeros(count), _draws(KINDS[2], count))
    for place in (-3.0, 0.5, 8.0):
        expected = 0.5 + place / (2.0 * (2.0 + place**2) ** 0.5)
        assert (student < place).mean() == pytest.approx(expected, abs=4 * (0.25 / count) ** 0.5)
    # The normal distribution: P(z < 1) = .8413.
    assert (GaussianNoise(deviation=1.0).apply(np.zeros(count), _draws(KINDS[1], count)) < 1.0).mean() == pytest.approx(0.8413, abs=0.003)


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("noise", [KINDS[0], KINDS[3]], ids=str)
def test_a_session_takes_the_same_course_with_noise_and_without(name: str, noise: Noise) -> None:
    plain = toy.simulator(name)
    noisy = NoisySimulator(plain, noise)
    rewards: dict[str, list[np.ndarray]] = {"plain": [], "noisy": []}
    for key, world in (("plain", plain), ("noisy", noisy)):
        environment = SessionEnvironment(world, 8, seed=4)
        rng = np.random.default_rng(0)
        step = environment.reset()
        for _ in range(40):
            step = environment.step(toy.random_actions(plain, rng, 8))
            rewards[key].append(np.concatenate([np.ravel(part) for part in toy.parts(step.observation).values()]))
            rewards[key].append(step.step_type)
    for one, other in zip(rewards["plain"], rewards["noisy"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_mean_over_chance_is_the_reward_of_the_world() -> None:
    world = toy.simulator("stitching")
    noisy = NoisySimulator(world, Thinning(kept=0.5))
    count = 200_000
    state = world.begin(np.zeros((count, 0)))
    state["state"][:] = world.config.steps_per_half - 1
    chance = Chance(1).uniform(STEP, np.arange(count), 0, noisy.num_step_draws)
    action = np.full(count, world.right_action(world.config.steps_per_half - 1), np.int32)
    expected = world.step(state, action, chance[:, : world.num_step_draws]).reward
    paid = noisy.step(state, action, chance).reward
    # Of each reward 1 the variance is 1.
    assert paid.mean() == pytest.approx(expected.mean(), abs=4 * count**-0.5)
    assert set(np.unique(paid)) == {0.0, 2.0}


def test_bounds_of_thinned_rewards_hold_and_added_noise_has_none() -> None:
    assert Thinning(kept=0.5).bounds(-1.0, 2.0) == (-2.0, 4.0)
    assert Thinning(kept=0.5).bounds(1.0, 2.0) == (0.0, 4.0)
    assert NoisySimulator(toy.simulator("stitching"), KINDS[1]).reward_bounds == (-np.inf, np.inf)


class Holder(Config):
    noise: AnyNoise


@pytest.mark.parametrize("noise", KINDS, ids=str)
def test_configurations_come_back_and_bad_ones_are_refused(noise: Any) -> None:
    import json

    holder = Holder(noise=noise)
    assert decode(Holder, json.loads(canonical_json(holder)), "test") == holder
    with pytest.raises(ConfigError, match="unknown key"):
        decode(Holder, {"noise": {**noise.model_dump(), "loudness": 1.0}}, "test")
    for wrong in ({"degrees": 1.0, "scale": 1.0}, {"exponent": 1.0, "scale": 1.0}):
        kind = StudentNoise if "degrees" in wrong else ParetoNoise
        # Without a mean it could not be kept.
        with pytest.raises(pydantic.ValidationError):
            kind(**wrong)
