"""The best items under a policy or under values, exactly, without scoring mixtures over the whole catalogue.

An item that is neither in the session nor a neighbour of its last items gets its score from the catalogue part alone, so the best
K of them are the K with the greatest catalogue logits. The best K of all are therefore among those, the session's own items and
the neighbours.

Ties: the lower id first, which is the more popular item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY
from schemas.trajectory import PAD_ITEM_ID

if TYPE_CHECKING:
    from models.clustered import AnyLogits, ClusteredTable
    from models.layers.neighbours import NeighbourTable

LEAST = -1e6
"""Log-probability of an item that has none, which still comes before no item at all."""

_FEW = 256
"""Up to so many items are compared with each other in pairs."""

NOT_RANKED = IMPOSSIBLE
"""Score of a place for which there is no item."""


class PolicyState(NamedTuple):
    """What the policy head knows at every step, before it looks at the catalogue.

    Attributes:
        states: [..., D] vectors that are multiplied with the items'.
        log_gates: [..., 3] float32 log-probabilities of choosing from the catalogue, of copying and of choosing a neighbour.
        copy_weights: [..., T] float32 distribution over the session's events; zero where there is nothing to copy.
        neighbour_weights: [..., T] float32, what the similarity of an item to each event counts; zero where there are no neighbours.
    """

    states: tf.Tensor
    log_gates: tf.Tensor
    copy_weights: tf.Tensor
    neighbour_weights: tf.Tensor


class Ranking(NamedTuple):
    """The best items of M states.

    Attributes:
        item_id: [M, K] int32, best first; 0 where fewer than K items are left.
        score: [M, K] float32 log-probabilities, falling; `NOT_RANKED` where there is no item.
    """

    item_id: tf.Tensor
    score: tf.Tensor


class CatalogueScores(NamedTuple):
    """Scores of M states, the catalogue's and those that some items have instead.

    Attributes:
        logits: Scores of items 1..N-1 as far as the catalogue goes.
        offset: [M, 1] what is added to all of them.
        own_id: [M, C] int32 items with a score of their own, such as the session's; padding and unknown items do not count.
        own: [M, C] their scores; an item that stands more than once has the same score each time.
        num_falling: Columns, the first ones, of items whose own score may be below what the catalogue alone gives them.
    """

    logits: AnyLogits
    offset: tf.Tensor
    own_id: tf.Tensor
    own: tf.Tensor
    num_falling: tf.Tensor | int


def top_k(
    state: PolicyState,
    session: tf.Tensor,
    vectors: tf.Tensor,
    num_items: int,
    k: int,
    excluded: tf.Tensor | None = None,
    copies: bool = True,
    neighbours: NeighbourTable | None = None,
) -> Ranking:
    """Ranks the whole catalogue under the mixture of catalogue, copy and neighbours.

    Args:
        state: The head's state of M steps: vectors [M, D], gates [M, 3], copy weights and neighbour weights [M, L].
        session: [M, L] int32 events that the weights belong to; padding and unknown items do not count.
        vectors: [N+1, D] scoring vectors by item id.
        num_items: N, padding included.
        k: K.
        excluded: [M, E] int32 items not to rank; padding excludes nothing.
        copies: False where the head has no copy part and the catalogue's softmax is over all items.
        neighbours: Neighbours of all items; None where the head has no such part.

    Returns:
        The ranking by log-probability.
    """
    return best_of_catalogue(policy_scores(state, session, vectors, num_items, copies, neighbours), num_items, k, excluded)


def policy_scores(
    state: PolicyState,
    session: tf.Tensor,
    vectors: tf.Tensor | ClusteredTable,
    num_items: int,
    copies: bool = True,
    neighbours: NeighbourTable | None = None,
) -> CatalogueScores:
    """Log-probabilities under the mixture; arguments as in `top_k`."""
    # Here, because it derives from classes of TensorFlow, which whoever only describes an algorithm does not load.
    from models.clustered import logits_of

    logits, log_gates = logits_of(state.states, vectors, num_items), state.log_gates
    of_session, num_falling = logits.of_items(session, num_items), 0
    if copies:
        # What is in the session has no part in the catalogue's softmax.
        own_logit = tf.where(is_own(session, num_items), of_session, IMPOSSIBLE)
        normaliser = log_gates[:, 0:1] - logits.logsumexp(without=own_logit)
        copied = sum_by_item(session, state.copy_weights)
        log_copy = tf.where(copied > 0, log_gates[:, 1:2] + tf.math.log(tf.maximum(copied, TINY)), LEAST)
        own, num_falling = tf.maximum(log_copy, LEAST), tf.shape(session)[1]
    else:
        normaliser = log_gates[:, 0:1] - logits.logsumexp()
        own = normaliser + of_session
    if neighbours is None:
        return CatalogueScores(logits, normaliser, session, own, num_falling)
    item_id, share = _neighbour_shares(state.neighbour_weights, session, num_items, neighbours)
    from_catalogue = normaliser + logits.of_items(item_id, num_items)
    log_share = tf.where(share > 0, log_gates[:, 2:3] + tf.math.log(tf.maximum(share, TINY)), IMPOSSIBLE)
    both = tf.reduce_logsumexp(tf.stack([from_catalogue, log_share]), axis=0)
    return CatalogueScores(logits, normaliser, tf.concat([session, item_id], axis=1), tf.concat([own, both], axis=1), num_falling)


def _neighbour_shares(weights: tf.Tensor, session: tf.Tensor, num_items: int, table: NeighbourTable) -> tuple[tf.Tensor, tf.Tensor]:
    """Neighbours [M, C] of the events with a weight, 0 for none and for items of the session, and the share of each [M, C]."""
    from models.layers.neighbours import LAST

    # Few events have a weight, the same for every state.
    weight, place = tf.math.top_k(weights, tf.minimum(tf.shape(weights)[1], LAST))
    event = tf.gather(session, place, batch_dims=1)
    row = tf.where((weight > 0) & (event < num_items), event, PAD_ITEM_ID)
    shape = [tf.shape(row)[0], tf.shape(row)[1] * tf.shape(table.item_id)[1]]
    item_id = tf.reshape(tf.gather(table.item_id, row), shape)
    share = tf.reshape(tf.gather(table.similarity, row) * weight[:, :, None], shape)
    item_id, share = _sum_of_distinct(item_id, share)
    in_session = tf.reduce_any(tf.equal(item_id[:, :, None], session[:, None, :]), axis=-1)
    return tf.where(in_session, PAD_ITEM_ID, item_id), share


def _sum_of_distinct(ids: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct ids of each row [M, C], 0 at the end, and the sum of the weights of each; by sorting, because C may be large."""
    order = tf.argsort(ids, axis=1)
    ids, weights = tf.gather(ids, order, batch_dims=1), tf.gather(weights, order, batch_dims=1)
    shape = tf.shape(ids)
    is_new = tf.pad(tf.not_equal(ids[:, 1:], ids[:, :-1]), [[0, 0], [1, 0]])[:, : shape[1]]
    place = tf.cumsum(tf.cast(is_new, tf.int32), axis=1) + tf.range(shape[0])[:, None] * shape[1]
    size = shape[0] * shape[1]
    found = tf.maximum(tf.math.unsorted_segment_max(tf.reshape(ids, [-1]), tf.reshape(place, [-1]), size), PAD_ITEM_ID)
    sums = tf.math.unsorted_segment_sum(tf.reshape(weights, [-1]), tf.reshape(place, [-1]), size)
    return tf.reshape(found, shape), tf.reshape(sums, shape)


