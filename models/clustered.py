"""The best items of a catalogue too large to score whole: the most promising blocks of similar items first, then their items.

Blocks and items are those of `models.item_blocks`. How promising a block is: the mean of its items' logits and their spread,
both known from the mean and the variance of its vectors. Only core operations are used, so that every server can run it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.item_blocks import ItemBlocks
from models.module import Module
from models.numerics import IMPOSSIBLE

_SPREADS = 2.5
"""How many standard deviations above the mean of a block its best item is looked for: about the most of some tens of draws."""


class ClusteredTable(Module):
    """Item vectors of a head in blocks; stands where ranking takes a table.

    Args:
        vectors: [I, D] one vector for each item, from item 1.
        blocks: The same items in blocks.
        probes: P, blocks that are looked into.
    """

    def __init__(self, vectors: npt.NDArray[np.float32], blocks: ItemBlocks, probes: int):
        self.block_size = blocks.item_index.shape[1]
        self._sizes = np.sort(blocks.size)
        self.look_into(probes)
        is_item = blocks.item_index >= 0
        place = np.zeros(len(vectors), np.int32)
        place[blocks.item_index[is_item]] = np.flatnonzero(is_item)
        inside = np.where(is_item[..., None], vectors[np.maximum(blocks.item_index, 0)], np.float32(0.0))
        self.vectors = tf.Variable(inside, trainable=False)
        self.index = tf.Variable(blocks.item_index, trainable=False)
        self.place = tf.Variable(place, trainable=False)
        self.mean = tf.Variable(blocks.mean, trainable=False)
        self.variance = tf.Variable(blocks.variance, trainable=False)
        self.log_count = tf.Variable(np.log(blocks.size).astype(np.float32), trainable=False)

    def look_into(self, probes: int) -> None:
        """Changes P, for functions that are traced from now on."""
        self.probes = min(probes, len(self._sizes))
        # Whatever blocks are chosen hold at least so many items.
        self.num_found = int(self._sizes[: self.probes].sum())


class ClusteredLogits:
    """What `CatalogueLogits` gives, from a part of the catalogue.

    Logits are exact. Which items are the greatest is as good as the blocks that are looked into, and the normaliser is that of
    normally distributed logits within each of the other blocks.

    Args:
        states: [M, D].
        table: The items.
    """

    def __init__(self, states: tf.Tensor, table: ClusteredTable):
        self._states, self._table = tf.cast(states, tf.float32), table
        # Read once, and looked up in as a tensor: a lookup in the variable would make every later reading of it a copy.
        self._vectors, self._place = tf.convert_to_tensor(table.vectors), tf.convert_to_tensor(table.place)
        mean = tf.matmul(self._states, table.mean, transpose_b=True)
        variance = tf.matmul(tf.square(self._states), table.variance, transpose_b=True)
        deviation = tf.sqrt(variance)
        _, self._chosen = CatalogueLogits.of_scores(mean + _SPREADS * deviation).top_k(table.probes)
        # The exponential's mean over normally distributed logits; where they spread far, over those that a block can hold.
        raised = tf.where(deviation <= _SPREADS, 0.5 * variance, _SPREADS * deviation - 0.5 * _SPREADS**2)
        self._of_blocks = mean + raised + table.log_count
        self._found = self._look(self._chosen)
        shape = [tf.shape(states)[0], table.probes * table.block_size]
        self._found_index = tf.reshape(tf.gather(table.index, self._chosen), shape)
        self._found = tf.where(self._found_index >= 0, self._found, IMPOSSIBLE)

    def _look(self, chosen: tf.Tensor) -> tf.Tensor:
        """[M, P * S] logits of the items of some blocks [M, P], row by row, so that a row's vectors stay near the processor."""
        width, size = self._states.shape[-1], self._table.probes * self._table.block_size

        def of_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            vectors = tf.reshape(tf.gather(self._vectors, row[1]), [size, width])
            return tf.linalg.matvec(vectors, row[0])

        return tf.map_fn(of_row, (self._states, chosen), fn_output_signature=tf.TensorSpec([size], tf.float32), parallel_iterations=8)

    def logsumexp(self, without: tf.Tensor | None = None) -> tf.Tensor:
        """As that of `CatalogueLogits`, about."""
        rows = tf.shape(self._chosen)[0]
        place = tf.stack([tf.repeat(tf.range(rows), self._table.probes), tf.reshape(self._chosen, [-1])], axis=1)
        others = tf.tensor_scatter_nd_update(self._of_blocks, place, tf.fill([rows * self._table.probes], IMPOSSIBLE))
        parts = (others, self._found)
        greatest = tf.reduce_max(tf.stack([tf.reduce_max(part, axis=1) for part in parts], axis=1), axis=1, keepdims=True)
        total = sum(tf.reduce_sum(tf.exp(part - greatest), axis=1, keepdims=True) for part in parts)
        if without is not None:
            total = tf.maximum(total - tf.reduce_sum(tf.exp(without - greatest), axis=1, keepdims=True), 1e-7 * total)
        return greatest + tf.math.log(total)

    def top_k(self, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """The k greatest logits found and their indices; more than the blocks hold are looked for in the whole catalogue."""

        def among_found() -> tuple[tf.Tensor, tf.Tensor]:
            value, place = CatalogueLogits.of_scores(self._found).top_k(k)
            return value, tf.gather(self._found_index, place, batch_dims=1)

        def among_all() -> tuple[tf.Tensor, tf.Tensor]:
            return CatalogueLogits.of_scores(self.dense()).top_k(k)

        if isinstance(k, int):
            return among_found() if k <= self._table.num_found else among_all()
        return tf.cond(k <= self._table.num_found, among_found, among_all)

    def dense(self) -> tf.Tensor:
        """[M, I] all logits, for requests that restrict the catalogue."""
        return tf.gather(tf.matmul(self._states, self._flat(), transpose_b=True), self._place, axis=1)

    def of_items(self, item_id: tf.Tensor, num_items: int) -> tf.Tensor:
        """As that of `CatalogueLogits`."""
        return self.at(tf.clip_by_value(item_id - 1, 0, num_items - 2))

    def at(self, index: tf.Tensor) -> tf.Tensor:
        """[M, L] logits of some items of each row, by index [M, L]."""
        vectors = tf.gather(self._flat(), tf.gather(self._place, index))
        return tf.einsum("mld,md->ml", vectors, self._states)

    def _flat(self) -> tf.Tensor:
        """[blocks * S, D] vectors in order of place."""
        return tf.reshape(self._vectors, [-1, tf.shape(self._vectors)[2]])


AnyLogits = CatalogueLogits | ClusteredLogits


def logits_of(states: tf.Tensor, table: Any, num_items: int) -> AnyLogits:
    """Logits of the catalogue of N - 1 items under states [M, D]; the table is [N+1, D] or clustered."""
    if isinstance(table, ClusteredTable):
        return ClusteredLogits(states, table)
    return CatalogueLogits(states, table[1:num_items])
