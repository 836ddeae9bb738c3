"""A decision transformer for continuous actions: what it sees, what it learns, and that its cache changes nothing."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.environments import create_simulator
from components.trainer.step import TrainStep
from models.agents.episodes import ACTION, GaussianBehaviour, TransformerActor, as_episodes, best_of, collect, tune
from models.agents.gaussian_transformer import EpisodeBatch, GaussianTransformer, GaussianTransformerConfig
from models.algorithms.base import Phase
from models.frameworks import keras, tf
from models.online.buffer import ReplayBuffer
from models.simulators.base import Simulator, Space, Step
from models.simulators.virtual_taobao import VirtualTaobaoConfig

sys.path.append(str(Path(__file__).parents[1] / "simulators"))
toy = import_module("toy_worlds")

OBSERVED, DIMENSIONS = 91, 27


def build(seed: int = 0, observed: int = OBSERVED, dimensions: int = DIMENSIONS, **changes: Any) -> GaussianTransformer:
    keras.utils.set_random_seed(seed)
    small = {"width": 16, "max_steps": 6, "context_length": 3, "num_blocks": 2, "expansion": 1, "dropout": 0.0}
    return GaussianTransformer(GaussianTransformerConfig(**{**small, **changes}), observed, dimensions, seed)


def random_batch(rows: int = 3, steps: int = 6, seed: int = 0) -> EpisodeBatch:
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(rows, steps, OBSERVED)).astype(np.float32)
    action = rng.uniform(-0.9, 0.9, (rows, steps, DIMENSIONS)).astype(np.float32)
    returns = rng.uniform(0.0, 9.0, (rows, steps)).astype(np.float32)
    return EpisodeBatch(*(tf.constant(part) for part in (observation, action, returns)), tf.constant([steps, 2, 4][:rows], tf.int32))


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    made: Simulator = toy.simulator("virtual_taobao")
    return made


def losses(model: GaussianTransformer, batch: EpisodeBatch) -> dict[str, float]:
    found = model.losses_of(Phase(""), batch, tf.constant(0, tf.int64), training=False)
    return {name: float(found.mean(name)) for name in found.parts}


def test_no_action_is_seen_before_it_is_taken() -> None:
    model, batch = build(), random_batch()
    before = model.distribution(batch).mean.numpy()
    changed = batch.action.numpy()
    changed[:, 3] *= -1.0
    after = model.distribution(batch._replace(action=tf.constant(changed))).mean.numpy()
    assert np.abs(after[:, :4] - before[:, :4]).max() == 0.0
    assert np.abs(after[:, 4] - before[:, 4]).max() > 1e-4


def test_padding_has_no_part_in_any_loss() -> None:
    model, batch = build(), random_batch()
    expected = losses(model, batch)
    noise = np.where(np.asarray(batch.is_target())[..., None], batch.action.numpy(), 0.7).astype(np.float32)
    assert losses(model, batch._replace(action=tf.constant(noise))) == pytest.approx(expected, rel=1e-5)


def test_a_clipped_action_is_learned_as_one_that_is_a_little_less() -> None:
    # atanh(1) has no end; .99 is 2.65 before the squashing.
    model, batch = build(), random_batch()
    edge, inside = (batch._replace(action=tf.fill(tf.shape(batch.action), value)) for value in (1.0, 0.99))
    plain = model.head.log_prob(model.distribution(edge), inside.action)
    clipped = model.losses_of(Phase(""), edge, tf.constant(0, tf.int64), training=False).parts["likelihood"]
    np.testing.assert_allclose(-plain.numpy(), clipped.numpy(), rtol=1e-5)


def test_the_bound_is_minus_the_number_of_dimensions_and_moves_the_temperature() -> None:
    model = build()
    assert model.least_entropy == -27.0
    found = model.losses_of(Phase(""), random_batch(), tf.constant(0, tf.int64), training=False)
    entropy, temperature = found.health["policy_entropy"].numpy(), found.health["temperature"].numpy()
    assert temperature == pytest.approx(0.1)
    # The gradient on lambda is H - beta: the temperature falls while the entropy is above the bound.
    assert float(found.mean("temperature")) == pytest.approx(0.1 * (entropy + 27.0), rel=1e-4)
    plain = build(entropy_per_dimension=None)
    assert set(losses(plain, random_batch())) == {"likelihood"}
    assert all(variable is not plain.log_temperature for variable in plain.variables_of(Phase("")))


def test_acting_step_by_step_is_reading_the_whole_session() -> None:
    model, batch = build(), random_batch()
    model.returns.scale.assign([3.0])
    # Returns that go down by the rewards, as acting has them.
    reward = np.array([[1.0, 0.0, 2.0, 0.5, 1.0, 0.0]] * 3, np.float32)
    returns = 8.0 - np.concatenate([np.zeros((3, 1)), np.cumsum(reward, axis=1)[:, :-1]], axis=1)
    model.returns.greatest.assign([9.0])
    whole = model.head.mode(model.distribution(batch._replace(return_to_go=tf.constant(returns, tf.float32)))).numpy()
    memory = model.begin(tf.fill([3], 8.0))
    for step in range(6):
        action, memory = model.act(memory, batch.observation[:, step])
        np.testing.assert_allclose(action.numpy(), whole[:, step], atol=1e-5)
        memory = model.told(memory._replace(action=batch.action[:, step]), tf.constant(reward[:, step]))


def test_scales_and_target_are_those_of_the_logs() -> None:
    model, batch = build(target_quantile=1.0), random_batch()
    model.fit(batch)
    seen = batch.observation.numpy()[np.asarray(batch.is_target())]
    np.testing.assert_allclose(model.observed_mean.numpy(), seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model.observed_deviation.numpy(), seen.std(axis=0), rtol=1e-4)
    assert model.returns.target.numpy() == pytest.approx(batch.return_to_go.numpy()[:, 0].max())
    assert model.exploration_target.numpy() == pytest.approx(2.0 * model.returns.target.numpy())


def test_logs_of_a_behaviour_policy_are_sessions_of_the_simulator(simulator: Simulator) -> None:
    logs = collect(simulator, GaussianBehaviour(DIMENSIONS), np.arange(50), seed=1, max_steps=6)
    again = collect(simulator, GaussianBehaviour(DIMENSIONS), np.arange(25, 50), seed=1, max_steps=6)
    # A session does not depend on those beside it.
    for name, values in logs.steps.items():
        np.testing.assert_array_equal(values[25:], again.steps[name])
    assert 1 <= logs.length.min() < logs.length.max() <= 4
    np.testing.assert_allclose(logs.steps["return_to_go"][:, 0], logs.steps["reward"].sum(axis=1), rtol=1e-5)
    inside = np.arange(6)[None, :] < logs.length[:, None]
    # The page count, the last number seen, goes up by one.
    np.testing.assert_array_equal(logs.steps["observation"][..., -1][inside], np.broadcast_to(np.arange(6), (50, 6))[inside])
    # 0.3 between sessions and .2 within: a deviation of .36, less what is clipped.
    assert logs.steps[ACTION][inside].std() == pytest.approx(0.36, abs=0.02)
    chosen = best_of(logs, 3).steps["reward"].sum(axis=1)
    assert chosen.tolist() == sorted(logs.steps["reward"].sum(axis=1))[-3:]


class Aiming(Simulator):
    """Four shots at a target in the unit square, which is seen: a hit is worth 1, and less the farther it misses."""

    num_begin_draws = 2

    @property
    def action_space(self) -> Space:
        return Space("shot", (2,), np.float32, -1.0, 1.0)

    @property
    def observation_space(self) -> Space:
        return Space("target", (2,), np.float32, -1.0, 1.0)

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def begin(self, chance: Any) -> dict[str, Any]:
        return {"target": (1.6 * chance - 0.8).astype(np.float32), "turn": np.zeros(len(chance), np.int64)}

    def step(self, state: dict[str, Any], action: Any, chance: Any) -> Step:
        reward = np.maximum(0.0, 1.0 - np.square(action - state["target"]).sum(axis=1))
        turn = state["turn"] + 1
        return Step(reward, turn >= 4, {"target": state["target"], "turn": turn})

    def observe(self, state: dict[str, Any]) -> Any:
        return state["target"]


def test_rounds_raise_the_returns_above_the_offline_policy_and_that_is_above_the_logs() -> None:
    world = Aiming()
    logs = collect(world, GaussianBehaviour(2, between=0.6), np.arange(400), seed=1, max_steps=4)
    model = build(observed=2, dimensions=2, max_steps=4, context_length=2, num_blocks=1, width=32)
    model.fit(as_episodes(logs))
    step = TrainStep(model, lambda _: keras.optimizers.Adam(0.003, jit_compile=False), xla=False)  # type: ignore[arg-type]
    buffer = ReplayBuffer(600, 4)
    buffer.add(best_of(logs, 300))

    def played(actor: Any) -> Any:
        return collect(world, actor, np.arange(300), seed=9, max_steps=4).steps["reward"].sum(axis=1)

    for number in range(30):
        step(as_episodes(buffer.draw(64, 5, number)), number)  # type: ignore[arg-type]
    offline = played(TransformerActor(model, 2))
    rounds = list(tune(model, lambda batch, number: step(batch, 30 + number), world, buffer, 6, 100, 100, 64))  # type: ignore[arg-type]
    assert [found.number for found in rounds] == list(range(6))
    # Of six seeds the logs earn 1.25, the offline policies 2.8 to 3.3, the tuned ones 3.7 or more of 4; drawn, 1.5 rises to 2.7.
    online, behaviour = played(TransformerActor(model, 2)), played(GaussianBehaviour(2, between=0.6))
    assert offline.mean() > behaviour.mean() + 1.0
    assert online.mean() > offline.mean() + 0.2
    assert rounds[-1].returns.mean() > rounds[0].returns.mean() + 0.5


@pytest.mark.slow
@pytest.mark.data
def test_clicks_rise_online_in_virtual_taobao(data_folder: Path) -> None:
    simulator = create_simulator(VirtualTaobaoConfig(weights=str(data_folder / "virtual_taobao")))
    logs = collect(simulator, GaussianBehaviour(DIMENSIONS), np.arange(4000), seed=1, max_steps=32)
    model = build(width=64, max_steps=32, context_length=2, num_blocks=3, expansion=4, dropout=0.1)
    model.fit(as_episodes(logs))
    step = TrainStep(model, lambda _: keras.optimizers.Adam(1e-3, jit_compile=False), xla=False)  # type: ignore[arg-type]
    buffer = ReplayBuffer(2000, 32)
    buffer.add(best_of(logs, 1000))
    for number in range(500):
        step(as_episodes(buffer.draw(256, 5, number)), number)  # type: ignore[arg-type]
    offline = collect(simulator, TransformerActor(model, DIMENSIONS), np.arange(1000), seed=9, max_steps=32).steps["reward"].sum(axis=1)
    for _ in tune(model, lambda batch, number: step(batch, 500 + number), simulator, buffer, 40, 500, 40, 256):  # type: ignore[arg-type]
        pass
    online = collect(simulator, TransformerActor(model, DIMENSIONS), np.arange(1000), seed=9, max_steps=32).steps["reward"].sum(axis=1)
    gain = online - offline
    assert gain.mean() - 2.0 * gain.std() / 1000**0.5 > 0.0
