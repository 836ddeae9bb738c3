"""What a backbone is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from models.frameworks import tf
from models.module import Module
from schemas.config import Config


class BackboneConfig(Config):
    """Base of all backbone configurations; `name` tells them apart."""


class Backbone(Module, ABC):
    """Turns a sequence of embedded items into a state after each of them, in one causal pass.

    Args:
        config: The backbone's configuration.
        width: D, of inputs and states.
        max_steps: Most steps of a sequence, the start token included.
    """

    config_class: ClassVar[type[BackboneConfig]]

    def __init__(self, config: BackboneConfig, width: int, max_steps: int):
        self._width = width
        self._max_steps = max_steps

    @abstractmethod
    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """embedded [B, T, D] -> states [B, T, D]; state t depends on inputs 0..t only."""
