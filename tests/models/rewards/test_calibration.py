"""Calibration measures and calibrators against closed forms and brute force."""

import itertools

import numpy as np
import pytest

from models.frameworks import keras, tf
from models.rewards.calibration import Calibration, Reliability, ScoreTable, by_group, merged, popularity_buckets
from models.rewards.calibrators import IsotonicCalibration, TemperatureScaling, fit_isotonic, fit_temperature, rising_fit

RNG = np.random.default_rng(0)


# === Measures ===


def test_the_calibration_error_of_two_bins_by_hand():
    # First bin: .1 and .3 predicted, 0 and 1 observed: |.5 - .2| = .3, two events. Second: .9 predicted, 1 observed: .1, one event.
    found = Reliability.of(np.array([0.1, 0.3, 0.9]), np.array([0.0, 1.0, 1.0]), num_bins=2)
    assert found.count.tolist() == [2, 1]
    assert found.error() == pytest.approx((2 * 0.3 + 0.1) / 3)
    assert found.greatest_error() == pytest.approx(0.3)
    assert [row[2] for row in found.diagram()] == [2, 1]
    assert found.diagram()[0][:2] == pytest.approx((0.2, 0.5))


def test_edges_and_what_is_outside_count_in_the_outer_bins():
    found = Reliability.of(np.array([-1.0, 0.0, 0.5, 1.0, 2.0]), np.zeros(5), num_bins=2)
    assert found.count.tolist() == [2, 3]
    with pytest.raises(ValueError, match="15 bins from 0 to 1 and 2"):
        Reliability.of(np.zeros(1), np.zeros(1)).merge(found)


def test_a_calibrated_coin_has_no_error_and_a_certain_liar_all_of_it():
    label = np.arange(1000) % 10 < 3
    fair = Calibration.of(np.full(1000, 0.3), label).values()
    assert fair["calibration_error"] == pytest.approx(0.0, abs=1e-12)
    assert fair["brier"] == pytest.approx(0.3 * 0.7)
    assert fair["log_loss"] == pytest.approx(-(0.3 * np.log(0.3) + 0.7 * np.log(0.7)))
    assert fair["explained"] == pytest.approx(0.0, abs=1e-12)
    assert fair["auc"] == 0.5
    liar = Calibration.of(1.0 - label, label).values()
    assert (liar["calibration_error"], liar["brier"], liar["auc"]) == (1.0, 1.0, 0.0)
    # The greatest surprise is that of the least probability.
    assert liar["log_loss"] == pytest.approx(-np.log(1e-7))
    sure = Calibration.of(label.astype(float), label).values()
    assert sure["explained"] == pytest.approx(1.0)
    # With the sign that is printed.
    assert f"{sure['log_loss']:.4f}" == "0.0000"


def test_the_auc_counts_pairs_and_halves_ties():
    for _ in range(30):
        score, label = RNG.integers(0, 6, 25) / 5.0, RNG.random(25) < 0.4
        if label.all() or not label.any():
            continue
        pairs = [(p > n) + 0.5 * (p == n) for p in score[label] for n in score[~label]]
        assert ScoreTable.of(score, label).auc() == sum(pairs) / len(pairs)


def test_one_kind_of_label_has_no_auc_and_no_events_have_no_numbers():
    assert "auc" not in Calibration.of(np.array([0.2, 0.4]), np.array([True, True])).values()
    assert Calibration.of(np.zeros(0), np.zeros(0, bool)).values() == {}


def test_parts_merge_to_the_whole():
    p, y = RNG.random(1000).astype(np.float32), RNG.random(1000) < 0.2
    whole = Calibration.of(p, y).values()
    cuts = [slice(0, 10), slice(10, 600), slice(600, 600), slice(600, 1000)]
    parts = [Calibration.of(p[cut], y[cut]) for cut in cuts]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.merge(part)
    assert joined.values() == pytest.approx(whole, rel=1e-12)
    assert joined.values()["auc"] == whole["auc"]


