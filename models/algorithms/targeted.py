"""What algorithms with a target network share."""

from __future__ import annotations

from abc import abstractmethod

import pydantic

from models.algorithms.base import Algorithm, AlgorithmConfig
from models.frameworks import tf
from models.module import Module
from models.targets import copy_variables, follow


class TargetedConfig(AlgorithmConfig):
    """Settings of every algorithm that bootstraps from a slow copy of itself."""

    discount: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    """Factor of one step in the values."""
    target_rate: float = pydantic.Field(default=0.005, gt=0.0, le=1.0)
    """Share by which the target network follows in one step."""
    target_period: int = pydantic.Field(default=10, ge=1)
    """Steps between its moves, each as far as that many single ones."""


class TargetedAlgorithm(Algorithm):
    """Base of the algorithms that bootstrap from `target`, a slow copy of some of their parts, which sees no dropout."""

    _config: TargetedConfig
    target: Module

    @abstractmethod
    def online(self) -> Module:
        """The parts that `target` copies, under the same names."""

    def after_build(self) -> None:
        self.target.freeze()
        copy_variables(self.online(), self.target)

    def after_update(self, step: tf.Tensor) -> None:
        period = self._config.target_period
        rate = 1.0 - (1.0 - self._config.target_rate) ** period

        def move() -> tf.Tensor:
            follow(self.online(), self.target, rate)
            return tf.constant(True)

        tf.cond(tf.equal(step % period, period - 1), move, lambda: tf.constant(False))


class Parts(Module):
    """Some parts of a model under their names."""

    def __init__(self, **parts: object):
        vars(self).update(parts)
