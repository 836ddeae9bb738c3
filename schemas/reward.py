"""How feedback becomes a reward."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.config import Config

Role = Literal["click", "purchase"]


class FeedbackRule(Config):
    """What one event name of a log means."""

    role: Role
    """The role the event plays in training and in metrics."""
    reward: float
    """Reward of one such event, unless the dataset names a reward column."""


CLICK = FeedbackRule(role="click", reward=0.2)
PURCHASE = FeedbackRule(role="purchase", reward=1.0)
"""Xin et al. (2020) and Xin et al. (2022) reward a purchase five times as much as a click."""


def discounted_returns(rewards: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], discount: float) -> npt.NDArray[np.float32]:
    """Returns-to-go of concatenated sequences: G_t = r_t + discount * G_{t+1}, zero after the last step.

    Args:
        rewards: [E] rewards of all sequences, one after the other.
        lengths: [S] steps of each sequence; they sum to E.
        discount: Factor of one step, 0 to 1.

    Returns:
        [E] float32 returns, accumulated in float64.
    """
    returns = rewards.astype(np.float64)
    if discount == 0.0 or not len(lengths):
        return returns.astype(np.float32)
    ends = np.cumsum(lengths)
    # Longest first, so that the sequences which still have a k-th step from the end are a prefix.
    order = np.argsort(-lengths, kind="stable")
    last, ordered = ends[order] - 1, lengths[order]
    alive = len(ordered)
    for back in range(1, int(lengths.max())):
        alive = int(np.searchsorted(-ordered[:alive], -back, side="left"))
        step = last[:alive] - back
        returns[step] += discount * returns[step + 1]
    return returns.astype(np.float32)