def best_of_catalogue(scores: CatalogueScores, num_items: int, k: int, excluded: tf.Tensor | None = None) -> Ranking:
    """The best K of the catalogue and of the items with scores of their own.

    Args:
        scores: Of M states.
        num_items: N, padding included.
        k: K.
        excluded: [M, E] int32 items not to rank; padding excludes nothing.

    Returns:
        The ranking.
    """
    num_excluded = 0 if excluded is None else tf.shape(excluded)[1]
    # As many more as can be taken out again below.
    best_logit, best_index = scores.logits.top_k(tf.minimum(k + num_excluded + scores.num_falling, num_items - 1))
    catalogue_id = best_index + 1
    from_catalogue = scores.offset + best_logit
    usable = is_own(scores.own_id, num_items)

    # An item with a score of its own stands once, with that.
    repeated = tf.reduce_any(tf.equal(catalogue_id[:, :, None], tf.where(usable, scores.own_id, -1)[:, None, :]), axis=-1)
    ids = tf.concat([catalogue_id, scores.own_id], axis=1)
    values = tf.concat([tf.where(repeated, NOT_RANKED, from_catalogue), tf.where(usable, scores.own, NOT_RANKED)], axis=1)
    if excluded is not None:
        values = tf.where(is_among(ids, excluded), NOT_RANKED, values)
    return best(ids, values, k)


def only_allowed(scores: CatalogueScores, allowed: tf.Tensor, num_items: int) -> CatalogueScores:
    """The same scores where only some items can be ranked.

    Args:
        scores: Of M states.
        allowed: [M, N-1] True for items, from id 1, that may be ranked.
        num_items: N, padding included.
    """
    logits = CatalogueLogits.of_scores(tf.where(allowed, scores.logits.dense(), NOT_RANKED))
    may = tf.gather(allowed, tf.clip_by_value(scores.own_id - 1, 0, num_items - 2), batch_dims=1)
    return scores._replace(logits=logits, own=tf.where(may, scores.own, NOT_RANKED))


