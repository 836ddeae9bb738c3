"""What an estimator is told of items and users beside their events."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.artifacts import Artifact
from components.base import ComponentError
from components.feature_files import ItemFeatures, UserFeatures, read_item_features, read_user_features
from components.reward_trainer.config import RewardTrainerConfig
from components.trajectory_gen.vocabulary import ITEM
from components.trajectory_io import name_keys, users_with_records
from models.frameworks import tf
from models.rewards.base import RewardEstimator


class Told(NamedTuple):
    """Numbers of items and users, if files were named.

    Attributes:
        items: Of items.
        users: Of users.
        user_keys: [users] keys of the users.
        num_known_users: Users among them of whom the train split has records.
    """

    items: ItemFeatures | None
    users: UserFeatures | None
    user_keys: npt.NDArray[np.int64]
    num_known_users: int

    def sizes(self) -> dict[str, int]:
        """What the files change in an estimator's configuration."""
        sizes = {"num_item_features": len(self.items.names)} if self.items else {}
        return sizes | ({"num_user_features": len(self.users.names), "num_users": len(self.user_keys)} if self.users else {})

    def tell(self, estimator: RewardEstimator) -> None:
        """Tells an estimator of these sizes."""
        if self.items:
            estimator.set_item_features(self.items.values)
        if self.users:
            estimator.set_user_features(self.user_keys, self.users.values)

    def properties(self) -> dict[str, Any]:
        """Columns, and of how many items of the catalogue and users of the train split they are known."""
        return {
            "item_features": {"names": list(self.items.names), "items": self.items.num_known} if self.items else None,
            "user_features": {"names": list(self.users.names), "users": self.num_known_users} if self.users else None,
        }


def read_told(config: RewardTrainerConfig, examples: Artifact, vocabulary: pa.Table) -> Told:
    """Reads the files that are named.

    Raises:
        ComponentError: A file is not as expected, or knows nobody of the train split or no item of the vocabulary.
    """
    items = users = None
    keys, num_known = np.zeros(0, np.int64), 0
    if config.item_features is not None:
        items = read_item_features("reward_trainer.item_features", config.item_features, vocabulary[ITEM])
    if config.user_features is not None:
        setting = "reward_trainer.user_features"
        users = read_user_features(setting, config.user_features)
        keys = name_keys(tf.constant(users.users)).numpy()
        num_known = int(users_with_records(examples, "train", keys).sum())
        if not num_known:
            raise ComponentError(f"{setting}: {config.user_features}: none of its {len(keys):,} rows is about a user of the train split")
    return Told(items, users, keys, num_known)
