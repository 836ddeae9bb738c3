"""Supervised advantage actor-critic: the advantage, the correction and the two phases."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.algorithms.value_based import UniformNegatives
from models.frameworks import tf
from models.optimizers import LazyAdam
from models.sampling import Seed

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


def _advantage(algorithm, logged: list[float], negatives: list[float]) -> list[float]:
    found = algorithm.advantage(tf.constant([logged]), tf.fill([1, len(logged)], tf.reduce_mean(negatives)))
    advantages: list[float] = found.numpy()[0].tolist()
    return advantages


# === The advantage ===


def test_the_worked_example_has_the_published_advantage():
    # Q+ = .4, negatives [.1, -.2]: the average of the three is .1, the advantage .3.
    algorithm = slow.few_items("sa2c", 3, num_negatives=2)
    assert _advantage(algorithm, [0.4], [0.1, -0.2]) == pytest.approx([0.3], rel=1e-5)


def test_the_advantage_is_clipped_at_both_ends():
    # Averages of two are half way: advantages of -2, 2 and 20.
    algorithm = slow.few_items("sa2c", 3, num_negatives=1)
    assert _advantage(algorithm, [-4.0, 4.0, 40.0], [0.0]) == pytest.approx([0.0, 2.0, 10.0])
    other = slow.few_items("sa2c", 3, num_negatives=1, advantage_floor=-1.0, advantage_ceiling=1.5)
    assert _advantage(other, [-4.0, 4.0, 40.0], [0.0]) == pytest.approx([-1.0, 1.5, 1.5])


def test_without_a_floor_the_advantage_is_as_it_is():
    algorithm = slow.few_items("sa2c", 3, num_negatives=1, advantage_floor=None)
    assert _advantage(algorithm, [-4.0, 40.0], [0.0]) == pytest.approx([-2.0, 20.0])


@pytest.mark.parametrize("floor", [0.0, None])
def test_the_weight_gets_no_gradient(floor: float | None):
    algorithm = slow.build("sa2c", advantage_floor=floor, smoothing=0.5)
    found = slow.gradients(algorithm, "cross_entropy", phase="advantage")
    for path, gradient in found.items():
        if path.startswith(("values/", "target/")):
            assert gradient is None, path
    assert np.abs(found["encoder/embedding/0"]).max() > 0.0


# === The correction ===


def _correction(algorithm, probability: list[float], item_id: list[int]) -> list[float]:
    found: list[float] = algorithm.correction(tf.constant([np.log(probability)], tf.float32), tf.constant([item_id])).numpy()[0].tolist()
    return found


def test_the_correction_is_the_ratio_to_the_popularity_clipped_and_smoothed():
    # Counts 3, 2, 1 of 6: popularities 1/2, 1/3, 1/6. Ratios .25 / .5 = .5, .999 / (1/6) = 5.994 and .001 * 2 = .002, which is .1.
    algorithm = slow.few_items("sa2c", 3, smoothing=1.0)
    assert _correction(algorithm, [0.25, 0.999, 0.001], [1, 3, 1]) == pytest.approx([0.5, 5.994, 0.1], rel=1e-4)
    root = slow.few_items("sa2c", 3, smoothing=0.5)
    assert _correction(root, [0.25, 0.999, 0.001], [1, 3, 1]) == pytest.approx(np.sqrt([0.5, 5.994, 0.1]), rel=1e-4)


def test_the_correction_stops_at_ten():
    # Item 20 of 20 has a popularity of 1/210.
    algorithm = slow.build("sa2c", smoothing=1.0)
    assert _correction(algorithm, [0.5, 5 / 210], [20, 20]) == pytest.approx([10.0, 5.0], rel=1e-4)


def test_a_smoothing_of_zero_does_not_correct():
    algorithm = slow.few_items("sa2c", 3)
    assert _correction(algorithm, [0.25, 0.001], [1, 1]) == [1.0, 1.0]


# === The losses ===


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_losses_of_the_second_phase_are_those_of_a_slow_computation(softmax: str, smoothing: float):
    changes = {"num_negatives": 7, "shared_negatives": 30, "q_weight": 0.6}
    algorithm, snqn = slow.build("sa2c", softmax, smoothing=smoothing, **changes), slow.build("snqn", softmax, **changes)
    for head in (*slow.value_heads(algorithm), *slow.value_heads(snqn)):
        # Items 2 and 3 are better than the average, and others are not.
        head.table.assign(tf.tensor_scatter_nd_add(head.table, [[2, head.width], [3, head.width]], [3.0, 3.0]))
    values, mask, log_prob = slow.Values(algorithm), slow.mask(algorithm), slow.log_prob(algorithm)
    logged, items = values.logged()[..., 0], slow.batch().item_id.numpy()
    drawn = UniformNegatives(toy.NUM_ITEMS, 30, seed=Seed(0)).draw(tf.constant(slow.STEP, tf.int64)).numpy()
    popularity = np.arange(20, 0, -1) / 210
    weight = np.zeros(mask.shape)
    for row, step in values.events():
        if not mask[row, step]:
            continue
        negatives = np.mean([values.online[row, step, 0, item] for item in values.negatives_of(drawn, row, step)])
        average = (logged[row, step] + 7 * negatives) / 8
        ratio = np.exp(log_prob[row, step]) / popularity[items[row, step] - 1]
        weight[row, step] = np.clip(logged[row, step] - average, 0.0, 10.0) * np.clip(ratio, 0.1, 10.0) ** smoothing
    assert 2 < (weight > 0).sum() < slow.TARGETS
    found = slow.parts(algorithm, phase="advantage")
    assert found["cross_entropy"] == pytest.approx(-weight * log_prob * mask, rel=1e-3, abs=1e-5)
    assert found["td"] == pytest.approx(slow.parts(snqn)["td"], rel=1e-4, abs=1e-5)


def test_warming_up_is_snqn():
    sa2c, snqn = (
        slow.parts(algorithm, **phase) for algorithm, phase in ((slow.build("sa2c"), {"phase": "warm_up"}), (slow.build("snqn"), {}))
    )
    assert list(sa2c) == list(snqn)
    for name in sa2c:
        assert sa2c[name] == pytest.approx(snqn[name], rel=1e-5), name


# === The phases ===


@pytest.mark.parametrize(("warm_up", "names"), [(0, ["advantage"] * 3), (2, ["warm_up"] * 2 + ["advantage"]), (9, ["warm_up"] * 3)])
def test_the_second_phase_begins_after_the_warm_up(warm_up: int, names: list[str]):
    algorithm = slow.build("sa2c", warm_up_steps=warm_up)
    assert [algorithm.phase(step).name for step in range(3)] == names
    assert {phase.name for phase in algorithm.phases} == {"warm_up", "advantage"}


@pytest.mark.usefixtures("eagerly")
def test_the_second_phase_has_an_optimiser_of_its_own_with_fresh_moments():
    algorithm = slow.build("sa2c", warm_up_steps=2, second_learning_rate=1e-3)
    train = TrainStep(algorithm, lambda rate: LazyAdam(0.05 if rate is None else rate), xla=False)
    first, second = train.optimizers["main"], train.optimizers["second"]
    assert [float(one.learning_rate) for one in (first, second)] == pytest.approx([0.05, 1e-3])
    for step in range(2):
        train(slow.batch(), step)
    assert (int(first.iterations), int(second.iterations)) == (2, 0)
    moments = [variable.numpy() for variable in second.variables if len(variable.shape)]
    assert len(moments) >= 2 * len(algorithm.trainable_variables)
    assert max(np.abs(moment).max() for moment in moments) == 0.0
    before = algorithm.values.table.numpy()
    train(slow.batch(), 2)
    assert (int(first.iterations), int(second.iterations)) == (2, 1)
    # Adam's first step is the rate for every weight with a gradient much greater than its epsilon.
    assert np.abs(algorithm.values.table.numpy() - before).max() == pytest.approx(1e-3, rel=0.01)


def test_without_a_rate_of_its_own_the_second_phase_has_that_of_the_trainer():
    algorithm = slow.build("sa2c")
    train = TrainStep(algorithm, lambda rate: LazyAdam(0.05 if rate is None else rate), xla=False)
    assert [float(one.learning_rate) for one in train.optimizers.values()] == pytest.approx([0.05, 0.05])
