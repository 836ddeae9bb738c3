"""Rewards with noise of an exactly known mean: what was earned without the noise.

A wrapped world moves, ends and looks as it did; only the reward that is paid is another one. Each kind of noise takes its chance
from draws of its own after those of the world, so a session with noise and the same session without it take the same course,
and the mean of a noisy reward is the reward of the other.

Noise that is added is a symmetric function of its draws: for every draw there is one that gives the opposite. So its mean over the
grid that draws come from is zero and not only nearly so, heavy tails included.

References:
    Bailey (1994), Polar generation of random variates with the t-distribution; Box and Muller (1958) is its limit.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

import numpy as np
import pydantic

from models.simulators.base import Array, Floats, Observation, Simulator, Space, State, Step
from schemas.config import Config


class Noise(Config, ABC):
    """Base of all kinds of noise; each has a literal `name`."""

    num_draws: ClassVar[int] = 2
    """Numbers in [0, 1) for each reward."""

    @abstractmethod
    def apply(self, reward: Floats, chance: Floats) -> Floats:
        """Rewards [B] with noise from draws [B, num_draws]."""

    @abstractmethod
    def variance(self, reward: Floats) -> Floats:
        """[B] exact variance of each reward [B] with noise; infinite where there is none."""

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Least and greatest reward with noise of rewards between two bounds."""
        return -np.inf, np.inf


class Thinning(Noise):
    """r / kept with probability `kept`, else nothing."""

    name: Literal["thinning"] = "thinning"
    num_draws: ClassVar[int] = 1
    kept: float = pydantic.Field(gt=0.0, le=1.0)
    """Share of the rewards that are paid; they are paid the more."""

    def apply(self, reward: Floats, chance: Floats) -> Floats:
        return np.where(chance[:, 0] < self.kept, reward / self.kept, 0.0)

    def variance(self, reward: Floats) -> Floats:
        return np.asarray(reward**2 * (1.0 - self.kept) / self.kept)

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        return min(0.0, low / self.kept), max(0.0, high / self.kept)


class GaussianNoise(Noise):
    """r + deviation * z, z normal."""

    name: Literal["gaussian"] = "gaussian"
    deviation: float = pydantic.Field(ge=0.0)
    """Standard deviation."""

    def apply(self, reward: Floats, chance: Floats) -> Floats:
        return reward + self.deviation * np.sqrt(-2.0 * np.log1p(-chance[:, 0])) * _cosine(chance[:, 1])

    def variance(self, reward: Floats) -> Floats:
        return np.full_like(reward, self.deviation**2)


class StudentNoise(Noise):
    """r + scale * t, t of Student's distribution: tails as long as its degrees of freedom are few."""

    name: Literal["student"] = "student"
    degrees: float = pydantic.Field(gt=1.0)
    """Degrees of freedom. Moments of this order and higher do not exist, so the mean does, and at 2 and below no variance."""
    scale: float = pydantic.Field(ge=0.0)
    """Of t."""

    def apply(self, reward: Floats, chance: Floats) -> Floats:
        # Draws are below 1, so that 1 - u is above 0.
        radius = np.sqrt(self.degrees * np.expm1(-2.0 / self.degrees * np.log1p(-chance[:, 0])))
        return reward + self.scale * radius * _cosine(chance[:, 1])

    def variance(self, reward: Floats) -> Floats:
        each = self.scale**2 * self.degrees / (self.degrees - 2.0) if self.degrees > 2.0 else np.inf
        return np.full_like(reward, each if self.scale else 0.0)


class ParetoNoise(Noise):
    """r + s * scale * x, x of Pareto's distribution from 1 on, P(x > y) = y^-exponent, s = 1 or -1 with equal chance."""

    name: Literal["pareto"] = "pareto"
    exponent: float = pydantic.Field(gt=1.0)
    """Of the tail. Moments of this order and higher do not exist."""
    scale: float = pydantic.Field(ge=0.0)
    """The least noise."""

    def apply(self, reward: Floats, chance: Floats) -> Floats:
        size = np.exp(-np.log1p(-chance[:, 0]) / self.exponent)
        return reward + np.where(chance[:, 1] < 0.5, 1.0, -1.0) * self.scale * size

    def variance(self, reward: Floats) -> Floats:
        each = self.scale**2 * self.exponent / (self.exponent - 2.0) if self.exponent > 2.0 else np.inf
        return np.full_like(reward, each if self.scale else 0.0)


NOISES: tuple[type[Noise], ...] = (Thinning, GaussianNoise, StudentNoise, ParetoNoise)

if TYPE_CHECKING:
    AnyNoise = Noise
else:
    AnyNoise = Annotated[Union[NOISES], pydantic.Field(discriminator="name")]


def _cosine(turn: Floats) -> Floats:
    """cos(2 pi turn), to the bit the opposite half a turn later."""
    first_half = np.where(turn < 0.5, turn, turn - 0.5)
    found: Floats = np.where(turn < 0.5, 1.0, -1.0) * np.cos(2.0 * np.pi * first_half)
    return found


class NoisySimulator(Simulator):
    """A world whose rewards have noise.

    Args:
        simulator: The world.
        noise: What is done to its rewards.

    Attributes:
        simulator: The world.
        noise: What is done to its rewards.
        num_begin_draws: The world's.
        num_step_draws: The world's, and those of the noise after them.
    """

    def __init__(self, simulator: Simulator, noise: Noise):
        self.simulator = simulator
        self.noise = noise
        # These are of the class in other simulators; here they are those of the world that is wrapped.
        vars(self)["num_begin_draws"] = simulator.num_begin_draws
        vars(self)["num_step_draws"] = simulator.num_step_draws + noise.num_draws

    @property
    def action_space(self) -> Space:
        return self.simulator.action_space

    @property
    def observation_space(self) -> Space | dict[str, Space]:
        return self.simulator.observation_space

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return self.noise.bounds(*self.simulator.reward_bounds)

    def begin(self, chance: Floats) -> State:
        return self.simulator.begin(chance)

    def step(self, state: State, action: Array, chance: Floats) -> Step:
        of_world = self.simulator.num_step_draws
        step = self.simulator.step(state, action, chance[:, :of_world])
        return step._replace(reward=self.noise.apply(step.reward.astype(np.float64), chance[:, of_world:]))

    def observe(self, state: State) -> Observation:
        return self.simulator.observe(state)
