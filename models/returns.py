"""Returns as a policy is conditioned on them: how large they are in the logs, and what is left of one after some rewards."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.module import Module

_LEAST_COUNT = 20
"""Returns from which a quantile is taken; steps with fewer have what the step before has."""

_FAR = 1e3
"""No return is further from zero than this many times the root mean square of all."""


class Returns(Module):
    """What is left of a return at every step.

    The rest of R_t after the reward r_t is R_{t+1} = (R_t - r_t) / discount, kept within what was logged or asked for. Where r_t is
    not known it is taken to be what leaves the return at its usual share: `share[t]` of the whole before event t.

    All variables come from the train split, through `fit`; before that returns are as they are and every share is 1.

    Attributes:
        scale: [1] root mean square of the returns of all steps; networks see returns divided by it.
        target: [1] return that is asked for when nobody says which.
        share: [T+1] quantile of the returns at each step as a part of that at the first.
        least: [1] least return of the log.
        greatest: [1] greatest return of the log.

    Args:
        max_steps: T.
        discount: Factor of one step in the returns.
    """

    def __init__(self, max_steps: int, discount: float):
        self._max_steps = max_steps
        self._discount = discount
        self.scale = _constant([1.0])
        self.target = _constant([1.0])
        self.share = _constant([1.0] * (max_steps + 1))
        self.least = _constant([0.0])
        self.greatest = _constant([1.0])

    def fit(self, batches: Iterable[TrajectoryBatch], quantile: float) -> None:
        """Reads the returns of all targets; without a target nothing changes.

        Args:
            batches: Trajectories of the train split.
            quantile: Quantile of the returns at the first step that becomes the target.
        """
        steps: list[npt.NDArray[np.int64]] = []
        returns: list[npt.NDArray[np.float32]] = []
        for batch in batches:
            rows, columns = np.nonzero(batch.is_target().numpy())
            steps.append(columns)
            returns.append(batch.return_to_go.numpy()[rows, columns])
        step, value = np.concatenate(steps or [np.zeros(0, np.int64)]), np.concatenate(returns or [np.zeros(0, np.float32)])
        if not len(value):
            return
        first = value[step == step.min()]
        target = float(np.quantile(first, quantile))
        at_step = [value[step == number] for number in range(self._max_steps + 1)]
        profile = [target]
        for values in at_step[1:]:
            profile.append(float(np.quantile(values, quantile)) if len(values) >= _LEAST_COUNT else profile[-1])
        self.scale.assign([float(np.sqrt(np.mean(np.square(value)))) or 1.0])
        self.target.assign([target])
        # Shares of nothing or of a loss say nothing.
        self.share.assign(np.array(profile) / target if target > 0 else np.ones(len(profile)))
        self.least.assign([float(value.min())])
        self.greatest.assign([float(value.max())])

    def scaled(self, returns: tf.Tensor) -> tf.Tensor:
        """Returns or rewards [...] as networks see them: whatever is asked for, a number that can be squared."""
        return tf.clip_by_value(returns / tf.stop_gradient(self.scale), -_FAR, _FAR)

    def unscaled(self, returns: tf.Tensor) -> tf.Tensor:
        """The way back."""
        return returns * tf.stop_gradient(self.scale)

    def start(self, target: tf.Tensor) -> tf.Tensor:
        """[B] return at the first step; `target` where it is a number, else the default."""
        return tf.where(tf.math.is_finite(target), target, self.target)

    def usual_reward(self, start: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Rewards of events, by their steps, that leave returns that began as `start` at their usual share; shapes broadcast."""
        share, next_share = tf.gather(self.share, step), tf.gather(self.share, step + 1)
        return start * (share - self._discount * next_share)

    def after(self, left: tf.Tensor, reward: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """[B] what is left after a reward; all are [B]."""
        return tf.clip_by_value((left - reward) / self._discount, self.least, tf.maximum(start, self.greatest))

    def along(self, start: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """What is left before every event and after the last one.

        Args:
            start: [B] return at the first step.
            reward: [B, T] rewards of the events, NaN where they are not known.

        Returns:
            [B, T+1].
        """
        usual = self.usual_reward(start[:, None], tf.range(tf.shape(reward)[1])[None, :])
        known = tf.where(tf.math.is_nan(reward), usual, reward)
        # One more than there are, because there may be none.
        known = tf.pad(known, [[0, 0], [0, 1]])
        rest = tf.scan(lambda left, now: self.after(left, now, start), tf.transpose(known), start)
        return tf.concat([start[:, None], tf.transpose(rest[:-1])], axis=1)


def _constant(values: list[float]) -> tf.Variable:
    return tf.Variable(values, dtype=tf.float32, trainable=False)
