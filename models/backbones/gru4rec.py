"""Gated recurrent units."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from models.backbones.base import Backbone, BackboneConfig
from models.frameworks import keras, tf


class GRU4RecConfig(BackboneConfig):
    """A recurrent network over the items of the session."""

    name: Literal["gru4rec"] = "gru4rec"
    num_layers: int = pydantic.Field(default=1, ge=1)
    """Recurrent layers, each as wide as the states."""
    dropout: float = pydantic.Field(default=0.0, ge=0.0, lt=1.0)
    """Share of every layer's output dropped in training; the published recommenders drop nothing."""


class GRU4Rec(Backbone):
    """Recurrent layers whose hidden states are the states.

    h_t = z h_{t-1} + (1 - z) tanh(W x_t + U (r h_{t-1}) + b): the reset gate acts before the product, as in the published code
    and unlike Keras' default.

    References:
        Hidasi et al. (2016), Session-based Recommendations with Recurrent Neural Networks; the units are Cho et al. (2014).
    """

    config_class = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, width: int, max_steps: int):
        super().__init__(config, width, max_steps)
        # Keras has the gates in the order update, reset, candidate. Gates that start open, at sigmoid(1), keep what was read.
        gates = np.repeat([1.0, 1.0, 0.0], width)
        self.recurrent = [
            keras.layers.GRU(
                width,
                return_sequences=True,
                reset_after=False,
                recurrent_initializer="glorot_uniform",
                bias_initializer=keras.initializers.Constant(gates),
                name=f"recurrent_{number}",
            )
            for number in range(config.num_layers)
        ]
        self.dropout = keras.layers.Dropout(config.dropout)

    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        states = embedded
        for layer in self.recurrent:
            states = self.dropout(layer(states, training=training), training=training)
        return states
