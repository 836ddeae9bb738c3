"""A batch of trajectories as tensors."""

from __future__ import annotations

from typing import NamedTuple

from models.frameworks import tf


class TrajectoryBatch(NamedTuple):
    """B records padded on the right to T steps.

    Attributes:
        item_id: [B, T] int32, 0 for padding.
        feedback: [B, T] int32 role.
        reward: [B, T] float32.
        return_to_go: [B, T] float32.
        length: [B] int32 steps of each record.
        num_context: [B] int32 leading steps that are no targets.
        is_terminal: [B] float32, 1 where the last step ends the session.
        session: [B] int64 hash of user and session, the same for all records of a session.
        user: [B] int64 hash of the user, the same for all sessions of theirs; 0 where sessions are not of a log.
    """

    item_id: tf.Tensor
    feedback: tf.Tensor
    reward: tf.Tensor
    return_to_go: tf.Tensor
    length: tf.Tensor
    num_context: tf.Tensor
    is_terminal: tf.Tensor
    session: tf.Tensor
    user: tf.Tensor

    def is_step(self) -> tf.Tensor:
        """[B, T] True for steps, False for padding."""
        return tf.range(tf.shape(self.item_id)[1])[None, :] < self.length[:, None]

    def is_target(self) -> tf.Tensor:
        """[B, T] True for the steps that are targets."""
        step = tf.range(tf.shape(self.item_id)[1])[None, :]
        return (step >= self.num_context[:, None]) & self.is_step()

    def done(self) -> tf.Tensor:
        """[B, T] float32, 1 at the step that ends its session."""
        step = tf.range(tf.shape(self.item_id)[1])[None, :]
        return tf.cast(step == self.length[:, None] - 1, tf.float32) * self.is_terminal[:, None]
