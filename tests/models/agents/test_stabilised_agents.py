"""Agents that learn from expected rewards: what is replaced, what moves what, and by how much targets vary."""

import sys
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.agents.environments import SessionEnvironment, graph_environment
from models.agents.networks import specs_of
from models.agents.registry import AGENTS, Agent, World, create_agent
from models.agents.rewards import (
    ActionRewards,
    DistortedRewards,
    ItemRewards,
    NumberRewards,
    NumberRewardsConfig,
    ShopTruth,
    item_catalogue,
    vectors_of,
)
from models.agents.sessions import StepReplay, play_sessions
from models.agents.stabilised import StabilisedAgent
from models.frameworks import keras, tf
from models.rewards.fm import FMConfig
from models.rewards.registry import create_estimator
from models.simulators.base import Simulator
from models.simulators.noise import NoisySimulator, Thinning
from models.simulators.session_shop import SessionShopConfig
from models.simulators.shop_simulator import ShopSimulator, ShopSimulatorConfig

sys.path.append(str(Path(__file__).parents[1] / "simulators"))
toys = import_module("toy_worlds")

WORLDS = {"items": "session_shop", "numbers": "virtual_taobao"}
CASES = [(name, kind) for name, agent in AGENTS.items() for kind in agent.actions]

pytestmark = pytest.mark.usefixtures("eagerly")


def world_of(simulator: Simulator) -> World:
    time_step, action = specs_of(graph_environment(SessionEnvironment(simulator, 2, 0)))
    return World(time_step, action, simulator.observation_space, simulator.action_space)


def rewards_of(world: World) -> ActionRewards:
    if world.has_items:
        config = FMConfig(width=6, outcome="continuous", unknown_rate=0.0)
        return ItemRewards(create_estimator(config, item_catalogue(world.num_actions, 4)))
    assert not isinstance(world.observation, dict)
    return NumberRewards(NumberRewardsConfig(width=6, hidden=(8,)), world.observation, world.action)


class Case:
    """An agent with an estimator, and a batch of what it did."""

    def __init__(self, name: str, kind: str, shares: bool, learns: bool = False):
        keras.utils.set_random_seed(0)
        self.simulator = toys.simulator(WORLDS[kind])
        self.world = world_of(self.simulator)
        self.rewards = rewards_of(self.world)
        config = AGENTS[name](hidden=(8,), width=6)
        shared = vectors_of(self.rewards) if shares else None
        self.agent: Agent = create_agent(config, self.world, shared)
        optimizer = tf.compat.v1.train.AdamOptimizer(0.01)
        self.stabilised = StabilisedAgent(self.agent.agent, self.rewards, optimizer if learns else None)
        self.learner = StabilisedAgent(self.agent.agent, self.rewards, optimizer)
        played = play_sessions(self.simulator, self.agent.collect.action, np.arange(12), 0, 6)
        self.batch = played.as_trajectories()
        if not config.is_on_policy:
            replay = StepReplay(100)
            replay.add(played)
            self.batch = replay.draw(16, np.random.default_rng(0))

    def of_agent(self) -> dict[str, Any]:
        """Weights that belong to the agent, by the place where it has them."""
        found = {}
        for name in ("_q_network", "_actor_network", "_actor_net", "_value_network", "_value_net", "_critic_network", "_critic_network_1"):
            part = getattr(self.agent.agent, name, None)
            if part is not None:
                found |= {f"{name} {number}": variable for number, variable in enumerate(part.trainable_variables)}
        return found


def values(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in variables.items()}


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name, value in after.items() if not np.array_equal(value, before[name])}


def shared_weights(case: Case) -> list[np.ndarray]:
    return [variable.numpy() for variable in vectors_of(case.rewards).trainable_variables]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_shared_vectors_are_moved_by_the_supervised_loss_alone(name: str, kind: str) -> None:
    case = Case(name, kind, shares=True)
    start, before = shared_weights(case), values(case.of_agent())
    shared_ids = {id(variable) for variable in vectors_of(case.rewards).variables}
    assert not shared_ids & {id(variable) for variable in case.agent.agent.variables}
    case.stabilised.train(case.batch)
    for one, other in zip(start, shared_weights(case), strict=True):
        np.testing.assert_array_equal(one, other)
    assert moved(before, values(case.of_agent())), "the agent learned nothing"
    # The other way round: the estimator's loss moves them, and nothing of the agent.
    before = values(case.of_agent())
    case.learner.train_rewards(case.batch)
    assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(start, shared_weights(case), strict=True))
    assert not moved(before, values(case.of_agent()))


