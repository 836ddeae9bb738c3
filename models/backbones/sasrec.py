"""Self-attentive sequential recommendation."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.backbones.base import Backbone, BackboneConfig
from models.frameworks import keras, tf


class SASRecConfig(BackboneConfig):
    """A causal transformer over the items of the session."""

    name: Literal["sasrec"] = "sasrec"
    num_blocks: int = pydantic.Field(default=2, ge=1)
    """Transformer blocks."""
    num_heads: int = pydantic.Field(default=2, ge=1)
    """Attention heads of each block; they divide the width."""
    expansion: int = pydantic.Field(default=2, ge=1)
    """Width of the feed-forward networks as a multiple of the states'."""
    dropout: float = pydantic.Field(default=0.2, ge=0.0, lt=1.0)
    """Share of activations dropped in training."""


class SASRec(Backbone):
    """Transformer with learned positions, normalised before each part.

    References:
        Kang and McAuley (2018), Self-Attentive Sequential Recommendation. Unlike theirs, residuals add what came in and not
        its normalised form, as later transformers do.
    """

    config_class = SASRecConfig

    def __init__(self, config: SASRecConfig, width: int, max_steps: int):
        from models.layers.transformer import TransformerBlock

        super().__init__(config, width, max_steps)
        self.positions = keras.layers.Embedding(max_steps, width, keras.initializers.RandomNormal(stddev=0.02), name="positions")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.blocks = [
            TransformerBlock(config.num_heads, config.expansion, config.dropout, name=f"block_{number}")
            for number in range(config.num_blocks)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")

    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        # Item vectors are small at first, and scaled up so that positions do not drown them (Vaswani et al., 2017, 3.4).
        states = embedded * float(self._width) ** 0.5 + self.positions(tf.range(tf.shape(embedded)[1]))
        states = self.dropout(states, training=training)
        for block in self.blocks:
            states = block(states, training=training)
        return self.norm(states)
