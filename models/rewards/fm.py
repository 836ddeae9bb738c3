"""Factorization machine."""

from __future__ import annotations

from typing import Literal

from models.frameworks import tf
from models.rewards.base import EstimatorConfig, RewardNetwork
from models.rewards.fields import Fields, Query


class FMConfig(EstimatorConfig):
    """Products of all pairs of fields, and nothing else."""

    name: Literal["fm"] = "fm"


class FM(RewardNetwork):
    """outputs = the factorization machine of the fields (Rendle, 2010)."""

    config_class = FMConfig

    def __init__(self, config: FMConfig, fields: Fields, outputs: int):
        from models.rewards.layers import FactorizationMachine

        super().__init__(config, fields, outputs)
        self.machine = FactorizationMachine(fields.num_items, outputs, name="machine")

    def __call__(self, query: Query, training: bool = False) -> tf.Tensor:
        return self.machine(self.fields(query, training).fields, query.item_id)