@pytest.mark.parametrize(("name", "kind"), [("dqn", "items"), ("reinforce", "items"), ("ddpg", "numbers"), ("sac", "numbers")])
def test_an_agent_moves_vectors_of_its_own(name: str, kind: str) -> None:
    case = Case(name, kind, shares=False)
    own = {place: variable for place, variable in case.of_agent().items() if "items/" in variable.name or "numbers/" in variable.name}
    assert own
    before = values(own)
    case.stabilised.train(case.batch)
    assert moved(before, values(own)) == set(own)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_rewards_that_are_as_expected_teach_what_they_taught_before(name: str, kind: str) -> None:
    # Deterministic rewards that the estimator knows: there is no variance to take away, and no bias.
    plain, expecting = Case(name, kind, shares=False), Case(name, kind, shares=False)
    batch = plain.stabilised.stabilised(plain.batch)
    assert np.abs(batch.reward.numpy() - plain.batch.reward.numpy()).max() > 0
    start = values(plain.of_agent())
    tf.random.set_seed(5)
    plain.agent.agent.train(batch)
    tf.random.set_seed(5)
    expecting.stabilised.train(batch)
    after, other = values(plain.of_agent()), values(expecting.of_agent())
    assert moved(start, after)
    for place, value in after.items():
        np.testing.assert_array_equal(value, other[place], err_msg=place)


