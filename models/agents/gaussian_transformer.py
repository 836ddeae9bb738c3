"""A decision transformer for continuous actions, with a lower bound of its entropy.

It stands here and not among `models.algorithms`, because those rank a catalogue: their states are histories of items. This one sees what
a simulator shows and answers with a vector, such as a ranker's weights in Virtual Taobao (observations of 91 numbers, actions of 27).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic

from models.algorithms.base import Phase, StepLosses
from models.frameworks import tf
from models.module import Module
from models.returns import Returns
from models.sampling import Seed
from schemas.config import Config

_EDGE = 0.99
"""Actions beyond are learned as this: logs clip theirs to 1, where the squashing has no end, and so few of them would make all
deviations so wide that what is drawn is noise."""


class GaussianTransformerConfig(Config):
    """Sizes and the bound."""

    width: int = pydantic.Field(default=128, ge=1)
    max_steps: int = pydantic.Field(default=32, ge=2)
    """T, most steps of a session."""
    context_length: int = pydantic.Field(default=20, ge=1)
    """K, steps that a token sees, its own included."""
    num_blocks: int = pydantic.Field(default=3, ge=1)
    num_heads: int = pydantic.Field(default=1, ge=1)
    expansion: int = pydantic.Field(default=4, ge=1)
    dropout: float = pydantic.Field(default=0.1, ge=0.0, lt=1.0)
    activation: Literal["relu", "gelu"] = "relu"
    entropy_per_dimension: float | None = -1.0
    """beta over the number of the action's dimensions, nats; null sets no bound."""
    initial_temperature: float = pydantic.Field(default=0.1, gt=0.0)
    target_quantile: float = pydantic.Field(default=0.9, ge=0.0, le=1.0)
    """Quantile of the logs' returns that is asked for where no target return is given."""
    exploration_factor: float = pydantic.Field(default=2.0, gt=0.0)
    """Online, exploration asks for the usual target return times this."""
    discount: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Factor of one step in returns."""


class EpisodeBatch(NamedTuple):
    """B sessions padded on the right to T steps.

    Attributes:
        observation: [B, T, O] float32.
        action: [B, T, A] float32, from -1 to 1.
        return_to_go: [B, T] float32.
        length: [B] int32.
    """

    observation: tf.Tensor
    action: tf.Tensor
    return_to_go: tf.Tensor
    length: tf.Tensor

    def is_target(self) -> tf.Tensor:
        """[B, T] True for steps, False for padding."""
        return tf.range(tf.shape(self.return_to_go)[1])[None, :] < self.length[:, None]


class Memory(NamedTuple):
    """What is kept of B sessions that go on.

    Attributes:
        start: [B] return that was wanted at first.
        left: [B] return that is wanted from now on.
        action: [B, A] the last action.
        step: [B] int32 number of the step that comes.
        tokens: What the transformer keeps.
    """

    start: tf.Tensor
    left: tf.Tensor
    action: tf.Tensor
    step: tf.Tensor
    tokens: Any

    def take(self, rows: tf.Tensor) -> Memory:
        """The sessions `rows`."""
        taken: Memory = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), self)
        return taken


class GaussianTransformer(Module):
    """min J - lambda * H over the policy and lambda * (H - beta) over lambda > 0: J is the mean of -log pi(a_t | ...), H the entropy.

    The policy is a Gaussian with independent dimensions, squashed by tanh, at the state tokens of a causal transformer over returns,
    observations and actions. H is estimated by one sample of each step; padding has no part in it, as it has in the published code.
    It has what `TrainStep` asks of an algorithm.

    References:
        Zheng et al. (2022), Online Decision Transformer, eq. 5 to 8; Chen et al. (2024), Maximum-Entropy Regularized Decision
        Transformer with Reward Relabelling for Dynamic Recommendation.

    Args:
        config: Sizes and the bound.
        num_observed: O.
        num_dimensions: A.
        seed: Seed of the samples of the entropy.
    """

    def __init__(self, config: GaussianTransformerConfig, num_observed: int, num_dimensions: int, seed: int = 0):
        from models.frameworks import keras
        from models.heads.gaussian import GaussianHead
        from models.layers.decision import DecisionLayer
        from models.layers.returns import LinearReturn

        self._config = config
        self._seed = Seed(seed)
        self._num_dimensions = num_dimensions
        self.returns = Returns(config.max_steps, config.discount)
        self.observed_mean = tf.Variable(tf.zeros([num_observed]), trainable=False)
        self.observed_deviation = tf.Variable(tf.ones([num_observed]), trainable=False)
        self.return_embedding = LinearReturn(config.width, name="return_embedding")
        self.state_embedding = keras.layers.Dense(config.width, name="state_embedding")
        self.action_embedding = keras.layers.Dense(config.width, name="action_embedding")
        sizes = (config.max_steps, config.context_length, config.num_blocks, config.num_heads, config.expansion)
        self.decision = DecisionLayer(*sizes, config.dropout, config.activation, name="decision")
        self.head = GaussianHead(num_dimensions, name="head")
        self.log_temperature = tf.Variable([math.log(config.initial_temperature)], dtype=tf.float32)
        nothing = EpisodeBatch(tf.zeros([1, 2, num_observed]), tf.zeros([1, 2, num_dimensions]), tf.zeros([1, 2]), tf.ones([1], tf.int32))
        self.distribution(nothing)

    @property
    def max_steps(self) -> int:
        """T."""
        return self._config.max_steps

    @property
    def discount(self) -> float:
        """Factor of one step in returns."""
        return self._config.discount

    @property
    def least_entropy(self) -> float:
        """beta in nats; minus infinity where there is no bound. Minus the number of dimensions, as of Zheng et al., by default."""
        share = self._config.entropy_per_dimension
        return -math.inf if share is None else share * self._num_dimensions

    @property
    def exploration_target(self) -> tf.Tensor:
        """[1] target return of online exploration."""
        return self.returns.target * self._config.exploration_factor

    def fit(self, logs: EpisodeBatch) -> None:
        """Takes scales of observations and returns, and the usual target, from logs."""
        self.returns.fit([logs], self._config.target_quantile)  # type: ignore[list-item]
        seen = tf.boolean_mask(logs.observation, logs.is_target()).numpy()
        deviation = seen.std(axis=0)
        self.observed_mean.assign(seen.mean(axis=0))
        # What never changed in the logs has no scale.
        self.observed_deviation.assign(np.where(deviation > 1e-3, deviation, 1.0))

    def _standard(self, observation: tf.Tensor) -> tf.Tensor:
        return (observation - tf.stop_gradient(self.observed_mean)) / tf.stop_gradient(self.observed_deviation)

    def distribution(self, batch: EpisodeBatch, training: bool = False) -> Any:
        """The `GaussianState` [B, T, A] before each action."""
        returns = self.return_embedding(self.returns.scaled(batch.return_to_go))
        states, actions = self.state_embedding(self._standard(batch.observation)), self.action_embedding(batch.action)
        return self.head(self.decision(returns, states, actions, training=training))

    # === What a training step asks for ===

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One."""
        return (Phase(""),)

    def phase(self, step: int) -> Phase:
        """The one."""
        return self.phases[0]

    def variables_of(self, phase: Phase) -> list[tf.Variable]:
        """All weights."""
        bounded = self._config.entropy_per_dimension is not None
        return [variable for variable in self.trainable_variables if bounded or variable is not self.log_temperature]

    def losses_of(self, phase: Phase, batch: EpisodeBatch, step: tf.Tensor, training: bool) -> StepLosses:
        """Losses of every step, [B, T]."""
        found = self.distribution(batch, training)
        mask = tf.cast(batch.is_target(), tf.float32)
        noise = tf.random.stateless_normal(tf.shape(batch.action), self._seed.key(step))
        entropy = self.head.entropy(found, noise)
        parts = {"likelihood": -self.head.log_prob(found, tf.clip_by_value(batch.action, -_EDGE, _EDGE))}
        health = {"policy_entropy": tf.stop_gradient(tf.reduce_sum(entropy * mask) / tf.reduce_sum(mask))}
        if self._config.entropy_per_dimension is not None:
            temperature = tf.exp(self.log_temperature)
            parts["entropy"] = -tf.stop_gradient(temperature) * entropy
            parts["temperature"] = temperature * (tf.stop_gradient(entropy) - self.least_entropy) * mask
            health["temperature"] = tf.stop_gradient(temperature[0])
        return StepLosses(parts, mask, health)

    def after_update(self, step: tf.Tensor) -> None:
        """Nothing follows."""

    # === Acting ===

    def begin(self, target: tf.Tensor) -> Memory:
        """Sessions before their first step, of which returns `target` [B] are wanted; NaN leaves it to the policy."""
        batch, start = tf.shape(target)[0], self.returns.start(target)
        tokens = self.decision.begin(batch)
        return Memory(start, start, tf.zeros([batch, self._num_dimensions]), tf.zeros([batch], tf.int32), tokens)

    def act(self, memory: Memory, observation: tf.Tensor, noise: tf.Tensor | None = None) -> tuple[tf.Tensor, Memory]:
        """Actions [B, A] on observations [B, O].

        Args:
            memory: The sessions, none of which has had T steps.
            observation: What is seen.
            noise: [B, A] standard normal noise of a draw; None plays the mode.

        Returns:
            The actions, and the sessions after them.
        """
        returns = self.return_embedding(self.returns.scaled(memory.left))
        states, before = self.state_embedding(self._standard(observation)), self.action_embedding(memory.action)
        hidden, tokens = self.decision.extend(before, returns, states, memory.step, memory.tokens)
        found = self.head(hidden)
        action = self.head.mode(found) if noise is None else self.head.sample(found, noise)
        return action, memory._replace(action=action, step=memory.step + 1, tokens=tokens)

    def told(self, memory: Memory, reward: tf.Tensor) -> Memory:
        """The sessions after the rewards [B] of their last actions."""
        return memory._replace(left=self.returns.after(memory.left, reward, memory.start))
