"""TF-Agents' agents for our simulators, each with its configuration; a new one is a class and a line here.

References:
    Mnih et al. (2015) for DQN, Bellemare et al. (2017) for C51, Williams (1992) for REINFORCE, Schulman et al. (2017) for PPO, Lillicrap
    et al. (2016) for DDPG, Fujimoto et al. (2018) for TD3, Haarnoja et al. (2018) for SAC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

import numpy as np
import pydantic

from models.agents.networks import (
    Action,
    Choice,
    ItemStates,
    NumberStates,
    Pairs,
    Projection,
    Scores,
    StateNetwork,
    Value,
    item_vectors,
    number_vectors,
)
from models.frameworks import tf
from models.losses.td import huber_td
from models.simulators.base import Space
from schemas.config import Config
from schemas.registry import Registry

# TF-Agents imports TensorFlow by itself; the package has chosen Keras 2 by now.
from tf_agents.agents.categorical_dqn import categorical_dqn_agent  # isort: skip
from tf_agents.agents.ddpg import ddpg_agent  # isort: skip
from tf_agents.agents.dqn import dqn_agent  # isort: skip
from tf_agents.agents.ppo import ppo_clip_agent  # isort: skip
from tf_agents.agents.reinforce import reinforce_agent  # isort: skip
from tf_agents.agents.sac import sac_agent  # isort: skip
from tf_agents.agents.td3 import td3_agent  # isort: skip
from tf_agents.policies import greedy_policy, tf_policy  # isort: skip
from tf_agents.trajectories import policy_step  # isort: skip


@dataclass(frozen=True)
class World:
    """What an agent is built for.

    Attributes:
        time_step_spec: Tensor specs of TF-Agents.
        action_spec: The action's.
        observation: What the simulator shows.
        action: What it takes.
    """

    time_step_spec: Any
    action_spec: Any
    observation: Space | dict[str, Space]
    action: Space

    @property
    def has_items(self) -> bool:
        """True where an action shows an item."""
        return self.action.dtype is np.int32

    @property
    def num_actions(self) -> int:
        """N items."""
        return int(np.max(self.action.high)) + 1


class AgentConfig(Config, ABC):
    """Base of the agents' configurations; `name` tells them apart."""

    is_on_policy: ClassVar[bool] = False
    """True for what learns from its own last sessions alone."""
    actions: ClassVar[tuple[str, ...]] = ()
    """`items`, `numbers` or both: what the agent can do."""

    width: int = pydantic.Field(default=32, ge=1)
    """D, of the vectors of items or of an observation's numbers."""
    hidden: tuple[int, ...] = (128, 128)
    """Hidden layers of every network."""
    learning_rate: float = pydantic.Field(default=1e-3, gt=0.0)
    discount: float = pydantic.Field(default=0.95, ge=0.0, le=1.0)

    @abstractmethod
    def make(self, world: World, shared: Any) -> Agent:
        """The agent; `shared` vectors are read and not moved, None makes own ones."""

    def optimizer(self, rate: float | None = None) -> Any:
        """A new one."""
        return tf.compat.v1.train.AdamOptimizer(rate or self.learning_rate)

    def make_states(self, world: World, shared: Any) -> Callable[[], Any]:
        """Makes the layer of states for one network."""

        def make() -> Any:
            if isinstance(world.observation, dict):
                # The catalogue of the histories is that of the actions.
                return ItemStates(item_vectors(world.num_actions, self.width, shared))
            return NumberStates(number_vectors(self.width, shared), world.observation)

        return make

    def network(self, world: World, shared: Any, make_head: Callable[[Any], Any], name: str, num_atoms: int | None = None) -> StateNetwork:
        """A network on observations."""
        return StateNetwork(
            world.time_step_spec.observation, self.make_states(world, shared), self.hidden, make_head, num_atoms=num_atoms, name=name
        )

    def critic(self, world: World, shared: Any) -> StateNetwork:
        """Values of pairs of an observation and an action."""
        make_states = self.make_states(world, shared)
        return StateNetwork(
            (world.time_step_spec.observation, world.action_spec),
            lambda: Pairs(make_states()),
            self.hidden,
            lambda states: Value(),
            name="Critic",
        )

    def chooser(self, world: World, shared: Any, is_squashed: bool = False) -> StateNetwork:
        """A distribution over actions."""
        width = shared.width if shared is not None and world.has_items else self.width

        def head(states: Any) -> Any:
            return Choice(states, world.num_actions, width) if world.has_items else Projection(world.action_spec, is_squashed)

        return self.network(world, shared, head, "Actor")


@dataclass(frozen=True)
class Agent:
    """An agent with the policies that play.

    Attributes:
        agent: The `TFAgent`.
        collect: Policy that tries things.
        greedy: Policy that is measured.
    """

    agent: Any
    collect: Any
    greedy: Any


