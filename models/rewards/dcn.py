"""Deep and cross network."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.frameworks import prepare, tf
from models.rewards.base import EstimatorConfig, RewardNetwork
from models.rewards.fields import Fields, Query, flattened


class DCNConfig(EstimatorConfig):
    """Products of fields of any order that the cross layers reach."""

    name: Literal["dcn"] = "dcn"
    cross_layers: int = pydantic.Field(default=2, ge=1)
    """Each raises the order of the products by one."""
    projection: int | None = pydantic.Field(default=None, ge=1)
    """Rank of the cross layers' matrices; null for full ones."""
    hidden: tuple[int, ...] = (64, 32)
    """Hidden layers after the cross layers."""


class DCN(RewardNetwork):
    """outputs = MLP(x_L), x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, x_0 the fields; the stacked form.

    References:
        Wang et al. (2021), DCN V2: Improved Deep & Cross Network, eq. 1; the layers are TensorFlow Recommenders'.
    """

    config_class = DCNConfig

    def __init__(self, config: DCNConfig, fields: Fields, outputs: int):
        prepare()
        import tensorflow_recommenders as tfrs

        from models.rewards.layers import HiddenLayers

        super().__init__(config, fields, outputs)
        # In float32: the layer multiplies what it gets with what its own weights give, and the two must be of one type.
        cross = tfrs.layers.feature_interaction.Cross
        self.crosses = [cross(config.projection, name=f"cross_{number}", dtype="float32") for number in range(config.cross_layers)]
        self.deep = HiddenLayers(config.hidden, outputs, config.dropout, name="deep")

    def __call__(self, query: Query, training: bool = False) -> tf.Tensor:
        first = tf.cast(flattened(self.fields(query, training).fields), tf.float32)
        crossed = first
        for cross in self.crosses:
            crossed = cross(first, crossed)
        return self.deep(crossed, training=training)
