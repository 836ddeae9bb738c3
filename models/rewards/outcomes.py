"""What an estimator learns of an event, and the reward that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.module import Module
from schemas.interaction import FEEDBACK_ROLES

if TYPE_CHECKING:
    from models.rewards.base import EstimatorConfig

OutcomeName = Literal["binary", "role", "continuous"]

_LEAST_SCALE = 1e-6
_MOST_LOG_VARIANCE = 10.0


class Prediction(NamedTuple):
    """A reward before it is known; by the law of total variance its variance is noise^2 + doubt^2.

    Attributes:
        mean: [...] float32 expected reward.
        noise: [...] standard deviation that the reward has in itself, which no amount of data takes away; NaN where it is not
            learned.
        doubt: [...] standard deviation of the mean between the members; 0 for one.
        probability: [..., K] of the classes; K is 0 for a continuous reward.
    """

    mean: tf.Tensor
    noise: tf.Tensor
    doubt: tf.Tensor
    probability: tf.Tensor


class Outcome(Module, ABC):
    """What outputs stand for.

    Attributes:
        loss_name: Name of the loss.
        num_classes: K; 0 for a continuous reward.
        num_outputs: C.

    Args:
        config: The estimator's configuration.
    """

    loss_name: str
    num_classes: int = 0
    num_outputs: int = 1

    @abstractmethod
    def __init__(self, config: EstimatorConfig): ...

    @abstractmethod
    def label(self, reward: tf.Tensor, feedback: tf.Tensor) -> tf.Tensor:
        """[...] what happened, from rewards and roles [...]: int32 classes, or the reward."""

    @abstractmethod
    def loss(self, outputs: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """[M, ...] loss of outputs [M, ..., C] that should have said labels [...]."""

    @abstractmethod
    def predict(self, outputs: tf.Tensor) -> Prediction:
        """Outputs [M, ..., C] of all members -> the prediction [...]."""

    @abstractmethod
    def fit(self, batches: Iterable[TrajectoryBatch]) -> None:
        """Reads from targets of the train split what no gradient moves; without a target nothing changes."""

    @abstractmethod
    def reward_range(self) -> tuple[float, float, float]:
        """Where expectations lie, low and high, and the standard deviation that errors are compared with."""

    def calibrate(self, batches: Iterable[tuple[TrajectoryBatch, tf.Tensor]]) -> None:
        """Fits what corrects the predictions to targets of batches with their outputs [M, B, T, C]."""


class Classes(Outcome):
    """K classes whose rewards are the mean rewards of the train split; outputs are logits against the first class, beyond its prior.

    An estimator that has learned nothing predicts the shares of the train split: rare classes would take many steps to become rare.

    E[r] = sum of p_k * level_k, which is exact where the reward depends on the state through its class alone. A class that the train
    split lacks is worth 0.

    Attributes:
        level: [K] mean reward of each class.
        square: [K] mean of the squared reward.
        prior: [K-1] logarithms of the classes' shares over that of the first one.
        temperature: Divides the logits; 1 until it is fitted.
        curves: Raises the mean probabilities; nothing else than the identity until it is fitted. None without `isotonic`.
    """

    loss_name = "cross_entropy"

    def __init__(self, config: EstimatorConfig):
        from models.rewards.calibrators import IsotonicCalibration, TemperatureScaling

        self._corrected_by = config.corrected_by
        self.num_outputs = self.num_classes - 1
        self.level = tf.Variable(np.arange(self.num_classes), dtype=tf.float32, trainable=False)
        self.square = tf.Variable(np.arange(self.num_classes) ** 2, dtype=tf.float32, trainable=False)
        self.prior = tf.Variable(np.zeros(self.num_classes - 1), dtype=tf.float32, trainable=False)
        self.temperature = TemperatureScaling(name="temperature", dtype="float32")
        self.curves = IsotonicCalibration(self.num_classes, name="curves", dtype="float32") if self._corrected_by == "isotonic" else None
        self.temperature.build((self.num_classes,))
        if self.curves is not None:
            self.curves.build((self.num_classes,))

    def logits(self, outputs: tf.Tensor) -> tf.Tensor:
        """[..., K-1] -> [..., K]; that of the first class is 0."""
        return tf.concat([tf.zeros_like(outputs[..., :1]), outputs + self.prior], axis=-1)

    def loss(self, outputs: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        logits = self.logits(outputs)
        label = tf.broadcast_to(label, tf.shape(logits)[:-1])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)

    def predict(self, outputs: tf.Tensor) -> Prediction:
        each = self.temperature(self.logits(outputs))
        probability = tf.reduce_mean(each, axis=0)
        if self.curves is not None:
            probability = self.curves(probability)
        mean = tf.linalg.matvec(probability, self.level)
        doubt = tf.math.reduce_std(tf.linalg.matvec(each, self.level), axis=0)
        variance = tf.linalg.matvec(probability, self.square) - tf.square(mean) - tf.square(doubt)
        return Prediction(mean, tf.sqrt(tf.maximum(variance, 0.0)), doubt, probability)

    def calibrate(self, batches: Iterable[tuple[TrajectoryBatch, tf.Tensor]]) -> None:
        from models.rewards.calibrators import fit_isotonic, fit_temperature

        if self._corrected_by == "none":
            return
        logits, labels = [], []
        for batch, outputs in batches:
            inside = np.asarray(batch.is_target())
            logits.append(np.asarray(self.logits(outputs), np.float64)[:, inside])
            labels.append(np.asarray(self.label(batch.reward, batch.feedback), np.int64)[inside])
        if not sum(map(len, labels)):
            return
        found, label = np.concatenate(logits, axis=1), np.concatenate(labels)
        if self._corrected_by == "temperature":
            self.temperature.temperature.assign(fit_temperature(found, label))
            return
        assert self.curves is not None
        probability = np.asarray(tf.reduce_mean(self.temperature(tf.constant(found, tf.float32)), axis=0), np.float64)
        first = self.num_classes - self.curves.num_curves
        for number in range(self.curves.num_curves):
            happened = (label == first + number).astype(np.float64)
            self.curves.set_curve(number, *fit_isotonic(probability[:, first + number], happened, self.curves.num_knots))

    def reward_range(self) -> tuple[float, float, float]:
        level = self.level.numpy()
        low, high = float(level.min()), float(level.max())
        return (low, high, high - low) if high > low else (low, low + 1.0, 1.0)

    def fit(self, batches: Iterable[TrajectoryBatch]) -> None:
        sums = np.zeros((3, self.num_classes))
        for batch in batches:
            label, reward = _targets(batch, self.label(batch.reward, batch.feedback)), _targets(batch, batch.reward)
            for row, values in enumerate((np.ones_like(reward), reward, reward**2)):
                sums[row] += np.bincount(label, weights=values, minlength=self.num_classes)
        if sums[0].sum():
            self.level.assign(sums[1] / np.maximum(sums[0], 1.0))
            self.square.assign(sums[2] / np.maximum(sums[0], 1.0))
            # Half an event each, so that a class that never came is rare and not impossible.
            self.prior.assign(np.log((sums[0, 1:] + 0.5) / (sums[0, 0] + 0.5)))


class Binary(Classes):
    """Whether the reward passes a threshold."""

    num_classes = 2

    def __init__(self, config: EstimatorConfig):
        super().__init__(config)
        self._threshold = config.threshold

    def label(self, reward: tf.Tensor, feedback: tf.Tensor) -> tf.Tensor:
        return tf.cast(reward > self._threshold, tf.int32)


class Role(Classes):
    """The feedback's role."""

    num_classes = len(FEEDBACK_ROLES)

    def label(self, reward: tf.Tensor, feedback: tf.Tensor) -> tf.Tensor:
        return feedback


