"""Temporal-difference targets and losses for every step of a sequence, for one value or several heads of it."""

from __future__ import annotations

from models.frameworks import tf


def bootstrap(reward: tf.Tensor, done: tf.Tensor, discount: float, next_value: tf.Tensor) -> tf.Tensor:
    """r + discount * (1 - done) * V(s'), without gradient.

    Args:
        reward: [B, T].
        done: [B, T], 1 where the step ends its session.
        discount: Factor of one step.
        next_value: [B, T] or [B, T, H] value of the next state.

    Returns:
        Targets in the shape of `next_value`.
    """
    if next_value.shape.rank == 3:
        reward, done = reward[..., None], done[..., None]
    return tf.stop_gradient(reward + discount * (1.0 - done) * next_value)


def double_q_value(online: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Q_target(s, argmax_a Q_online(s, a)).

    Args:
        online: [..., A] values of a state's candidates under the network that chooses.
        target: [..., A] values of the same candidates under the network that evaluates.

    Returns:
        [...].

    References:
        van Hasselt et al. (2016), eq. 4.
    """
    chosen = tf.argmax(online, axis=-1, output_type=tf.int32)
    return tf.gather(target, chosen, axis=-1, batch_dims=online.shape.rank - 1)


def squared_td(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Half the squared difference to a target that gets no gradient, in their shape.

    The half is part of the published losses of the SQN family, and decides the weight against their cross-entropy.
    """
    return 0.5 * tf.square(tf.stop_gradient(target) - value)


def huber_td(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Half the squared difference up to 1, linear beyond, to a target that gets no gradient, in their shape.

    References:
        Mnih et al. (2015), the clipped error of DQN.
    """
    size = tf.abs(tf.stop_gradient(target) - value)
    return tf.where(size <= 1.0, 0.5 * tf.square(size), size - 0.5)
