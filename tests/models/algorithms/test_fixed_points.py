"""Every value method on a small shop whose values are known.

Two items, two events a session, every session logged equally often, discount .5. Item 1 pays at once (.2), item 2 pays nothing but
leads to where item 1 pays 1. No value is 0 or less, because a method that weighs by values needs them positive.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.algorithms.registry import ALGORITHMS
from models.algorithms.value_based import ValueAlgorithm
from models.batch import TrajectoryBatch
from models.frameworks import keras
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy

SESSIONS = [[1, 1], [1, 2], [2, 1], [2, 2]]
REWARD = [[0.2, 0.1], [0.2, 0.2], [0.0, 1.0], [0.0, 0.2]]

# States by rows: the beginning, after item 1, after item 2. Items by columns.
PAYS = np.array([[0.2, 0.0], [0.1, 0.2], [1.0, 0.2]])
# The best of what comes after is .2 and 1: Q(1) = .2 + .5 * .2 = .3 and Q(2) = 0 + .5 * 1 = .5 at the beginning.
BEST = np.array([[0.3, 0.5], [0.1, 0.2], [1.0, 0.2]])


def _targets(values: np.ndarray) -> np.ndarray:
    """What logged items are regressed on, given the values."""
    ahead = np.zeros_like(values)
    ahead[0] = 0.5 * values[1:].max(axis=1)
    return PAYS + ahead


def _fixed_point(update: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    values = np.zeros((3, 2))
    for _ in range(500):
        values = 0.5 * values + 0.5 * update(values)
    return values


def _with_negatives(values: np.ndarray) -> np.ndarray:
    # Half of the time an item is logged, and half of the time it is the one negative, whose state stays as it is.
    return 0.5 * _targets(values) + 0.5 * 0.5 * values.max(axis=1, keepdims=True)


def _with_fixed_negatives(values: np.ndarray) -> np.ndarray:
    return 0.5 * _targets(values) + 0.5 * -0.4


def _policy(values: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    return weights


def _conservative(values: np.ndarray) -> np.ndarray:
    # Where the gradient of .4 * (log sum exp Q - mean of Q) + mean of .5 * (target - Q)^2 is zero.
    return _targets(values) + 0.4 * (1.0 - _policy(values) / 0.5)


EXPECTED: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "snqn": ({"num_negatives": 1}, _fixed_point(_with_negatives)),
    "sa2c": ({"num_negatives": 1, "warm_up_steps": 150}, _fixed_point(_with_negatives)),
    # Its policy runs after its values, and they after the states that the policy moves.
    "sac": ({"warm_up_steps": 20, "steps": 700}, BEST),
    "cql": ({"conservatism": 0.4}, _fixed_point(_conservative)),
    "ensemble": ({"num_heads": 3, "kappa": 0.0}, BEST),
    "rem": ({"num_heads": 3}, BEST),
}
VALUE_METHODS = [name for name, algorithm in ALGORITHMS.items() if issubclass(algorithm, ValueAlgorithm)]


def _batch() -> TrajectoryBatch:
    batch: TrajectoryBatch = toy.batch(SESSIONS, REWARD)
    return batch


def _trained(name: str, batch: TrajectoryBatch | None = None, steps: int = 350, **changes: Any) -> Any:
    # The bonus of repetition takes as long to compile as all the rest; one method shows that it does no harm.
    networks = slow.network(copy_head=name == "sqn")
    settings = {"discount": 0.5, "target_rate": 0.2, "target_period": 1, **changes}
    algorithm = toy.build(name, networks, items=toy.catalogue(3, 2), **settings)
    rate = keras.optimizers.schedules.PolynomialDecay(0.02, steps, 0.001)
    train = TrainStep(algorithm, lambda _: LazyAdam(rate), xla=False)
    for step in range(steps):
        train(_batch() if batch is None else batch, step)
    return algorithm


@cache
def _method(name: str) -> Any:
    """A value method trained as in `EXPECTED`; tests read it only."""
    return _trained(name, **EXPECTED.get(name, ({}, BEST))[0])


def _values(algorithm: Any) -> np.ndarray:
    """[3, H, 2] values by state, head and item."""
    found = slow.Values(algorithm, _batch()).online[..., 1:3]
    return np.stack([found[0, 0], found[0, 1], found[2, 1]])


def test_the_known_values_are_a_fixed_point():
    assert _targets(BEST) == pytest.approx(BEST)
    assert _fixed_point(_targets) == pytest.approx(BEST)


# The others of each kind are long tests.
IN_THE_GATE = ("dqn", "sqn", "cql")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in IN_THE_GATE else [pytest.mark.slow]) for name in VALUE_METHODS])
def test_values_reach_the_fixed_point(name: str):
    _, expected = EXPECTED.get(name, ({}, BEST))
    found = _values(_method(name))
    for head in range(found.shape[1]):
        assert found[:, head] == pytest.approx(expected, abs=0.02)
    # Greedily the patient item comes first, although the other one pays at once.
    assert found.mean(axis=1).argmax(axis=1).tolist() == BEST.argmax(axis=1).tolist()


def test_a_policy_weighted_by_values_is_the_log_times_the_values():
    # Every item is logged half of the time, so the policy is the values over their sum: .3 and .5 of .8, .1 and .2 of .3, 1 and .2
    # of 1.2.
    algorithm = _method("sac")
    probability = np.exp(slow.log_prob(algorithm, _batch()))
    share = BEST / BEST.sum(axis=1, keepdims=True)
    assert probability[1:3, 0] == pytest.approx(share[0], abs=0.02)
    assert probability[:2, 1] == pytest.approx(share[1], abs=0.02)
    assert probability[2:, 1] == pytest.approx(share[2], abs=0.02)


def test_negatives_of_a_fixed_reward_pull_values_towards_it():
    found = _values(_trained("dqn", num_negatives=1, negative_reward=-0.4))[:, 0]
    assert found == pytest.approx(_fixed_point(_with_fixed_negatives), abs=0.02)


def test_conservative_values_are_a_lower_bound_of_what_their_policy_gets():
    # The fixed point that the test above finds the network at, so the bound holds for the network, too.
    values = EXPECTED["cql"][1]
    policy = _policy(values)
    # The policy's own value: what it chooses pays, and it goes on choosing.
    true = PAYS.copy()
    true[0] += 0.5 * (policy[1:] * PAYS[1:]).sum(axis=1)
    assert ((policy * values).sum(axis=1) < (policy * BEST).sum(axis=1)).all()
    # The bootstrap is greedy, so at the beginning the bound is that of the greedy policy, and elsewhere of both.
    assert ((policy * values).sum(axis=1)[1:] < (policy * true).sum(axis=1)[1:]).all()
    assert ((policy * values).sum(axis=1) < (policy * _targets(values)).sum(axis=1)).all()
    assert values.argmax(axis=1).tolist() == BEST.argmax(axis=1).tolist()


def test_a_negative_that_is_never_logged_is_worth_what_the_best_is_a_step_later():
    # Item 1 is logged first and item 2 after it: Q(1) = .2 + .5 * 1 = .7 and Q(2) = 1. The other item of each state leaves it as it is,
    # so it is worth half of the best.
    found = _values(_trained("snqn", toy.batch([[1, 2]], [[0.2, 1.0]]), num_negatives=1))[:2, 0]
    assert found == pytest.approx(np.array([[0.7, 0.35], [0.5, 1.0]]), abs=0.02)


def test_constrained_values_do_not_count_on_what_the_log_hardly_shows():
    # After item 1 item 2 pays 1, and the first step is worth .2 + .5 * 1 = .7 to those who choose it. It is chosen once for nine
    # times that item 1 is, which is less than .3, so it is not expected to be chosen: .2 + .5 * 0.
    batch = toy.batch([[1, 1]] * 9 + [[1, 2]], [[0.2, 0.0]] * 9 + [[0.2, 1.0]])
    found = _values(_trained("bcq", batch, threshold=0.3))[:2, 0]
    assert found[1] == pytest.approx([0.0, 1.0], abs=0.02)
    assert found[0, 0] == pytest.approx(0.2, abs=0.02)


def test_state_values_reach_those_of_the_policy_that_made_the_log():
    # Each item half of the time: after item 1 the mean of .1 and .2, after item 2 of 1 and .2. At the beginning the mean of
    # .2 + .5 * .15 = .275 and 0 + .5 * .6 = .3.
    algorithm = _trained("mcrl", warm_up_steps=0)
    states = algorithm.encoder(_batch().item_id)
    found = algorithm.value(states).numpy()[..., 0]
    assert [found[0, 0], found[0, 1], found[2, 1]] == pytest.approx([0.2875, 0.15, 0.6], abs=0.02)
