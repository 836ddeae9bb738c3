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

    @property
    def output_width(self) -> int:
        """Width of the states; D unless the backbone says otherwise."""
        return self._width

    @abstractmethod
    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """embedded [B, T, D] -> states [B, T, output_width]; state t depends on inputs 0..t only."""

    def window(self, embedded: tf.Tensor, length: tf.Tensor, training: bool = False) -> tf.Tensor:
        """One state of each history from its last items alone, as the published recommenders compute it.

        There is no start token here. A backbone whose reference does something else than read the causal state of the last
        item, such as masking, overrides this.

        Args:
            embedded: [M, W, D] the last W or fewer items, oldest first, padded on the right with the padding item's vector.
            length: [M] int, how many of them are items.
            training: True applies dropout.

        Returns:
            [M, output_width]; an empty history is read as one padding item.
        """
        return last_state(self(embedded, training=training), length)


def last_state(states: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """states [M, W, D], length [M] -> [M, D], the state of the last item, or of the first place where there is none."""
    return tf.gather(states, tf.maximum(length, 1) - 1, batch_dims=1)


def item_mask(embedded: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """embedded [M, W, D], length [M] -> [M, W, 1] of the same type, 1 for items and 0 for padding."""
    return tf.sequence_mask(length, tf.shape(embedded)[1], embedded.dtype)[:, :, None]
