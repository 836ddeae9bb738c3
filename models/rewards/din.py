"""Deep interest network."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.frameworks import tf
from models.rewards.base import EstimatorConfig, RewardNetwork
from models.rewards.fields import Fields, Query, flattened


class DINConfig(EstimatorConfig):
    """The item looks for what is like it in the history."""

    name: Literal["din"] = "din"
    attention_hidden: int = pydantic.Field(default=16, ge=1)
    """Hidden units of the network that weights an event against the item."""
    hidden: tuple[int, ...] = (64, 32)
    """Hidden layers on the fields."""


class DIN(RewardNetwork):
    """outputs = MLP([attended history, fields])."""

    config_class = DINConfig

    def __init__(self, config: DINConfig, fields: Fields, outputs: int):
        from models.rewards.layers import HiddenLayers, TargetAttention

        super().__init__(config, fields, outputs)
        self.attention = TargetAttention(config.attention_hidden, name="attention")
        self.layers_of_fields = HiddenLayers(config.hidden, outputs, config.dropout, name="layers")

    def __call__(self, query: Query, training: bool = False) -> tf.Tensor:
        known = self.fields(query, training)
        interest = self.attention(known.events, known.item, known.earlier)
        return self.layers_of_fields(tf.concat([interest, flattened(known.fields)], axis=-1), training=training)