class Continuous(Outcome):
    """The reward itself, in units of its standard deviation: by its mean, or by mean and logarithm of the variance.

    Attributes:
        shift: [1] mean reward of the train split.
        scale: [1] its standard deviation.
    """

    def __init__(self, config: EstimatorConfig):
        self._has_variance = config.has_variance
        self.loss_name = "gaussian" if config.has_variance else "squared_error"
        self.num_outputs = 2 if config.has_variance else 1
        self.shift = tf.Variable([0.0], dtype=tf.float32, trainable=False)
        self.scale = tf.Variable([1.0], dtype=tf.float32, trainable=False)

    def label(self, reward: tf.Tensor, feedback: tf.Tensor) -> tf.Tensor:
        return reward

    def loss(self, outputs: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        error = tf.square(outputs[..., 0] - (label - self.shift) / self.scale)
        if not self._has_variance:
            return 0.5 * error
        log_variance = self._log_variance(outputs)
        return 0.5 * (log_variance + error * tf.exp(-log_variance))

    def predict(self, outputs: tf.Tensor) -> Prediction:
        means = self.shift + self.scale * outputs[..., 0]
        mean = tf.reduce_mean(means, axis=0)
        noise = tf.fill(tf.shape(mean), float("nan"))
        if self._has_variance:
            noise = self.scale * tf.sqrt(tf.reduce_mean(tf.exp(self._log_variance(outputs)), axis=0))
        return Prediction(mean, noise, tf.math.reduce_std(means, axis=0), tf.zeros_like(mean)[..., None][..., :0])

    def reward_range(self) -> tuple[float, float, float]:
        shift, scale = float(self.shift[0]), float(self.scale[0])
        return shift - 3.0 * scale, shift + 3.0 * scale, scale

    def fit(self, batches: Iterable[TrajectoryBatch]) -> None:
        count, total, squares = 0, 0.0, 0.0
        for batch in batches:
            reward = _targets(batch, batch.reward).astype(np.float64)
            count, total, squares = count + len(reward), total + float(reward.sum()), squares + float((reward**2).sum())
        if count:
            mean = total / count
            self.shift.assign([mean])
            # All rewards alike leave nothing to scale.
            variance = squares / count - mean**2
            self.scale.assign([variance**0.5 if variance > _LEAST_SCALE**2 else 1.0])

    @staticmethod
    def _log_variance(outputs: tf.Tensor) -> tf.Tensor:
        """[...] of outputs [..., 2], softly kept between bounds, so that the loss of a step stays finite and every step has a gradient."""
        return _MOST_LOG_VARIANCE * tf.tanh(outputs[..., 1] / _MOST_LOG_VARIANCE)


def _targets(batch: TrajectoryBatch, values: tf.Tensor) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.asarray(values)[np.asarray(batch.is_target())]
    return found


OUTCOMES: Mapping[OutcomeName, type[Outcome]] = {"binary": Binary, "role": Role, "continuous": Continuous}
