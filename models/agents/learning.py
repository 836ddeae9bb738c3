"""Rounds of playing and learning of TF-Agents' agents, on rewards as they are paid or as they are expected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic

from models.agents.environments import SessionEnvironment, graph_environment
from models.agents.networks import specs_of
from models.agents.registry import AgentConfig, World, create_agent
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
from models.agents.sessions import Act, PlayedSessions, StepReplay, compiled, play_sessions
from models.agents.stabilised import StabilisedAgent
from models.frameworks import keras, tf
from models.metrics.embedding import neighbour_purity
from models.rewards.base import EstimatorConfig
from models.rewards.calibration import RewardSums
from models.rewards.din import DINConfig
from models.rewards.registry import PlainEstimator, create_estimator
from models.simulators.base import Simulator
from models.simulators.shop_simulator import ShopSimulator
from schemas.config import Config

# TF-Agents imports TensorFlow by itself; the package has chosen Keras 2 by now.
from tf_agents.policies import random_tf_policy  # isort: skip

_EVALUATION_SEED = 1_000_003
"""Sessions that are measured are none of those that are learned from."""
_CHUNK = 4096


class StabiliserConfig(Config):
    """Expected rewards in the place of paid ones."""

    shares_vectors: bool = False
    """The agent reads the estimator's vectors of items or of an observation, and the estimator's loss alone moves them (SRS2)."""
    items: PlainEstimator = DINConfig(outcome="continuous", unknown_rate=0.0)
    """Estimator where actions show items; of a continuous reward."""
    numbers: NumberRewardsConfig = NumberRewardsConfig()
    """Estimator where actions are numbers."""
    is_exact: bool = False
    """What the simulated shop really pays on average, in the place of an estimate: the limit of all estimators."""
    learning_rate: float = pydantic.Field(default=1e-3, gt=0.0)
    updates_per_round: int | None = pydantic.Field(default=None, ge=1)
    """Of the estimator, on steps drawn from all sessions that are kept; null is one with every batch of an agent that has a replay, and
    as many as those for one that learns from its last sessions alone."""
    distortion: float = pydantic.Field(default=0.0, ge=0.0)
    """Standard deviation of a fixed error that is added to every estimate; see `DistortedRewards`."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> StabiliserConfig:
        if self.items.outcome != "continuous":
            raise ValueError(f"items.outcome: an estimator that learns online is of a continuous reward, found {self.items.outcome}")
        if self.is_exact and self.shares_vectors:
            raise ValueError("shares_vectors needs an estimator that learns, found is_exact: true")
        return self


class LearningConfig(Config):
    """How much is played and learned."""

    num_rounds: int = pydantic.Field(default=40, ge=1)
    """Each plays sessions and learns from them."""
    sessions_per_round: int = pydantic.Field(default=64, ge=1)
    """Played at once."""
    random_rounds: int = pydantic.Field(default=0, ge=0)
    """The first ones, in which agents that have a replay do anything with the same chance and learn nothing yet: an actor that follows a
    critic or an estimator which knows nothing ends in a corner of its actions."""
    updates_per_round: int = pydantic.Field(default=32, ge=1)
    """Of agents that have a replay; others learn from their last sessions once, or as their own settings say."""
    batch_size: int = pydantic.Field(default=256, ge=1)
    """Steps of a batch."""
    replay_steps: int = pydantic.Field(default=100_000, ge=1)
    """Steps that are kept."""
    max_turns: int = pydantic.Field(default=50, ge=1)
    """Steps after which a session is cut off."""
    evaluate_every: int = pydantic.Field(default=2, ge=1)
    """Rounds after which the policy is measured."""
    evaluation_sessions: int = pydantic.Field(default=500, ge=2)
    """Played with and without exploration, the same ones each time and for everybody."""


