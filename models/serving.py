"""A policy as exported functions that are served: names in, names out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any

from models.algorithms.base import Algorithm, Condition
from models.clustered import ClusteredTable
from models.exploration import explored, uniform_of
from models.frameworks import tf
from models.item_tags import ItemTags
from models.ranking import (
    NOT_RANKED,
    CatalogueScores,
    Ranking,
    best,
    best_of_catalogue,
    is_among,
    is_own,
    only_allowed,
    scores_of_items,
)
from models.served_inputs import (
    EVERY,
    EXAMPLES,
    EXPLORE,
    NO_REWARD,
    NO_TARGET,
    NO_TEXT,
    RECOMMEND,
    RETURN,
    SCORE,
    SERVE,
    Chance,
    Wish,
    for_rows,
    parsed_examples,
    wish_of,
)
from models.sharding import never_written
from schemas import serving
from schemas.trajectory import PAD_ITEM_ID

_Answer = dict[str, tf.Tensor]


def _exported(signature: tuple[tf.TensorSpec, ...]) -> Callable[[Callable[..., _Answer]], Any]:
    """A method as one graph for all requests, beside which nothing is written."""

    def decorate(method: Callable[..., _Answer]) -> Any:
        @wraps(method)
        def read(*inputs: Any, **named: Any) -> _Answer:
            with never_written():
                return method(*inputs, **named)

        return tf.function(read, autograph=False, input_signature=signature)

    return decorate


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
        tags: Tags of the items; None for items without, of which a request that asks for tags gets none.
        searched: Head to a table that is searched in place of the head's own; see `models.clustered`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        items_file: str,
        k: int,
        tags: ItemTags | None = None,
        searched: Mapping[str, ClusteredTable] = MappingProxyType({}),
    ):
        super().__init__(name="served_policy")
        self._algorithm = algorithm
        self._k = k
        self._num_items = algorithm.catalogue.num_items
        self._max_steps = algorithm.catalogue.max_steps
        # Everything below must be an attribute, or the exported model would not keep it.
        self.weights = algorithm.trackable()
        self.tags = tags
        self.searched = {head: table.trackable() for head, table in searched.items()}
        # What ranking makes of the weights is made once, and not for every request.
        self.tables = dict(searched) | {
            head: table if isinstance(table, tf.Variable) else tf.Variable(table, trainable=False)
            for head, table in algorithm.tables().items()
            if head not in searched
        }
        self.asset = tf.saved_model.Asset(items_file)
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        to_id = tf.lookup.TextFileInitializer(self.asset.asset_path, tf.string, whole, tf.int64, line)
        to_name = tf.lookup.TextFileInitializer(self.asset.asset_path, tf.int64, line, tf.string, whole)
        # Line numbers count from 0 and ids from 1; an unknown name is the line after the last.
        self.id_table = tf.lookup.StaticHashTable(to_id, default_value=self._num_items - 1)
        self.name_table = tf.lookup.StaticHashTable(to_name, default_value="")

    @_exported(SERVE)
    def serve(self, item_history: tf.Tensor, exclude: tf.Tensor = NO_TEXT) -> dict[str, tf.Tensor]:
        """Recommends.

        Args:
            item_history: string [B, T'], oldest first.
            exclude: string [B, E] items not to recommend, or [1, E] for all rows.

        Returns:
            `item_id` string [B, K] and `score` float [B, K].
        """
        history, length = self._session(item_history)
        return self._answer(history, length, exclude)

    @_exported(RECOMMEND)
    def recommend(
        self,
        item_history: tf.Tensor,
        exclude: tf.Tensor = NO_TEXT,
        candidates: tf.Tensor = NO_TEXT,
        allow_tags: tf.Tensor = NO_TEXT,
        k: tf.Tensor = EVERY,
    ) -> dict[str, tf.Tensor]:
        """Recommends under conditions, each of them for every row, or in one row for all.

        Args:
            item_history: string [B, T'], oldest first.
            exclude: string [B, E] items not to recommend.
            candidates: string [B, C] the only items to choose from.
            allow_tags: string [B, G] tags of which an item must have one.
            k: int32 [B] items wanted; more than K are K, and fewer than 0 are none.

        Returns:
            `item_id` string [B, K], `score` float [B, K] and `num_valid` int32 [B].
        """
        history, length = self._session(item_history)
        return self._choose(history, length, None, Wish(exclude, candidates, allow_tags, k))

    @_exported(EXPLORE)
    def explore(
        self,
        item_history: tf.Tensor,
        request_id: tf.Tensor,
        exclude: tf.Tensor = NO_TEXT,
        candidates: tf.Tensor = NO_TEXT,
        allow_tags: tf.Tensor = NO_TEXT,
        k: tf.Tensor = EVERY,
        temperature: tf.Tensor = tf.constant([1.0]),
        epsilon: tf.Tensor = tf.constant([0.0]),
    ) -> dict[str, tf.Tensor]:
        """Recommends with chance: the K best items in an order that is drawn, of which the first k are shown.

        Args:
            item_history: string [B, T'], oldest first.
            request_id: string [B] what decides the chance; the same text gets the same answer.
            exclude: As in `recommend`, like `candidates`, `allow_tags` and `k`.
            temperature: float [B], or [1] for all rows; see `models.exploration.explored`.
            epsilon: float [B], or [1] for all rows.

        Returns:
            What `recommend` returns, and `propensity` float [B, K].
        """
        history, length = self._session(item_history)
        wish = Wish(exclude, candidates, allow_tags, k)
        return self._explored(history, length, None, wish, Chance(request_id, temperature, epsilon))

    @_exported(SCORE)
    def score_candidates(self, item_history: tf.Tensor, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores items.

        Args:
            item_history: string [B, T'], oldest first.
            candidates: string [B, C] items, or [1, C] for all rows.

        Returns:
            `score` float [B, C], in the order of the candidates; -1e30 for "" and for what is no item of the catalogue.
        """
        history, length = self._session(item_history)
        return self._scored(history, length, None, candidates)

    @_exported(EXAMPLES)
    def serving_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Recommends for tf.Examples; every input of `recommend` may be a feature, lists as long as they are.

        Args:
            examples: string [B], serialized.

        Returns:
            What `recommend` returns.
        """
        parsed = parsed_examples(examples)
        history, length = self._session(parsed[serving.ITEM_HISTORY])
        return self._choose(history, length, None, wish_of(parsed))

    def signatures(self) -> dict[str, tf.types.experimental.GenericFunction]:
        """The functions to export, by the name of their signature."""
        return {
            serving.SERVING_DEFAULT: self.serve,
            serving.RECOMMEND: self.recommend,
            serving.EXPLORE: self.explore,
            serving.SCORE_CANDIDATES: self.score_candidates,
            serving.SERVING_EXAMPLES: self.serving_examples,
        }

    def _session(self, item_history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The last items [B, T] and how many they are [B]."""
        # A request may be fed with any rank; here it gets an error that names the shape.
        ids = self._ids(tf.ensure_shape(item_history, [None, None]))
        place, length = self._latest(ids)
        return tf.gather(ids, place, batch_dims=1), length

    def _answer(
        self, history: tf.Tensor, length: tf.Tensor, exclude: tf.Tensor, condition: Condition | None = None
    ) -> dict[str, tf.Tensor]:
        excluded = for_rows(serving.EXCLUDE, self._ids(tf.ensure_shape(exclude, [None, None])), history)
        states = self._algorithm.final_states(history, length, condition)
        return self._named(self._algorithm.rank(states, history, self._k, excluded, tables=self.tables))

    def _named(self, ranking: Ranking) -> dict[str, tf.Tensor]:
        names = self.name_table.lookup(tf.cast(ranking.item_id, tf.int64) - 1)
        return {serving.ITEM_ID: names, serving.SCORE: tf.maximum(ranking.score, NOT_RANKED)}

    def _choose(self, history: tf.Tensor, length: tf.Tensor, condition: Condition | None, wish: Wish) -> _Answer:
        """The best of what is left, as many as are wanted."""
        return self._cut(self._best(history, length, condition, wish), wish.k)

    def _explored(self, history: tf.Tensor, length: tf.Tensor, condition: Condition | None, wish: Wish, chance: Chance) -> _Answer:
        """The same in an order that is drawn."""
        ranking, rows = self._best(history, length, condition, wish), tf.shape(history)[:1]
        request_id = tf.broadcast_to(tf.ensure_shape(chance.request_id, [None]), rows)
        temperature, epsilon = (tf.broadcast_to(tf.ensure_shape(value, [None]), rows) for value in (chance.temperature, chance.epsilon))
        is_item = tf.not_equal(ranking.item_id, PAD_ITEM_ID)
        drawn = explored(ranking.score, is_item, temperature, epsilon, uniform_of(request_id, self._k))
        ranking = Ranking(*(tf.gather(values, drawn.place, batch_dims=1) for values in ranking))
        answer = self._cut(ranking, wish.k)
        is_shown = tf.not_equal(answer[serving.ITEM_ID], "")
        return {**answer, serving.PROPENSITY: tf.where(is_shown, drawn.propensity, 0.0)}

    def _cut(self, ranking: Ranking, k: tf.Tensor) -> _Answer:
        """Names of the first k [B] items."""
        num_wanted = tf.broadcast_to(tf.ensure_shape(k, [None]), tf.shape(ranking.item_id)[:1])
        wanted = tf.range(self._k)[None, :] < num_wanted[:, None]
        item_id = tf.where(wanted, ranking.item_id, PAD_ITEM_ID)
        answer = self._named(Ranking(item_id, tf.where(tf.equal(item_id, PAD_ITEM_ID), NOT_RANKED, ranking.score)))
        return {**answer, serving.NUM_VALID: tf.reduce_sum(tf.cast(tf.not_equal(item_id, PAD_ITEM_ID), tf.int32), axis=1)}

    def _best(self, history: tf.Tensor, length: tf.Tensor, condition: Condition | None, wish: Wish) -> Ranking:
        """The K best items that a request allows."""
        states = self._algorithm.final_states(history, length, condition)
        scores = self._algorithm.scores(states, history, tables=self.tables)
        excluded = for_rows(serving.EXCLUDE, self._ids(tf.ensure_shape(wish.exclude, [None, None])), history)
        tags = for_rows(serving.ALLOW_TAGS, tf.ensure_shape(wish.allow_tags, [None, None]), history)
        candidates = for_rows(serving.CANDIDATES, tf.ensure_shape(wish.candidates, [None, None]), history)
        has_candidates = tf.reduce_any(tf.not_equal(candidates, ""), axis=1)

        def of_catalogue() -> tuple[tf.Tensor, tf.Tensor]:
            return tuple(best_of_catalogue(scores, self._num_items, self._k, excluded))

        def of_allowed() -> tuple[tf.Tensor, tf.Tensor]:
            allowed = self._allowed(tags)

            def of_candidates() -> tuple[tf.Tensor, tf.Tensor]:
                return tuple(self._best_candidates(scores, allowed, candidates, excluded))

            def of_all() -> tuple[tf.Tensor, tf.Tensor]:
                return tuple(best_of_catalogue(only_allowed(scores, allowed, self._num_items), self._num_items, self._k, excluded))

            chosen = tf.cond(tf.reduce_any(has_candidates), of_candidates, of_all)
            others = tf.cond(tf.reduce_all(has_candidates), lambda: chosen, of_all)
            return tuple(tf.where(has_candidates[:, None], one, other) for one, other in zip(chosen, others, strict=True))

        # Masks over the whole catalogue are made only for requests that need them.
        is_plain = tf.logical_not(tf.reduce_any(has_candidates) | tf.reduce_any(tf.not_equal(tags, "")))
        return Ranking(*tf.cond(is_plain, of_catalogue, of_allowed))

    def _allowed(self, tags: tf.Tensor) -> tf.Tensor:
        """[B, N-1] items that a row's tags allow."""
        if self.tags is not None:
            return self.tags.allowed(tags)
        everything = tf.reduce_all(tf.equal(tags, ""), axis=1, keepdims=True)
        return tf.broadcast_to(everything, [tf.shape(tags)[0], self._num_items - 1])

    def _best_candidates(self, scores: CatalogueScores, allowed: tf.Tensor, candidates: tf.Tensor, excluded: tf.Tensor) -> Ranking:
        ids = self._ids(candidates)
        may = is_own(ids, self._num_items) & tf.gather(allowed, tf.clip_by_value(ids - 1, 0, self._num_items - 2), batch_dims=1)
        may &= tf.logical_not(is_among(ids, excluded))
        return best(ids, tf.where(may, scores_of_items(scores, ids, self._num_items), NOT_RANKED), self._k)

    def _scored(self, history: tf.Tensor, length: tf.Tensor, condition: Condition | None, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        states = self._algorithm.final_states(history, length, condition)
        ids = for_rows(serving.CANDIDATES, self._ids(tf.ensure_shape(candidates, [None, None])), history)
        scores = self._algorithm.scores(states, history, tables=self.tables)
        return {serving.SCORE: scores_of_items(scores, ids, self._num_items)}

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

    @_exported((*SERVE, *RETURN))
    def serve_return(
        self,
        item_history: tf.Tensor,
        exclude: tf.Tensor = NO_TEXT,
        target_return: tf.Tensor = NO_TARGET,
        reward_history: tf.Tensor = NO_REWARD,
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
        history, length, condition = self._told(item_history, target_return, reward_history)
        return self._answer(history, length, exclude, condition)

    @_exported((*RECOMMEND, *RETURN))
    def recommend(
        self,
        item_history: tf.Tensor,
        exclude: tf.Tensor = NO_TEXT,
        candidates: tf.Tensor = NO_TEXT,
        allow_tags: tf.Tensor = NO_TEXT,
        k: tf.Tensor = EVERY,
        target_return: tf.Tensor = NO_TARGET,
        reward_history: tf.Tensor = NO_REWARD,
    ) -> dict[str, tf.Tensor]:
        """Recommends under conditions what brings a return; see `ServedPolicy.recommend` and `serve_return`."""
        history, length, condition = self._told(item_history, target_return, reward_history)
        return self._choose(history, length, condition, Wish(exclude, candidates, allow_tags, k))

    @_exported((*EXPLORE, *RETURN))
    def explore(
        self,
        item_history: tf.Tensor,
        request_id: tf.Tensor,
        exclude: tf.Tensor = NO_TEXT,
        candidates: tf.Tensor = NO_TEXT,
        allow_tags: tf.Tensor = NO_TEXT,
        k: tf.Tensor = EVERY,
        temperature: tf.Tensor = tf.constant([1.0]),
        epsilon: tf.Tensor = tf.constant([0.0]),
        target_return: tf.Tensor = NO_TARGET,
        reward_history: tf.Tensor = NO_REWARD,
    ) -> dict[str, tf.Tensor]:
        """Recommends with chance what brings a return; see `ServedPolicy.explore` and `serve_return`."""
        told = self._told(item_history, target_return, reward_history)
        wish = Wish(exclude, candidates, allow_tags, k)
        return self._explored(*told, wish, Chance(request_id, temperature, epsilon))

    @_exported((*SCORE, *RETURN))
    def score_candidates(
        self,
        item_history: tf.Tensor,
        candidates: tf.Tensor,
        target_return: tf.Tensor = NO_TARGET,
        reward_history: tf.Tensor = NO_REWARD,
    ) -> dict[str, tf.Tensor]:
        """Scores items by what brings a return; see `ServedPolicy.score_candidates` and `serve_return`."""
        history, length, condition = self._told(item_history, target_return, reward_history)
        return self._scored(history, length, condition, candidates)

    @_exported(EXAMPLES)
    def serving_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Recommends for tf.Examples; see `ServedPolicy.serving_examples`."""
        parsed = parsed_examples(examples)
        told = self._told(parsed[serving.ITEM_HISTORY], parsed[serving.TARGET_RETURN], parsed[serving.REWARD_HISTORY])
        return self._choose(*told, wish_of(parsed))

    def signatures(self) -> dict[str, tf.types.experimental.GenericFunction]:
        return {**super().signatures(), serving.SERVING_RETURN: self.serve_return}

    def _told(self, item_history: tf.Tensor, target_return: tf.Tensor, reward_history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Condition]:
        """The last items [B, T], how many they are [B], and what is wanted of them; numbers that are not finite say nothing."""
        ids = self._ids(tf.ensure_shape(item_history, [None, None]))
        reward = tf.broadcast_to(tf.ensure_shape(reward_history, [None, None]), tf.shape(ids))
        target = tf.broadcast_to(tf.ensure_shape(target_return, [None]), tf.shape(ids)[:1])
        reward, target = (tf.where(tf.math.is_finite(value), value, math.nan) for value in (reward, target))
        place, length = self._latest(ids)
        in_window = tf.reduce_any(tf.equal(tf.range(tf.shape(ids)[1])[None, :, None], place[:, None, :]), axis=-1)
        earlier = tf.logical_not(in_window | tf.math.is_nan(reward)) & tf.not_equal(ids, PAD_ITEM_ID)
        target -= tf.reduce_sum(tf.where(earlier, reward, 0.0), axis=1)
        condition = Condition(target, tf.gather(reward, place, batch_dims=1))
        return tf.gather(ids, place, batch_dims=1), length, condition
