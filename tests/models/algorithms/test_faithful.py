"""The SQN family as published: two networks that take turns, transitions one by one."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.algorithms.faithful import FaithfulSQN
from models.algorithms.registry import ALGORITHMS
from models.frameworks import tf
from models.optimizers import LazyAdam
from schemas.config import ConfigError

sys.path.append(str(Path(__file__).parents[1]))
toy = import_module("toy_shop")

FAMILY = [name for name, kind in ALGORITHMS.items() if "mode" in kind.config_class.model_fields]
STEP = tf.constant(3, tf.int64)


def _network(**changes: Any) -> Any:
    changes = {"backbone": toy.backbone("gru4rec"), "window": 4, "copy_head": False, "tied": False, "unknown_rate": 0.0, **changes}
    return toy.network(**changes)


def _build(name: str = "sqn", items: int = toy.NUM_ITEMS, **changes: Any) -> FaithfulSQN:
    algorithm = toy.build(name, _network(), items=toy.catalogue(items), mode="faithful", **changes)
    assert isinstance(algorithm, FaithfulSQN)
    return algorithm


def _bias_only(head: Any, biases: list[float]) -> None:
    """Makes a head give the same numbers in every state: vectors of 0, these biases for items 1, 2, ..."""
    table = np.zeros(head.table.shape, np.float32)
    table[1 : len(biases) + 1, -1] = biases
    head.table.assign(table)


def test_the_family_is_known():
    assert FAMILY == ["sqn", "sac", "snqn", "sa2c"]


@pytest.mark.parametrize(("done", "loss"), [(0.0, 0.005), (1.0, 0.02)])
def test_the_td_loss_is_that_of_the_worked_example(done: float, loss: float):
    # r = .2, discount .5, Q(s, a) = .4. The main network has Q(s', .) = [.3, .1, .5] and chooses item 3; the other one says .6.
    # Here values do not depend on the state, so Q(s, a) = .4 has to be the value of a in s' as well: a is a fourth item, which
    # the main network would not choose. y = .2 + .5 * .6 = .5: .5 * .1^2 = .005. At the end y = .2: .5 * .2^2 = .02.
    algorithm = _build(items=5)
    _bias_only(algorithm.values, [0.3, 0.1, 0.5, 0.4])
    _bias_only(algorithm.second.values, [0.2, 0.9, 0.6, 0.0])
    batch = toy.batch([[1, 4]], [[0.0, 0.2]], num_context=[1], is_terminal=[done])
    td = algorithm.losses(batch, STEP, training=False, phase="first.warm_up").parts["td"]
    assert td.shape == (1, 1)
    assert float(td) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("done", [0.0, 1.0])
def test_negatives_are_summed_and_bootstrap_from_the_state_they_left(done: float):
    # Q = [.1, .4, -.2] of the main network, [.05, .35, -.1] of the other, item 2 is the best: a negative's target is .5 * .35 =
    # .175, at the session's end, too. The logged item is 2, so negatives are items 1 and 3: losses .5 * (.175 - .1)^2 = .0028125
    # and .5 * (.175 + .2)^2 = .0703125. The logged item has y = r + .5 * .35 or r, with r = .4.
    algorithm = _build("snqn", items=4, num_negatives=64)
    _bias_only(algorithm.values, [0.1, 0.4, -0.2])
    _bias_only(algorithm.second.values, [0.05, 0.35, -0.1])
    batch = toy.batch([[1, 2]], [[0.0, 0.4]], num_context=[1], is_terminal=[done])
    td = float(algorithm.losses(batch, STEP, training=False, phase="first.warm_up").parts["td"])
    positive = 0.0 if done else 0.5 * 0.175**2
    thirds = (td - positive - 64 * 0.0028125) / (0.0703125 - 0.0028125)
    assert thirds == pytest.approx(round(thirds), abs=1e-3)
    assert 16 < thirds < 48


def test_the_advantage_is_against_the_mean_of_eleven():
    # Q(a) = .4, every negative -.2 or .1: with ten of them the mean is (.4 + sum) / 11. Two items beside the logged one with the
    # same value make it exact: A = .4 - (.4 - 2) / 11.
    algorithm = _build("sa2c", items=4, num_negatives=10)
    _bias_only(algorithm.values, [-0.2, 0.4, -0.2])
    _bias_only(algorithm.policy, [0.0, 0.0, 0.0])
    batch = toy.batch([[1, 2]], [[0.0, 0.4]], num_context=[1])
    parts = algorithm.losses(batch, STEP, training=False, phase="first.actor").parts
    assert float(parts["cross_entropy"]) == pytest.approx((0.4 - (0.4 - 2.0) / 11) * np.log(3.0), abs=1e-5)
    # A value below the average teaches nothing.
    _bias_only(algorithm.values, [0.2, -0.4, 0.2])
    parts = algorithm.losses(batch, STEP, training=False, phase="first.actor").parts
    assert float(parts["cross_entropy"]) == 0.0


def test_the_actor_of_sac_is_weighted_by_the_raw_value():
    algorithm = _build("sac", items=4)
    _bias_only(algorithm.values, [0.0, -0.3, 0.0])
    _bias_only(algorithm.policy, [0.0, 0.0, 0.0])
    batch = toy.batch([[1, 2]], [[0.0, 0.4]], num_context=[1])
    parts = algorithm.losses(batch, STEP, training=False, phase="first.actor").parts
    assert float(parts["cross_entropy"]) == pytest.approx(-0.3 * np.log(3.0), abs=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_a_step_moves_one_network_and_leaves_the_other(name: str):
    algorithm = _build(name)
    train = TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)
    batch = toy.batch([[3, 5, 3], [7, 2], [1]], [[0.2, 0.2, 1.0], [0.2, 1.0], [0.2]], num_context=[2, 1, 0], is_terminal=[1, 0, 1])
    for step in range(4):
        moved = algorithm.phase(step).name.partition(".")[0]
        before = {path: variable.numpy() for path, variable in algorithm.named_variables().items()}
        train(batch, step)
        changed = {path for path, variable in algorithm.named_variables().items() if (variable.numpy() != before[path]).any()}
        assert changed
        assert all(path.startswith("second/") == (moved == "second") for path in changed)


def test_the_coin_is_fair_and_the_same_for_a_run_that_goes_on():
    algorithm, again = _build(), _build()
    names = [algorithm.phase(step).name for step in range(400)]
    assert names == [again.phase(step).name for step in range(400)]
    # A standard deviation is 10.
    assert abs(names.count("first.warm_up") - 200) < 50


def test_the_second_phase_of_sa2c_has_moments_and_a_rate_of_its_own():
    algorithm = _build("sa2c", warm_up_steps=2, second_learning_rate=0.001)
    rates: list[float | None] = []

    def make(rate: float | None) -> LazyAdam:
        rates.append(rate)
        return LazyAdam(rate or 0.01)

    train = TrainStep(algorithm, make, xla=False)
    assert set(train.optimizers) == {"first.main", "second.main", "first.actor", "second.actor"}
    assert rates == [None, None, 0.001, 0.001]
    assert [algorithm.phase(step).name.partition(".")[2] for step in range(4)] == ["warm_up", "warm_up", "actor", "actor"]


def test_states_are_windows_of_the_last_events():
    algorithm = _build()
    items = np.array([[3, 5, 3, 9, 1, 2]])
    states = algorithm.encoder(tf.constant(items)).numpy()
    for step in range(7):
        window = items[:, max(0, step - 4) : step]
        padded = tf.constant(np.pad(window, [(0, 0), (0, 4 - window.shape[1])]))
        expected = algorithm.encoder.backbone.window(algorithm.encoder.embedding(padded), tf.constant([window.shape[1]]))
        assert states[:, step] == pytest.approx(expected.numpy(), abs=1e-6)
        at = algorithm.encoder.at(tf.constant(items), tf.constant([[step]]))
        assert states[:, step] == pytest.approx(at.numpy()[:, 0], abs=1e-6)


@pytest.mark.parametrize("changes", [{"window": None}, {"copy_head": True}])
def test_a_network_that_the_published_code_does_not_have_is_refused(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"mode: faithful needs network\.window"):
        toy.build("sqn", _network(**changes), mode="faithful")


def test_both_networks_have_the_heads_that_rank():
    algorithm = _build("snqn", recommend="values")
    assert algorithm.recommender == "values"
    assert algorithm.transitions
    items, length = tf.constant([[3, 5, 0]]), tf.constant([2])
    for head in algorithm.heads:
        ranking = algorithm.rank(algorithm.final_states(items, length), items, 5, head=head)
        assert len(set(ranking.item_id.numpy()[0])) == 5