@dataclass(frozen=True)
class Measured:
    """The policy after a round.

    Attributes:
        round: From 0, which is before the first one.
        sessions: Played by then.
        steps: Of them.
        mean_return: Of a session without exploration, by the rewards of the world.
        standard_error: Of that.
        drawn_return: The same as the agent plays while it learns, with what it tries.
        tried: Entropy in nats of the items that were shown in the last round, or the mean standard deviation of its actions' numbers.
        calibration_error: Mean distance of expected and paid rewards of the last round's steps, before anybody learned from them, in bins;
            None without an estimator.
        true_error: Root of the mean squared distance of expected rewards from their true mean, where that is known.
        purity: Of the neighbourhoods of the agent's item vectors, where items have clusters; see `neighbour_purity`.
        seconds: Since the beginning.
    """

    round: int
    sessions: int
    steps: int
    mean_return: float
    standard_error: float
    drawn_return: float
    tried: float | None = None
    calibration_error: float | None = None
    true_error: float | None = None
    purity: float | None = None
    seconds: float = 0.0

    def as_row(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class _Counts:
    sessions: int = 0
    steps: int = 0
    begun: float = field(default_factory=time.perf_counter)


class OnlineLearner:
    """An agent from nothing, with or without expected rewards.

    Args:
        agent: The agent.
        stabiliser: None learns from the rewards that are paid.
        config: How much.
        simulator: Where it plays.
        measured_in: Where it is measured: the same world, without the noise of its rewards.
        seed: Of weights, sessions, exploration and batches.
    """

    def __init__(
        self,
        agent: AgentConfig,
        stabiliser: StabiliserConfig | None,
        config: LearningConfig,
        simulator: Simulator,
        measured_in: Simulator,
        seed: int,
    ):
        keras.utils.set_random_seed(seed + 1)
        self._config, self._simulator, self._measured_in, self._seed = config, simulator, measured_in, seed
        time_step, action = specs_of(graph_environment(SessionEnvironment(simulator, 1, seed)))
        self._world = World(time_step, action, simulator.observation_space, simulator.action_space)
        self._is_on_policy = agent.is_on_policy
        self.rewards = _rewards_of(stabiliser, self._world, measured_in, seed) if stabiliser else None
        # An estimator takes nothing from what the agent draws: with and without one it begins with the same weights.
        keras.utils.set_random_seed(seed)
        shared = vectors_of(self.rewards) if self.rewards is not None and stabiliser and stabiliser.shares_vectors else None
        self.agent = create_agent(agent, self._world, shared)
        self._shared = shared
        learns = stabiliser is not None and not stabiliser.is_exact
        self._stabilised = None
        self._num_updates = 0
        if self.rewards is not None and stabiliser is not None:
            optimizer = tf.compat.v1.train.AdamOptimizer(stabiliser.learning_rate) if learns else None
            beside = learns and not self._is_on_policy and stabiliser.updates_per_round is None
            self._stabilised = StabilisedAgent(self.agent.agent, self.rewards, optimizer if beside else None)
            if learns and not beside:
                self._num_updates = stabiliser.updates_per_round or config.updates_per_round
                self._supervised = tf.function(StabilisedAgent(self.agent.agent, self.rewards, optimizer).train_rewards, autograph=False)
        learner = self._stabilised or self.agent.agent
        self._train = tf.function(lambda experience: learner.train(experience).loss, autograph=False, reduce_retracing=True)
        self._expect = tf.function(self.rewards.expected, autograph=False, reduce_retracing=True) if self.rewards is not None else None
        self._collect, self._greedy = compiled(self.agent.collect), compiled(self.agent.greedy)
        self._random = compiled(random_tf_policy.RandomTFPolicy(time_step, action, info_spec=self.agent.collect.info_spec))
        # A function of its own, so that measuring takes nothing from what is drawn while it learns.
        self._drawn = compiled(self.agent.collect)
        self._replay = StepReplay(config.replay_steps)
        self._rng = np.random.default_rng([seed, 1])
        self._truth = ShopTruth(measured_in.shop) if isinstance(measured_in, ShopSimulator) else None

    def run(self) -> Iterator[Measured]:
        """Measures before the first round, after every so many, and after the last one."""
        config, counts = self._config, _Counts()
        yield self._measure(0, counts, None, {})
        for number in range(config.num_rounds):
            first = number * config.sessions_per_round
            is_random = not self._is_on_policy and number < config.random_rounds
            act = self._random if is_random else self._collect
            played = play_sessions(self._simulator, act, first + np.arange(config.sessions_per_round), self._seed, config.max_turns)
            counts.sessions += config.sessions_per_round
            counts.steps += played.num_steps
            is_last = number + 1 == config.num_rounds
            is_measured = is_last or (number + 1) % config.evaluate_every == 0
            foreseen = self._foreseen(played) if is_measured else {}
            if is_random:
                self._replay.add(played)
            else:
                self._learn(played)
            if is_measured:
                yield self._measure(number + 1, counts, played, foreseen)

    def _learn(self, played: PlayedSessions) -> None:
        config = self._config
        if not self._is_on_policy or self._num_updates:
            self._replay.add(played)
        for _ in range(self._num_updates):
            self._supervised(self._replay.draw(config.batch_size, self._rng))
        if self._is_on_policy:
            self._train(played.as_trajectories())
            return
        for _ in range(config.updates_per_round):
            self._train(self._replay.draw(config.batch_size, self._rng))

    def _foreseen(self, played: PlayedSessions) -> dict[str, float]:
        """How far expectations were from what came."""
        if self._expect is None:
            return {}
        inside = played.inside()
        seen = tf.nest.map_structure(lambda values: values[:, :-1][inside], played.observation)
        action, paid = played.action[inside], played.reward[inside]
        expected = _in_chunks(self._expect, seen, action)
        low, high = float(min(paid.min(), expected.min())), float(max(paid.max(), expected.max()))
        found = {"calibration_error": RewardSums.of(expected, paid, low, high if high > low else low + 1.0).reliability.error()}
        if self._truth is not None:
            error = expected - _in_chunks(self._truth.expected, seen, action)
            found["true_error"] = float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))
        return found

    def _measure(self, number: int, counts: _Counts, last: PlayedSessions | None, foreseen: dict[str, float]) -> Measured:
        found, drawn = self._returns(self._greedy), self._returns(self._drawn)
        return Measured(
            round=number,
            sessions=counts.sessions,
            steps=counts.steps,
            mean_return=float(found.mean()),
            standard_error=float(found.std(ddof=1) / len(found) ** 0.5),
            drawn_return=float(drawn.mean()),
            tried=self._tried(last) if last is not None else None,
            purity=self._purity(),
            seconds=round(time.perf_counter() - counts.begun, 3),
            **foreseen,
        )

    def _returns(self, act: Act) -> npt.NDArray[Any]:
        """Of the sessions that everybody is measured on."""
        number = np.arange(self._config.evaluation_sessions)
        return play_sessions(self._measured_in, act, number, _EVALUATION_SEED, self._config.max_turns).returns()

    def _tried(self, played: PlayedSessions) -> float:
        action = played.action[played.inside()]
        if not self._world.has_items:
            return float(action.std(axis=0).mean())
        count = np.bincount(action)
        share = count[count > 0] / len(action)
        return float(-(share * np.log(share)).sum())

    def _purity(self) -> float | None:
        if not isinstance(self._measured_in, ShopSimulator):
            return None
        table = self._shared.table if self._shared is not None else _item_table(self.agent.agent)
        if table is None:
            return None
        shop = self._measured_in.shop
        kept = ~shop.is_bait
        return neighbour_purity(table.numpy()[1:-1][kept], shop.cluster[kept], min(10, int(kept.sum()) - 1))


