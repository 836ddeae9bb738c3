"""What every simulator keeps to, alone and as a TF-Agents environment, straight from the registry."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from tf_agents.drivers import dynamic_step_driver
from tf_agents.environments import utils
from tf_agents.policies import random_tf_policy
from tf_agents.replay_buffers import tf_uniform_replay_buffer
from tf_agents.specs import array_spec

from models.agents.environments import SessionEnvironment, as_specs, graph_environment
from models.frameworks import tf
from models.simulators.base import Seen, Simulator, SimulatorConfig, play
from models.simulators.chance import BEGIN, STEP, Chance
from models.simulators.reference import REFERENCES
from models.simulators.registry import SIMULATORS, AnySimulator
from schemas.config import Config, ConfigError, canonical_json, decode

sys.path.append(str(Path(__file__).parents[1] / "models" / "simulators"))
toy = import_module("toy_worlds")

ROWS = 6


class Holder(Config):
    """A configuration that holds any simulator's."""

    simulator: AnySimulator


@pytest.fixture(scope="module", params=SIMULATORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def simulator(name: str) -> Simulator:
    made: Simulator = toy.simulator(name)
    return made


def environment_of(simulator: Simulator, seed: int = 1, max_turns: int | None = None) -> SessionEnvironment:
    return SessionEnvironment(simulator, ROWS, seed, max_turns)


def flat(step: Any) -> list[np.ndarray]:
    return [np.asarray(array) for array in tf.nest.flatten(step)]


def assert_same(left: Any, right: Any) -> None:
    for one, other in zip(flat(left), flat(right), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


# === Simulators ===


def test_every_session_is_that_of_the_reference(name: str, simulator: Simulator) -> None:
    rng, chance, session = np.random.default_rng(0), Chance(5), np.arange(40)
    begin = chance.uniform(BEGIN, session, 0, simulator.num_begin_draws)
    references = [toy.reference(name) for _ in session]
    for reference, draws in zip(references, begin, strict=True):
        reference.begin(draws.tolist())
    state, alive = simulator.begin(begin), np.ones(40, np.bool_)
    for turn in range(30):
        for part, array in toy.parts(simulator.observe(state)).items():
            for row in np.flatnonzero(alive):
                np.testing.assert_array_equal(array[row], np.asarray(toy.parts(references[row].observe())[part], array.dtype))
        action = toy.random_actions(simulator, rng, 40)
        draws = chance.uniform(STEP, session, turn, simulator.num_step_draws)
        moved = simulator.step(state, action, draws)
        for row in np.flatnonzero(alive):
            expected = references[row].step(action[row], draws[row].tolist())
            assert (moved.reward[row], moved.is_last[row]) == expected, f"session {row}, turn {turn}"
        state, alive = moved.state, alive & ~moved.is_last
    assert alive.mean() < 0.5


def test_a_session_does_not_depend_on_those_beside_it(simulator: Simulator) -> None:
    rng, chance = np.random.default_rng(0), Chance(6)
    session = np.arange(30)
    draws = chance.uniform(STEP, session, 0, simulator.num_step_draws)
    state = simulator.begin(chance.uniform(BEGIN, session, 0, simulator.num_begin_draws))
    action = toy.random_actions(simulator, rng, 30)
    together = simulator.step(state, action, draws)
    for row in (0, 7, 29):
        rows = slice(row, row + 1)
        alone = simulator.step({part: array[rows] for part, array in state.items()}, action[rows], draws[rows])
        assert (alone.reward[0], alone.is_last[0]) == (together.reward[row], together.is_last[row])
        assert_same(simulator.observe(alone.state), tf.nest.map_structure(lambda array: array[rows], simulator.observe(together.state)))


def test_sessions_end_and_rewards_stay_in_the_stated_bounds(simulator: Simulator) -> None:
    low, high = simulator.reward_bounds
    rewards: list[float] = []
    step = simulator.step

    def recorded(*arguments: Any) -> Any:
        moved = step(*arguments)
        rewards.extend(moved.reward.tolist())
        return moved

    def act(seen: Seen) -> np.ndarray:
        drawn: np.ndarray = toy.random_actions(simulator, np.random.default_rng(seen.turn), len(seen.session))
        return drawn

    simulator.step = recorded  # type: ignore[method-assign]
    try:
        played = play(simulator, act, 500, seed=2, max_turns=2_000)
    finally:
        del simulator.step  # type: ignore[method-assign]
    assert not played.is_cut.any()
    assert played.turns.min() >= 1
    assert low <= min(rewards) < max(rewards) <= high
    # Nothing is earned that is not a step's.
    assert played.returns.sum() == pytest.approx(sum(rewards))


def test_a_step_leaves_its_inputs_as_they_are(simulator: Simulator) -> None:
    state = simulator.begin(np.full((3, simulator.num_begin_draws), 0.3))
    before = {part: array.copy() for part, array in state.items()}
    seen = toy.parts(simulator.observe(state))
    for array in seen.values():
        array[:] = 1
    simulator.step(state, toy.random_actions(simulator, np.random.default_rng(0), 3), np.full((3, simulator.num_step_draws), 0.2))
    assert_same(state, before)


# === TF-Agents environments ===


def test_the_environment_keeps_to_its_specs(simulator: Simulator) -> None:
    environment = environment_of(simulator)
    utils.validate_py_environment(environment, episodes=60)
    assert environment.batch_size == ROWS
    assert environment.num_finished >= 60


def test_the_specs_are_those_of_the_spaces(simulator: Simulator) -> None:
    environment = environment_of(simulator)
    assert environment.action_spec() == as_specs(simulator.action_space)
    assert environment.time_step_spec().observation == as_specs(simulator.observation_space)
    action = environment.action_spec()
    # What is drawn from the spec is an action, and what lies outside is refused.
    environment.reset()
    environment.step(array_spec.sample_spec_nest(action, np.random.RandomState(0), outer_dims=(ROWS,)))
    with pytest.raises(ValueError, match=rf"{action.name}: expected values from"):
        environment.step(np.full((ROWS, *action.shape), np.max(action.maximum) + 1, action.dtype))
    with pytest.raises(ValueError, match=rf"{action.name}: expected shape"):
        environment.step(np.zeros((ROWS + 1, *action.shape), action.dtype))


def test_the_same_seed_gives_the_same_sessions_and_another_seed_others(simulator: Simulator) -> None:
    def recorded(environment: SessionEnvironment) -> list[Any]:
        rng = np.random.default_rng(3)
        return [environment.reset(), *(environment.step(toy.random_actions(simulator, rng, ROWS)) for _ in range(40))]

    environment = environment_of(simulator, seed=4)
    one = recorded(environment)
    environment.seed(4)
    again = recorded(environment)
    for left, right, other in zip(one, again, recorded(environment_of(simulator, seed=4)), strict=True):
        assert_same(left, right)
        assert_same(left, other)
    different = recorded(environment_of(simulator, seed=5))
    assert any((a != b).any() for left, right in zip(one, different, strict=True) for a, b in zip(flat(left), flat(right), strict=True))


def test_a_finished_row_restarts_on_its_next_step_alone(simulator: Simulator) -> None:
    environment, rng = environment_of(simulator), np.random.default_rng(0)
    step = environment.reset()
    assert step.is_first().all()
    first, last = ROWS, 0
    for _ in range(150):
        before = step
        step = environment.step(toy.random_actions(simulator, rng, ROWS))
        np.testing.assert_array_equal(step.is_first(), before.is_last())
        assert (step.reward[step.is_first()] == 0.0).all()
        np.testing.assert_array_equal(step.discount == 0.0, step.is_last())
        first, last = first + int(step.is_first().sum()), last + int(step.is_last().sum())
        running = int((~step.is_last()).sum())
        assert (environment.num_begun, environment.num_finished, environment.num_abandoned) == (first, last, 0)
        assert first == last + running
    assert last > ROWS


def test_a_reset_begins_new_sessions_and_counts_those_it_breaks_off(simulator: Simulator) -> None:
    environment = environment_of(simulator)
    environment.reset()
    step = environment.step(toy.random_actions(simulator, np.random.default_rng(0), ROWS))
    finished = int(step.is_last().sum())
    assert environment.reset().is_first().all()
    assert environment.num_begun == 2 * ROWS
    assert environment.num_abandoned == ROWS - finished


def test_a_session_that_is_cut_off_is_not_over(simulator: Simulator) -> None:
    environment, rng = environment_of(simulator, max_turns=2), np.random.default_rng(0)
    free = environment_of(simulator)
    environment.reset()
    free.reset()
    for _ in range(2):
        action = toy.random_actions(simulator, rng, ROWS)
        before = free.current_time_step()
        cut, whole = environment.step(action), free.step(action)
    # After two steps every row is at its end, but for those that ended with the first one and have begun anew.
    np.testing.assert_array_equal(cut.is_last(), ~before.is_last())
    np.testing.assert_array_equal(cut.discount, whole.discount)
    np.testing.assert_array_equal(cut.reward, whole.reward)


def test_a_saved_environment_goes_on_as_if_nothing_had_happened(simulator: Simulator) -> None:
    rng = np.random.default_rng(0)
    actions = [toy.random_actions(simulator, rng, ROWS) for _ in range(40)]
    environment = environment_of(simulator)
    environment.reset()
    for action in actions[:20]:
        environment.step(action)
    saved = environment.get_state()
    expected = [environment.step(action) for action in actions[20:]]
    again = environment_of(simulator)
    again.set_state(saved)
    assert_same(again.current_time_step(), saved["time_step"])
    for action, step in zip(actions[20:], expected, strict=True):
        assert_same(again.step(action), step)
    assert_same(again.reset(), environment.reset())
    assert again.num_begun == environment.num_begun


def test_the_graph_environment_gives_the_same_steps(simulator: Simulator) -> None:
    plain, graph = environment_of(simulator), graph_environment(environment_of(simulator))
    assert graph.batch_size == ROWS
    assert_same(graph.reset(), plain.reset())
    move, rng = tf.function(graph.step), np.random.default_rng(0)
    for _ in range(15):
        action = toy.random_actions(simulator, rng, ROWS)
        assert_same(move(tf.constant(action)), plain.step(action))


def test_a_driver_fills_a_replay_buffer(simulator: Simulator) -> None:
    graph = graph_environment(environment_of(simulator))
    policy = random_tf_policy.RandomTFPolicy(graph.time_step_spec(), graph.action_spec())
    buffer = tf_uniform_replay_buffer.TFUniformReplayBuffer(policy.trajectory_spec, ROWS, max_length=200)
    dynamic_step_driver.DynamicStepDriver(graph, policy, observers=[buffer.add_batch], num_steps=50 * ROWS).run()
    stored = buffer.gather_all()
    is_real = ~stored.is_boundary().numpy()
    # A boundary joins the last step of a session to the first of the next and is none of a session's steps.
    assert is_real.sum() >= 50 * ROWS
    low, high = simulator.reward_bounds
    rewards = stored.reward.numpy()[is_real]
    assert low <= rewards.min() <= rewards.max() <= np.float32(high)
    ended = int((stored.discount.numpy()[is_real] == 0.0).sum())
    assert abs(ended - graph.pyenv.num_finished) <= ROWS


# === Configurations ===


def test_every_simulator_has_a_reference_and_a_name(name: str) -> None:
    assert set(REFERENCES) == set(SIMULATORS)
    assert SIMULATORS[name].config_class.model_fields["name"].default == name


def test_the_configuration_comes_back_from_json_as_it_was(name: str) -> None:
    config: SimulatorConfig = toy.arguments_of(name)[0]
    again = decode(Holder, json.loads(canonical_json(Holder(simulator=config))), "test").simulator
    assert again == config
    assert type(again) is SIMULATORS[name].config_class


def test_an_unknown_simulator_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"simulator\.name: unknown name 'stiching'.*did you mean 'stitching'"):
        decode(Holder, {"simulator": {"name": "stiching"}}, "test")


def test_configurations_are_frozen(name: str) -> None:
    config = toy.arguments_of(name)[0]
    with pytest.raises(pydantic.ValidationError):
        config.name = "another"
