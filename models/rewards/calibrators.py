"""Layers that make probabilities mean what they say, and how they are fitted on events that nothing was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.frameworks import keras, tf

Floats = npt.NDArray[np.float64]

_TEMPERATURES = (0.05, 20.0)


class TemperatureScaling(keras.layers.Layer):
    """probabilities = softmax(logits / temperature): [..., K] -> [..., K] float32.

    The most probable class stays the same; one number says how sure the model may be.

    Masking: none.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks, eq. 9.
    """

    def build(self, input_shape: Any) -> None:
        self.temperature = self.add_weight("temperature", (), tf.float32, "ones", trainable=False, experimental_autocast=False)
        super().build(input_shape)

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(logits, tf.float32) / self.temperature)


class IsotonicCalibration(keras.layers.Layer):
    """A rising curve for the probability of each class, divided by their sum: [..., K] -> [..., K] float32.

    Between knots a curve is a line, outside them it is flat; it is the identity until it is set. Of two classes the second has a
    curve and the first what is left.

    Masking: none.

    References:
        Zadrozny and Elkan (2002), Transforming Classifier Scores into Accurate Multiclass Probability Estimates.

    Args:
        num_classes: K.
        num_knots: Q, points of each curve.
    """

    def __init__(self, num_classes: int, num_knots: int = 128, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.num_knots = num_knots
        self.num_curves = 1 if num_classes == 2 else num_classes

    def build(self, input_shape: Any) -> None:
        line = keras.initializers.Constant(np.tile(np.linspace(0.0, 1.0, self.num_knots), (self.num_curves, 1)))
        shape = (self.num_curves, self.num_knots)
        self.place = self.add_weight("place", shape, tf.float32, line, trainable=False, experimental_autocast=False)
        self.height = self.add_weight("height", shape, tf.float32, line, trainable=False, experimental_autocast=False)
        super().build(input_shape)

    def call(self, probability: tf.Tensor) -> tf.Tensor:
        first = self.num_classes - self.num_curves
        curves = [self._curve(number, probability[..., first + number]) for number in range(self.num_curves)]
        if first:
            return tf.stack([1.0 - curves[0], curves[0]], axis=-1)
        raised = tf.stack(curves, axis=-1)
        total = tf.reduce_sum(raised, axis=-1, keepdims=True)
        # Curves may all be 0 where no class was ever seen.
        return tf.where(total > 0.0, raised / tf.maximum(total, 1e-30), 1.0 / self.num_classes)

    def _curve(self, number: int, values: tf.Tensor) -> tf.Tensor:
        place, height = self.place[number], self.height[number]
        flat = tf.clip_by_value(tf.reshape(values, [-1]), place[0], place[-1])
        right = tf.clip_by_value(tf.searchsorted(place, flat, side="left"), 1, self.num_knots - 1)
        low, high = tf.gather(place, right - 1), tf.gather(place, right)
        share = tf.where(high > low, (flat - low) / tf.maximum(high - low, 1e-30), 1.0)
        found = tf.gather(height, right - 1) * (1.0 - share) + tf.gather(height, right) * share
        return tf.reshape(found, tf.shape(values))

    def set_curve(self, number: int, place: Floats, height: Floats) -> None:
        """Sets a curve to knots [Q', at most Q] in rising order of place."""
        missing = self.num_knots - len(place)
        rows = [np.pad(knots, (0, missing), mode="edge") for knots in (place, height)]
        for variable, row in zip((self.place, self.height), rows, strict=True):
            variable.assign(tf.tensor_scatter_nd_update(variable, [[number]], [tf.constant(row, tf.float32)]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "num_knots": self.num_knots}


def fit_temperature(logits: Floats, label: npt.NDArray[np.int64]) -> float:
    """The temperature of least log loss, between .05 and 20.

    Args:
        logits: [M, n, K] of each member; probabilities are the mean of theirs.
        label: [n] classes.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled -= scaled.max(axis=-1, keepdims=True)
        shares = np.exp(scaled)
        probability = (shares / shares.sum(axis=-1, keepdims=True)).mean(axis=0)
        return -float(np.log(np.maximum(probability[np.arange(len(label)), label], 1e-30)).mean())

    # For one member the loss is convex in 1 / temperature, so that it has one valley; golden sections close in on it.
    ratio = (5.0**0.5 - 1.0) / 2.0
    low, high = np.log(_TEMPERATURES[0]), np.log(_TEMPERATURES[1])
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    of_left, of_right = loss(left), loss(right)
    while high - low > 1e-5:
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - ratio * (high - low)
            of_left = loss(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + ratio * (high - low)
            of_right = loss(right)
    return float(np.exp((low + high) / 2.0))


def rising_fit(values: Floats, weight: Floats) -> Floats:
    """The rising sequence of least weighted squared distance to a sequence: pool adjacent violators.

    Args:
        values: [n].
        weight: [n], positive.

    Returns:
        [n].

    References:
        Ayer, Brunk, Ewing, Reid and Silverman (1955); in the linear-time form of Best and Chakravarti (1990).
    """
    means: list[float] = []
    weights: list[float] = []
    counts: list[int] = []
    for value, amount in zip(values.tolist(), weight.tolist(), strict=True):
        mean, total, count = value, amount, 1
        while means and means[-1] >= mean:
            before = weights.pop()
            mean = (means.pop() * before + mean * total) / (before + total)
            total, count = total + before, count + counts.pop()
        means.append(mean)
        weights.append(total)
        counts.append(count)
    return np.repeat(np.array(means, np.float64), counts)


def fit_isotonic(predicted: Floats, observed: Floats, num_knots: int) -> tuple[Floats, Floats]:
    """Knots of the rising curve from predictions to the mean of what was observed.

    Equal predictions are one point. A block of equal heights has a knot at its first and at its last prediction. Where that is more
    than `num_knots`, predictions are put into groups of about equal size first, which are points then.

    Args:
        predicted: [n], n > 0.
        observed: [n].
        num_knots: Q, at least 2.

    Returns:
        Places and heights [at most Q], places strictly rising.
    """
    order = np.argsort(predicted, kind="stable")
    place, inverse, count = np.unique(predicted[order], return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, weights=observed[order]) / count
    knots = _knots(place, rising_fit(mean, count.astype(np.float64)))
    if len(knots[0]) <= num_knots:
        return knots
    group = np.minimum(((np.cumsum(count) - count) * (num_knots // 2)) // len(predicted), num_knots // 2 - 1)
    _, group = np.unique(group, return_inverse=True)
    total = np.bincount(group, weights=count)
    grouped_place = np.bincount(group, weights=place * count) / total
    grouped_mean = np.bincount(group, weights=mean * count) / total
    return _knots(grouped_place, rising_fit(grouped_mean, total.astype(np.float64)))


def _knots(place: Floats, height: Floats) -> tuple[Floats, Floats]:
    """The first and the last point of every run of equal heights."""
    is_first = np.r_[True, height[1:] != height[:-1]]
    is_last = np.r_[height[1:] != height[:-1], True]
    kept = is_first | is_last
    return place[kept], height[kept]
