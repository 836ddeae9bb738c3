"""What a backbone is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

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

    def begin(self, batch_size: tf.Tensor) -> Any:
        """What `extend` keeps of B sequences of which nothing has been seen; tensors with a row for each."""
        return tf.zeros([batch_size, self._max_steps, self._width])

    def extend(self, embedded: tf.Tensor, step: tf.Tensor, past: Any) -> tuple[tf.Tensor, Any]:
        """The state after one more item, without dropout.

        Here everything is kept and read again; a backbone that can go on from where it was overrides this and `begin`.

        Args:
            embedded: [B, D] the next item of every sequence.
            step: [B] int32 its number, from 0.
            past: What `begin` or the last call returned.

        Returns:
            [B, output_width], equal to `__call__` at this step, and what to keep.
        """
        place = tf.one_hot(step, self._max_steps, dtype=past.dtype)[..., None]
        past = past * (1.0 - place) + place * tf.cast(embedded, past.dtype)[:, None]
        return tf.gather(self(past[:, : tf.reduce_max(step) + 1]), step, batch_dims=1), past

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
