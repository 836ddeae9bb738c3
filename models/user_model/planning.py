"""What a plan is made for: the reward that a learned model of users promises, less what it does not know."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.frameworks import tf
from models.rewards.outcomes import Prediction
from models.user_model.model import Situation, UserModel, entropy_of
from schemas.config import Config


class PlanningConfig(Config):
    """The reward in a learned world."""

    variant: Literal["mbpo", "ips", "mopo", "dorl"] = "mopo"
    """mbpo: the expected reward. ips: the same, of a model whose training was debiased. mopo: less a penalty for what the model does not
    know. dorl: and more where the logs tried many items, against the narrowness that the penalty brings."""
    penalty: float = pydantic.Field(default=0.05, ge=0.0)
    """Of mopo and dorl, times the uncertainty."""
    uncertainty: Literal["doubt", "total"] = "doubt"
    """doubt: standard deviation of the members' means. total: variance of the reward, its own noise included."""
    entropy_weight: float = pydantic.Field(default=0.05, ge=0.0)
    """Of dorl, times the entropy in nats of what the logs show next."""
    least_reward: float = 0.0
    """Is taken off every reward, so that to go on is never punished; below 0 where a penalty can be greater than a reward."""

    @property
    def needs_entropy(self) -> bool:
        """True where the behaviour's entropy counts."""
        return self.variant == "dorl"


def uncertainty_of(prediction: Prediction, kind: Literal["doubt", "total"]) -> tf.Tensor:
    """[...] what the model does not know of a reward."""
    if kind == "doubt":
        return prediction.doubt
    # An estimator that does not learn the noise says NaN of it.
    noise = tf.where(tf.math.is_nan(prediction.noise), 0.0, prediction.noise)
    return tf.square(noise) + tf.square(prediction.doubt)


def planned_reward_in(model: UserModel, situation: Situation, prediction: Prediction, config: PlanningConfig, top: int) -> tf.Tensor:
    """[B] `planned_reward` of items in situations, with the entropy of what the model expects the logs to show there.

    Args:
        model: Of the users.
        situation: [B] what users did.
        prediction: [B] of the items' rewards.
        config: Which.
        top: Items of which the entropy is taken, where it counts.
    """
    entropy = entropy_of(model.what_comes(situation, top)) if config.needs_entropy else tf.zeros_like(prediction.mean)
    return planned_reward(prediction, entropy, config)


def planned_reward(prediction: Prediction, entropy: tf.Tensor, config: PlanningConfig) -> tf.Tensor:
    """The reward of items in states.

    Deviation from the published codes: they take the greatest variance among the members, we the variance of all of them together, or
    the deviation of their means, because the noise that a click has in itself is nothing to be careful about.

    Args:
        prediction: [...] of their rewards.
        entropy: [...] of the behaviour in these states; counts in dorl alone.
        config: Which.

    Returns:
        [...]

    References:
        Janner et al. (2019), MBPO; Yu et al. (2020), MOPO, eq. 3; Gao et al. (2023), Alleviating Matthew Effect of Offline Reinforcement
        Learning in Interactive Recommendation (DORL), eq. 9.
    """
    reward = prediction.mean - config.least_reward
    if config.variant in ("mopo", "dorl"):
        reward -= config.penalty * uncertainty_of(prediction, config.uncertainty)
    if config.variant == "dorl":
        reward += config.entropy_weight * entropy
    return reward
