"""The best items under a policy or under values, exactly, without scoring mixtures over the whole catalogue.

An item outside the session gets its score from the catalogue part alone, so the best K of them are the K with the greatest
catalogue logits. The best K of all are therefore among those and the session's own items.

Ties: the lower id first, which is the more popular item.
"""

from __future__ import annotations

from typing import NamedTuple

from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY
from schemas.trajectory import PAD_ITEM_ID

LEAST = -1e6
"""Log-probability of an item that has none, which still comes before no item at all."""

NOT_RANKED = IMPOSSIBLE
"""Score of a place for which there is no item."""


class PolicyState(NamedTuple):
    """What the policy head knows at every step, before it looks at the catalogue.

    Attributes:
        states: [..., D] vectors that are multiplied with the items'.
        log_gates: [..., 2] float32 log-probabilities of choosing from the catalogue and of copying.
        copy_weights: [..., T] float32 distribution over the session's events; zero where there is nothing to copy.
    """

    states: tf.Tensor
    log_gates: tf.Tensor
    copy_weights: tf.Tensor


class Ranking(NamedTuple):
    """The best items of M states.

    Attributes:
        item_id: [M, K] int32, best first; 0 where fewer than K items are left.
        score: [M, K] float32 log-probabilities, falling; `NOT_RANKED` where there is no item.
    """

    item_id: tf.Tensor
    score: tf.Tensor


class CatalogueScores(NamedTuple):
    """Scores of M states, the catalogue's and those that the session's own items have instead.

    Attributes:
        logits: Scores of items 1..N-1 as far as the catalogue goes.
        offset: [M, 1] what is added to all of them.
        own: [M, L] scores of the session's items, repetition included; each event of an item has the item's.
        repetition_pays: True where an own item's score is never below what the catalogue alone gives it.
    """

    logits: CatalogueLogits
    offset: tf.Tensor
    own: tf.Tensor
    repetition_pays: bool


def top_k(
    state: PolicyState,
    session: tf.Tensor,
    vectors: tf.Tensor,
    num_items: int,
    k: int,
    excluded: tf.Tensor | None = None,
    copies: bool = True,
) -> Ranking:
    """Ranks the whole catalogue under the mixture of catalogue and copy.

    Args:
        state: The head's state of M steps: vectors [M, D], gates [M, 2], copy weights [M, L].
        session: [M, L] int32 events that the copy weights belong to; padding and unknown items do not count.
        vectors: [N+1, D] scoring vectors by item id.
        num_items: N, padding included.
        k: K.
        excluded: [M, E] int32 items not to rank; padding excludes nothing.
        copies: False where the head has no copy part and the catalogue's softmax is over all items.

    Returns:
        The ranking by log-probability.
    """
    return best_of_catalogue(policy_scores(state, session, vectors, num_items, copies), session, num_items, k, excluded)


def policy_scores(state: PolicyState, session: tf.Tensor, vectors: tf.Tensor, num_items: int, copies: bool = True) -> CatalogueScores:
    """Log-probabilities under the mixture; arguments as in `top_k`."""
    logits = CatalogueLogits(state.states, vectors[1:num_items])
    if not copies:
        normaliser = state.log_gates[:, 0:1] - logits.logsumexp()
        return CatalogueScores(logits, normaliser, normaliser + logits.of_items(session, num_items), repetition_pays=True)
    # What is in the session has no part in the catalogue's softmax.
    own_logit = tf.where(is_own(session, num_items), logits.of_items(session, num_items), IMPOSSIBLE)
    normaliser = state.log_gates[:, 0:1] - logits.logsumexp(without=own_logit)
    copied = sum_by_item(session, state.copy_weights)
    log_copy = tf.where(copied > 0, state.log_gates[:, 1:2] + tf.math.log(tf.maximum(copied, TINY)), LEAST)
    return CatalogueScores(logits, normaliser, tf.maximum(log_copy, LEAST), repetition_pays=False)


def best_of_catalogue(scores: CatalogueScores, session: tf.Tensor, num_items: int, k: int, excluded: tf.Tensor | None = None) -> Ranking:
    """The best K of the catalogue and the session's own items.

    Args:
        scores: Of M states.
        session: [M, L] int32 events that `scores.own` belongs to; padding and unknown items do not count.
        num_items: N, padding included.
        k: K.
        excluded: [M, E] int32 items not to rank; padding excludes nothing.

    Returns:
        The ranking.
    """
    num_excluded = 0 if excluded is None else tf.shape(excluded)[1]
    # As many more as can be taken out again below.
    num_fallen = 0 if scores.repetition_pays else tf.shape(session)[1]
    best_logit, best_index = scores.logits.top_k(tf.minimum(k + num_excluded + num_fallen, num_items - 1))
    catalogue_id = best_index + 1
    from_catalogue = scores.offset + best_logit
    usable = is_own(session, num_items)

    # An item of the session stands once, with its own score.
    repeated = tf.reduce_any(tf.equal(catalogue_id[:, :, None], tf.where(usable, session, -1)[:, None, :]), axis=-1)
    ids = tf.concat([catalogue_id, session], axis=1)
    values = tf.concat([tf.where(repeated, NOT_RANKED, from_catalogue), tf.where(usable, scores.own, NOT_RANKED)], axis=1)
    if excluded is not None:
        banned = tf.reduce_any(tf.equal(ids[:, :, None], excluded[:, None, :]), axis=-1)
        values = tf.where(banned, NOT_RANKED, values)
    return best(ids, values, k)


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
    same = tf.cast(tf.equal(session[:, :, None], session[:, None, :]), tf.int32)
    first = tf.equal(tf.reduce_sum(tf.linalg.band_part(same, -1, 0), axis=-1), 1)
    return first & (session != PAD_ITEM_ID) & (session < num_items)
