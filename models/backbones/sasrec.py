"""Self-attentive sequential recommendation."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from models.backbones.base import Backbone, BackboneConfig, item_mask, last_state
from models.frameworks import keras, tf


class SASRecConfig(BackboneConfig):
    """A causal transformer over the items of the session."""

    name: Literal["sasrec"] = "sasrec"
    variant: Literal["prenorm", "published"] = "prenorm"
    """A transformer as they are built today, or the published network with its peculiarities; the published tables have one
    block, one head, expansion 1 and dropout 0.1."""
    num_blocks: int = pydantic.Field(default=2, ge=1)
    """Transformer blocks."""
    num_heads: int = pydantic.Field(default=2, ge=1)
    """Attention heads of each block; they divide the width."""
    expansion: int = pydantic.Field(default=2, ge=1)
    """Width of the feed-forward networks as a multiple of the states'."""
    dropout: float = pydantic.Field(default=0.2, ge=0.0, lt=1.0)
    """Share of activations dropped in training."""


class SASRec(Backbone):
    """Transformer with learned positions.

    The variant `prenorm` normalises before each part and, as later transformers do, adds what came in. The variant `published`
    adds the normalised form of what came in, attends from normalised to raw states, leaves item vectors at their scale, and
    has smaller positions; with `num_blocks` 1, `num_heads` 1, `expansion` 1 and `dropout` 0.1 it is the network of Xin et al.

    References:
        Kang and McAuley (2018), Self-Attentive Sequential Recommendation; Xin et al. (2020) for the published setting.
    """

    config_class = SASRecConfig

    def __init__(self, config: SASRecConfig, width: int, max_steps: int):
        from models.layers.transformer import PublishedTransformerBlock, TransformerBlock

        super().__init__(config, width, max_steps)
        self._is_published = config.variant == "published"
        spread, epsilon, block = (0.01, 1e-8, PublishedTransformerBlock) if self._is_published else (0.02, 1e-6, TransformerBlock)
        self.positions = keras.layers.Embedding(max_steps, width, keras.initializers.RandomNormal(stddev=spread), name="positions")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.blocks = [
            block(config.num_heads, config.expansion, config.dropout, name=f"block_{number}") for number in range(config.num_blocks)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, name="norm")

    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.norm(self._mix(embedded, training))

    def begin(self, batch_size: tf.Tensor) -> Any:
        if self._is_published:
            return super().begin(batch_size)
        return tuple(block.begin(batch_size, self._max_steps) for block in self.blocks)

    def extend(self, embedded: tf.Tensor, step: tf.Tensor, past: Any) -> tuple[tf.Tensor, Any]:
        if self._is_published:
            return super().extend(embedded, step, past)
        states = (embedded * float(self._width) ** 0.5 + self.positions(step))[:, None]
        kept = []
        for block, cache in zip(self.blocks, past, strict=True):
            states, longer = block.extend(states, step[:, None], cache)
            kept.append(longer)
        return self.norm(states)[:, 0], tuple(kept)

    def window(self, embedded: tf.Tensor, length: tf.Tensor, training: bool = False) -> tf.Tensor:
        """As the base class, but in the published variant an empty history is zero before the last normalisation.

        Its state is what that makes of zero: its bias. The published code masks padding as keys, as queries and around every
        block. As it comes after the items, that shows where there are none, and there one mask at the end is the same.
        """
        if not self._is_published:
            return super().window(embedded, length, training)
        return last_state(self.norm(self._mix(embedded, training) * item_mask(embedded, length)), length)

    def _mix(self, embedded: tf.Tensor, training: bool) -> tf.Tensor:
        if not self._is_published:
            # Item vectors are small at first, and scaled up so that positions do not drown them (Vaswani et al., 2017, 3.4).
            embedded = embedded * float(self._width) ** 0.5
        states = embedded + self.positions(tf.range(tf.shape(embedded)[1]))
        states = self.dropout(states, training=training)
        for block in self.blocks:
            states = block(states, training=training)
        return states
