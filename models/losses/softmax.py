"""Log-probability of the chosen item under a softmax over the catalogue, in full or from a sample."""

from __future__ import annotations

from models.frameworks import tf
from models.numerics import IMPOSSIBLE


def full_log_prob(states: tf.Tensor, table: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """log softmax(states . table)[target] over all items.

    Args:
        states: [B, T, D].
        table: [N-1, D] vectors of items 1..N-1.
        target: [B, T] int item ids; ids that are no item of the table give a value that must be masked out.

    Returns:
        [B, T] float32.
    """
    logits = tf.cast(tf.einsum("btd,nd->btn", states, table), tf.float32)
    label = tf.clip_by_value(target - 1, 0, tf.shape(table)[0] - 1)
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


def sampled_log_prob(
    states: tf.Tensor,
    target_vectors: tf.Tensor,
    target: tf.Tensor,
    negative_vectors: tf.Tensor,
    negatives: tf.Tensor,
    target_expected: tf.Tensor,
    negative_expected: tf.Tensor,
) -> tf.Tensor:
    """The same from negatives drawn once for the whole batch, corrected for how often each is drawn (logQ).

    Args:
        states: [B, T, D].
        target_vectors: [B, T, D] vectors of the targets.
        target: [B, T] int item ids.
        negative_vectors: [S, D] vectors of the negatives.
        negatives: [S] int item ids, drawn with replacement.
        target_expected: [B, T] expected number of draws of the target among the S.
        negative_expected: [S] expected number of draws of each negative.

    Returns:
        [B, T] float32; over many draws its exponential's normaliser is unbiased.

    References:
        Bengio and Senecal (2008); Yi et al. (2019), Sampling-bias-corrected neural modeling, eq. 3. The correction is
        TensorFlow Recommenders' layer; an accidental hit, a negative that is the target, is taken out for its row.
    """
    import tensorflow_recommenders as tfrs

    correct = tfrs.layers.loss.SamplingProbablityCorrection()
    positive = correct(tf.cast(tf.reduce_sum(states * target_vectors, axis=-1), tf.float32), target_expected)
    logits = correct(tf.cast(tf.einsum("btd,sd->bts", states, negative_vectors), tf.float32), negative_expected)
    hit = tf.equal(target[:, :, None], negatives[None, None, :])
    logits = tf.where(hit, IMPOSSIBLE, logits)
    normaliser = tf.reduce_logsumexp(tf.concat([positive[:, :, None], logits], axis=-1), axis=-1)
    return positive - normaliser
