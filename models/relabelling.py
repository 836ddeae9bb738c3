"""Returns that are raised to what a value function says could still have come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.frameworks import tf

Floats = npt.NDArray[np.float64]

NO_NEXT_STATE = -np.inf
"""Value after an event that ends its session: nothing can come any more, so nothing is raised."""


class Relabelled(NamedTuple):
    """Returns of E events.

    Attributes:
        returns: [E] float64.
        replaced: [E] True where the value of the next state took the place of what came after the event.
    """

    returns: Floats
    replaced: npt.NDArray[np.bool_]


def relabel(rewards: npt.NDArray[np.float32], next_values: Floats, lengths: npt.NDArray[np.int64], discount: float) -> Relabelled:
    """R_t = r_t + discount * max(R_{t+1}, V(s_{t+1})), from the end of every session to its beginning.

    After the last event there is nothing that the log knows of, R_{T+1} = 0. `NO_NEXT_STATE` there gives R_T = r_T, as in the paper;
    a session that the log cut off has a next state, and what it is worth counts.

    Args:
        rewards: [E] rewards of whole sessions, one after the other.
        next_values: [E] V of the state after each event, in the same discount.
        lengths: [S] events of each session; they sum to E.
        discount: Factor of one step, 0 to 1.

    Returns:
        What came out, accumulated in float64.

    References:
        Yamagata et al. (2023), Q-learning Decision Transformer, algorithm 1; Chen et al. (2024), EDT4Rec, algorithm 1, which replaces a
        return only where the lower bound of the value is above it: the same maximum.
    """
    after = np.zeros(len(rewards), np.float64)
    returns = np.zeros(len(rewards), np.float64)
    ends = np.cumsum(lengths)
    # Longest first, so that the sessions which still have a k-th event from the end are a prefix.
    order = np.argsort(-lengths, kind="stable")
    last, ordered = ends[order] - 1, lengths[order]
    alive = int(np.searchsorted(-ordered, 0, side="left"))
    for back in range(int(lengths.max()) if len(lengths) else 0):
        alive = int(np.searchsorted(-ordered[:alive], -back, side="left"))
        step = last[:alive] - back
        if back:
            after[step] = returns[step + 1]
        returns[step] = rewards[step] + discount * np.maximum(after[step], next_values[step])
    return Relabelled(returns, next_values > after)


def returns_of_windows(reward: tf.Tensor, return_to_go: tf.Tensor, length: tf.Tensor, discount: float) -> tf.Tensor:
    """Returns that agree with the rewards before the end of a window: R_e is kept at its last step e, and R_t = r_t + discount * R_{t+1}.

    Relabelled returns fall by more than the reward wherever a value took the place of what came; a policy that is told what is left
    of a return never sees that, so it must not see it in training.

    Args:
        reward: [B, T].
        return_to_go: [B, T].
        length: [B] steps of each window, at least 1.
        discount: Factor of one step.

    Returns:
        [B, T], 0 after the last step. Returns that agree already stay as they are.

    References:
        Yamagata et al. (2023), algorithm 1, the second loop; Chen et al. (2024), algorithm 1, step 2.
    """
    steps = tf.range(tf.shape(reward)[1])
    is_last = tf.equal(steps[None, :], length[:, None] - 1)
    is_earlier = steps[None, :] < length[:, None] - 1
    paid = tf.where(is_last, return_to_go, tf.where(is_earlier, reward, 0.0))
    distance = steps[:, None] - steps[None, :]
    factor = tf.where(distance >= 0, tf.pow(tf.cast(discount, reward.dtype), tf.cast(tf.maximum(distance, 0), reward.dtype)), 0.0)
    return tf.where(is_last | is_earlier, tf.matmul(paid, factor), 0.0)
