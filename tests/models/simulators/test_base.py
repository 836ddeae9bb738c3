"""Sessions side by side: who comes after whom, what is counted, and that nobody meets."""

import numpy as np
import pytest

from models.simulators.base import Seen, Sessions, play
from models.simulators.chance import STEP, Chance
from models.simulators.session_shop import SessionShopConfig
from models.simulators.shop_simulator import ShopSimulator, ShopSimulatorConfig
from models.simulators.stitching import Stitching, StitchingConfig

SHOP = ShopSimulatorConfig(shop=SessionShopConfig(num_items=12, num_clusters=3), max_steps=4)


@pytest.fixture(scope="module")
def shop() -> ShopSimulator:
    return ShopSimulator(SHOP)


def test_a_row_begins_its_next_session_after_its_last_step(shop: ShopSimulator) -> None:
    sessions, rng = Sessions(shop, 5, seed=1), np.random.default_rng(0)
    over = np.zeros(5, np.bool_)
    for _ in range(200):
        before, turn = sessions.session.copy(), sessions.turn.copy()
        moved = sessions.step(rng.integers(0, 12, 5))
        np.testing.assert_array_equal(moved.is_first, over)
        np.testing.assert_array_equal(sessions.session, before + 5 * over)
        np.testing.assert_array_equal(sessions.turn, np.where(over, 0, turn + 1))
        assert (moved.reward[over] == 0.0).all()
        assert not (moved.is_last & moved.is_first).any()
        assert not moved.is_cut.any()
        observation = sessions.observe()
        assert isinstance(observation, dict)
        assert (observation["length"][over] == 0).all()
        over = moved.is_last
    # Row b plays b, B + b, 2 B + b and so on.
    assert (sessions.session % 5 == np.arange(5)).all()
    assert sessions.session.min() > 5


