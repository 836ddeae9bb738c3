"""EDT4Rec: a bound below the entropy, and the price of it."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.frameworks import tf
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy

SESSIONS = [[1, 2]] * 8 + [[3, 4]] * 2


def _algorithm(**changes):
    return toy.build("edt4rec", toy.network(backbone=toy.backbone(dropout=0.0)), dropout=0.0, **changes)


def _temperature(algorithm) -> float:
    return float(np.exp(algorithm.log_temperature.numpy()[0]))


def _entropy(algorithm, batch) -> float:
    health = algorithm.losses(batch, tf.constant(0, tf.int64), training=False).health
    return float(health["policy_entropy"])


def test_the_parts_are_the_likelihood_the_entropy_at_its_price_and_the_price_of_what_is_missing():
    algorithm = slow.build("edt4rec", entropy_share=0.4)
    price = _temperature(algorithm)
    found = slow.parts(algorithm)
    entropy = algorithm.predict(slow.batch(), tf.constant(slow.STEP, tf.int64), training=False).entropy.numpy()
    assert list(found) == ["cross_entropy", "entropy", "temperature"]
    assert found["entropy"] == pytest.approx(-price * entropy, rel=1e-5)
    expected = price * (entropy - 0.4 * np.log(toy.NUM_ITEMS - 1)) * slow.mask(algorithm)
    assert found["temperature"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_each_side_sees_the_other_one_as_a_constant():
    algorithm = slow.build("edt4rec")
    price = [path for path in algorithm.named_variables() if path.startswith("log_temperature")]
    assert len(price) == 1
    moved = {name: slow.gradients(algorithm, name) for name in ("cross_entropy", "entropy", "temperature")}
    assert moved["cross_entropy"][price[0]] is None
    assert moved["entropy"][price[0]] is None
    assert [path for path, gradient in moved["temperature"].items() if gradient is not None] == price


@pytest.mark.parametrize(("share", "rises"), [(0.95, True), (0.01, False)])
def test_the_price_rises_while_the_entropy_is_below_its_bound_and_falls_above(share: float, rises: bool):
    algorithm = toy.shake(_algorithm(entropy_share=share, initial_temperature=0.1))
    algorithm.log_temperature.assign([np.log(0.1)])
    batch = toy.batch(SESSIONS)
    below = _entropy(algorithm, batch) < algorithm.least_entropy
    assert below == rises
    train = TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)
    _, health, _ = train(batch, 0)
    assert float(health["temperature"]) == pytest.approx(0.1)
    assert (_temperature(algorithm) > 0.1) == rises
    # Adam's first step is as long as the learning rate.
    assert abs(np.log(_temperature(algorithm) / 0.1)) == pytest.approx(0.01, rel=0.01)


@pytest.mark.slow
def test_a_bound_keeps_the_entropy_that_plain_likelihood_gives_up():
    batch = toy.batch(SESSIONS)
    entropies = {}
    for share in (None, 0.6):
        algorithm = _algorithm(entropy_share=share, initial_temperature=0.5)
        train = TrainStep(algorithm, lambda _: LazyAdam(0.02), xla=False)
        for step in range(250):
            train(batch, step)
        entropies[share] = _entropy(algorithm, batch)
    # The log needs little: .5 nats before the first event, none before the second.
    assert entropies[None] < 0.5
    assert entropies[0.6] == pytest.approx(0.6 * np.log(toy.NUM_ITEMS - 1), rel=0.2)


def test_without_a_bound_it_is_a_decision_transformer():
    plain, unbound = slow.build("decision_transformer"), slow.build("edt4rec", entropy_share=None)
    assert unbound.least_entropy == -np.inf
    assert list(unbound.named_variables()) == list(plain.named_variables())
    for ours, theirs in zip(unbound.variables, plain.variables, strict=True):
        ours.assign(theirs)
    assert slow.parts(unbound).keys() == slow.parts(plain).keys()
    assert slow.parts(unbound)["cross_entropy"] == pytest.approx(slow.parts(plain)["cross_entropy"], abs=1e-6)


def test_exploration_asks_for_a_multiple_of_the_target():
    algorithm = _algorithm(exploration_factor=2.0)
    algorithm.adapt([toy.batch([[1, 2]] * 3, [[0.5, 1.0]] * 3)])
    assert algorithm.exploration_target.numpy() == pytest.approx([3.0])
