"""Numbers that tell early whether value learning goes wrong."""

from __future__ import annotations

from models.frameworks import tf

Q_SCALE, Q_BOUND = "q_scale", "q_bound"


def value_health(
    logged: tf.Tensor,
    target: tf.Tensor,
    greatest: tf.Tensor,
    reward: tf.Tensor,
    mask: tf.Tensor,
    discount: float,
    frozen: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """What is logged beside the losses of a value method.

    Args:
        logged: [B, T, H] online values of the logged items.
        target: [B, T, H] what they were regressed on.
        greatest: [B, T, H] online value of the best item of the same states.
        reward: [B, T].
        mask: [B, T] 1 for steps that count.
        discount: Factor of one step.
        frozen: [B, T, H] value of those items under the target network; None where there is none.

    Returns:
        `q_mean` and `q_scale`, mean and mean size of the values; `td_error`, mean size of the error; `q_max`, mean of the greatest
        value, which runs away from `q_mean` where values of unseen items are over-estimated; `q_bound`, the greatest return that
        rewards of this size allow, which `q_scale` cannot pass while all is well; `target_drift`, mean distance
        between the two networks' values of the best items.
    """
    heads = tf.cast(tf.shape(logged)[-1], tf.float32)
    count = tf.maximum(tf.reduce_sum(mask), 1.0) * heads

    def mean(values: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(tf.reduce_sum(values * mask[..., None]) / count)

    steps = tf.cast(tf.shape(reward)[1], tf.float32)
    horizon = steps if discount >= 1.0 else tf.minimum(1.0 / (1.0 - discount), steps)
    drift = {} if frozen is None else {"target_drift": mean(tf.abs(greatest - frozen))}
    return {
        **drift,
        "q_mean": mean(logged),
        Q_SCALE: mean(tf.abs(logged)),
        "q_max": mean(greatest),
        "td_error": mean(tf.abs(tf.broadcast_to(target, tf.shape(logged)) - logged)),
        Q_BOUND: tf.reduce_max(tf.abs(reward)) * horizon,
    }
