"""Log-probability of the chosen item under a softmax over the catalogue, in full or from a sample."""

from __future__ import annotations

from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY


def full_log_prob(states: tf.Tensor, table: tf.Tensor, target: tf.Tensor, left_out: tf.Tensor | None = None) -> tf.Tensor:
    """log softmax(states . table)[target] over all items.

    Args:
        states: [B, T, D].
        table: [N-1, D] vectors of items 1..N-1.
        target: [B, T] int item ids; ids that are no item of the table give a value that must be masked out.
        left_out: [B, T, N-1] True for items without probability.

    Returns:
        [B, T] float32.
    """
    logits = tf.cast(tf.einsum("btd,nd->btn", states, table), tf.float32)
    if left_out is not None:
        logits = tf.where(left_out, IMPOSSIBLE, logits)
    label = tf.clip_by_value(target - 1, 0, tf.shape(table)[0] - 1)
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


def sampled_log_prob(
    states: tf.Tensor,
    target_vectors: tf.Tensor,
    target: tf.Tensor,
    negative_vectors: tf.Tensor,
    negatives: tf.Tensor,
    negative_expected: tf.Tensor,
    left_out: tf.Tensor | None = None,
) -> tf.Tensor:
    """The same from negatives drawn once for the whole batch, corrected for how often each is drawn (logQ).

    Args:
        states: [B, T, D].
        target_vectors: [B, T, D] vectors of the targets.
        target: [B, T] int item ids.
        negative_vectors: [S, D] vectors of the negatives.
        negatives: [S] int item ids, drawn with replacement.
        negative_expected: [S] expected number of draws of each negative among the S.
        left_out: [B, T, S] True for negatives without probability.

    Returns:
        [B, T] float32. exp(logit - value) estimates the sum of exp(logit) over the catalogue without bias.

    References:
        Bengio and Senecal (2008); Yi et al. (2019), Sampling-bias-corrected neural modeling, eq. 3. The correction is
        TensorFlow Recommenders' layer. The target is in the sum whatever is drawn, so its own logit is not corrected, and an
        accidental hit, a negative that is the target, is taken out for its row.
    """
    import tensorflow_recommenders as tfrs

    # The layer clips what it is given at 1, and popular items are drawn more often than once.
    most = tf.maximum(tf.reduce_max(negative_expected), TINY)
    correct = tfrs.layers.loss.SamplingProbablityCorrection()
    positive = tf.cast(tf.reduce_sum(states * target_vectors, axis=-1), tf.float32)
    logits = tf.cast(tf.einsum("btd,sd->bts", states, negative_vectors), tf.float32)
    logits = correct(logits, negative_expected / most) - tf.math.log(most)
    hit = tf.equal(target[:, :, None], negatives[None, None, :])
    if left_out is not None:
        hit |= left_out
    logits = tf.where(hit, IMPOSSIBLE, logits)
    normaliser = tf.reduce_logsumexp(tf.concat([positive[:, :, None], logits], axis=-1), axis=-1)
    return positive - normaliser
