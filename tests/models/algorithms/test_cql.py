"""Conservative Q-learning against a slow computation."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("conservatism", [1.0, 0.3])
def test_the_losses_are_those_of_a_slow_computation(softmax: str, conservatism: float):
    algorithm = slow.build("cql", softmax, discount=0.7, conservatism=conservatism)
    values, mask = slow.Values(algorithm), slow.mask(algorithm)
    logged, gap = values.logged()[..., 0], np.zeros(mask.shape)
    for row, step in values.events():
        gap[row, step] = values.log_sum_exp(values.online[row, step, 0], row, step) - logged[row, step]
    expected = {"conservative": conservatism * gap, "td": 0.5 * (values.bootstrapped(0.7, values.double_q) - logged) ** 2}
    found = slow.parts(algorithm)
    assert list(found) == list(expected)
    for name, part in expected.items():
        assert found[name] == pytest.approx(part * mask, rel=1e-4, abs=1e-5), name
    health = algorithm.losses(slow.batch(), tf.constant(slow.STEP, tf.int64), training=False).health
    assert float(health["conservative_gap"]) == pytest.approx(gap[mask > 0].mean(), rel=1e-4)


def test_the_worked_example_has_the_published_gap():
    # Q = [1, 2, 3] and the second item was logged: log(e + e^2 + e^3) = 3.40761, and the gap is 1.40761.
    algorithm = slow.few_items("cql", 3)
    slow.say(algorithm.values, [1.0, 2.0, 3.0])
    assert slow.parts(algorithm, toy.batch([[2]]))["conservative"] == pytest.approx(np.array([[1.40761]]), abs=1e-5)


def test_the_push_is_the_difference_between_the_policy_of_the_values_and_the_log():
    # d gap / d bias of an item = softmax(Q)[item] - 1 for the logged one: e^[1, 2, 3] / sum = [.09, .2447, .6652].
    algorithm = slow.few_items("cql", 3)
    slow.say(algorithm.values, [1.0, 2.0, 3.0])
    with tf.GradientTape() as tape:
        loss = algorithm.losses(toy.batch([[2]]), tf.constant(0, tf.int64), training=False).mean("conservative")
    bias = tf.convert_to_tensor(tape.gradient(loss, algorithm.values.table)).numpy()[1:4, algorithm.values.width]
    assert bias == pytest.approx(np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum() - [0.0, 1.0, 0.0], abs=1e-5)


def test_a_weight_of_zero_is_double_q_learning():
    cql, dqn = slow.parts(slow.build("cql", conservatism=0.0)), slow.parts(slow.build("dqn"))
    assert np.abs(cql["conservative"]).max() == 0.0
    assert cql["td"] == pytest.approx(dqn["td"], rel=1e-5)


def test_the_target_gets_no_gradient():
    found = slow.gradients(slow.build("cql"), "td")
    assert [path for path, gradient in found.items() if path.startswith("target/") and gradient is not None] == []