class RowNoisePolicy(tf_policy.TFPolicy):
    """A policy with normal noise of its own for every row; TF-Agents' GaussianPolicy draws one for all rows of a batch.

    Args:
        policy: The policy.
        stddev: Standard deviation of the noise, for bounds from -1 to 1.
    """

    def __init__(self, policy: Any, stddev: float):
        super().__init__(policy.time_step_spec, policy.action_spec, policy.policy_state_spec, policy.info_spec, clip=True)
        self._policy, self._stddev = policy, stddev

    def _variables(self) -> Any:
        return self._policy.variables()

    def _action(self, time_step: Any, policy_state: Any, seed: Any) -> Any:
        step = self._policy.action(time_step, policy_state, seed)
        spec = self.action_spec
        reach = tf.constant((spec.maximum - spec.minimum) / 2.0, tf.float32)
        return policy_step.PolicyStep(step.action + self._stddev * reach * tf.random.normal(tf.shape(step.action)), step.state, step.info)

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        raise NotImplementedError("draws are made by noise, not from a distribution")


# === Items ===


class ItemValuesConfig(AgentConfig):
    """What agents with values of items share."""

    actions: ClassVar[tuple[str, ...]] = ("items",)

    epsilon: float = pydantic.Field(default=0.1, ge=0.0, le=1.0)
    """Share of items shown that are any item."""
    target_share: float = pydantic.Field(default=0.05, gt=0.0, le=1.0)
    """How far the target network follows with every update."""


class DQNAgentConfig(ItemValuesConfig):
    """Values of items."""

    name: Literal["dqn"] = "dqn"

    def make(self, world: World, shared: Any) -> Agent:
        width = shared.width if shared is not None else self.width
        values = self.network(world, shared, lambda states: Scores(states, world.num_actions, width), "Values")
        made = dqn_agent.DdqnAgent(
            world.time_step_spec,
            world.action_spec,
            q_network=values,
            optimizer=self.optimizer(),
            epsilon_greedy=self.epsilon,
            target_update_tau=self.target_share,
            td_errors_loss_fn=lambda targets, values: huber_td(values, targets),
            gamma=self.discount,
        )
        return Agent(made, made.collect_policy, made.policy)


class C51AgentConfig(ItemValuesConfig):
    """Distributions of the returns of items."""

    name: Literal["c51"] = "c51"
    num_atoms: int = pydantic.Field(default=21, ge=2)
    """Returns that a distribution knows."""
    least: float = 0.0
    """The least of them."""
    greatest: float = 10.0
    """The greatest of them."""

    def make(self, world: World, shared: Any) -> Agent:
        width = shared.width if shared is not None else self.width
        returns = self.network(
            world, shared, lambda states: Scores(states, world.num_actions, width, self.num_atoms), "Returns", self.num_atoms
        )
        made = categorical_dqn_agent.CategoricalDqnAgent(
            world.time_step_spec,
            world.action_spec,
            categorical_q_network=returns,
            optimizer=self.optimizer(),
            min_q_value=self.least,
            max_q_value=self.greatest,
            epsilon_greedy=self.epsilon,
            target_update_tau=self.target_share,
            gamma=self.discount,
        )
        return Agent(made, made.collect_policy, made.policy)


# === Both ===


class ReinforceAgentConfig(AgentConfig):
    """Policy gradient with a baseline."""

    is_on_policy: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("items", "numbers")

    name: Literal["reinforce"] = "reinforce"
    entropy_weight: float = pydantic.Field(default=0.01, ge=0.0)
    """Of the policy's entropy."""

    def make(self, world: World, shared: Any) -> Agent:
        made = reinforce_agent.ReinforceAgent(
            world.time_step_spec,
            world.action_spec,
            actor_network=self.chooser(world, shared),
            optimizer=self.optimizer(),
            value_network=self.network(world, shared, lambda states: Value(), "Baseline"),
            gamma=self.discount,
            entropy_regularization=self.entropy_weight,
        )
        return Agent(made, made.collect_policy, greedy_policy.GreedyPolicy(made.policy))


