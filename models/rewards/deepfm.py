"""Factorization machine beside a deep network on the same fields."""

from __future__ import annotations

from typing import Literal

from models.frameworks import tf
from models.rewards.base import EstimatorConfig, RewardNetwork
from models.rewards.fields import Fields, Query, flattened


class DeepFMConfig(EstimatorConfig):
    """Products of pairs of fields, and a network for all else."""

    name: Literal["deepfm"] = "deepfm"
    hidden: tuple[int, ...] = (64, 64)
    """Hidden layers of the deep part."""


class DeepFM(RewardNetwork):
    """outputs = FM(fields) + MLP(fields), on shared vectors.

    References:
        Guo et al. (2017), DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, eq. 1.
    """

    config_class = DeepFMConfig

    def __init__(self, config: DeepFMConfig, fields: Fields, outputs: int):
        from models.rewards.layers import FactorizationMachine, HiddenLayers

        super().__init__(config, fields, outputs)
        self.machine = FactorizationMachine(fields.num_items, outputs, name="machine")
        self.deep = HiddenLayers(config.hidden, outputs, config.dropout, name="deep")

    def __call__(self, query: Query, training: bool = False) -> tf.Tensor:
        fields = self.fields(query, training).fields
        return self.machine(fields, query.item_id) + self.deep(flattened(fields), training=training)
