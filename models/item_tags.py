"""Which items have which tags, as a part of a served model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.frameworks import tf


class ItemTags(tf.Module):
    """Tags by name with the items of each.

    Args:
        names_file: Text file with the name of tag g in line g; not empty.
        splits: int [G + 2] where the items of each tag begin, and twice where they end: what is no tag has none.
        item_id: int [nnz] items of the tags, one tag after the other.
        num_items: N, padding included.
    """

    def __init__(self, names_file: str, splits: npt.NDArray[Any], item_id: npt.NDArray[Any], num_items: int):
        super().__init__(name="item_tags")
        self._num_items = num_items
        self.asset = tf.saved_model.Asset(names_file)
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        initialiser = tf.lookup.TextFileInitializer(self.asset.asset_path, tf.string, whole, tf.int64, line)
        self.id_table = tf.lookup.StaticHashTable(initialiser, default_value=len(splits) - 2)
        self.splits = tf.Variable(splits.astype(np.int32), trainable=False)
        self.item_id = tf.Variable(item_id.astype(np.int32), trainable=False)

    def allowed(self, tags: tf.Tensor) -> tf.Tensor:
        """[B, N-1] True for items from id 1 that have one of a row's tags [B, G]; all, where a row has "" alone."""
        rows, width = tf.shape(tags)[0], tf.shape(tags)[1]
        tag = tf.reshape(tf.cast(self.id_table.lookup(tags), tf.int32), [-1])
        begin, count = tf.gather(self.splits, tag), tf.gather(self.splits, tag + 1) - tf.gather(self.splits, tag)
        # One entry for each item of each tag: which row it is for, and where in `item_id` it stands.
        row = tf.repeat(tf.repeat(tf.range(rows), width), count)
        place = tf.range(tf.reduce_sum(count)) - tf.repeat(tf.cumsum(count, exclusive=True) - begin, count)
        where = tf.stack([row, tf.gather(self.item_id, place) - 1], axis=1)
        having = tf.scatter_nd(where, tf.ones_like(row), [rows, self._num_items - 1]) > 0
        return having | tf.reduce_all(tf.equal(tags, ""), axis=1, keepdims=True)


def item_tags(tags: Mapping[str, Sequence[int]], num_items: int, names_file: Path) -> ItemTags:
    """Tags of a catalogue; writes their names into a file, which becomes an asset of the model.

    Args:
        tags: Tag to the ids of its items; at least one.
        num_items: N, padding included.
        names_file: Where the names go.
    """
    names = sorted(tag for tag in tags if tag)
    names_file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    lists = [np.unique(np.asarray(tags[name], np.int64)) for name in names]
    splits = np.cumsum([0, *(len(items) for items in lists), 0])
    return ItemTags(str(names_file), splits, np.concatenate(lists), num_items)
