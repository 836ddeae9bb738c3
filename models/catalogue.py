"""Logits of the whole catalogue, and what is asked of them, in as few passes over memory as it takes.

A row of logits for 70,000 items is 280 KB, so passes over it cost more than the arithmetic. TensorFlow's top-k looks at every
entry with a heap; here a maximum is taken over blocks of 64 first, in one vectorised pass, and only the K blocks with the
greatest maxima are looked into. They hold the best K: a block left out has a maximum that K other blocks reach.
"""

from __future__ import annotations

from models.frameworks import tf

_BLOCK = 64


class CatalogueLogits:
    """states . vectors for every item, kept in blocks and a rest, so that nothing is copied to make it divisible.

    Args:
        states: [M, D].
        vectors: [I, D] one vector an item.
    """

    def __init__(self, states: tf.Tensor, vectors: tf.Tensor):
        vectors = tf.cast(vectors, states.dtype)
        # The rest is never empty, so its maximum always is a number.
        self._whole = (tf.shape(vectors)[0] - 1) // _BLOCK * _BLOCK
        self._set(
            tf.cast(tf.matmul(states, vectors[: self._whole], transpose_b=True), tf.float32),
            tf.cast(tf.matmul(states, vectors[self._whole :], transpose_b=True), tf.float32),
        )

    def _set(self, whole: tf.Tensor, rest: tf.Tensor) -> None:
        self._flat, self._rest = whole, rest
        self._blocks = tf.reshape(whole, [tf.shape(whole)[0], self._whole // _BLOCK, _BLOCK])
        self._maxima = tf.reduce_max(self._blocks, axis=2)

    def logsumexp(self, without: tf.Tensor | None = None) -> tf.Tensor:
        """[M, 1] logarithm of the sum of the exponentials, less those of some of the logits [M, L]."""
        greatest = tf.maximum(tf.reduce_max(self._maxima, axis=1, keepdims=True), tf.reduce_max(self._rest, axis=1, keepdims=True))
        total = sum(tf.reduce_sum(tf.exp(part - greatest), axis=1, keepdims=True) for part in (self._flat, self._rest))
        if without is not None:
            # Of a sum in 32 bits no more than its last bits are lost.
            total = tf.maximum(total - tf.reduce_sum(tf.exp(without - greatest), axis=1, keepdims=True), 1e-7 * total)
        return greatest + tf.math.log(total)

    def top_k(self, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """The k greatest logits and their indices, [M, k]; of equal ones the lower index first.

        `k` is at most the number of items.
        """
        num_blocks = tf.shape(self._maxima)[1]
        _, chosen = tf.math.top_k(self._maxima, tf.minimum(k, num_blocks))
        # In order of index, so that the second search sees equal logits in order, too.
        chosen = tf.sort(chosen, axis=1)
        rows, width = tf.shape(chosen)[0], tf.shape(chosen)[1] * _BLOCK
        candidates = tf.reshape(tf.gather(self._blocks, chosen, batch_dims=1), [rows, width])
        index = tf.reshape(chosen[:, :, None] * _BLOCK + tf.range(_BLOCK), [rows, width])
        rest = tf.range(tf.shape(self._rest)[1])[None, :] + self._whole
        index = tf.concat([index, tf.tile(rest, [rows, 1])], axis=1)
        value, place = tf.math.top_k(tf.concat([candidates, self._rest], axis=1), k)
        return value, tf.gather(index, place, batch_dims=1)

    @classmethod
    def of_scores(cls, scores: tf.Tensor) -> CatalogueLogits:
        """The same of scores [M, I] that are there already."""
        found = cls.__new__(cls)
        found._whole = (tf.shape(scores)[1] - 1) // _BLOCK * _BLOCK
        found._set(scores[:, : found._whole], scores[:, found._whole :])
        return found

    def dense(self) -> tf.Tensor:
        """[M, I] the logits in one piece."""
        return tf.concat([self._flat, self._rest], axis=1)

    def of_items(self, item_id: tf.Tensor, num_items: int) -> tf.Tensor:
        """[M, L] logits of items by id [M, L]; what is no item gets that of another, to be masked by the caller."""
        return self.at(tf.clip_by_value(item_id - 1, 0, num_items - 2))

    def at(self, index: tf.Tensor) -> tf.Tensor:
        """[M, L] logits of some items of each row, by index [M, L]."""
        in_rest = index >= self._whole
        rest = tf.gather(self._rest, tf.where(in_rest, index - self._whole, 0), batch_dims=1)

        def with_blocks() -> tf.Tensor:
            return tf.where(in_rest, rest, tf.gather(self._flat, tf.where(in_rest, 0, index), batch_dims=1))

        # Gathering from an empty part is an error even where nothing of it is used.
        return tf.cond(self._whole > 0, with_blocks, lambda: rest)