def scores_of_items(scores: CatalogueScores, item_id: tf.Tensor, num_items: int) -> tf.Tensor:
    """Scores of some items of each state.

    Args:
        scores: Of M states.
        item_id: [M, C] int32 items; padding and unknown items have no score.
        num_items: N, padding included.

    Returns:
        [M, C] float32; `NOT_RANKED` for what is no item of the catalogue.
    """
    from_catalogue = scores.offset + scores.logits.of_items(item_id, num_items)
    is_item = (item_id != PAD_ITEM_ID) & (item_id < num_items)
    order = tf.argsort(scores.own_id, axis=1, stable=True)
    own_id, own = tf.gather(scores.own_id, order, batch_dims=1), tf.gather(scores.own, order, batch_dims=1)
    # One more column, so that a session of no events has a place to look at, too.
    own_id, own = tf.pad(own_id, [[0, 0], [0, 1]], constant_values=num_items), tf.pad(own, [[0, 0], [0, 1]])
    place = tf.minimum(tf.searchsorted(own_id, item_id), tf.shape(own_id)[1] - 1)
    has_own = tf.equal(tf.gather(own_id, place, batch_dims=1), item_id)
    found = tf.where(has_own, tf.gather(own, place, batch_dims=1), from_catalogue)
    return tf.maximum(tf.where(is_item, found, NOT_RANKED), NOT_RANKED)


def is_among(ids: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """[M, C] True for the ids [M, C] that stand in the same row of `others` [M, E]."""

    def by_comparing() -> tf.Tensor:
        return tf.reduce_any(tf.equal(ids[:, :, None], others[:, None, :]), axis=-1)

    def by_searching() -> tf.Tensor:
        ordered = tf.sort(others, axis=1)
        place = tf.minimum(tf.searchsorted(ordered, ids), tf.shape(ordered)[1] - 1)
        return tf.equal(tf.gather(ordered, place, batch_dims=1), ids)

    # Of many others, comparing all pairs would take memory that a single request must not take.
    return tf.cond(tf.shape(others)[1] <= _FEW, by_comparing, by_searching)


def best(ids: tf.Tensor, scores: tf.Tensor, k: int) -> Ranking:
    """The K greatest scores of [M, C] candidates, ties by id; ids of unranked candidates come out as 0."""
    by_id = tf.argsort(ids, axis=1, stable=True)
    ids, scores = tf.gather(ids, by_id, batch_dims=1), tf.gather(scores, by_id, batch_dims=1)
    short = tf.maximum(k - tf.shape(ids)[1], 0)
    ids = tf.pad(ids, [[0, 0], [0, short]])
    scores = tf.pad(scores, [[0, 0], [0, short]], constant_values=NOT_RANKED)
    score, index = tf.math.top_k(scores, k)
    chosen = tf.gather(ids, index, batch_dims=1)
    return Ranking(tf.where(score > NOT_RANKED / 2, chosen, PAD_ITEM_ID), score)


def draw(ranking: Ranking, uniform: tf.Tensor) -> tf.Tensor:
    """One item of each ranking by log-probability, with its probability among the K: for policies that try things.

    Args:
        ranking: Of M states; all of the catalogue for a draw from the policy itself.
        uniform: [M] float32 a number in [0, 1) for each.

    Returns:
        [M] int32 items; 0 where there is none.
    """
    running = tf.cumsum(tf.nn.softmax(ranking.score), axis=1)
    place = tf.reduce_sum(tf.cast(running <= uniform[:, None] * running[:, -1:], tf.int32), axis=1)
    return tf.gather(ranking.item_id, tf.minimum(place, tf.shape(running)[1] - 1), batch_dims=1)


def sum_by_item(session: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """[M, L] sum of the weights [M, L] of each event's item."""
    same = tf.equal(session[:, :, None], session[:, None, :])
    return tf.reduce_sum(tf.where(same, weights[:, None, :], 0.0), axis=-1)


def is_own(session: tf.Tensor, num_items: int) -> tf.Tensor:
    """[M, L] True for the first event of each item of the session that is in the vocabulary."""
    order = tf.argsort(session, axis=1, stable=True)
    ordered = tf.gather(session, order, batch_dims=1)
    is_new = tf.pad(tf.not_equal(ordered[:, 1:], ordered[:, :-1]), [[0, 0], [1, 0]], constant_values=True)[:, : tf.shape(session)[1]]
    first = tf.gather(is_new, tf.argsort(order, axis=1), batch_dims=1)
    return first & (session != PAD_ITEM_ID) & (session < num_items)
