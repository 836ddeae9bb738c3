"""Users learned from logs: an ensemble that says what an item earns, a policy that says what is shown next, and a chance to leave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pydantic

from models.algorithms.base import Catalogue, NetworkConfig
from models.algorithms.bc import BC, BCConfig
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.learner import Learner, StepLosses
from models.ranking import Ranking
from models.rewards.base import Features, RewardEstimator
from models.rewards.deepfm import DeepFMConfig
from models.rewards.fm import FMConfig
from models.rewards.outcomes import Prediction
from models.rewards.registry import PlainEstimator, create_estimator
from models.user_model.debiasing import Debiasing, debiased, doubly_robust, target_weights
from schemas.config import Config
from schemas.interaction import FEEDBACK_ROLES
from schemas.reward import CLICK, PURCHASE

_PURPOSE_DRAWN, _PURPOSE_NEGATIVE = 15_485_863, 32_452_843


class UserModelConfig(Config):
    """The three models, and how the first one is kept from learning what the logs preferred."""

    rewards: PlainEstimator = DeepFMConfig(width=8, hidden=(128, 128), outcome="continuous", has_variance=True, members=5)
    """What an item earns; of a continuous reward. Its members' disagreement is the doubt that plans are careful about."""
    behaviour: NetworkConfig = NetworkConfig()
    """Networks of what comes next in the logs."""
    leaving: PlainEstimator = DeepFMConfig(width=8, hidden=(64,), outcome="binary")
    """Whether an event is a session's last; of a binary outcome."""
    debiasing: Debiasing = "none"
    """none: as logged. ips, snips, dr: as if items had been shown evenly; see `models.user_model.debiasing`."""
    min_propensity: float = pydantic.Field(default=0.01, gt=0.0, le=1.0)
    """Probabilities of the behaviour below it count as it."""
    imputation: PlainEstimator = FMConfig(width=8, outcome="continuous")
    """Of dr: what events that were not logged might have earned, learned as logged."""
    num_negatives: int = pydantic.Field(default=1, ge=0)
    """Items drawn evenly beside every event, which count as events that earned nothing: logs do not say what was passed."""
    negative_weight: float = pydantic.Field(default=1.0, ge=0.0)
    """Of their loss."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> UserModelConfig:
        for name, wanted in (("rewards", "continuous"), ("imputation", "continuous"), ("leaving", "binary")):
            found = getattr(self, name).outcome
            if found != wanted:
                raise ValueError(f"{name}.outcome: expected {wanted}, found {found}")
        return self


class Situation(NamedTuple):
    """B sessions as far as they have come.

    Attributes:
        item_id: [B, T] int32 events, 0 behind the last one.
        feedback: [B, T] int32 their roles.
        length: [B] int32 events of each.
    """

    item_id: tf.Tensor
    feedback: tf.Tensor
    length: tf.Tensor

    def features(self) -> Features:
        """As estimators take it."""
        return Features(self.item_id, self.feedback)


class Answer(NamedTuple):
    """What the model says of an item in each of B situations.

    Attributes:
        reward: The expected reward and what is not known of it, [B].
        feedback: [B] int32 the role of an event with that reward: the one whose usual reward is nearer.
        leaving: [B] probability that the session ends with the event.
    """

    reward: Prediction
    feedback: tf.Tensor
    leaving: tf.Tensor


class UserModel(Learner):
    """The three models, trained together on the same batches; they share nothing.

    Rewards: (r - f)^2, or its Gaussian likelihood, of logged events, debiased, and f^2 of items that were not. Behaviour: behaviour
    cloning. Leaving: the cross entropy of whether an event was its session's last.

    References:
        Gao et al. (2023), EasyRL4Rec and DORL, for ensembles of DeepFM (Guo et al., 2017) with Gaussian outputs and the loss of a pair of
        an observed and an unobserved item. Chen et al. (2019), Top-K Off-Policy Correction, for propensities of a learned behaviour.

    Args:
        config: What it is.
        catalogue: The items.
        seed: Seed of what is drawn.
    """

    def __init__(self, config: UserModelConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(catalogue.max_steps, seed)
        self._config = config
        self._catalogue = catalogue
        self.rewards = create_estimator(config.rewards, catalogue, seed)
        self.leaving = create_estimator(config.leaving, catalogue, seed + 1)
        self.imputation: RewardEstimator | None = None
        if config.debiasing == "dr":
            self.imputation = create_estimator(config.imputation, catalogue, seed + 2)
        self.behaviour = BC(BCConfig(), config.behaviour, catalogue, seed)
        self.behaviour.build()

    @property
    def config(self) -> UserModelConfig:
        """What the model is."""
        return self._config

    @property
    def catalogue(self) -> Catalogue:
        """The items it was built for."""
        return self._catalogue

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        for part, own in ((self.rewards, seed), (self.leaving, seed + 1), (self.imputation, seed + 2), (self.behaviour, seed)):
            if part is not None:
                part.reseed(own)

    # === Learning ===

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        self.rewards.adapt(batches)
        if self.imputation is not None:
            self.imputation.adapt(batches)
        self.leaving.adapt(map(as_leaving, batches))

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        mask = self.behaviour.target_mask(batch)
        next_item = self.behaviour.losses(batch, step, training).parts["cross_entropy"]
        leaving = self.leaving.losses(as_leaving(batch), step, training).parts[self.leaving.outcome.loss_name]
        parts = {"next_item": next_item, "rewards": self._reward_losses(batch, step, -next_item, mask, training)}
        # These know their shares of the events.
        of_parts = {"leaving": leaving}
        if self.imputation is not None:
            of_parts["imputation"] = self.imputation.losses(batch, step, training).parts[self.imputation.outcome.loss_name]
        if self._config.num_negatives and self._config.negative_weight:
            parts["negatives"] = self._config.negative_weight * self._negative_losses(batch, step, training)
        if training:
            parts = {name: losses * self.rewards.share.of(mask) for name, losses in parts.items()}
        return StepLosses({**parts, **of_parts}, mask)

    def _reward_losses(
        self, batch: TrajectoryBatch, step: tf.Tensor, log_behaviour: tf.Tensor, mask: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """[B, T] of logged events."""
        config = self._config
        logged = self._losses_of(batch, batch.item_id[..., None], batch.reward[..., None], training)[..., 0]
        if config.debiasing == "none":
            return logged
        weight = target_weights(log_behaviour, self._catalogue.num_items - 1, config.min_propensity)
        if config.debiasing != "dr":
            return debiased(config.debiasing, logged, weight, mask)
        assert self.imputation is not None
        drawn = self._drawn(batch, step, 1, _PURPOSE_DRAWN)
        both = tf.concat([batch.item_id[..., None], drawn], axis=-1)
        imputed = tf.stop_gradient(self.imputation.candidates(batch, both).mean)
        found = self._losses_of(batch, both, imputed, training)
        return doubly_robust(logged, found[..., 0], found[..., 1], weight)

    def _negative_losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, T] sums over the items that stand for what was passed."""
        drawn = self._drawn(batch, step, self._config.num_negatives, _PURPOSE_NEGATIVE)
        others = tf.cast(tf.not_equal(drawn, batch.item_id[..., None]), tf.float32)
        losses = self._losses_of(batch, drawn, tf.zeros(tf.shape(drawn)), training) * others
        return tf.reduce_sum(losses, axis=-1)

    def _drawn(self, batch: TrajectoryBatch, step: tf.Tensor, count: int, purpose: int) -> tf.Tensor:
        """[B, T, A] items drawn evenly."""
        shape = tf.concat([tf.shape(batch.item_id), [count]], axis=0)
        return tf.random.stateless_uniform(shape, self._seed.key(step, purpose), 1, self._catalogue.num_items, tf.int32)

    def _losses_of(self, batch: TrajectoryBatch, items: tf.Tensor, label: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, T, A] losses of rewards [B, T, A] of items [B, T, A] in the place of every event."""
        return self.rewards.candidate_losses(batch, items, label, training)

    # === Answers ===

    def answer(self, situation: Situation, item: tf.Tensor) -> Answer:
        """What comes of showing items [B] in B situations."""
        features = situation.features()
        reward = self.rewards.pairs(features, situation.length, item)
        leaving = self.leaving.pairs(features, situation.length, item).probability[:, 1]
        return Answer(reward, usual_role(reward.mean), leaving)

    def what_comes(self, situation: Situation, k: int) -> Ranking:
        """The K items that the logs show most after B situations, with their log-probabilities."""
        states = self.behaviour.final_states(situation.item_id, situation.length)
        return self.behaviour.rank(states, situation.item_id, min(k, self._catalogue.num_items - 1))


def as_leaving(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The batch with 1 as the reward of every event that ended its session, and 0 for the others."""
    return batch._replace(reward=batch.done())


def usual_role(reward: tf.Tensor) -> tf.Tensor:
    """The role whose usual reward is nearest: [...] -> [...] int32."""
    levels = tf.constant([{"click": CLICK.reward, "purchase": PURCHASE.reward}[role] for role in FEEDBACK_ROLES], tf.float32)
    return tf.argmin(tf.abs(reward[..., None] - levels), axis=-1, output_type=tf.int32)


def entropy_of(ranking: Ranking) -> tf.Tensor:
    """[B] entropy in nats of a policy, from the best K items; what is left after them counts as one more item.

    It is exact where K is the whole catalogue, and else a lower bound of the entropy.
    """
    probability = tf.exp(tf.minimum(ranking.score, 0.0))
    rest = tf.maximum(1.0 - tf.reduce_sum(probability, axis=1, keepdims=True), 0.0)
    every = tf.concat([probability, rest], axis=1)
    return -tf.reduce_sum(tf.math.xlogy(every, every), axis=1)
