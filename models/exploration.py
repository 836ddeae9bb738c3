"""Rankings with chance in them, so that what is logged says something about other policies."""

from __future__ import annotations

from typing import NamedTuple

from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY

_BUCKETS = 1 << 23
"""Values of a uniform number; as many as a float32 tells apart below 1."""
_LEAST_TEMPERATURE, _GREATEST_TEMPERATURE = 1e-3, 1e3


class Explored(NamedTuple):
    """An order of K items with chance.

    Attributes:
        place: [M, K] int32 where each item of the order stood before.
        propensity: [M, K] float32 probability of each item to stand where it does, given those before it; 0 for no item.
    """

    place: tf.Tensor
    propensity: tf.Tensor


def explored(score: tf.Tensor, is_item: tf.Tensor, temperature: tf.Tensor, epsilon: tf.Tensor, uniform: tf.Tensor) -> Explored:
    """Draws items one after the other, without putting them back: a Plackett-Luce model with these weights.

        weight = (1 - epsilon) * softmax(score / temperature) + epsilon / count

    The first item is a draw from the softmax with a uniform share; its propensity is that of a policy that shows one item. The
    order is that of log(weight) with Gumbel noise.

    Args:
        score: [M, K] logarithms, or values.
        is_item: [M, K] False for empty places, which come last.
        temperature: [M] what scores are divided by, kept within 0.001 and 1000; what is no number is 1.
        epsilon: [M] share of the uniform distribution, kept within 0 and 1; what is no number is 0.
        uniform: [M, K] numbers between 0 and 1, both excluded.

    Returns:
        The order.

    References:
        Plackett (1975), The Analysis of Permutations; Kool et al. (2019), Stochastic Beams and Where to Find Them, section 2.3.
    """
    temperature = tf.where(tf.math.is_finite(temperature), temperature, 1.0)
    temperature = tf.clip_by_value(temperature, _LEAST_TEMPERATURE, _GREATEST_TEMPERATURE)[:, None]
    epsilon = tf.clip_by_value(tf.where(tf.math.is_finite(epsilon), epsilon, 0.0), 0.0, 1.0)[:, None]
    log_share = tf.nn.log_softmax(tf.where(is_item, score / temperature, IMPOSSIBLE))
    count = tf.reduce_sum(tf.cast(is_item, tf.float32), axis=1, keepdims=True)
    parts = [_log(1.0 - epsilon) + log_share, tf.broadcast_to(_log(epsilon) - _log(count), tf.shape(log_share))]
    log_weight = tf.where(is_item, tf.reduce_logsumexp(tf.stack(parts), axis=0), IMPOSSIBLE)
    noisy = tf.where(is_item, log_weight - tf.math.log(-tf.math.log(uniform)), IMPOSSIBLE)
    place = tf.argsort(noisy, axis=1, direction="DESCENDING", stable=True)
    log_weight, is_item = tf.gather(log_weight, place, batch_dims=1), tf.gather(is_item, place, batch_dims=1)
    # Those that are left when an item is drawn: itself and those behind it.
    left = tf.math.cumulative_logsumexp(log_weight, axis=1, reverse=True)
    return Explored(place, tf.where(is_item, tf.minimum(tf.exp(log_weight - left), 1.0), 0.0))


def _log(share: tf.Tensor) -> tf.Tensor:
    return tf.where(share > 0.0, tf.math.log(tf.maximum(share, TINY)), IMPOSSIBLE)


def uniform_of(text: tf.Tensor, width: int) -> tf.Tensor:
    """[M, width] numbers between 0 and 1, the same for the same text [M] wherever and whenever it is asked for."""
    shape = [tf.shape(text)[0], width]
    parts = [tf.broadcast_to(text[:, None], shape), tf.broadcast_to(tf.strings.as_string(tf.range(width))[None, :], shape)]
    bucket = tf.strings.to_hash_bucket_fast(tf.strings.join(parts, "\x1f"), _BUCKETS)
    return (tf.cast(bucket, tf.float32) + 0.5) / _BUCKETS
