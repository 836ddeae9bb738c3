"""Expected rewards of what agents see and do, learned from what was paid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pydantic

from models.agents.networks import NumberStates, Pairs, Vectors
from models.algorithms.base import Catalogue
from models.frameworks import keras, tf
from models.module import Module
from models.rewards.base import Features, RewardEstimator
from models.rewards.layers import HiddenLayers
from models.simulators.base import Space
from models.simulators.session_shop import SessionShop
from models.simulators.shop_simulator import ITEM_HISTORY, LENGTH
from schemas.config import Config


class ActionRewards(Module, ABC):
    """E[r | observation, action]."""

    @abstractmethod
    def expected(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        """[M] expected rewards of M actions on M observations."""

    @abstractmethod
    def losses(self, observation: Any, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """[M] losses of the expectations of rewards [M] that were paid."""


class ItemRewards(ActionRewards):
    """Rewards of the items of a shop, by an estimator of `models.rewards`.

    Args:
        estimator: Of a continuous reward, with a catalogue of the simulator's items.
    """

    def __init__(self, estimator: RewardEstimator):
        self.estimator = estimator

    @property
    def embedding(self) -> Any:
        """Its item vectors, for agents that share them."""
        return self.estimator.networks[0].fields.items

    def expected(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        features, length, item = self._pairs(observation, action)
        return self.estimator.pairs(features, length, item).mean

    def losses(self, observation: Any, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        return self.estimator.pair_losses(*self._pairs(observation, action), reward, training=True)

    @staticmethod
    def _pairs(observation: Any, action: tf.Tensor) -> tuple[Features, tf.Tensor, tf.Tensor]:
        history = observation[ITEM_HISTORY]
        # The shop shows no roles: a purchase is the repetition of a click.
        return Features(history, tf.zeros_like(history)), observation[LENGTH], tf.cast(action, tf.int32) + 1


def item_catalogue(num_actions: int, max_steps: int) -> Catalogue:
    """The items of a simulator with N actions, none of them counted."""
    return Catalogue(num_actions + 1, max_steps, np.ones(num_actions, np.int64))


class NumberRewardsConfig(Config):
    """Estimator of the rewards of continuous actions."""

    width: int = pydantic.Field(default=64, ge=1)
    """D, of the vector of an observation."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden layers on vector and action."""


class NumberRewards(ActionRewards):
    """Rewards of continuous actions: a network on the observation's vector and the action, fitted by least squares.

    Args:
        config: Its sizes.
        observation: What is seen.
        action: What is done.
    """

    def __init__(self, config: NumberRewardsConfig, observation: Space, action: Space):
        self.embedding = keras.layers.Dense(config.width, name="numbers")
        self.embedding.build((None, *observation.shape))
        self.pairs = Pairs(NumberStates(Vectors(self.embedding, is_held=False), observation))
        self.layers_of_pairs = HiddenLayers(config.hidden, 1, name="rewards")
        nothing = tf.zeros([1, *observation.shape]), tf.zeros([1, *action.shape])
        self.expected(*nothing)

    def expected(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        return self.layers_of_pairs(self.pairs((observation, action)))[..., 0]

    def losses(self, observation: Any, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        return 0.5 * tf.square(self.expected(observation, action) - reward)


class ShopTruth(ActionRewards):
    """What the simulated shop really pays on average: the limit of every estimator, and a known answer for tests.

    Args:
        shop: The shop; a table [states, items] is kept.
    """

    def __init__(self, shop: SessionShop):
        self._table = tf.constant(shop.expected_rewards(), tf.float32)

    def expected(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        history, length = observation[ITEM_HISTORY], observation[LENGTH]
        last = tf.gather(history, tf.maximum(length - 1, 0), batch_dims=1)
        before = tf.gather(history, tf.maximum(length - 2, 0), batch_dims=1)
        is_bought = tf.cast((length > 1) & tf.equal(last, before), tf.int32)
        state = tf.where(length > 0, 2 * last - 1 + is_bought, 0)
        return tf.gather_nd(self._table, tf.stack([state, tf.cast(action, tf.int32)], axis=-1))

    def losses(self, observation: Any, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        return 0.5 * tf.square(self.expected(observation, action) - reward)


class DistortedRewards(ActionRewards):
    """Estimates with an error of their own for every pair of an observation and an action, to see what a wrong estimate costs.

    The error is a fixed function, so no amount of data averages it away: sqrt(2 / K) * deviation * sum of cos(w_k x + b_k) of K random
    directions, a sum of waves whose variance over random phases is deviation^2. Of items x is a vector of the last one beside that of the
    shown one.

    References:
        Rahimi and Recht (2007), Random Features for Large-Scale Kernel Machines, for functions of this kind.

    Args:
        rewards: The estimates.
        deviation: Standard deviation of the error.
        action: What is done; items if it is a whole number.
        observation_size: Numbers of an observation; of no use with items.
        seed: Seed of the error.
        frequency: Of the waves; the greater, the less the errors of like actions have in common.
    """

    _WAVES = 64
    _ITEM_WIDTH = 8

    def __init__(
        self, rewards: ActionRewards, deviation: float, action: Space, observation_size: int = 0, seed: int = 0, frequency: float = 2.0
    ):
        self.rewards = rewards
        self._deviation = deviation
        rng = np.random.default_rng([seed, 7])
        self._has_items = action.dtype is np.int32
        size = 2 * self._ITEM_WIDTH if self._has_items else observation_size + action.shape[0]
        if self._has_items:
            self._items = tf.constant(rng.normal(size=(int(np.max(action.high)) + 2, self._ITEM_WIDTH)), tf.float32)
        self._directions = tf.constant(frequency * rng.normal(size=(size, self._WAVES)) / np.sqrt(size), tf.float32)
        self._phases = tf.constant(rng.uniform(0.0, 2.0 * np.pi, self._WAVES), tf.float32)

    def expected(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        return self.rewards.expected(observation, action) + self.error(observation, action)

    def losses(self, observation: Any, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        return self.rewards.losses(observation, action, reward)

    def error(self, observation: Any, action: tf.Tensor) -> tf.Tensor:
        """[M] what is added."""
        if self._has_items:
            history, length = observation[ITEM_HISTORY], observation[LENGTH]
            last = tf.gather(history, tf.maximum(length - 1, 0), batch_dims=1)
            inputs = tf.concat([tf.gather(self._items, last), tf.gather(self._items, tf.cast(action, tf.int32) + 1)], axis=-1)
        else:
            inputs = tf.concat([observation, action], axis=-1)
        waves = tf.cos(inputs @ self._directions + self._phases)
        return self._deviation * tf.sqrt(2.0 / self._WAVES) * tf.reduce_sum(waves, axis=-1)


def vectors_of(rewards: ActionRewards) -> Any:
    """The layer of vectors that agents may share."""
    if isinstance(rewards, DistortedRewards):
        return vectors_of(rewards.rewards)
    if isinstance(rewards, (ItemRewards, NumberRewards)):
        return rewards.embedding
    raise ValueError(f"{type(rewards).__name__} has no vectors to share")
