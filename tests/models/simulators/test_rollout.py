"""Roll-outs in the simulated shop against its exact values, and the same chance for every policy."""

import numpy as np
import numpy.typing as npt
import pytest

from models.simulators.rollout import NO_ITEM, Histories, HistoryPolicy, Visitors, exact_returns, roll_out, tabular
from models.simulators.session_shop import SessionShop, SessionShopConfig

Ints = npt.NDArray[np.int64]

SMALL = SessionShopConfig(num_items=12, num_clusters=3, num_baits=2)
DEFAULT = {"logging": 1.17, "greedy": 0.23, "optimal": 3.66}
"""Exact returns of the default shop."""


@pytest.fixture(scope="module")
def shop() -> SessionShop:
    return SessionShop(SMALL)


@pytest.fixture(scope="module")
def large() -> SessionShop:
    """A shop of the default visitors with fewer items, which change its exact values by hardly anything."""
    return SessionShop(SessionShopConfig(num_items=100, num_clusters=5))


def last_item_again(visitors: Visitors) -> Ints:
    """Shows item 0 to those who just came, and to others what they clicked or bought last."""
    last = np.where(visitors.state == 0, 0, (visitors.state - 1) // 2)
    return last.astype(np.int64)


# === Values ===


@pytest.mark.slow
def test_the_exact_returns_of_the_default_shop() -> None:
    assert exact_returns(SessionShop(SessionShopConfig())) == pytest.approx(DEFAULT, abs=0.006)


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("name", ["logging", "greedy", "optimal"])
def test_roll_outs_earn_the_exact_value(large: SessionShop, name: str, discount: float) -> None:
    table = {"logging": large.logging_policy(), "greedy": large.optimal_policy(0.0), "optimal": large.optimal_policy(discount)}[name]
    played = roll_out(large, tabular(table), 20_000, seed=5, discount=discount)
    error = played.returns.std(ddof=1) / len(played.returns) ** 0.5
    assert abs(played.returns.mean() - large.value(table, discount)[0]) <= 4 * error
    assert exact_returns(large, discount)[name] == pytest.approx(large.value(table, discount)[0])
    assert not played.is_cut.any()


def test_a_tabular_policy_shows_items_as_often_as_it_says(shop: SessionShop) -> None:
    rng, count = np.random.default_rng(1), 40_000
    weights = rng.random((shop.num_states, shop.num_items)) ** 3
    weights[:, 4] = 0.0
    policy = weights / weights.sum(axis=1, keepdims=True)
    states = np.full(count, 3)
    shown = tabular(policy)(
        Visitors(
            session=np.arange(count),
            state=states,
            history=np.zeros((count, 0), np.int64),
            length=np.zeros(count, np.int64),
            uniform=rng.random(count),
            reward=np.zeros((count, 0)),
        )
    )
    frequency = np.bincount(shown, minlength=shop.num_items) / count
    assert (np.abs(frequency - policy[3]) <= 4.5 * np.sqrt(policy[3] * (1 - policy[3]) / count)).all()
    assert frequency[4] == 0.0


# === The same chance for every policy ===


def test_a_roll_out_depends_on_its_seed_alone(shop: SessionShop) -> None:
    policy = tabular(shop.logging_policy())
    one, same, other = (roll_out(shop, policy, 400, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.returns, same.returns)
    np.testing.assert_array_equal(one.turns, same.turns)
    assert (one.returns != other.returns).any()


def test_policies_that_show_the_same_get_the_same_answers(shop: SessionShop) -> None:
    # The second policy is another one from the third item on; until then each visitor answers both alike.
    seen: list[list[tuple[Ints, Ints]]] = [[], []]

    def watched(number: int) -> None:
        def show(visitors: Visitors) -> Ints:
            seen[number].append((visitors.session, visitors.state))
            shown = last_item_again(visitors)
            return (shown + 1) % shop.num_items if number and len(seen[number]) > 2 else shown

        roll_out(shop, show, 500, seed=3)

    watched(0)
    watched(1)
    for turn in range(3):
        for one, other in zip(seen[0][turn], seen[1][turn], strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_happens_to_a_session_does_not_depend_on_the_others(shop: SessionShop) -> None:
    # Of more sessions the first ones draw other numbers; of the same number, who has left does not matter.
    def impatient(visitors: Visitors) -> Ints:
        # Baits make half of the visitors leave at once.
        return np.where(visitors.session % 2 == 0, last_item_again(visitors), shop.num_items - 1)

    alone, together = roll_out(shop, last_item_again, 600, seed=4), roll_out(shop, impatient, 600, seed=4)
    np.testing.assert_array_equal(alone.returns[::2], together.returns[::2])
    assert together.turns[1::2].mean() < alone.turns[1::2].mean() / 2


# === What a policy sees ===


def test_histories_hold_what_was_clicked_and_bought_and_no_passes(shop: SessionShop) -> None:
    logged: dict[int, list[int]] = {session: [] for session in range(300)}
    before: dict[int, tuple[int, int]] = {}

    def show(visitors: Visitors) -> Ints:
        shown = tabular(shop.logging_policy())(visitors)
        assert visitors.history.shape[1] == visitors.length.max()
        for row, session in enumerate(visitors.session.tolist()):
            state, item = before.get(session, (0, 0))
            # A pass leaves the state as it is, and nothing else does: the item of a state is not clicked or bought again.
            if visitors.state[row] != state:
                logged[session].append(item)
            history = visitors.history[row].tolist()
            length = int(visitors.length[row])
            assert history[:length] == logged[session]
            assert set(history[length:]) <= {NO_ITEM}
            before[session] = (int(visitors.state[row]), int(shown[row]))
        return shown

    roll_out(shop, show, 300, seed=6, max_turns=40)
    assert max(len(items) for items in logged.values()) > 8


def test_sessions_are_cut_off_at_the_last_turn(shop: SessionShop) -> None:
    played = roll_out(shop, last_item_again, 1_000, seed=7, max_turns=5)
    whole = roll_out(shop, last_item_again, 1_000, seed=7)
    assert played.turns.max() == 5
    assert played.is_cut.sum() == (whole.turns > 5).sum() > 100
    np.testing.assert_array_equal(played.turns, np.minimum(whole.turns, 5))
    assert (played.turns[played.is_cut] == 5).all()


def test_returns_are_discounted_by_the_items_shown() -> None:
    # A bait is clicked at once or never: the visitor passes n times, then clicks for .2 and leaves.
    config = SMALL.model_copy(update={"leave_after_bait": 1.0, "click_bait": 0.5, "leave_after_ignored": 0.001})
    shop = SessionShop(config)
    bait = shop.num_items - 1
    played = roll_out(shop, lambda visitors: np.full(len(visitors.session), bait), 500, seed=8, discount=0.5)
    clicked = played.returns > 0
    np.testing.assert_allclose(played.returns[clicked], 0.2 * 0.5 ** (played.turns[clicked] - 1))
    assert clicked.mean() > 0.95


# === Recommenders ===


def named(shop: SessionShop, items: list[int]) -> list[str]:
    return [shop.item_names[item] for item in items]


def test_a_recommender_reads_and_shows_ids_of_its_own(shop: SessionShop) -> None:
    # Ids 1, 2, 3 are items 7, 2 and 0; all others are unknown, id 4.
    asked: list[Histories] = []

    def recommend(histories: Histories) -> Ints:
        asked.append(histories)
        return np.full(len(histories), 2)

    policy = HistoryPolicy(shop, named(shop, [7, 2, 0]), recommend, num_sessions=3, max_steps=3)
    visitors = Visitors(
        session=np.array([0, 1, 2]),
        state=np.zeros(3, np.int64),
        history=np.array([[7, 5, 0, 2], [2, NO_ITEM, NO_ITEM, NO_ITEM], [NO_ITEM] * 4]),
        length=np.array([4, 1, 0]),
        uniform=np.array([0.1, 0.2, 0.3]),
        reward=np.array([[1.0, 0.2, 0.3, 0.4], [0.5, 0.0, 0.0, 0.0], [0.0] * 4]),
    )
    assert policy(visitors).tolist() == [2, 2, 2]
    (seen,) = asked
    # The last three items of the first visitor; what nobody clicked is padding.
    assert seen.item_id.tolist() == [[4, 3, 2], [2, 0, 0], [0, 0, 0]]
    assert seen.length.tolist() == [3, 1, 0]
    # Rewards stand with their items, and what the one that is left out brought is not lost.
    assert seen.reward.tolist() == [[0.2, 0.3, 0.4], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert seen.earlier_reward.tolist() == [1.0, 0.0, 0.0]
    assert seen.uniform.tolist() == [0.1, 0.2, 0.3]


def test_a_recommender_is_told_what_the_session_has_brought(shop: SessionShop) -> None:
    earned = np.zeros(300)

    def recommend(histories: Histories) -> Ints:
        # All sessions are asked about at first; afterwards those that have grown, which all have earned something since.
        total = histories.reward.sum(axis=1) + histories.earlier_reward
        assert ((total > 0) == (histories.length > 0)).all()
        assert set(np.unique(histories.reward)) <= {0.0, 0.2, 1.0}
        assert (histories.reward[histories.item_id == 0] == 0.0).all()
        last = histories.item_id[np.arange(len(histories)), np.maximum(histories.length - 1, 0)]
        return np.where(histories.length == 1, last, last % 9 + 1)

    asked = HistoryPolicy(shop, shop.item_names, recommend, num_sessions=300, max_steps=2)

    def watched(visitors: Visitors) -> Ints:
        earned[visitors.session] = visitors.reward.sum(axis=1)
        return asked(visitors)

    played = roll_out(shop, watched, 300, seed=9)
    # What a policy has seen is the return but for what came last, which is a click, a purchase or nothing.
    last = np.round(played.returns - earned, 6)
    assert set(last.tolist()) == {0.0, 0.2, 1.0}
    assert earned.max() > 1.5


def test_a_recommender_is_asked_again_when_a_history_has_grown(shop: SessionShop) -> None:
    asked: list[int] = []

    def recommend(histories: Histories) -> Ints:
        history, length = histories.item_id, histories.length
        assert history.shape[1] >= 1
        asked.append(len(length))
        return np.where(length > 0, history[np.arange(len(length)), np.maximum(length - 1, 0)], 1)

    policy = HistoryPolicy(shop, shop.item_names, recommend, num_sessions=400, max_steps=5)
    played = roll_out(shop, policy, 400, seed=9)
    same = roll_out(shop, last_item_again, 400, seed=9)
    np.testing.assert_array_equal(played.returns, same.returns)
    # Once for the empty history, once for a click and once for a purchase of the same item, and only for those who stay.
    assert asked[0] == 400
    assert sum(asked) <= 3 * 400


def test_a_recommender_that_draws_is_asked_every_time_with_the_number_of_the_visitor(shop: SessionShop) -> None:
    # A policy that draws from the shop's own states, once as a table and once as a recommender that sees histories: from the same
    # numbers they must show the same. Only the states that a history tells apart are used: the beginning, and the rest.
    table = np.zeros((shop.num_states, shop.num_items))
    table[0, :4], table[1:, 4:8] = 0.25, 0.25

    def recommend(histories: Histories) -> Ints:
        return np.where(histories.length == 0, 1, 5) + (histories.uniform * 4).astype(np.int64)

    policy = HistoryPolicy(shop, shop.item_names, recommend, num_sessions=500, max_steps=5, draws=True)
    played, same = (roll_out(shop, one, 500, seed=11) for one in (policy, tabular(table)))
    np.testing.assert_array_equal(played.returns, same.returns)
    np.testing.assert_array_equal(played.turns, same.turns)


def test_an_item_that_is_not_in_the_shop_is_an_error(shop: SessionShop) -> None:
    with pytest.raises(ValueError, match=r"1 items of the vocabulary are not in the shop, such as 'shoe'"):
        HistoryPolicy(shop, [*shop.item_names, "shoe"], lambda histories: histories.length, 1, 5)
