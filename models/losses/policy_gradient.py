"""Pieces of off-policy corrected policy gradients; all without gradient."""

from __future__ import annotations

from models.frameworks import tf


def discounted_sums(reward: tf.Tensor, discount: float) -> tf.Tensor:
    """G_t = sum over k >= t of discount^(k-t) * r_k, within the record: [B, T] -> [B, T]."""
    step = tf.range(tf.shape(reward)[1])
    ahead = step[:, None] - step[None, :]  # [k, t]
    factor = tf.where(ahead >= 0, tf.pow(tf.constant(discount, tf.float32), tf.cast(tf.maximum(ahead, 0), tf.float32)), 0.0)
    return tf.matmul(reward, factor)


def importance_weights(log_prob: tf.Tensor, log_behaviour: tf.Tensor, mask: tf.Tensor, cap: float, self_normalised: bool) -> tf.Tensor:
    """min(pi / beta, cap), or that divided by its mean over the steps that count.

    Args:
        log_prob: [B, T] log-probability of the logged items under the policy.
        log_behaviour: [B, T] the same under the behaviour.
        mask: [B, T] 1 for steps that count.
        cap: Greatest weight.
        self_normalised: True divides by the mean.

    Returns:
        [B, T].
    """
    weight = tf.minimum(tf.exp(tf.minimum(tf.stop_gradient(log_prob - log_behaviour), 50.0)), cap)
    if not self_normalised:
        return weight
    mean = tf.reduce_sum(weight * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)
    return weight / tf.maximum(mean, 1e-6)


def top_k_multiplier(log_prob: tf.Tensor, k: int) -> tf.Tensor:
    """K (1 - pi)^(K-1): how fast the chance to be among K draws grows with pi.

    About K for a rare item, and 0 for one that is sure to be drawn.

    References:
        Chen et al. (2019), eq. 6.
    """
    missing = 1.0 - tf.minimum(tf.exp(tf.stop_gradient(log_prob)), 1.0)
    return float(k) * tf.pow(missing, float(k - 1))
