"""The best items of a policy, exactly, without scoring the mixture over the whole catalogue.

An item outside the session gets its probability from the catalogue part alone, so the best K of them are the K with the
greatest catalogue logits. The best K of the mixture are therefore among those and the session's own items.

Ties: the lower id first, which is the more popular item.
"""

from __future__ import annotations

from typing import NamedTuple

from models.catalogue import CatalogueLogits
from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY
from schemas.trajectory import PAD_ITEM_ID

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


def top_k(state: PolicyState, session: tf.Tensor, vectors: tf.Tensor, num_items: int, k: int, excluded: tf.Tensor | None = None) -> Ranking:
    """Ranks the whole catalogue under the mixture of catalogue and copy.

    Args:
        state: The head's state of M steps: vectors [M, D], gates [M, 2], copy weights [M, L].
        session: [M, L] int32 events that the copy weights belong to; padding and unknown items do not count.
        vectors: [N+1, D] scoring vectors by item id.
        num_items: N, padding included.
        k: K.
        excluded: [M, E] int32 items not to rank; padding excludes nothing.

    Returns:
        The ranking.
    """
    num_excluded = 0 if excluded is None else tf.shape(excluded)[1]
    logits = CatalogueLogits(state.states, vectors[1:num_items])
    normaliser = state.log_gates[:, 0:1] - logits.logsumexp()
    # As many more as can be taken out again below.
    best_logit, best_index = logits.top_k(tf.minimum(k + num_excluded, num_items - 1))
    catalogue_id = best_index + 1
    from_catalogue = normaliser + best_logit

    copied, first = _by_item(session, state.copy_weights)
    usable = first & (session != PAD_ITEM_ID) & (session < num_items)
    own_logit = logits.at(tf.clip_by_value(session - 1, 0, num_items - 2))
    log_copy = state.log_gates[:, 1:2] + tf.math.log(tf.maximum(copied, TINY))
    own = tf.reduce_logsumexp(tf.stack([normaliser + own_logit, tf.where(copied > 0, log_copy, NOT_RANKED)], axis=-1), axis=-1)

    # An item of the session stands once, with both its parts.
    repeated = tf.reduce_any(tf.equal(catalogue_id[:, :, None], tf.where(usable, session, -1)[:, None, :]), axis=-1)
    ids = tf.concat([catalogue_id, session], axis=1)
    scores = tf.concat([tf.where(repeated, NOT_RANKED, from_catalogue), tf.where(usable, own, NOT_RANKED)], axis=1)
    if excluded is not None:
        banned = tf.reduce_any(tf.equal(ids[:, :, None], excluded[:, None, :]), axis=-1)
        scores = tf.where(banned, NOT_RANKED, scores)
    return best(ids, scores, k)


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


def _by_item(session: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum of the weights of each event's item [M, L], and whether the event is the item's first [M, L]."""
    same = tf.equal(session[:, :, None], session[:, None, :])
    total = tf.reduce_sum(tf.where(same, weights[:, None, :], 0.0), axis=-1)
    earlier = tf.linalg.band_part(tf.cast(same, tf.int32), -1, 0)
    return total, tf.equal(tf.reduce_sum(earlier, axis=-1), 1)
