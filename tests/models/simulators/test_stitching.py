"""The world of two halves: values worked out by hand, and logs of which no session is the best one."""

import numpy as np
import pytest

from models.simulators.base import play
from models.simulators.stitching import FIRST, SECOND, Stitching, StitchingConfig


@pytest.fixture(scope="module")
def world() -> Stitching:
    return Stitching(StitchingConfig())


def test_the_layout_of_the_states(world: Stitching) -> None:
    # Three steps a half: 0 1 2 while the first goes well, 3 4 when it does not, 5 6 7 and 8 9 for the second, 10 is the end.
    assert (world.junction, world.end, world.num_states) == (5, 10, 11)
    # Right actions are s modulo 4: 0 1 2 in the first half, 1 2 3 in the second.
    assert [world.right_action(state) for state in (0, 1, 2, 5, 6, 7)] == [0, 1, 2, 1, 2, 3]
    assert world._next[[0, 1, 2], [0, 1, 2]].tolist() == [1, 2, 5]
    assert world._next[[0, 1, 2], [3, 3, 3]].tolist() == [3, 4, 5]
    assert world._next[[3, 4]].tolist() == [[4] * 4, [5] * 4]
    assert world._next[[5, 6, 7], [1, 2, 3]].tolist() == [6, 7, 10]
    assert world._next[[5, 8, 9, 10], [0, 0, 0, 0]].tolist() == [8, 9, 10, 10]
    assert np.argwhere(world._reward).tolist() == [[2, 2], [7, 3]]


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_best_session_earns_both_rewards(world: Stitching, discount: float) -> None:
    # 1 with the third step and 2 with the sixth.
    expected = discount**2 + 2.0 * discount**5
    policy = world.optimal_policy(discount)
    assert world.value(policy, discount)[0] == pytest.approx(expected)
    assert [int(policy[state].argmax()) for state in (0, 1, 2, 5, 6, 7)] == [0, 1, 2, 1, 2, 3]
    # At the junction the first half is forgotten; on a bad path only the second half is left.
    value = world.value(policy, discount)
    assert value[[5, 3, 8, 10]] == pytest.approx([2.0 * discount**2, 2.0 * discount**4, 0.0, 0.0])


def test_the_values_of_the_logging_policies_and_of_chance(world: Stitching) -> None:
    assert world.value(world.logging_policy(FIRST))[0] == pytest.approx(1.0)
    assert world.value(world.logging_policy(SECOND))[0] == pytest.approx(2.0)
    # The mean of the logs, imitated step by step: at each half's first step half of the sessions do the right thing. Later steps of
    # a half that goes well are all from the policy that does it well, so the imitator stays right: 1/2 of each reward.
    mixture = (world.logging_policy(FIRST) + world.logging_policy(SECOND)) / 2
    for half, policy in ((0, FIRST), (1, SECOND)):
        for state in range(half * 5 + 1, half * 5 + 3):
            mixture[state] = world.logging_policy(policy)[state]
    assert world.value(mixture)[0] == pytest.approx(0.5 * 1.0 + 0.5 * 2.0)
    # By chance three right actions of four: (1/4)^3 of each reward.
    assert world.value(np.full((11, 4), 0.25))[0] == pytest.approx(3.0 / 64.0)


def test_slips_cost_what_they_must() -> None:
    # A right action is carried out with probability 1 - .2 + .2 / 4 = .85, and three are needed for each reward.
    world = Stitching(StitchingConfig(slip=0.2))
    assert world.value(world.optimal_policy())[0] == pytest.approx(0.85**3 * 3.0)
    assert world.value(world.optimal_policy(0.9), 0.9)[0] == pytest.approx(0.85**3 * (0.9**2 + 2.0 * 0.9**5))


def test_action_values_satisfy_bellmans_equations() -> None:
    world = Stitching(StitchingConfig(slip=0.2, steps_per_half=2, num_actions=3))
    weights = np.random.default_rng(0).random((world.num_states, 3))
    policy = weights / weights.sum(axis=1, keepdims=True)
    for discount in (1.0, 0.7):
        value = world.value(policy, discount)
        np.testing.assert_allclose((policy * world.action_values(value, discount)).sum(axis=1), value, atol=1e-12)
        best = world.value(world.optimal_policy(discount), discount)
        np.testing.assert_allclose(world.action_values(best, discount).max(axis=1), best, atol=1e-12)
        assert (best >= value - 1e-12).all()


