"""A policy as exported functions: as it is served, names in and names out, and as it is evaluated, all states of a session at once."""

from __future__ import annotations

import math

from models.algorithms.base import Algorithm, Condition
from models.frameworks import tf
from models.ranking import NOT_RANKED
from schemas import serving
from schemas.trajectory import PAD_ITEM_ID


class ServedPolicy(tf.Module):
    """A policy as TF Serving loads it; core TensorFlow operations only.

    What comes in is put right rather than rejected: "" is padding wherever it stands, items the vocabulary does not hold are
    the unknown item, only the last T items of a history count, and an empty history gets what the policy shows to somebody who
    just came. What goes out is K different items of the catalogue, none of them excluded; where fewer are left, "" with a score
    of -1e30 stands at the end.

    Args:
        algorithm: The trained policy.
        items_file: Text file with the name of item i + 1 in line i.
        k: K.
    """

    def __init__(self, algorithm: Algorithm, items_file: str, k: int):
        super().__init__(name="served_policy")
        self._algorithm = algorithm
        self._k = k
        self._num_items = algorithm.catalogue.num_items
        self._max_steps = algorithm.catalogue.max_steps
        # Everything below must be an attribute, or the exported model would not keep it.
        self.weights = algorithm.trackable()
        # What ranking makes of the weights is made once, and not for every request.
        self.tables = {
            head: table if isinstance(table, tf.Variable) else tf.Variable(table, trainable=False)
            for head, table in algorithm.tables().items()
        }
        self.asset = tf.saved_model.Asset(items_file)
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        to_id = tf.lookup.TextFileInitializer(self.asset.asset_path, tf.string, whole, tf.int64, line)
        to_name = tf.lookup.TextFileInitializer(self.asset.asset_path, tf.int64, line, tf.string, whole)
        # Line numbers count from 0 and ids from 1; an unknown name is the line after the last.
        self.id_table = tf.lookup.StaticHashTable(to_id, default_value=self._num_items - 1)
        self.name_table = tf.lookup.StaticHashTable(to_name, default_value="")

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name=serving.ITEM_HISTORY),
            tf.TensorSpec([None, None], tf.string, name=serving.EXCLUDE),
        ],
    )
    def serve(self, item_history: tf.Tensor, exclude: tf.Tensor = tf.constant([[""]])) -> dict[str, tf.Tensor]:
        """Recommends.

        Args:
            item_history: string [B, T'], oldest first.
            exclude: string [B, E] items not to recommend, or [1, E] for all rows.

        Returns:
            `item_id` string [B, K] and `score` float [B, K].
        """
        # A request may be fed with any rank; here it gets an error that names the shape.
        ids = self._ids(tf.ensure_shape(item_history, [None, None]))
        place, length = self._latest(ids)
        return self._answer(tf.gather(ids, place, batch_dims=1), length, exclude)

    def _answer(
        self, history: tf.Tensor, length: tf.Tensor, exclude: tf.Tensor, condition: Condition | None = None
    ) -> dict[str, tf.Tensor]:
        excluded = self._ids(tf.ensure_shape(exclude, [None, None]))
        excluded = tf.broadcast_to(excluded, [tf.shape(history)[0], tf.shape(excluded)[1]])
        states = self._algorithm.final_states(history, length, condition)
        ranking = self._algorithm.rank(states, history, self._k, excluded, tables=self.tables)
        names = self.name_table.lookup(tf.cast(ranking.item_id, tf.int64) - 1)
        return {serving.ITEM_ID: names, serving.SCORE: tf.maximum(ranking.score, NOT_RANKED)}

    def _ids(self, names: tf.Tensor) -> tf.Tensor:
        ids = tf.cast(self.id_table.lookup(names), tf.int32) + 1
        return tf.where(tf.equal(names, ""), PAD_ITEM_ID, ids)

    def _latest(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Places [B, T] of the last T items of each row, then of padding, and how many items [B] that are."""
        is_item = tf.not_equal(ids, PAD_ITEM_ID)
        to_left = tf.argsort(tf.cast(tf.logical_not(is_item), tf.int32), axis=1, stable=True)
        count = tf.reduce_sum(tf.cast(is_item, tf.int32), axis=1)
        width = tf.minimum(tf.shape(ids)[1], self._max_steps)
        first = tf.maximum(count - self._max_steps, 0)
        place = tf.gather(to_left, first[:, None] + tf.range(width)[None, :], batch_dims=1)
        return place, tf.minimum(count, self._max_steps)


class ReturnServedPolicy(ServedPolicy):
    """A policy that is conditioned on a return, which may be said in a signature of its own.

    A history longer than T counts from its last T items on: what is wanted is what is left after the rewards before them, as
    far as they are known.
    """

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name=serving.ITEM_HISTORY),
            tf.TensorSpec([None, None], tf.string, name=serving.EXCLUDE),
            tf.TensorSpec([None], tf.float32, name=serving.TARGET_RETURN),
            tf.TensorSpec([None, None], tf.float32, name=serving.REWARD_HISTORY),
        ],
    )
    def serve_return(
        self,
        item_history: tf.Tensor,
        exclude: tf.Tensor = tf.constant([[""]]),
        target_return: tf.Tensor = tf.constant([math.nan]),
        reward_history: tf.Tensor = tf.constant([[math.nan]]),
    ) -> dict[str, tf.Tensor]:
        """Recommends what brings a return.

        Args:
            item_history: string [B, T'], oldest first.
            exclude: string [B, E] items not to recommend, or [1, E] for all rows.
            target_return: float [B], or [1] for all rows.
            reward_history: float [B, T'], or [1, 1] for all items.

        Returns:
            `item_id` string [B, K] and `score` float [B, K].
        """
        ids = self._ids(tf.ensure_shape(item_history, [None, None]))
        reward = tf.broadcast_to(tf.ensure_shape(reward_history, [None, None]), tf.shape(ids))
        target = tf.broadcast_to(tf.ensure_shape(target_return, [None]), tf.shape(ids)[:1])
        place, length = self._latest(ids)
        in_window = tf.reduce_any(tf.equal(tf.range(tf.shape(ids)[1])[None, :, None], place[:, None, :]), axis=-1)
        earlier = tf.logical_not(in_window | tf.math.is_nan(reward)) & tf.not_equal(ids, PAD_ITEM_ID)
        target -= tf.reduce_sum(tf.where(earlier, reward, 0.0), axis=1)
        condition = Condition(target, tf.gather(reward, place, batch_dims=1))
        return self._answer(tf.gather(ids, place, batch_dims=1), length, exclude, condition)


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