class PPOAgentConfig(AgentConfig):
    """Proximal policy optimisation with clipped ratios."""

    is_on_policy: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("items", "numbers")

    name: Literal["ppo"] = "ppo"
    clip: float = pydantic.Field(default=0.2, gt=0.0)
    """Greatest change of a ratio that is rewarded."""
    num_epochs: int = pydantic.Field(default=10, ge=1)
    """Updates with each round of sessions."""
    entropy_weight: float = pydantic.Field(default=0.01, ge=0.0)
    """Of the policy's entropy."""

    def make(self, world: World, shared: Any) -> Agent:
        made = ppo_clip_agent.PPOClipAgent(
            world.time_step_spec,
            world.action_spec,
            optimizer=self.optimizer(),
            actor_net=self.chooser(world, shared),
            value_net=self.network(world, shared, lambda states: Value(), "Values"),
            importance_ratio_clipping=self.clip,
            discount_factor=self.discount,
            entropy_regularization=self.entropy_weight,
            num_epochs=self.num_epochs,
            use_gae=True,
            # Rewards and observations are of one size here, and what changes them would hide what an estimate changes.
            normalize_rewards=False,
            normalize_observations=False,
            gradient_clipping=0.5,
        )
        return Agent(made, made.collect_policy, made.policy)


# === Numbers ===


class ActorCriticConfig(AgentConfig):
    """What actors with critics share."""

    actions: ClassVar[tuple[str, ...]] = ("numbers",)

    width: int = pydantic.Field(default=64, ge=1)
    hidden: tuple[int, ...] = (256, 256)
    actor_learning_rate: float | None = pydantic.Field(default=None, gt=0.0)
    """Null is that of the critic."""
    target_share: float = pydantic.Field(default=0.01, gt=0.0, le=1.0)
    """How far the target networks follow with every update."""


class DeterministicConfig(ActorCriticConfig):
    """What agents with a deterministic actor share."""

    agent_class: ClassVar[Any]

    noise: float = pydantic.Field(default=0.2, ge=0.0)
    """Standard deviation of what is tried around an action, in halves of its range."""

    def make(self, world: World, shared: Any) -> Agent:
        made = self.agent_class(
            world.time_step_spec,
            world.action_spec,
            actor_network=self.network(world, shared, lambda states: Action(world.action_spec), "Actor"),
            critic_network=self.critic(world, shared),
            actor_optimizer=self.optimizer(self.actor_learning_rate),
            critic_optimizer=self.optimizer(),
            target_update_tau=self.target_share,
            gamma=self.discount,
        )
        return Agent(made, RowNoisePolicy(made.policy, self.noise), made.policy)


class DDPGAgentConfig(DeterministicConfig):
    """A deterministic actor and a critic."""

    agent_class: ClassVar[Any] = ddpg_agent.DdpgAgent

    name: Literal["ddpg"] = "ddpg"


class TD3AgentConfig(DeterministicConfig):
    """A deterministic actor and the lesser of two critics."""

    agent_class: ClassVar[Any] = td3_agent.Td3Agent

    name: Literal["td3"] = "td3"


class SACAgentConfig(ActorCriticConfig):
    """Soft actor-critic with a learned temperature."""

    name: Literal["sac"] = "sac"
    initial_log_temperature: float = -2.0
    """Logarithm of the entropy's weight at the beginning."""

    def make(self, world: World, shared: Any) -> Agent:
        made = sac_agent.SacAgent(
            world.time_step_spec,
            world.action_spec,
            critic_network=self.critic(world, shared),
            actor_network=self.chooser(world, shared, is_squashed=True),
            actor_optimizer=self.optimizer(self.actor_learning_rate),
            critic_optimizer=self.optimizer(),
            alpha_optimizer=self.optimizer(),
            target_update_tau=self.target_share,
            gamma=self.discount,
            initial_log_alpha=self.initial_log_temperature,
        )
        return Agent(made, made.collect_policy, greedy_policy.GreedyPolicy(made.policy))


AGENTS: Registry[type[AgentConfig]] = Registry(
    "agent",
    {
        "dqn": DQNAgentConfig,
        "c51": C51AgentConfig,
        "reinforce": ReinforceAgentConfig,
        "ppo": PPOAgentConfig,
        "ddpg": DDPGAgentConfig,
        "td3": TD3AgentConfig,
        "sac": SACAgentConfig,
    },
)

if TYPE_CHECKING:
    AnyAgent = AgentConfig
else:
    AnyAgent = Annotated[Union[tuple(AGENTS.values())], pydantic.Field(discriminator="name")]


def name_of(config: AgentConfig) -> str:
    """The `name` that tells configurations of agents apart."""
    return str(getattr(config, "name"))  # noqa: B009  (every agent has one)


def create_agent(config: AgentConfig, world: World, shared: Any = None) -> Agent:
    """The agent of a configuration.

    Args:
        config: Which.
        world: For what.
        shared: Vectors of an estimator that the agent reads and does not move (SRS2); None makes own ones, which its loss moves.

    Raises:
        ValueError: It cannot act there.
    """
    kind = "items" if world.has_items else "numbers"
    if kind not in config.actions:
        raise ValueError(f"agent {name_of(config)}: its actions are {' or '.join(config.actions)}, those of the simulator are {kind}")
    agent = config.make(world, shared)
    agent.agent.initialize()
    return agent
