"""Contrastive losses."""

from __future__ import annotations

from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY


def info_nce(predicted: tf.Tensor, positive: tf.Tensor, instead: tf.Tensor, usable: tf.Tensor, temperature: float) -> tf.Tensor:
    """-log of the share that the prediction for what happened has among predictions for what did not.

    Args:
        predicted: [B, T, D] prediction from what happened.
        positive: [B, T, D] what it should be like.
        instead: [B, T, S, D] predictions from what did not happen.
        usable: [B, T, S] how much each negative counts in the sum; 0 where it is what happened.
        temperature: Divides the cosines.

    Returns:
        [B, T] float32.

    References:
        van den Oord et al. (2018), eq. 4, with cosine similarity.
    """
    wanted = tf.math.l2_normalize(tf.cast(positive, tf.float32), axis=-1)
    right = tf.reduce_sum(tf.math.l2_normalize(tf.cast(predicted, tf.float32), axis=-1) * wanted, axis=-1)
    wrong = tf.reduce_sum(tf.math.l2_normalize(tf.cast(instead, tf.float32), axis=-1) * wanted[:, :, None], axis=-1)
    wrong = tf.where(usable > 0, wrong / temperature + tf.math.log(tf.maximum(usable, TINY)), IMPOSSIBLE)
    right = right[..., None] / temperature
    return tf.reduce_logsumexp(tf.concat([right, wrong], axis=-1), axis=-1) - right[..., 0]
