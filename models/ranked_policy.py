"""A policy as an exported function that is evaluated: all states of a session at once."""

from __future__ import annotations

import math

from models.algorithms.base import Algorithm, Condition
from models.frameworks import tf
from schemas.trajectory import PAD_ITEM_ID

_RANK_SIGNATURE = [
    tf.TensorSpec([None, None], tf.int32, name="item_id"),
    tf.TensorSpec([None, None], tf.bool, name="mask"),
    tf.TensorSpec([], tf.bool, name="exclude_seen"),
]


class RankedPolicy(tf.Module):
    """A policy as it is evaluated; exported beside the weights, so that an old model can be ranked when the code has moved on.

    `rank` is what every export has had from the first on. A policy that is conditioned on a return has `rank_rewarded`, too, which
    is told what the events brought; whoever loads an export takes it where it is there.

    Args:
        algorithm: The policy; its weights are read when `rank` is called, so one serves a model all through its training.
        k: K.
        head: What to rank by; None is the head that recommends.
    """

    CHUNK_STATES = 128
    """States ranked at a time: few enough that a block of logits of a large catalogue stays near the processor."""

    def __init__(self, algorithm: Algorithm, k: int, head: str | None = None):
        super().__init__(name="ranked_policy")
        self._algorithm = algorithm
        self._k = k
        self._head = head
        self.weights = algorithm.trackable()
        if algorithm.is_return_conditioned:
            signature = [*_RANK_SIGNATURE, tf.TensorSpec([None, None], tf.float32, name="reward")]
            self.rank_rewarded = tf.function(self._rank_rewarded, autograph=False, input_signature=signature)

    def __call__(self, item_id: tf.Tensor, mask: tf.Tensor, exclude_seen: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """As `rank`, with the rewards [B, T] of the events for policies that look at them."""
        if self._algorithm.is_return_conditioned:
            return self.rank_rewarded(item_id, mask, exclude_seen, reward)
        return self.rank(item_id, mask, exclude_seen)

    @tf.function(autograph=False, input_signature=_RANK_SIGNATURE)
    def rank(self, item_id: tf.Tensor, mask: tf.Tensor, exclude_seen: tf.Tensor) -> tf.Tensor:
        """Ranks the catalogue before some of the steps of a batch.

        Args:
            item_id: int32 [B, T].
            mask: bool [B, T], True for the M steps that are wanted.
            exclude_seen: True takes the session's earlier items out.

        Returns:
            int32 [M, K] items, best first, in order of `tf.where(mask)`.
        """
        return self._rank(item_id, mask, exclude_seen, None)

    def _rank_rewarded(self, item_id: tf.Tensor, mask: tf.Tensor, exclude_seen: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """As `rank`, of a policy that is asked for its default return and told the rewards, float32 [B, T], of the events."""
        unsaid = tf.fill(tf.shape(item_id)[:1], math.nan)
        return self._rank(item_id, mask, exclude_seen, Condition(unsaid, reward))

    def _rank(self, item_id: tf.Tensor, mask: tf.Tensor, exclude_seen: tf.Tensor, condition: Condition | None) -> tf.Tensor:
        state, history = self._algorithm.evaluation_states(item_id, mask, condition)
        tables = self._algorithm.tables()
        count = tf.shape(history)[0]
        num_chunks = (count + self.CHUNK_STATES - 1) // self.CHUNK_STATES

        def rank_chunk(number: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            rows = slice(number * self.CHUNK_STATES, tf.minimum((number + 1) * self.CHUNK_STATES, count))
            part = tf.nest.map_structure(lambda tensor: tensor[rows], state)
            # Padding excludes nothing.
            excluded = tf.where(exclude_seen, history[rows], PAD_ITEM_ID)
            ranking = self._algorithm.rank(part, history[rows], self._k, excluded, self._head, tables)
            return number + 1, found.write(number, ranking.item_id)

        parts = tf.TensorArray(tf.int32, size=num_chunks, infer_shape=False, element_shape=[None, self._k])
        _, parts = tf.while_loop(lambda number, _: number < num_chunks, rank_chunk, (0, parts), parallel_iterations=1)
        return parts.concat()
