"""The simulated shop: its policies, its exact values, and logs that say the truth about themselves."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.simulators.session_shop import BOUGHT, CLICKED, IGNORED, LoggedEvents, SessionShop, SessionShopConfig

Floats = npt.NDArray[np.float64]

SMALL = SessionShopConfig(num_items=12, num_clusters=3, num_baits=2, num_days=10)


@pytest.fixture(scope="module")
def shop() -> SessionShop:
    return SessionShop(SMALL)


def joined(events: Iterator[LoggedEvents]) -> LoggedEvents:
    parts = list(events)
    return LoggedEvents(*(np.concatenate([getattr(part, name) for part in parts]) for name in LoggedEvents.__dataclass_fields__))


def true_sessions(shop: SessionShop, seed: int, num_users: int, chunk: int = 0) -> tuple[LoggedEvents, npt.NDArray[np.int64]]:
    """Events of one chunk and the number of the session each belongs to."""
    events, ends = shop._simulate_chunk(chunk, seed, num_users)
    return events, np.searchsorted(ends, np.arange(len(events.user)), side="right")


# === Layout ===


def test_items_go_round_the_clusters_and_baits_stand_apart(shop: SessionShop) -> None:
    assert shop.cluster.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3, 3]
    assert shop.item_names == [
        *("c00-0000", "c01-0000", "c02-0000", "c00-0001", "c01-0001", "c02-0001", "c00-0002", "c01-0002", "c02-0002", "c00-0003"),
        *("bait-0", "bait-1"),
    ]
    assert shop.num_states == 25


def test_item_names_are_all_different() -> None:
    names = SessionShop(SessionShopConfig()).item_names
    assert len(set(names)) == len(names) == 1000


def test_clusters_need_items() -> None:
    with pytest.raises(ValueError, match="5 clusters need at least as many items beside the 2 baits, found num_items = 6"):
        SessionShopConfig(num_items=6, num_clusters=5)


# === What visitors do ===


def test_responses_are_the_probabilities_of_the_configuration(shop: SessionShop) -> None:
    # Appeal of rank k is 0.4 + 0.6 / sqrt(1 + k): 1 for items 0 to 2, 0.4 + 0.6 / sqrt(2) for items 3 to 5.
    second = 0.4 + 0.6 / 2**0.5
    start, clicked_0, bought_0, clicked_bait = 0, 1, 2, 1 + 2 * 10
    cases = {
        (start, 0): (0.35, 0.0),
        (start, 4): (0.35 * second, 0.0),
        (start, 10): (0.80, 0.0),  # a bait, whatever came before
        (clicked_0, 0): (0.0, 0.40),  # shown again: bought, never clicked
        (clicked_0, 3): (0.55 * second, 0.0),  # the same cluster
        (clicked_0, 1): (0.30, 0.0),  # the next cluster
        (clicked_0, 2): (0.05, 0.0),  # another cluster
        (clicked_0, 11): (0.80, 0.0),
        (bought_0, 0): (0.0, 0.0),  # bought once is enough
        (bought_0, 3): (0.55 * second, 0.0),
        (clicked_bait, 10): (0.0, 0.0),  # a bait is never bought
        (clicked_bait, 0): (0.35, 0.0),  # as at the beginning
    }
    for (state, item), expected in cases.items():
        click, buy = shop.response(np.array([state]), np.array([item]))
        assert (click[0], buy[0]) == pytest.approx(expected), (state, item)
    last_cluster = shop.response(np.array([1 + 2 * 2]), np.array([0]))[0]
    assert last_cluster[0] == pytest.approx(0.30)  # clusters lie on a ring: after the last comes the first


def test_a_step_has_the_frequencies_of_the_response(shop: SessionShop) -> None:
    rng = np.random.default_rng(1)
    count = 40_000
    for state, item in ((0, 0), (1, 0), (1, 3), (0, 10)):
        outcome, following, left = shop.step(np.full(count, state), np.full(count, item), rng)
        click, buy = (float(p[0]) for p in shop.response(np.array([state]), np.array([item])))
        for result, probability in ((CLICKED, click), (BOUGHT, buy)):
            assert abs((outcome == result).mean() - probability) <= 4.5 * (probability * (1 - probability) / count) ** 0.5
        assert set(following[outcome == CLICKED]) <= {1 + 2 * item}
        assert set(following[outcome == BOUGHT]) <= {2 + 2 * item}
        assert set(following[outcome == IGNORED]) <= {state}
        leave = {CLICKED: 0.85 if item == 10 else 0.04, BOUGHT: 0.10, IGNORED: 0.06}
        for result, probability in leave.items():
            these = left[outcome == result]
            if len(these):
                assert abs(these.mean() - probability) <= 4.5 * (probability * (1 - probability) / len(these)) ** 0.5


# === The logging policy ===


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SessionShopConfig(num_items=60, num_clusters=2, num_baits=0),
        SessionShopConfig(num_items=9, num_clusters=7),
        SessionShopConfig(num_items=40, num_clusters=5, popularity_exponent=0.0),
        SessionShopConfig(num_items=40, num_clusters=5, popularity_exponent=3.0),
    ],
    ids=str,
)
def test_the_logging_policy_is_a_distribution_in_every_state(config: SessionShopConfig) -> None:
    policy = SessionShop(config).logging_policy()
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, atol=1e-12)
    # Every item is shown in every state, at least by the uniform tenth.
    assert policy.min() >= 0.1 / config.num_items - 1e-15


def test_the_logging_policy_is_the_mixture_it_says(shop: SessionShop) -> None:
    # Exposure (1 + rank)^-0.8; ranks of cluster 0 are 0 to 3, of clusters 1 and 2 0 to 2, baits count as rank 0.
    weight = [(1.0 + rank) ** -0.8 for rank in range(4)]
    cluster_0, cluster_1, everything = sum(weight), sum(weight[:3]), sum(weight) + 2 * sum(weight[:3]) + 2
    policy = shop.logging_policy()
    uniform = 0.1 / 12
    assert policy[0, 0] == pytest.approx(0.9 / everything + uniform)
    assert policy[1, 0] == pytest.approx(0.4 / cluster_0 + 0.15 + 0.2 / everything + uniform)
    assert policy[1, 3] == pytest.approx(0.4 * weight[1] / cluster_0 + 0.2 * weight[1] / everything + uniform)
    assert policy[1, 1] == pytest.approx(0.15 / cluster_1 + 0.2 / everything + uniform)
    assert policy[1, 2] == pytest.approx(0.2 / everything + uniform)
    assert policy[1, 10] == pytest.approx(0.2 / everything + uniform)
    np.testing.assert_allclose(policy[1 + 2 * 10], policy[0])  # after a bait as at the beginning
    np.testing.assert_allclose(policy[2], policy[1])  # the same after a purchase


@pytest.mark.parametrize("config", [SMALL, SessionShopConfig(num_items=11, num_clusters=2, num_baits=0)], ids=["baits", "no baits"])
def test_what_is_shown_has_the_frequencies_of_the_logging_policy(config: SessionShopConfig) -> None:
    shop = SessionShop(config)
    policy, count = shop.logging_policy(), 60_000
    # The beginning, the first item and the last of the last cluster, clicked and bought, and the last item (a bait, if there are any).
    for state in (0, 1, 2, 5, 6, 2 * shop.num_items - 1, 2 * shop.num_items):
        shown = shop._show_logged(np.full(count, state), np.random.default_rng(state))
        frequency = np.bincount(shown, minlength=shop.num_items) / count
        error = np.sqrt(policy[state] * (1 - policy[state]) / count)
        assert (np.abs(frequency - policy[state]) <= 4.5 * error).all(), state


# === Values ===


def random_policy(shop: SessionShop, seed: int) -> Floats:
    weights = np.random.default_rng(seed).random((shop.num_states, shop.num_items)) ** 4
    policy: Floats = weights / weights.sum(axis=1, keepdims=True)
    return policy


def test_the_value_of_a_shop_with_one_useful_item_is_a_closed_form() -> None:
    # Baits are all that anybody clicks, and the visitor leaves at once, as after every pass: one item, one chance.
    config = SessionShopConfig(
        num_items=4, num_clusters=2, num_baits=2, click_start=0.0, leave_after_ignored=1.0, leave_after_bait=1.0, click_bait=0.5
    )
    shop = SessionShop(config)
    policy = np.zeros((shop.num_states, 4))
    policy[:, 2] = 0.6
    policy[:, 0] = 0.4
    assert shop.value(policy)[0] == pytest.approx(0.6 * 0.5 * 0.2)
    # With a stay of 1/2 after a pass the chance comes again: p = 0.3 r + 0.7 / 2 p, so p = 0.3 * 0.2 / 0.65.
    again = SessionShop(config.model_copy(update={"leave_after_ignored": 0.5}))
    assert again.value(policy)[0] == pytest.approx(0.3 * 0.2 / 0.65)
    assert again.value(policy, discount=0.5)[0] == pytest.approx(0.3 * 0.2 / (1 - 0.25 * 0.7))


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_the_exact_value_equals_the_mean_of_simulated_sessions(shop: SessionShop, discount: float) -> None:
    for number, policy in enumerate((shop.logging_policy(), random_policy(shop, 7), shop.optimal_policy(discount))):
        returns = shop.rollout(policy, 20_000, seed=11 + number, discount=discount)
        error = returns.std(ddof=1) / len(returns) ** 0.5
        assert abs(returns.mean() - shop.value(policy, discount)[0]) <= 4 * error


def test_rollouts_depend_on_the_seed_alone(shop: SessionShop) -> None:
    policy = random_policy(shop, 3)
    np.testing.assert_array_equal(shop.rollout(policy, 500, 1), shop.rollout(policy, 500, 1))
    assert (shop.rollout(policy, 500, 1) != shop.rollout(policy, 500, 2)).any()


def test_action_values_average_to_the_value_of_the_policy(shop: SessionShop) -> None:
    for discount in (1.0, 0.7, 0.0):
        policy = random_policy(shop, 5)
        value = shop.value(policy, discount)
        np.testing.assert_allclose((policy * shop.action_values(value, discount)).sum(axis=1), value, atol=1e-10)


@pytest.mark.parametrize("discount", [1.0, 0.6])
def test_no_action_is_better_than_the_optimal_policy_in_any_state(shop: SessionShop, discount: float) -> None:
    policy = shop.optimal_policy(discount)
    value = shop.value(policy, discount)
    # Bellman's optimality equation
    np.testing.assert_allclose(shop.action_values(value, discount).max(axis=1), value, atol=1e-8)
    for other in (shop.logging_policy(), random_policy(shop, 1), shop.optimal_policy(0.0)):
        assert (value >= shop.value(other, discount) - 1e-9).all()


def test_policies_are_deterministic_where_they_say_so(shop: SessionShop) -> None:
    for policy in (shop.optimal_policy(), shop.optimal_policy(0.0)):
        assert set(np.unique(policy)) == {0.0, 1.0}
        np.testing.assert_array_equal(policy.sum(axis=1), 1.0)


def test_greed_takes_the_bait_and_earns_less_than_patience(shop: SessionShop) -> None:
    greedy, optimal = shop.optimal_policy(0.0), shop.optimal_policy()
    # At the beginning a bait is clicked most (0.8), and a click is all there is to gain: greed shows it.
    assert shop.is_bait[greedy[0].argmax()]
    assert not shop.is_bait[optimal.argmax(axis=1)].any()
    worth = {name: shop.value(policy)[0] for name, policy in (("greedy", greedy), ("optimal", optimal), ("logged", shop.logging_policy()))}
    assert worth["optimal"] > 1.5 * worth["greedy"]
    assert worth["optimal"] > 1.5 * worth["logged"]


def test_an_item_that_was_just_clicked_is_worth_showing_again(shop: SessionShop) -> None:
    # 0.40 * 1.0 of a purchase against at most 0.55 * 0.2 of a click.
    assert shop.optimal_policy(0.0)[1].argmax() == 0


# === Logs ===


def test_logs_depend_on_the_seed_alone(shop: SessionShop) -> None:
    one, same, other = (joined(shop.logs(2_000, seed, users_per_chunk=300)) for seed in (4, 4, 5))
    for name in LoggedEvents.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert len(other.user) != len(one.user) or (other.item != one.item).any()


def test_logs_have_as_many_events_as_wanted_and_end_with_a_whole_session(shop: SessionShop) -> None:
    first, sessions = true_sessions(shop, 4, 300)
    for wanted in (1, 10, 333, 400):
        made = joined(shop.logs(wanted, 4, users_per_chunk=300))
        assert len(made.user) >= wanted
        last = sessions[len(made.user) - 1]
        assert sessions[len(made.user)] == last + 1  # what follows is another session
        assert (sessions == last).sum() > len(made.user) - wanted  # and without the last there were too few
        np.testing.assert_array_equal(made.item, first.item[: len(made.item)])


def test_chunks_hold_different_users(shop: SessionShop) -> None:
    chunks = list(shop.logs(3_000, 4, users_per_chunk=200))
    assert len(chunks) > 2
    for number, chunk in enumerate(chunks):
        assert set(chunk.user // 200) == {number}
    longer = list(shop.logs(6_000, 4, users_per_chunk=200))
    np.testing.assert_array_equal(longer[0].item, chunks[0].item)


def test_memory_does_not_grow_with_the_number_of_events(shop: SessionShop) -> None:
    sizes = [len(chunk.user) for chunk in islice(shop.logs(10**9, 4, users_per_chunk=50), 5)]
    assert len(sizes) == 5
    assert max(sizes) < 2 * min(sizes)


def test_logged_propensities_are_the_density_of_the_logging_policy(shop: SessionShop) -> None:
    events, sessions = true_sessions(shop, 9, 400)
    policy = shop.logging_policy()
    # The state before an event is the outcome of the event before it, since passed items change nothing.
    state = np.zeros(len(events.item), np.int64)
    follows = sessions[1:] == sessions[:-1]
    state[1:][follows] = (2 * events.item[:-1] + np.where(events.bought[:-1], BOUGHT, CLICKED))[follows]
    np.testing.assert_allclose(events.propensity, policy[state, events.item], rtol=1e-12)


def test_purchases_follow_the_click_on_the_same_item(shop: SessionShop) -> None:
    events, sessions = true_sessions(shop, 9, 400)
    bought = np.flatnonzero(events.bought)
    assert len(bought) > 100
    assert (sessions[bought - 1] == sessions[bought]).all()
    assert (events.item[bought - 1] == events.item[bought]).all()
    assert not events.bought[bought - 1].any()
    assert not shop.is_bait[events.item[bought]].any()


def test_times_rise_within_a_session_and_lie_in_the_days_of_the_shop(shop: SessionShop) -> None:
    events, sessions = true_sessions(shop, 9, 400)
    follows = sessions[1:] == sessions[:-1]
    assert (np.diff(events.time)[follows] >= 1).all()
    first_day = int(np.datetime64("2025-01-01", "s").astype(np.int64))
    assert events.time.min() >= first_day
    assert events.time.max() < first_day + (SMALL.num_days + 1) * 86_400


def test_sessions_are_recovered_by_a_pause_of_half_an_hour() -> None:
    # In four days nearly all sessions of a user lie on neighbouring ones.
    shop = SessionShop(SMALL.model_copy(update={"num_days": 4}))
    events, sessions = true_sessions(shop, 2, 100_000)
    order = np.lexsort((events.time, events.user))
    user, time, truth = events.user[order], events.time[order], sessions[order]
    begins = (user[1:] != user[:-1]) | (np.diff(time) > 1800)
    np.testing.assert_array_equal(begins, truth[1:] != truth[:-1])
    assert begins.sum() > 150_000


def test_users_have_one_to_four_sessions_on_different_days(shop: SessionShop) -> None:
    day, user = shop._schedule(np.random.default_rng(0), 4_000)
    counts = np.bincount(user, minlength=4_000)
    frequency = np.bincount(counts, minlength=5) / 4_000
    assert frequency[0] == 0.0
    assert (np.abs(frequency[1:] - 0.25) < 5 * (0.25 * 0.75 / 4_000) ** 0.5).all()
    assert len(set(zip(user.tolist(), day.tolist(), strict=True))) == len(user)
    assert set(day) == set(range(SMALL.num_days))


class Endless(Exception):
    """Too many chunks were simulated."""


def test_a_shop_in_which_nobody_clicks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate = SessionShop._simulate_chunk

    def counted(self: SessionShop, chunk: int, *arguments: Any) -> Any:
        if chunk > 50:
            raise Endless
        return simulate(self, chunk, *arguments)

    monkeypatch.setattr(SessionShop, "_simulate_chunk", counted)

    def simulate_silence() -> None:
        silent = SessionShopConfig(num_items=12, num_clusters=3, click_start=0.0, click_bait=0.0)
        next(SessionShop(silent).logs(10, 0, users_per_chunk=5))

    with pytest.raises(ValueError, match="click"):
        simulate_silence()