class Shifted(ActionRewards):
    """Estimates that are too high by a number."""

    def __init__(self, rewards: ActionRewards, shift: float):
        self.rewards, self._shift = rewards, shift

    def expected(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        return self.rewards.expected(observation, action) + self._shift

    def losses(self, observation: Any, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        return self.rewards.losses(observation, action, reward)


def test_what_an_estimate_adds_is_the_bias_of_the_target() -> None:
    case = Case("dqn", "items", shares=False)
    right = case.stabilised.loss(case.batch).extra.agent.td_error.numpy()
    wrong = StabilisedAgent(case.agent.agent, Shifted(case.rewards, 0.25)).loss(case.batch).extra.agent.td_error.numpy()
    assert wrong - right == pytest.approx(np.full_like(right, 0.25), abs=1e-6)


@pytest.mark.parametrize("kept", [1.0, 0.25])
def test_the_variance_of_the_target_falls_by_the_analytic_amount(kept: float) -> None:
    # One state, in which item 3 was clicked last, and one action, to show item 3 again or item 0 of its cluster: everything that chance
    # can do is listed with its probability, so variances are exact.
    shop = ShopSimulator(ShopSimulatorConfig(shop=SessionShopConfig(num_items=12, num_clusters=3, num_baits=1), max_steps=4))
    noisy = NoisySimulator(shop, Thinning(kept=kept))
    keras.utils.set_random_seed(0)
    config = AGENTS["dqn"](hidden=(8,), width=6, discount=0.9)  # type: ignore[call-arg]
    agent = create_agent(config, world_of(shop))
    # Values that differ, so that where the session goes counts.
    rng = np.random.default_rng(0)
    for variable in (*agent.agent._q_network.trainable_variables, *agent.agent._target_q_network.trainable_variables):
        variable.assign_add(rng.normal(0.0, 0.5, variable.shape).astype(np.float32))
    plain, expecting = agent.agent, StabilisedAgent(agent.agent, ShopTruth(shop.shop))
    for action in (3, 0):
        click, buy = (float(share[0]) for share in shop.shop.response(np.array([7]), np.array([action])))
        outcomes = [(0.0, 1.0 - click - buy), (0.2, click), (1.0, buy)]
        stays = [
            1.0 - shop.config.shop.leave_after_ignored,
            1.0 - shop.config.shop.leave_after_click,
            1.0 - shop.config.shop.leave_after_purchase,
        ]
        borders = np.cumsum([0.0, click, buy, 1.0 - click - buy])
        draws, weights, paid, left = [], [], [], []
        for (place, (reward, share)), stay, pays in product(enumerate(outcomes), (True, False), (True, False)):
            weight = share * (stays[place] if stay else 1.0 - stays[place]) * (kept if pays else 1.0 - kept)
            if weight == 0.0:
                continue
            first = {0: 2, 1: 0, 2: 1}[place]
            outcome = (borders[first] + borders[first + 1]) / 2.0
            leave = 1.0 - stays[place]
            draws.append([outcome, (1.0 + leave) / 2.0 if stay else leave / 2.0, kept / 2.0 if pays else (1.0 + kept) / 2.0])
            weights.append(weight)
            paid.append(reward)
            left.append(not stay)
        count = len(weights)
        assert sum(weights) == pytest.approx(1.0)
        state = {
            "shop": np.full(count, 7),
            "item_history": np.tile([4, 0, 0, 0], (count, 1)).astype(np.int32),
            "length": np.ones(count, np.int32),
        }
        step = noisy.step(state, np.full(count, action), np.array(draws))
        assert step.is_last.tolist() == left
        batch = _pairs(state, np.full(count, action), step)
        weight, reward = np.array(weights), np.array(paid)
        found = [one.loss(batch) for one in (plain, expecting)]
        raw = found[0].extra.td_error.numpy().astype(np.float64)
        stable = found[1].extra.agent.td_error.numpy().astype(np.float64)
        # What the future is worth is what is left of the target; both have the same value of the shown item taken off.
        future = raw - step.reward
        mean = lambda numbers, weight=weight: float((weight * numbers).sum())  # noqa: E731
        covariance = mean(reward * future) - mean(reward) * mean(future)
        thinned = mean(reward**2) * (1.0 - kept) / kept
        analytic = thinned + mean(reward**2) - mean(reward) ** 2 + 2.0 * covariance
        assert _variance(raw, weight) - _variance(stable, weight) == pytest.approx(analytic, rel=1e-4, abs=1e-6)
        assert mean(raw) == pytest.approx(mean(stable), abs=1e-5)
        assert _variance(stable, weight) == pytest.approx(_variance(future, weight), rel=1e-4, abs=1e-7)
        assert (thinned > 1e-3) == (kept < 1.0)


def _variance(numbers: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * numbers**2).sum() - (weight * numbers).sum() ** 2)


def _pairs(state: dict[str, np.ndarray], action: np.ndarray, step: Any) -> Any:
    from tf_agents.trajectories import trajectory

    seen = {name: np.stack([state[name], step.state[name]], axis=1) for name in ("item_history", "length")}
    twice = lambda numbers, kind: tf.constant(np.stack([numbers, numbers], axis=1), kind)  # noqa: E731
    middle = np.ones(len(action))
    return trajectory.Trajectory(
        step_type=twice(middle, tf.int32),
        observation=tf.nest.map_structure(tf.constant, seen),
        action=twice(action, tf.int32),
        policy_info=(),
        next_step_type=twice(np.where(step.is_last, 2, 1), tf.int32),
        reward=twice(step.reward, tf.float32),
        discount=twice(~step.is_last, tf.float32),
    )


def test_steps_between_episodes_count_nowhere() -> None:
    case = Case("reinforce", "items", shares=False)
    between = case.batch.is_boundary().numpy()
    assert between.any()
    odd = case.batch._replace(reward=tf.where(between, 1e6, case.batch.reward))
    replaced = case.stabilised.stabilised(odd).reward.numpy()
    assert (replaced[between] == 1e6).all()
    assert np.abs(replaced[~between]).max() < 10.0
    assert float(case.learner.train_rewards(odd)) < 10.0


def test_the_estimator_learns_from_what_was_paid_before_the_agent_learns_from_what_was_expected() -> None:
    case, other = Case("dqn", "items", shares=False, learns=True), Case("dqn", "items", shares=False)
    expected = other.stabilised.stabilised(other.batch)
    info = case.stabilised.train(case.batch)
    # What the agent was given is the estimate from before the estimator saw the batch.
    by_hand = other.agent.agent.loss(expected, gamma=AGENTS["dqn"]().discount)
    assert float(info.loss) == pytest.approx(float(by_hand.loss), rel=1e-5)
    squares = np.square(case.batch.reward.numpy() - expected.reward.numpy())[~case.batch.is_boundary().numpy()]
    assert float(info.extra.rewards) == pytest.approx(0.5 * squares.mean(), rel=1e-4)


def test_the_mean_of_a_thinned_reward_is_learned() -> None:
    world = world_of(toys.simulator("virtual_taobao"))
    keras.utils.set_random_seed(0)
    rewards, rng = rewards_of(world), np.random.default_rng(0)
    seen, done = tf.constant(rng.random((400, 91)), tf.float32), tf.constant(rng.uniform(-1, 1, (400, 27)), tf.float32)
    truth = 1.0 + done.numpy()[:, 0]
    optimizer = keras.optimizers.Adam(0.01, jit_compile=False)
    for _ in range(150):
        paid = np.where(rng.random(400) < 0.5, 2.0 * truth, 0.0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(rewards.losses(seen, done, tf.constant(paid, tf.float32)))
        optimizer.apply_gradients(zip(tape.gradient(loss, rewards.trainable_variables), rewards.trainable_variables, strict=True))
    error = rewards.expected(seen, done).numpy() - truth
    # The reward's own variance is truth^2, about 1.3; a network that knows only the mean is off by a third.
    assert np.mean(error**2) < 0.1


def test_an_agent_that_rewrites_its_experience_is_refused() -> None:
    from tf_agents.agents.ppo import ppo_clip_agent

    world = world_of(toys.simulator("session_shop"))
    config: Any = AGENTS["ppo"](hidden=(8,), width=6)
    made = ppo_clip_agent.PPOClipAgent(
        world.time_step_spec,
        world.action_spec,
        actor_net=config.chooser(world, None),
        value_net=config.network(world, None, lambda states: import_module("models.agents.networks").Value(), "Values"),
        compute_value_and_advantage_in_train=False,
    )
    with pytest.raises(ValueError, match="compute_value_and_advantage_in_train=True"):
        StabilisedAgent(made, rewards_of(world))


def test_agents_that_cannot_act_in_a_world_say_so() -> None:
    with pytest.raises(ValueError, match="agent dqn: its actions are items, those of the simulator are numbers"):
        create_agent(AGENTS["dqn"](), world_of(toys.simulator("virtual_taobao")))
    with pytest.raises(ValueError, match="ShopTruth has no vectors to share"):
        vectors_of(ShopTruth(toys.simulator("session_shop").shop))


def test_the_shops_truth_is_the_mean_of_its_rewards() -> None:
    shop = toys.simulator("session_shop")
    truth = ShopTruth(shop.shop)
    # Nothing yet; item 2 clicked; item 2 bought: states 0, 5 and 6.
    history = tf.constant([[0, 0, 0, 0], [1, 3, 0, 0], [1, 3, 3, 0]], tf.int32)
    seen = {"item_history": history, "length": tf.constant([0, 2, 3])}
    for action in range(12):
        click, buy = shop.shop.response(np.array([0, 5, 6]), np.full(3, action))
        assert truth.expected(seen, tf.fill([3], action)).numpy() == pytest.approx(0.2 * click + buy, abs=1e-6)


@pytest.mark.parametrize("kind", WORLDS)
def test_errors_of_an_estimate_are_fixed_and_as_large_as_asked(kind: str) -> None:
    simulator = toys.simulator(WORLDS[kind])
    world = world_of(simulator)
    size = 0 if world.has_items else 91
    made = [DistortedRewards(rewards_of(world), 0.5, world.action, size, seed) for seed in range(40)]
    rng = np.random.default_rng(0)
    action = toys.random_actions(simulator, rng, 64)
    if world.has_items:
        seen: Any = {"item_history": tf.constant(rng.integers(1, 13, (64, 4)), tf.int32), "length": tf.fill([64], 4)}
    else:
        seen = tf.constant(rng.random((64, 91)), tf.float32)
    errors = np.stack([one.error(seen, tf.constant(action)).numpy() for one in made])
    # Over the draws of its phases the error of any pair has mean 0 and the variance that was asked for.
    assert errors.mean() == pytest.approx(0.0, abs=0.05)
    assert errors.std() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(errors[3], made[3].error(seen, tf.constant(action)).numpy())
    difference = made[3].expected(seen, tf.constant(action)) - made[3].rewards.expected(seen, tf.constant(action))
    assert difference.numpy() == pytest.approx(errors[3], abs=1e-5)