def _rewards_of(config: StabiliserConfig, world: World, simulator: Simulator, seed: int) -> ActionRewards:
    rewards: ActionRewards
    if config.is_exact:
        if not isinstance(simulator, ShopSimulator):
            raise ValueError(f"is_exact: the true mean of a reward is known of the simulated shop alone, found {type(simulator).__name__}")
        rewards = ShopTruth(simulator.shop)
    elif world.has_items:
        assert isinstance(world.observation, dict)
        longest = world.observation["item_history"].shape[0]
        estimator: EstimatorConfig = config.items
        rewards = ItemRewards(create_estimator(estimator, item_catalogue(world.num_actions, longest), seed))
    else:
        assert not isinstance(world.observation, dict)
        rewards = NumberRewards(config.numbers, world.observation, world.action)
    if not config.distortion:
        return rewards
    size = 0 if isinstance(world.observation, dict) else world.observation.shape[0]
    return DistortedRewards(rewards, config.distortion, world.action, size, seed)


def _item_table(agent: Any) -> Any:
    """The item vectors of an agent's first network that has any."""
    for name in ("_q_network", "_actor_network", "_actor_net"):
        part = getattr(agent, name, None)
        for variable in part.trainable_variables if part is not None else ():
            if "items/" in variable.name:
                return variable
    return None


def _in_chunks(function: Any, seen: Any, action: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    found = []
    for start in range(0, len(action), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = tf.nest.map_structure(lambda values, rows=rows: tf.constant(values[rows]), seen)
        found.append(np.asarray(function(part, tf.constant(action[rows]))))
    return np.concatenate(found)
