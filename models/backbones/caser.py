"""Convolutions over the last few items as if they were an image."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.backbones.base import Backbone, BackboneConfig, item_mask
from models.frameworks import keras, tf


class CaserConfig(BackboneConfig):
    """Convolutions over the last few items of the session; what came before is forgotten."""

    name: Literal["caser"] = "caser"
    heights: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(2, 3, 4), min_length=1)
    """How many items in a row a horizontal filter looks at; one set of filters each."""
    num_filters: int = pydantic.Field(default=16, ge=1)
    """Horizontal filters of each height."""
    num_vertical: int = pydantic.Field(default=1, ge=1)
    """Vertical filters, which weigh the items of the window by their place."""
    window: int = pydantic.Field(default=10, ge=1)
    """Items that a state sees."""
    dropout: float = pydantic.Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the features dropped in training."""
    project: bool = True
    """Map the features to the width of the item vectors, which tied scores need; the published network does not."""

    @pydantic.model_validator(mode="after")
    def _filters_fit(self) -> CaserConfig:
        if max(self.heights) > self.window:
            raise ValueError(f"a filter of height {max(self.heights)} does not fit into a window of {self.window} items")
        return self


class Caser(Backbone):
    """Features of the last `window` inputs at every step: horizontal filters, their maximum over time, vertical filters.

    Before the sequence's start there are zeros. With `project` the states are a linear map of the features to width D, else the
    features themselves.

    References:
        Tang and Wang (2018), Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding, without the
        vector of the user, as in Xin et al. (2020).
    """

    config_class = CaserConfig

    def __init__(self, config: CaserConfig, width: int, max_steps: int):
        from models.layers.convolution import WindowFeatures

        super().__init__(config, width, max_steps)
        self._config = config
        self.features = WindowFeatures(config.window, config.heights, config.num_filters, config.num_vertical, name="features")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.projection = keras.layers.Dense(width, name="projection") if config.project else None

    @property
    def output_width(self) -> int:
        if self.projection is not None:
            return self._width
        return len(self._config.heights) * self._config.num_filters + self._config.num_vertical * self._width

    def __call__(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._states(tf.pad(embedded, [[0, 0], [self._config.window - 1, 0], [0, 0]]), training)

    def window(self, embedded: tf.Tensor, length: tf.Tensor, training: bool = False) -> tf.Tensor:
        """As the base class, with padding zeroed and part of the window: its zeros come after the items, not before them.

        So only a full window gives the state of the causal pass; an empty history's state is that of zeros.
        """
        embedded = embedded * item_mask(embedded, length)
        size = self._config.window
        if embedded.shape[1] != size:
            longer = tf.pad(embedded, [[0, 0], [0, size], [0, 0]])
            first = tf.maximum(length - size, 0)
            embedded = tf.gather(longer, first[:, None] + tf.range(size, dtype=first.dtype), batch_dims=1)
        return self._states(embedded, training)[:, 0]

    def _states(self, embedded: tf.Tensor, training: bool) -> tf.Tensor:
        states = self.dropout(self.features(embedded), training=training)
        return states if self.projection is None else self.projection(states)
