"""Virtual Taobao: the published weights' answers and statistics, noise with a known mean, and the best constant action."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.environments import read_weights
from models.simulators.base import Seen, play
from models.simulators.chance import BEGIN, Chance
from models.simulators.constant_action import _gradient, best_constant_action, click_rate
from models.simulators.virtual_taobao import (
    GROUPS,
    NUM_USER,
    STARTS,
    WIDTHS,
    VirtualTaobao,
    VirtualTaobaoConfig,
    VirtualTaobaoWeights,
    network,
)

RANDOM, ZERO, PAGES = 0.0188, 0.0562, 7.76
"""Clicks over items shown, pooled over pages, of 20,000 sessions: evenly random actions, the zero action; and pages a session."""


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    found = data_folder / "virtual_taobao"
    if not found.is_dir():
        pytest.skip(f"no weights of Virtual Taobao: {found} does not exist; set LONGPLAY_DATA")
    return found


@pytest.fixture(scope="module")
def published(folder: Path) -> VirtualTaobao:
    return VirtualTaobao(VirtualTaobaoConfig(weights=str(folder)), read_weights(folder))


@pytest.fixture(scope="module")
def golden(folder: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((folder / "golden.json").read_text())
    return cases


def noisy(simulator: VirtualTaobao, **changes: float) -> VirtualTaobao:
    return VirtualTaobao(simulator.config.model_copy(update=changes), simulator.weights)


# === The published answers ===


@pytest.mark.data
def test_clicks_and_leaving_have_the_published_probabilities(published: VirtualTaobao, golden: list[dict[str, Any]]) -> None:
    cases = [case for case in golden if "user_on" in case]
    assert len(cases) == 3
    user = np.array([case["user_on"] for case in cases])
    page, action = np.array([int(case["page"]) for case in cases]), np.array([case["weight"] for case in cases])
    # Published in float32, whose logits in the thousands have errors of some thousandths.
    clicks = published.click_probabilities(published.click_logits(user, page, action))
    np.testing.assert_allclose(clicks, [case["click_prob"] for case in cases], atol=2e-5)
    leave = published.leave_probabilities(user)
    np.testing.assert_allclose(leave[:, :8], [case["leave_prob_head"] for case in cases], rtol=1e-4)


@pytest.mark.data
def test_customers_have_the_published_probabilities(published: VirtualTaobao, golden: list[dict[str, Any]]) -> None:
    (case,) = [case for case in golden if "seed" in case]
    np.testing.assert_allclose(published.user_probabilities(np.array([case["seed"]]))[0], case["user_prob"], atol=1e-6)


# === The published statistics ===


def evenly_random(seen: Seen) -> np.ndarray:
    return 2.0 * seen.draw(27) - 1.0


def zero(seen: Seen) -> np.ndarray:
    return np.zeros((len(seen.session), 27))


def assert_statistics(simulator: VirtualTaobao, num_sessions: int) -> None:
    for policy, expected in ((evenly_random, RANDOM), (zero, ZERO)):
        played = play(simulator, policy, num_sessions, seed=1)
        # A ratio of means; its error from the sessions' deviations from it.
        rate = played.returns.sum() / played.turns.sum() / 10
        error = (played.returns - 10 * rate * played.turns).std() / num_sessions**0.5 / (10 * played.turns.mean())
        # What was published has the error of its own 20,000 sessions.
        assert abs(rate - expected) <= 4 * error * (1 + num_sessions / 20_000) ** 0.5 + 5e-5
        error = played.turns.std() / num_sessions**0.5
        assert abs(played.turns.mean() - PAGES) <= 4 * error * (1 + num_sessions / 20_000) ** 0.5 + 5e-3
        assert played.turns.max() <= 100


@pytest.mark.data
def test_clicks_and_pages_have_the_published_means(published: VirtualTaobao) -> None:
    assert_statistics(published, 1_500)


@pytest.mark.data
@pytest.mark.slow
def test_clicks_and_pages_of_many_sessions_have_the_published_means(published: VirtualTaobao) -> None:
    assert_statistics(published, 20_000)


@pytest.mark.data
def test_customers_are_as_often_of_a_category_as_the_generator_says(published: VirtualTaobao) -> None:
    chance = Chance(2).uniform(BEGIN, np.arange(4_000), 0, published.num_begin_draws)
    user = published.begin(chance)["user"]
    expected = published.user_probabilities(chance[:, :128]).mean(axis=0)
    share = np.bincount(user.ravel(), minlength=NUM_USER) / 4_000
    assert (np.abs(share - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / 4_000) + 1e-3).all()
    assert ((user >= STARTS) & (user < np.add(STARTS, GROUPS))).all()


@pytest.mark.data
def test_the_best_constant_action_gets_nearly_all_clicks(published: VirtualTaobao) -> None:
    found = best_constant_action(published, num_sessions=100, num_starts=2, num_steps=100)
    assert found.click_rate >= 0.9
    assert (np.abs(found.action) <= 1.0).all()
    # What is stated is what is earned.
    played = play(published, lambda seen: np.broadcast_to(found.action, (len(seen.session), 27)), 1_000, seed=77)
    assert played.returns.sum() / played.turns.sum() / 10 == pytest.approx(found.click_rate, abs=0.05)


# === Noise with a known mean ===


@pytest.mark.data
def test_lost_clicks_leave_the_mean_as_it_is(published: VirtualTaobao) -> None:
    count, share = 20_000, 0.3
    thinned = noisy(published, kept_clicks=share)
    state = {name: np.repeat(rows, count, axis=0) for name, rows in published.begin(np.full((1, 140), 0.4)).items()}
    action = np.broadcast_to(best_action(published), (count, 27))
    chance = np.random.default_rng(0).random((count, 3))
    whole, lost = (simulator.step(state, action, chance) for simulator in (published, thinned))
    # The customer clicks n times for sure, so the reward is binomial(n, .3) / .3: variance n * .7 / .3.
    (clicks,) = set(whole.reward.tolist())
    assert clicks > 0
    assert lost.reward.mean() == pytest.approx(clicks, abs=4 * (clicks * 0.7 / 0.3 / count) ** 0.5)
    assert lost.reward.var() == pytest.approx(clicks * 0.7 / 0.3, rel=0.05)
    assert thinned.reward_bounds == (0.0, pytest.approx(10 / 0.3))
    # The clicks that count are those that are seen; what else happens is the same.
    np.testing.assert_allclose(lost.state["clicks"], lost.reward * share)
    np.testing.assert_array_equal(lost.state["browse"], whole.state["browse"])
    np.testing.assert_array_equal(lost.is_last, whole.is_last)


def best_action(simulator: VirtualTaobao) -> np.ndarray:
    """An action that many customers click under."""
    return best_constant_action(simulator, num_sessions=30, num_starts=1, num_steps=60).action


@pytest.mark.data
def test_a_temperature_makes_rewards_noisy_around_the_stated_mean(published: VirtualTaobao) -> None:
    # Share of the variance of clicks that the customer, the page and the action do not explain, by temperature.
    rng = np.random.default_rng(0)
    chance = Chance(3).uniform(BEGIN, np.arange(3_000), 0, published.num_begin_draws)
    state = published.begin(chance)
    action = rng.uniform(-1.0, 1.0, (3_000, 27))
    for temperature, low, high in ((1.0, 0.0, 0.01), (300.0, 0.25, 0.45), (3000.0, 0.8, 0.92)):
        simulator = noisy(published, temperature=temperature)
        shares = simulator.click_probabilities(simulator.click_logits(state["user"], state["page"], action))
        mean = shares @ np.arange(11)
        np.testing.assert_allclose(mean, simulator.expected_clicks(state["user"], state["page"], action))
        within = (shares @ np.arange(11) ** 2 - mean**2).mean()
        assert low <= within / (within + mean.var()) <= high
        drawn = simulator.step(state, action, rng.random((3_000, 3))).reward
        assert drawn.mean() == pytest.approx(mean.mean(), abs=4 * (within / 3_000) ** 0.5 + 1e-3)


@pytest.mark.data
@pytest.mark.parametrize("temperature", [300.0, 3000.0])
def test_the_search_follows_the_gradient_of_the_stated_mean(published: VirtualTaobao, temperature: float) -> None:
    simulator = noisy(published, temperature=temperature)
    state = simulator.begin(Chance(9).uniform(BEGIN, np.arange(50), 0, 140))
    pages = (state["user"], np.arange(50) % 7)
    action = np.random.default_rng(1).uniform(-1.0, 1.0, 27)
    found = _gradient(simulator, action, pages, temperature)
    step = 1e-6 * np.eye(27)
    rates = [[click_rate(simulator, action + sign * change, pages) for sign in (1, -1)] for change in step]
    np.testing.assert_allclose(found, [10 * (up - down) / 2e-6 for up, down in rates], rtol=1e-4, atol=1e-6)


# === Sessions ===


@pytest.mark.data
def test_an_observation_is_the_customer_the_last_page_and_how_many(published: VirtualTaobao) -> None:
    state = published.begin(Chance(4).uniform(BEGIN, np.arange(20), 0, 140))
    first = np.asarray(published.observe(state))
    assert first.shape == (20, 91)
    assert (first[:, 88:] == 0.0).all()
    for row in range(20):
        assert np.flatnonzero(first[row, :88]).tolist() == state["user"][row].tolist()
    moved = published.step(state, np.zeros((20, 27)), np.random.default_rng(0).random((20, 3)))
    second = np.asarray(published.observe(moved.state))
    np.testing.assert_array_equal(second[:, :88], first[:, :88])
    np.testing.assert_array_equal(second[:, 88], moved.reward)
    assert (second[:, 90] == 1.0).all()
    assert len(set(second[:, 89])) > 1


@pytest.mark.data
def test_a_customer_leaves_after_the_page_that_was_drawn(published: VirtualTaobao) -> None:
    played = play(published, zero, 300, seed=6)
    state = published.begin(Chance(6).uniform(BEGIN, np.arange(300), 0, 140))
    np.testing.assert_array_equal(played.turns, np.maximum(state["leave"], 1))


# === Weights ===


def arrays(name: str) -> dict[str, np.ndarray]:
    widths = WIDTHS[name]
    made = {f"{2 * layer}.bias": np.zeros(width, np.float32) for layer, width in enumerate(widths[1:])}
    return made | {f"{2 * layer}.weight": np.zeros((widths[layer + 1], widths[layer]), np.float32) for layer in range(len(widths) - 1)}


def test_weights_that_are_not_the_published_ones_are_an_error() -> None:
    good = arrays("leave_model")
    assert [layer.weight.shape for layer in network("leave_model", good)] == [(128, 88), (256, 128), (101, 256)]
    transposed = good | {"2.weight": good["2.weight"].T}
    with pytest.raises(ValueError, match=r"leave_model: 2\.weight: expected floats of shape \[256, 128\], found float32 of \[128, 256\]"):
        network("leave_model", transposed)
    with pytest.raises(ValueError, match=r"leave_model: expected the layers 0\.bias, .*, 4\.weight; found 0\.bias, 0\.weight"):
        network("leave_model", {name: good[name] for name in ("0.weight", "0.bias")})
    with pytest.raises(ValueError, match="found int64 of"):
        network("leave_model", good | {"0.bias": np.zeros(128, np.int64)})
    broken = good["0.bias"].copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match=r"leave_model: 0\.bias: 1 values are not finite"):
        network("leave_model", good | {"0.bias": broken})


def test_equal_logits_make_everything_equally_likely() -> None:
    weights = VirtualTaobaoWeights.from_arrays({name: arrays(name) for name in WIDTHS})
    simulator = VirtualTaobao(VirtualTaobaoConfig(weights="nowhere"), weights)
    user = np.array([STARTS])
    np.testing.assert_allclose(simulator.leave_probabilities(user), np.full((1, 101), 1 / 101))
    np.testing.assert_allclose(simulator.expected_clicks(user, np.array([0]), np.zeros((1, 27))), [5.0])
    np.testing.assert_allclose(simulator.user_probabilities(np.zeros((1, 128)))[0], np.repeat(1 / np.array(GROUPS), GROUPS))
