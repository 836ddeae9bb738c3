"""Temporal-difference losses for every step of a sequence."""

from __future__ import annotations

from models.frameworks import tf


def double_q_target(reward: tf.Tensor, done: tf.Tensor, discount: float, next_online: tf.Tensor, next_target: tf.Tensor) -> tf.Tensor:
    """r + discount * (1 - done) * Q_target(s', argmax_a Q_online(s', a)).

    Args:
        reward: [B, T].
        done: [B, T], 1 where the step ends its session.
        discount: Factor of one step.
        next_online: [B, T, A] values of the next state's candidates under the network that chooses.
        next_target: [B, T, A] values of the same candidates under the network that evaluates.

    Returns:
        [B, T] targets, without gradient.

    References:
        van Hasselt et al. (2016), eq. 4.
    """
    chosen = tf.argmax(next_online, axis=-1, output_type=tf.int32)
    value = tf.gather(next_target, chosen, axis=-1, batch_dims=2)
    return tf.stop_gradient(reward + discount * (1.0 - done) * value)


def squared_td(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Half the squared difference to a target that gets no gradient, [B, T].

    The half is part of the published losses of the SQN family, and decides the weight against their cross-entropy.
    """
    return 0.5 * tf.square(tf.stop_gradient(target) - value)