def test_sessions_that_begin_finish_or_are_abandoned_or_go_on(shop: ShopSimulator) -> None:
    sessions, rng = Sessions(shop, 7, seed=2, max_turns=6), np.random.default_rng(0)
    finished = 0
    for step in range(120):
        if step in (20, 21, 70):
            sessions.restart()
            assert not sessions.is_over.any()
        moved = sessions.step(rng.integers(0, 12, 7))
        finished += int(moved.is_last.sum())
        assert not (moved.is_cut & ~moved.is_last).any()
        assert sessions.num_begun == sessions.num_finished + sessions.num_abandoned + int((~sessions.is_over).sum())
    assert sessions.num_finished == finished > 100
    assert 7 < sessions.num_abandoned <= 21
    assert sessions.num_begun == (sessions.session // 7 + 1).sum()


def test_a_session_is_cut_off_after_its_last_turn() -> None:
    # Six steps long; after four they are cut off, and one that ends by itself at the last turn is not cut off.
    for max_turns, cut in ((4, True), (6, False)):
        sessions = Sessions(Stitching(StitchingConfig(steps_per_half=3)), 2, seed=0, max_turns=max_turns)
        for _ in range(max_turns - 1):
            assert not sessions.step(np.zeros(2, np.int64)).is_last.any()
        moved = sessions.step(np.zeros(2, np.int64))
        assert moved.is_last.all()
        assert moved.is_cut.tolist() == [cut, cut]
        assert sessions.step(np.zeros(2, np.int64)).is_first.all()


def test_what_happens_in_a_row_does_not_depend_on_the_others(shop: ShopSimulator) -> None:
    one, other = Sessions(shop, 4, seed=3), Sessions(shop, 4, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.integers(0, 12, 4)
        changed = np.where(np.arange(4) == 2, action, rng.integers(0, 12, 4))
        first, second = one.step(action), other.step(changed)
        for left, right in zip(first, second, strict=True):
            assert left[2] == right[2]
    assert (one.turn != other.turn).any() or (one.session != other.session).any()


def test_what_was_handed_out_stays_as_it_was(shop: ShopSimulator) -> None:
    sessions, rng = Sessions(shop, 6, seed=3), np.random.default_rng(0)
    seen = []
    for _ in range(40):
        observation = sessions.observe()
        assert isinstance(observation, dict)
        moved = sessions.step(rng.integers(0, 12, 6))
        seen += [(array, array.copy()) for array in (*observation.values(), *moved, sessions.observe()["length"])]
    sessions.restart()
    assert all((array == copy).all() for array, copy in seen)


def test_a_saved_state_goes_on_as_if_nothing_had_happened(shop: ShopSimulator) -> None:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 12, (60, 6))
    sessions = Sessions(shop, 6, seed=5)
    for action in actions[:30]:
        sessions.step(action)
    saved = sessions.get_state()
    expected = [sessions.step(action) for action in actions[30:]]
    again = Sessions(shop, 6, seed=5)
    for _ in range(2):
        again.set_state(saved)
        for action, moved in zip(actions[30:], expected, strict=True):
            for left, right in zip(again.step(action), moved, strict=True):
                np.testing.assert_array_equal(left, right)
        assert again.num_begun == sessions.num_begun


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3, np.int64), r"item: expected shape \[2\], found \[3\]"),
        (np.array([0, 12]), "item: expected values from 0 to 11, found 12"),
        (np.array([-1, 0]), "item: expected values from 0 to 11, found -1"),
        (np.array([np.nan, 0.0]), "item: expected values from 0 to 11, found nan"),
    ],
    ids=["shape", "above", "below", "not a number"],
)
def test_what_is_no_action_is_an_error(shop: ShopSimulator, action: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sessions(shop, 2, seed=0).step(action)


@pytest.mark.parametrize(("rows", "turns"), [(0, None), (2, 0)])
def test_there_is_at_least_one_row_and_one_turn(shop: ShopSimulator, rows: int, turns: int | None) -> None:
    with pytest.raises(ValueError, match=f"num_rows = {rows}, max_turns = {turns}"):
        Sessions(shop, rows, 0, turns)


# === Whole sessions ===


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_played_sessions_earn_the_exact_value(shop: ShopSimulator, discount: float) -> None:
    # A policy on what is seen: the best action of the state that the last two items tell.
    best = shop.shop.optimal_policy(discount).argmax(axis=1)

    def show(seen: Seen) -> np.ndarray:
        assert isinstance(seen.observation, dict)
        history, length = seen.observation["item_history"], seen.observation["length"]
        rows = np.arange(len(length))
        last, before = history[rows, np.maximum(length - 1, 0)], np.where(length > 1, history[rows, np.maximum(length - 2, 0)], 0)
        state = np.where(length == 0, 0, 2 * (last - 1) + np.where(last == before, 2, 1))
        return best[state]

    played = play(shop, show, 20_000, seed=5, discount=discount)
    error = played.returns.std(ddof=1) / len(played.returns) ** 0.5
    assert abs(played.returns.mean() - shop.shop.value(shop.shop.optimal_policy(discount), discount)[0]) <= 4 * error
    assert not played.is_cut.any()


def test_playing_and_stepping_rows_are_the_same_sessions(shop: ShopSimulator) -> None:
    played = play(shop, lambda seen: np.full(len(seen.session), 3), 50, seed=9)
    sessions = Sessions(shop, 50, seed=9)
    returns, alive = np.zeros(50), np.ones(50, np.bool_)
    while alive.any():
        moved = sessions.step(np.full(50, 3))
        returns[alive] += moved.reward[alive]
        alive &= ~moved.is_last
    np.testing.assert_allclose(returns, played.returns)


def test_sessions_are_cut_off_at_the_last_turn_that_is_played(shop: ShopSimulator) -> None:
    whole = play(shop, lambda seen: np.full(len(seen.session), 3), 500, seed=9)
    cut = play(shop, lambda seen: np.full(len(seen.session), 3), 500, seed=9, max_turns=4)
    np.testing.assert_array_equal(cut.turns, np.minimum(whole.turns, 4))
    np.testing.assert_array_equal(cut.is_cut, whole.turns > 4)


def test_policies_draw_by_session_and_turn(shop: ShopSimulator) -> None:
    drawn: dict[tuple[int, int], float] = {}

    def show(seen: Seen) -> np.ndarray:
        numbers = seen.draw(1)[:, 0]
        drawn.update({(session, seen.turn): number for session, number in zip(seen.session.tolist(), numbers.tolist(), strict=True)})
        return (numbers * 12).astype(np.int64)

    played = play(shop, show, 40, seed=4)
    assert len(set(drawn.values())) == len(drawn) == played.turns.sum()
    # Nor are they the numbers that decide what comes of it.
    assert not set(drawn.values()) & set(Chance(4).uniform(STEP, np.arange(40), 0, 2).ravel().tolist())
