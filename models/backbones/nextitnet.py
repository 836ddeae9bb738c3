"""Dilated convolutions."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.backbones.base import Backbone, BackboneConfig, item_mask, last_state
from models.frameworks import tf


class NextItNetConfig(BackboneConfig):
    """A stack of causal convolutions with holes over the items of the session."""

    name: Literal["nextitnet"] = "nextitnet"
    dilations: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(1, 2, 1, 2, 1, 2), min_length=1)
    """One residual block each: steps between the inputs of its first convolution, half of those of its second."""
    kernel_size: int = pydantic.Field(default=3, ge=1)
    """Inputs of a convolution."""


class NextItNet(Backbone):
    """Residual blocks of two dilated causal convolutions; a state sees 1 + 3 (kernel_size - 1) sum(dilations) inputs.

    References:
        Yuan et al. (2019), A Simple Convolutional Generative Network for Next Item Recommendation.
    """

    config_class = NextItNetConfig

    def __init__(self, config: NextItNetConfig, width: int, max_steps: int):
        from models.layers.convolution import DilatedBlock

        super().__init__(config, width, max_steps)
        self.blocks = [
            DilatedBlock(dilation, config.kernel_size, name=f"block_{number}") for number, dilation in enumerate(config.dilations)
        ]

    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        states = embedded
        for block in self.blocks:
            states = block(states)
        return states

    def window(self, embedded: tf.Tensor, length: tf.Tensor, training: bool = False) -> tf.Tensor:
        """As the base class, but the state of an empty history is zero.

        The published code masks padding around every block. As it comes after the items, that shows where there are none, and
        there one mask at the end is the same.
        """
        return last_state(self(embedded, training=training) * item_mask(embedded, length), length)