def test_played_sessions_earn_the_exact_value() -> None:
    world = Stitching(StitchingConfig(slip=0.2))
    best = world.optimal_policy().argmax(axis=1)
    played = play(world, lambda seen: best[np.asarray(seen.observation)], 20_000, seed=1)
    error = played.returns.std(ddof=1) / len(played.returns) ** 0.5
    assert abs(played.returns.mean() - 0.85**3 * 3.0) <= 4 * error
    assert set(played.turns) == {6}


def test_halves_of_one_step() -> None:
    world = Stitching(StitchingConfig(steps_per_half=1))
    assert world.num_states == 3
    assert world.value(world.optimal_policy())[0] == pytest.approx(3.0)
    assert set(world.logs(20, seed=0).reward) == {0.0, 1.0, 2.0}


# === Logs ===


def test_no_logged_session_is_the_best_one_and_all_its_steps_are_logged(world: Stitching) -> None:
    logs = world.logs(400, seed=3)
    returns = logs.reward.reshape(400, 6).sum(axis=1)
    policy = logs.policy.reshape(400, 6)[:, 0]
    assert (returns[policy == FIRST] == 1.0).all()
    assert (returns[policy == SECOND] == 2.0).all()
    assert (policy == FIRST).sum() == 200
    logged = set(zip(logs.state.tolist(), logs.action.tolist(), strict=True))
    assert {(state, world.right_action(state)) for state in (0, 1, 2, 5, 6, 7)} <= logged
    # What imitates the sessions of the highest return begins with a wrong action.
    first = logs.action.reshape(400, 6)[:, 0]
    assert not (first[returns == returns.max()] == world.right_action(0)).any()


def test_values_of_logged_steps_alone_lead_to_the_best_session(world: Stitching) -> None:
    # Q-learning's fixed point on the empirical world, sweeping the log back to front.
    logs = world.logs(400, seed=3)
    following = np.append(logs.state[1:], 0)
    values = np.full((world.num_states, 4), -np.inf)
    for _ in range(6):
        for state, action, reward, after, is_last in zip(logs.state, logs.action, logs.reward, following, logs.is_last, strict=True):
            values[state, action] = reward + (0.0 if is_last else max(values[after].max(), 0.0))
    policy = np.eye(4)[values.argmax(axis=1)]
    assert values[0].max() == pytest.approx(3.0)
    assert world.value(policy)[0] == pytest.approx(3.0)


def test_logged_steps_follow_from_each_other(world: Stitching) -> None:
    logs = world.logs(100, seed=4, share_first=0.3)
    assert len(logs.state) == 600
    assert (logs.state[::6] == 0).all()
    assert (logs.is_last == (np.arange(600) % 6 == 5)).all()
    follows = ~logs.is_last[:-1]
    np.testing.assert_array_equal(world._next[logs.state, logs.action][:-1][follows], logs.state[1:][follows])
    np.testing.assert_array_equal(world._reward[logs.state, logs.action], logs.reward)
    np.testing.assert_array_equal(logs.session, np.repeat(np.arange(100), 6))
    assert (logs.policy[::6] == FIRST).sum() == 30


def test_logged_actions_have_the_frequencies_of_their_policy(world: Stitching) -> None:
    logs = world.logs(6_000, seed=5)
    for half in (FIRST, SECOND):
        density = world.logging_policy(half)
        for state in np.unique(logs.state[logs.policy == half]):
            action = logs.action[(logs.policy == half) & (logs.state == state)]
            share = np.bincount(action, minlength=4) / len(action)
            assert (np.abs(share - density[state]) <= 4.5 * np.sqrt(density[state] * (1 - density[state]) / len(action))).all()


def test_logs_depend_on_the_seed_alone(world: Stitching) -> None:
    one, same, other = (world.logs(50, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.action, same.action)
    assert (one.action != other.action).any()
