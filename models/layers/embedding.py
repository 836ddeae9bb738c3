"""Item embeddings."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf
from models.sharding import rows_of


class ItemEmbedding(keras.layers.Layer):
    """One vector for every item, for padding and for unknown items.

    Row 0 is padding and doubles as the token that starts every sequence, rows 1..N-1 are items, row N is the bucket of unknown
    items.

    Masking: none; rows of padding are looked up like others, and causality keeps them out of earlier states.

    Args:
        num_items: N, padding included.
        width: D.
        stddev: Standard deviation of the initial weights.
    """

    item_weights = ("table",)

    def __init__(self, num_items: int, width: int, stddev: float = 0.02, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.width = width
        self.stddev = stddev

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(
            "table",
            (self.num_items + 1, self.width),
            tf.float32,
            keras.initializers.RandomNormal(stddev=self.stddev),
            # In mixed precision Keras would convert all rows at every step; we convert those that are looked up.
            experimental_autocast=False,
        )
        super().build(input_shape)

    def call(self, item_id: tf.Tensor) -> tf.Tensor:
        """item_id [...] int -> [..., D]."""
        return tf.cast(rows_of(self.table, item_id), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "width": self.width, "stddev": self.stddev}


class OccurrenceEmbedding(keras.layers.Layer):
    """One vector for the first, the second, ... event of an item in its session.

    Whether an item was looked at or bought shows in its being there twice; with vectors of items alone a network would have to
    find that out by comparing them.

    Masking: padding and unknown items, which may be many different ones, have a vector of their own.

    Args:
        num_items: N, padding included.
        width: D.
        most: Events from this one on are not told apart.
        stddev: Standard deviation of the initial weights.
    """

    def __init__(self, num_items: int, width: int, most: int = 4, stddev: float = 0.02, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.width = width
        self.most = most
        self.stddev = stddev

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight("table", (self.most + 1, self.width), initializer=keras.initializers.RandomNormal(stddev=self.stddev))
        super().build(input_shape)

    def call(self, item_id: tf.Tensor) -> tf.Tensor:
        """item_id [B, T] int -> [B, T, D]."""
        same = tf.cast(tf.equal(item_id[:, :, None], item_id[:, None, :]), tf.int32)
        count = tf.reduce_sum(tf.linalg.band_part(same, -1, 0), axis=-1)
        is_item = (item_id > 0) & (item_id < self.num_items)
        # A product, because the gradient of a gather of so few rows is a long list of repeated ones.
        chosen = tf.one_hot(tf.where(is_item, tf.minimum(count, self.most), 0), self.most + 1, dtype=self.compute_dtype)
        return tf.einsum("bto,od->btd", chosen, self.table)

    def get_config(self) -> dict[str, Any]:
        mine = {"num_items": self.num_items, "width": self.width, "most": self.most, "stddev": self.stddev}
        return {**super().get_config(), **mine}


class CategoryEmbedding(keras.layers.Layer):
    """One vector for each of a few categories: [...] int -> [..., D].

    Masking: none.

    Args:
        count: Categories, from 0.
        width: D.
        stddev: Standard deviation of the initial weights.
    """

    def __init__(self, count: int, width: int, stddev: float = 0.02, **kwargs: Any):
        super().__init__(**kwargs)
        self.count = count
        self.width = width
        self.stddev = stddev

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight("table", (self.count, self.width), initializer=keras.initializers.RandomNormal(stddev=self.stddev))
        super().build(input_shape)

    def call(self, category: tf.Tensor) -> tf.Tensor:
        # A product, because the gradient of a gather of so few rows is a long list of repeated ones.
        return tf.tensordot(tf.one_hot(category, self.count, dtype=self.compute_dtype), tf.cast(self.table, self.compute_dtype), axes=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count, "width": self.width, "stddev": self.stddev}


class HideItems(keras.layers.Layer):
    """Shows some items as unknown in training.

    Masking: padding stays padding.

    Args:
        num_items: N, padding included, which is the id of the unknown item.
        rate: Share of the items that is hidden.
    """

    def __init__(self, num_items: int, rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.rate = rate
        # Keras' dropout draws from a generator that checkpoints hold.
        self.dropout = keras.layers.Dropout(rate)

    def call(self, item_id: tf.Tensor, training: bool = False) -> tf.Tensor:
        """item_id [...] int -> [...] int."""
        if not training or not self.rate:
            return item_id
        kept = self.dropout(tf.ones(tf.shape(item_id)), training=True) > 0
        return tf.where(kept | tf.equal(item_id, 0), item_id, self.num_items)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "rate": self.rate}
