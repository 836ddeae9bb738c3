"""Estimated rewards in the place of logged ones."""

from __future__ import annotations

from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.policy_gradient import discounted_sums
from models.rewards.base import RewardEstimator


def stabilised(batch: TrajectoryBatch, estimator: RewardEstimator, discount: float) -> TrajectoryBatch:
    """The batch with E[r_t | s_t, a_t] for every r_t, without gradient.

    Returns change by what the rewards of their record change, G_t + sum of discount^(k-t) (E[r_k] - r_k), so that what a long session
    earns after the record stays as it was logged.

    Args:
        batch: Logged trajectories.
        estimator: The estimate.
        discount: Factor of one step in `return_to_go`.

    Returns:
        All else as it was.

    References:
        Zhang et al. (2023), arXiv 2308.13246: the estimate takes the place of the reward wherever a learner consumes it. The variance
        of a target falls by that of the reward, and its bias is that of the estimate.
    """
    estimate = tf.stop_gradient(estimator.events(batch).mean)
    reward = tf.where(batch.is_step(), estimate, batch.reward)
    return batch._replace(reward=reward, return_to_go=batch.return_to_go + discounted_sums(reward - batch.reward, discount))
