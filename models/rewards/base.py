"""What a reward estimator is: networks on a history and an item, and the reward that their outputs stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from models.algorithms.base import Catalogue
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.learner import EventShare, Learner, StepLosses
from models.module import Module
from models.rewards.fields import Fields, Numbers, Query
from models.rewards.outcomes import OUTCOMES, Outcome, OutcomeName, Prediction
from schemas.config import Config


class EstimatorConfig(Config):
    """Base of the configurations of all estimators; `name` tells them apart."""

    width: int = pydantic.Field(default=32, ge=1)
    """D, of the vectors of items and other fields."""
    outcome: OutcomeName = "role"
    """What is learned: the feedback's role, whether the reward passes `threshold`, or the reward itself."""
    threshold: float = 0.5
    """Rewards above it are the positive class of `outcome: binary`."""
    has_variance: bool = False
    """Learn the variance of a continuous reward beside its mean; that of the others follows from their probabilities."""
    calibration: Literal["auto", "none", "temperature", "isotonic"] = "auto"
    """What corrects probabilities after training; `auto` is a temperature, and none for a continuous reward."""
    members: int = pydantic.Field(default=1, ge=1)
    """M, networks with weights of their own; they differ where the logs do not say what the reward is."""
    dropout: float = pydantic.Field(default=0.0, ge=0.0, lt=1.0)
    """Share of hidden units dropped in training."""
    unknown_rate: float = pydantic.Field(default=0.1, ge=0.0, lt=1.0)
    """Share of items that the networks see as unknown in training, so that new items find a trained vector."""
    num_user_features: int = pydantic.Field(default=0, ge=0)
    """U, numbers that are known of users; see `RewardEstimator.set_user_features`."""
    num_users: int = pydantic.Field(default=0, ge=0)
    """Users of whom they are known."""
    num_item_features: int = pydantic.Field(default=0, ge=0)
    """G, numbers that are known of each item; see `RewardEstimator.set_item_features`."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> EstimatorConfig:
        if self.has_variance and self.outcome != "continuous":
            raise ValueError(f"has_variance is of continuous rewards; that of outcome: {self.outcome} follows from its probabilities")
        if self.outcome == "continuous" and self.calibration in ("temperature", "isotonic"):
            raise ValueError(f"calibration: {self.calibration} is of probabilities, and a continuous reward has none; use auto or none")
        if bool(self.num_user_features) != bool(self.num_users):
            raise ValueError(f"num_user_features and num_users go together, found {self.num_user_features} and {self.num_users}")
        return self

    @property
    def corrected_by(self) -> Literal["none", "temperature", "isotonic"]:
        """`calibration` without `auto`."""
        if self.calibration == "auto":
            return "none" if self.outcome == "continuous" else "temperature"
        return self.calibration


class RewardNetwork(Module, ABC):
    """Outputs for items in states.

    Args:
        config: The estimator's configuration.
        fields: Vectors of what is known of an item in a state.
        outputs: C, numbers for each item in a state.
    """

    config_class: ClassVar[type[EstimatorConfig]]

    def __init__(self, config: Any, fields: Fields, outputs: int):
        self.fields = fields

    @abstractmethod
    def __call__(self, query: Query, training: bool = False) -> tf.Tensor:
        """[B, P, C] float32 for P items in states of each row."""


class Features(NamedTuple):
    """Histories and what is known of their users.

    Attributes:
        item_id: [B, T] int32 events, 0 for padding.
        feedback: [B, T] int32 their roles.
        user: [B] int64 keys of the users; None where nobody is known.
    """

    item_id: tf.Tensor
    feedback: tf.Tensor
    user: tf.Tensor | None = None


class RewardEstimator(Learner):
    """E[r | s, a] of items in states, from M networks.

    A state is what happened before it; neither an event's own feedback and reward nor anything later is looked at. The mean of
    the members is the estimate.

    References:
        Zhang et al. (2023), Model-free Reinforcement Learning with Stochastic Reward Stabilization for Recommender Systems, arXiv
        2308.13246: the estimate takes the place of the reward. Lakshminarayanan et al. (2017) for ensembles.

    Args:
        kind: The networks' class.
        config: Its configuration.
        catalogue: The items.
        seed: Seed of what is drawn.
        embedding: Item vectors [N+1, D] of another model to share; None for own ones.
    """

    def __init__(self, kind: type[RewardNetwork], config: EstimatorConfig, catalogue: Catalogue, seed: int = 0, embedding: Any = None):
        super().__init__(catalogue.max_steps, seed)
        self._config = config
        self._catalogue = catalogue
        self.share = EventShare()
        self.outcome: Outcome = OUTCOMES[config.outcome](config)
        self.numbers = Numbers(config, catalogue)
        self.networks = [
            kind(config, Fields(config, catalogue, self.numbers, embedding), self.outcome.num_outputs) for _ in range(config.members)
        ]

    @property
    def config(self) -> EstimatorConfig:
        """What the estimator is."""
        return self._config

    @property
    def catalogue(self) -> Catalogue:
        """The items the estimator was built for."""
        return self._catalogue

    def set_item_features(self, features: npt.NDArray[np.float32]) -> None:
        """Sets what is known of the items, [N+1, G] by item id; rows of padding and of the unknown item are of no use but there."""
        self.numbers.item.assign(features)

    def set_user_features(self, keys: npt.NDArray[np.int64], features: npt.NDArray[np.float32]) -> None:
        """Sets what is known of users, [num_users, U], whose keys [num_users] are as in `TrajectoryBatch`, none of them twice."""
        order = np.argsort(keys)
        self.numbers.user_keys.assign(keys[order])
        # The last row is of everybody else.
        self.numbers.user.assign(np.append(features[order], np.zeros_like(features[:1]), axis=0))

    # === Learning ===

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        """Reads from the train split what the outcomes are worth, and how many events a batch has."""
        self.outcome.fit(self.share.counting(batches))

    def calibrate(self, batches: Iterable[TrajectoryBatch]) -> None:
        """Fits what corrects the predictions, on targets that nothing was trained on and nothing is measured on."""

        def outputs(batch: TrajectoryBatch) -> tf.Tensor:
            return self._outputs(_features_of(batch), batch.item_id, self._steps_of(batch.item_id), False)

        self.outcome.calibrate((batch, outputs(batch)) for batch in batches)

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        mask = tf.cast(batch.is_target(), tf.float32)
        outputs = self._outputs(_features_of(batch), batch.item_id, self._steps_of(batch.item_id), training)
        loss = tf.reduce_mean(self.outcome.loss(outputs, self.outcome.label(batch.reward, batch.feedback)), axis=0)
        return StepLosses({self.outcome.loss_name: loss * self.share.of(mask) if training else loss}, mask)

    # === Estimates ===

    def events(self, batch: TrajectoryBatch) -> Prediction:
        """The reward of every event of a batch before it was known, [B, T]; of padding it has no meaning."""
        steps = self._steps_of(batch.item_id)
        return self.outcome.predict(self._outputs(_features_of(batch), batch.item_id, steps, False))

    def candidates(self, batch: TrajectoryBatch, items: tf.Tensor) -> Prediction:
        """Rewards of other items in the place of every event.

        Args:
            batch: The trajectories.
            items: [B, T, A] int32 items for each event.

        Returns:
            [B, T, A].
        """
        return self.outcome.predict(self._candidate_outputs(batch, items, False))

    def candidate_losses(self, batch: TrajectoryBatch, items: tf.Tensor, label: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, T, A] losses of other items in the place of every event, of which labels [B, T, A] say what came; see `candidates`."""
        return tf.reduce_mean(self.outcome.loss(self._candidate_outputs(batch, items, training), label), axis=0)

    def _candidate_outputs(self, batch: TrajectoryBatch, items: tf.Tensor, training: bool) -> tf.Tensor:
        """[M, B, T, A, C]."""
        shape = tf.shape(items)
        steps = tf.repeat(self._steps_of(batch.item_id), shape[2], axis=1)
        outputs = self._outputs(_features_of(batch), tf.reshape(items, [shape[0], shape[1] * shape[2]]), steps, training)
        return tf.reshape(outputs, tf.concat([tf.shape(outputs)[:1], shape, tf.shape(outputs)[3:]], axis=0))

    def pairs(self, features: Features, length: tf.Tensor, item: tf.Tensor) -> Prediction:
        """Rewards of one item after each of B histories.

        Args:
            features: The histories.
            length: [B] int32 events of each.
            item: [B] int32.

        Returns:
            [B].
        """
        outputs = self._outputs(features, item[:, None], length[:, None], False)
        return self.outcome.predict(outputs[:, :, 0])

    def pair_losses(self, features: Features, length: tf.Tensor, item: tf.Tensor, label: tf.Tensor, training: bool) -> tf.Tensor:
        """[B] losses of one item after each of B histories, of which labels [B] say what came; see `pairs` and `Outcome.label`."""
        outputs = self._outputs(features, item[:, None], length[:, None], training)
        return tf.reduce_mean(self.outcome.loss(outputs[:, :, 0], label), axis=0)

    def _outputs(self, features: Features, item: tf.Tensor, step: tf.Tensor, training: bool) -> tf.Tensor:
        """[M, B, P, C] of items [B, P] in the states before steps [B, P]."""
        query = Query(features.item_id, features.feedback, item, step, features.user)
        return tf.stack([network(query, training) for network in self.networks])

    @staticmethod
    def _steps_of(item_id: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(item_id)
        return tf.tile(tf.range(shape[1])[None, :], [shape[0], 1])


def _features_of(batch: TrajectoryBatch) -> Features:
    return Features(batch.item_id, batch.feedback, batch.user)
