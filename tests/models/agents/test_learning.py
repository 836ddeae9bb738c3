"""Rounds of learning and comparisons of them: a small run, and samples and ratios by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from models.agents.comparison import Curve, NoisyRewardsConfig, paired_ratio, thresholds
from models.agents.learning import LearningConfig, OnlineLearner, StabiliserConfig
from models.agents.registry import AGENTS
from models.rewards.fm import FMConfig
from models.simulators.noise import NoisySimulator, Thinning
from models.simulators.session_shop import SessionShopConfig
from models.simulators.shop_simulator import ShopSimulator, ShopSimulatorConfig
from schemas.config import load

SHOP = ShopSimulatorConfig(shop=SessionShopConfig(num_items=12, num_clusters=3, num_baits=1, click_start=0.9, click_same=0.9), max_steps=4)
SMALL = LearningConfig(num_rounds=2, sessions_per_round=16, updates_per_round=2, batch_size=16, evaluation_sessions=20, max_turns=8)
STABILISER = StabiliserConfig(items=FMConfig(width=6, outcome="continuous", unknown_rate=0.0), learning_rate=0.01)


def learner(
    agent: str, stabiliser: StabiliserConfig | None, config: LearningConfig = SMALL, seed: int = 0, **settings: Any
) -> OnlineLearner:
    shop = ShopSimulator(SHOP)
    small = AGENTS[agent](hidden=(8,), width=6, **settings)
    return OnlineLearner(small, stabiliser, config, NoisySimulator(shop, Thinning(kept=0.5)), shop, seed)


def test_rounds_are_counted_and_measured() -> None:
    rows = list(learner("dqn", STABILISER.model_copy(update={"shares_vectors": True})).run())
    assert [row.round for row in rows] == [0, 2]
    assert [row.sessions for row in rows] == [0, 32]
    assert 32 <= rows[1].steps <= 32 * 8
    assert rows[0].calibration_error is None
    assert rows[1].calibration_error is not None
    # Against the truth of the shop: r^ starts at 0 and the mean reward of a shown item is below 1.
    assert 0.0 < (rows[1].true_error or 0.0) < 1.0
    assert 0.0 <= (rows[1].purity or -1.0) <= 1.0
    # 12 items are shown: the entropy of one round lies between none and log 12.
    assert 0.0 < (rows[1].tried or 0.0) <= np.log(12) + 1e-6


def test_drawn_returns_are_those_of_what_an_agent_tries() -> None:
    config = SMALL.model_copy(update={"evaluation_sessions": 1000, "max_turns": 60})
    measured = next(iter(learner("dqn", None, config, epsilon=1.0).run()))
    # Any item with the same chance: the shop knows the value of that policy exactly.
    shop = ShopSimulator(SHOP).shop
    exact = shop.value(np.full((shop.num_states, shop.num_items), 1.0 / shop.num_items))[0]
    assert measured.drawn_return == pytest.approx(exact, abs=0.1 * exact)
    assert abs(measured.mean_return - exact) > 0.1 * exact


def test_random_rounds_try_everything_and_teach_nothing() -> None:
    config = SMALL.model_copy(update={"num_rounds": 3, "random_rounds": 2, "evaluate_every": 1, "sessions_per_round": 64})
    rows = list(learner("dqn", None, config, epsilon=0.0).run())
    # Twelve items with the same chance, hundreds of times; a policy without exploration shows fewer of them.
    assert [row.tried > np.log(12) - 0.1 for row in rows[1:] if row.tried is not None] == [True, True, False]
    # Nothing moves the item vectors before the third round; it learns from the sessions of all.
    assert [row.purity for row in rows[:3]] == [rows[0].purity] * 3
    assert [row.mean_return for row in rows[:3]] == [rows[0].mean_return] * 3


def test_an_estimator_does_not_change_what_an_agent_begins_with() -> None:
    first = [next(iter(learner("dqn", stabiliser).run())) for stabiliser in (None, STABILISER)]
    assert first[0].mean_return == first[1].mean_return
    assert first[0].mean_return != next(iter(learner("dqn", None, seed=1).run())).mean_return


def test_exact_rewards_have_no_error_and_distorted_ones_theirs() -> None:
    exact = list(learner("dqn", StabiliserConfig(is_exact=True)).run())[-1]
    assert exact.true_error == pytest.approx(0.0, abs=1e-6)
    wrong = list(learner("dqn", StabiliserConfig(is_exact=True, distortion=0.3)).run())[-1]
    # One error function over few items: near its standard deviation over all of them.
    assert 0.1 < (wrong.true_error or 0.0) < 0.6


@pytest.mark.slow
def test_an_agent_on_expected_rewards_learns_what_pays() -> None:
    config = LearningConfig(
        num_rounds=25, sessions_per_round=64, updates_per_round=24, evaluate_every=25, evaluation_sessions=400, max_turns=30
    )
    for stabiliser in (STABILISER, STABILISER.model_copy(update={"shares_vectors": True})):
        rows = list(learner("dqn", stabiliser, config).run())
        assert rows[-1].mean_return > rows[0].mean_return + 5 * rows[0].standard_error


def row(sessions: int, mean_return: float) -> dict[str, float]:
    return {"sessions": sessions, "steps": 3 * sessions, "mean_return": mean_return}


def test_samples_to_a_threshold_lie_on_the_line_between_two_measurements() -> None:
    curve = [row(0, 0.0), row(100, 1.0), row(200, 3.0), row(300, 2.0)]
    found = Curve.of(curve, "mean_return")
    assert found.samples_to(2.0) == 150.0
    assert Curve.of(curve, "mean_return", "steps").samples_to(2.0) == 450.0
    assert found.samples_to(3.0) == 200.0
    assert found.samples_to(-1.0) == 0.0
    assert found.samples_to(3.1) is None


def test_one_lucky_measurement_reaches_nothing_within_a_window() -> None:
    curve = [row(0, 0.0), row(100, 3.0), row(200, 0.0), row(300, 3.0), row(400, 3.0)]
    found = Curve.of(curve, "mean_return", window=2)
    # Means of the last two: 0, 1.5, 1.5, 1.5, 3; 2 lies a third of the way from the fourth to the fifth.
    assert found.value.tolist() == [0.0, 1.5, 1.5, 1.5, 3.0]
    assert found.samples_to(2.0) == pytest.approx(300.0 + 100.0 / 3.0)
    # The last quarter of five measurements is one of them.
    assert found.end == 3.0


def test_thresholds_are_shares_of_what_a_reference_gains() -> None:
    first = Curve.of([row(0, 0.0), row(100, 2.0)], "mean_return")
    second = Curve.of([row(0, 1.0), row(100, 3.0)], "mean_return")
    # From .5 to 2.5 on average.
    assert thresholds([first, second], (0.5, 1.0)) == [1.5, 2.5]
    falling = Curve.of([row(0, 2.0), row(100, 1.0)], "mean_return")
    with pytest.raises(ValueError, match=r"gains nothing: 2\.000 at the beginning, 1\.000 in the end"):
        thresholds([falling], (0.5,))


def test_ratios_are_of_pairs() -> None:
    # Twice and eight times: the geometric mean is four; logarithms differ by log 4, so s / sqrt(2) = log(4) / 2, times t_1 = 12.706.
    found = paired_ratio([200.0, 800.0], [100.0, 100.0], 1000.0)
    assert found.ratio == pytest.approx(4.0)
    assert found.high == pytest.approx(4.0 * np.exp(12.706 * np.log(4.0) / 2.0), rel=1e-3)
    assert (found.num_pairs, found.never_slow, found.never_fast, found.sign) == (2, 0, 0, "")
    # The slow one never got there: what it was given stands for it.
    censored = paired_ratio([None], [100.0], 1000.0)
    assert (censored.ratio, censored.low, censored.never_slow, censored.sign) == (pytest.approx(10.0), None, 1, ">")
    assert paired_ratio([100.0], [None], 1000.0).sign == "<"
    assert paired_ratio([100.0, None], [None, 100.0], 1000.0).sign == "?"


def test_every_committed_comparison_can_be_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGPLAY_DATA", "/data")
    files = sorted((repository / "benchmarks" / "noisy_rewards").glob("*.yaml"))
    assert len(files) == 6
    names = []
    for file in files:
        config = load(NoisyRewardsConfig, file)
        names.append(config.name)
        assert len(config.rows()) == len(config.variants) + len(config.distortions)
    assert names == [file.stem for file in files]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="found is_exact: true"):
        StabiliserConfig(is_exact=True, shares_vectors=True)
    with pytest.raises(pydantic.ValidationError, match="of a continuous reward, found role"):
        StabiliserConfig(items=FMConfig())
    with pytest.raises(pydantic.ValidationError, match="agents must differ by name, found dqn, dqn"):
        NoisyRewardsConfig(name="x", simulator=SHOP, agents=(AGENTS["dqn"](), AGENTS["dqn"](width=8)))
    with pytest.raises(pydantic.ValidationError, match=r"one of the variants \(raw, srs\), found noise_free"):
        NoisyRewardsConfig(name="x", simulator=SHOP, agents=(AGENTS["dqn"](),), variants=("raw", "srs"))


def test_numbers_that_nothing_tells_an_online_estimator_are_refused() -> None:
    with pytest.raises(ValueError, match="num_item_features: expected 0, found 2"):
        StabiliserConfig(items=FMConfig(outcome="continuous", num_item_features=2))