def test_groups_are_measured_apart_and_merge_by_name():
    p, y, group = np.array([0.1, 0.9, 0.5]), np.array([False, True, True]), np.array([0, 0, 2])
    found = by_group(p, y, group, ("a", "b", "c"))
    assert set(found) == {"a", "c"}
    assert found["a"].values()["auc"] == 1.0
    both = merged(found, by_group(p, y, group, ("a", "c", "d")))
    assert {name: part.count for name, part in both.items()} == {"a": 4, "c": 1, "d": 1}


def test_popular_items_share_a_bucket_with_as_many_events_as_the_others():
    # 6 + 3 + 3 = 12 events, thirds of 4: item 2 begins in the first third, item 1 after 6 in the second, item 3 after 9 in the third.
    assert popularity_buckets(np.array([3, 6, 3])).tolist() == [-1, 1, 0, 2, -1]
    buckets = popularity_buckets(np.full(300, 7))
    assert np.bincount(buckets[1:-1]).tolist() == [100, 100, 100]


# === Temperature ===


def _logits_of(temperature: float, count: int = 50_000) -> tuple[np.ndarray, np.ndarray]:
    logits = RNG.normal(0.0, 2.0, (1, count, 3))
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=-1, keepdims=True)
    label = (RNG.random(count)[:, None] > np.cumsum(shares, axis=1)).sum(axis=1)
    return logits * temperature, np.minimum(label, 2)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_spoilt_the_logits_is_found(temperature: float):
    assert fit_temperature(*_logits_of(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_of_two_events_by_hand():
    # Logit 1 for the second class, which comes 3 of 4 times: sigmoid(1 / T) = 3/4, so 1 / T = log 3.
    logits = np.tile([0.0, 1.0], (1, 4, 1))
    assert fit_temperature(logits, np.array([1, 1, 1, 0])) == pytest.approx(1.0 / np.log(3.0), rel=1e-4)


def test_temperature_scaling_is_a_softmax_of_divided_logits():
    layer = TemperatureScaling()
    logits = tf.constant([[0.0, 2.0], [1.0, -1.0]])
    assert layer(logits).numpy() == pytest.approx(tf.nn.softmax(logits).numpy())
    layer.temperature.assign(4.0)
    assert layer(logits).numpy()[0, 1] == pytest.approx(1.0 / (1.0 + np.exp(-0.5)))


# === Isotonic ===


def _brute_force(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The best of all rising sequences: the optimum is constant on blocks, at their means, so all divisions into blocks are tried."""
    best, found = np.inf, values
    for cuts in itertools.product([False, True], repeat=len(values) - 1):
        block = np.cumsum([False, *cuts])
        means = np.bincount(block, weights=values * weight) / np.bincount(block, weights=weight)
        if (np.diff(means) < 0).any():
            continue
        error = float((weight * (values - means[block]) ** 2).sum())
        if error < best - 1e-12:
            best, found = error, means[block]
    return found


def test_rising_fits_are_those_of_brute_force():
    for _ in range(60):
        size = int(RNG.integers(1, 9))
        values, weight = RNG.integers(0, 5, size).astype(float), RNG.integers(1, 4, size).astype(float)
        assert rising_fit(values, weight) == pytest.approx(_brute_force(values, weight)), (values, weight)


def test_a_rising_fit_by_hand():
    # 3 and 1 are pooled to 2; with 2 they stay, because equal blocks join; 5 is above.
    assert rising_fit(np.array([1.0, 3.0, 1.0, 2.0, 5.0]), np.ones(5)).tolist() == [1.0, 2.0, 2.0, 2.0, 5.0]


def test_few_knots_are_exact_and_many_are_grouped():
    predicted, observed = np.array([0.1, 0.1, 0.4, 0.6, 0.6, 0.9]), np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    # Means .5 at .1 and 0 at .4 violate and are pooled to 1/3.
    place, height = fit_isotonic(predicted, observed, 8)
    assert place.tolist() == [0.1, 0.4, 0.6, 0.9]
    assert height == pytest.approx([1 / 3, 1 / 3, 1.0, 1.0])
    p = RNG.random(20_000)
    place, height = fit_isotonic(p, (RNG.random(20_000) < p**2).astype(float), 32)
    assert len(place) <= 32
    assert (np.diff(place) > 0).all()
    assert (np.diff(height) >= 0).all()
    assert np.interp([0.2, 0.5, 0.8], place, height) == pytest.approx([0.04, 0.25, 0.64], abs=0.03)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_isotonic_calibration_is_the_identity_until_it_is_set(num_classes: int):
    layer = IsotonicCalibration(num_classes)
    probability = RNG.dirichlet(np.ones(num_classes), 50).astype(np.float32)
    assert layer(tf.constant(probability)).numpy() == pytest.approx(probability, abs=1e-5)


def test_a_curve_is_a_line_between_knots_and_flat_outside():
    layer = IsotonicCalibration(2, num_knots=6)
    layer(tf.zeros([1, 2]))
    layer.set_curve(0, np.array([0.2, 0.4, 0.8]), np.array([0.1, 0.5, 0.9]))
    second = np.array([0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0], np.float32)
    found = layer(tf.constant(np.stack([1 - second, second], axis=1)[None])).numpy()[0]
    assert found[:, 1] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9], abs=1e-6)
    assert found.sum(axis=1) == pytest.approx(np.ones(7))


def test_curves_of_several_classes_are_divided_by_their_sum():
    layer = IsotonicCalibration(3, num_knots=4)
    layer(tf.zeros([1, 3]))
    for number, height in enumerate((0.6, 0.3, 0.3)):
        layer.set_curve(number, np.array([0.0, 1.0]), np.array([height, height]))
    assert layer(tf.constant([[0.1, 0.2, 0.7]])).numpy()[0] == pytest.approx([0.5, 0.25, 0.25])
    for number in range(3):
        layer.set_curve(number, np.array([0.0, 1.0]), np.zeros(2))
    assert layer(tf.constant([[0.1, 0.2, 0.7]])).numpy()[0] == pytest.approx([1 / 3] * 3)


def test_isotonic_calibration_calibrates():
    p = RNG.random(40_000)
    label = RNG.random(40_000) < p**3
    layer = IsotonicCalibration(2)
    layer(tf.zeros([1, 2]))
    half = slice(0, 20_000)
    layer.set_curve(0, *fit_isotonic(p[half], label[half].astype(float), layer.num_knots))
    rest = p[20_000:]
    corrected = layer(tf.constant(np.stack([1 - rest, rest], axis=1), tf.float32)).numpy()[:, 1]
    before, after = (Calibration.of(values, label[20_000:]).values() for values in (rest, corrected))
    assert before["calibration_error"] > 0.2
    assert after["calibration_error"] < 0.02
    assert after["log_loss"] < before["log_loss"]


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_calibrators_are_exported_with_what_was_fitted(kind: str, tmp_path):
    layer = TemperatureScaling() if kind == "temperature" else IsotonicCalibration(2, num_knots=5)
    model = keras.Sequential([keras.layers.InputLayer((2,)), layer])
    if kind == "temperature":
        layer.temperature.assign(2.5)
    else:
        layer.set_curve(0, np.array([0.1, 0.9]), np.array([0.3, 0.4]))
    inputs = tf.constant([[0.3, 0.7], [0.9, 0.1]])
    tf.saved_model.save(model, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    assert loaded(inputs).numpy() == pytest.approx(model(inputs).numpy())
    copy = type(layer).from_config(layer.get_config())
    copy(inputs)
    copy.set_weights(layer.get_weights())
    assert copy(inputs).numpy() == pytest.approx(layer(inputs).numpy())
