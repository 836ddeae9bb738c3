"""CDT4Rec: the estimated reward and what it stands for."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.algorithms.base import Condition
from models.frameworks import tf
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


def test_the_reward_loss_is_the_squared_error_in_units_of_the_scale():
    algorithm = slow.build("cdt4rec", reward_weight=0.7)
    algorithm.returns.scale.assign([2.0])
    batch = slow.batch()
    states = algorithm.encoder(batch.item_id)
    reward = algorithm.estimated_reward(states[:, :-1], batch.item_id).numpy()
    expected = 0.7 * ((reward - batch.reward.numpy()) / 2.0) ** 2 * slow.mask(algorithm)
    assert slow.parts(algorithm)["reward"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    health = algorithm.losses(batch, tf.constant(slow.STEP, tf.int64), training=False).health
    error = np.abs(reward - batch.reward.numpy())[slow.mask(algorithm) > 0]
    assert float(health["reward_error"]) == pytest.approx(error.mean(), rel=1e-4)


def test_the_reward_depends_on_state_and_item_and_not_on_the_wanted_return():
    algorithm = slow.build("cdt4rec")
    batch = slow.batch()
    more = batch._replace(return_to_go=batch.return_to_go + 3.0)
    assert slow.parts(algorithm, more)["reward"] == pytest.approx(slow.parts(algorithm)["reward"], rel=1e-6)
    states = algorithm.encoder(batch.item_id)[:, :-1]
    one = algorithm.estimated_reward(states, batch.item_id).numpy()
    assert np.abs(algorithm.estimated_reward(states, tf.ones_like(batch.item_id)).numpy() - one).max() > 1e-3


def test_where_no_reward_is_known_the_return_goes_down_by_the_estimate():
    algorithm = slow.build("cdt4rec")
    algorithm.returns.least.assign([-50.0])
    algorithm.returns.greatest.assign([50.0])
    item_id = tf.constant([[3, 5, 3]])
    states = algorithm.encoder(item_id)
    estimate = algorithm.estimated_reward(states[:, :-1], item_id).numpy()[0]
    condition = Condition(tf.constant([4.0]), tf.constant([[float("nan"), 1.5, float("nan")]]))
    found = algorithm.wanted_returns(states, item_id, condition).numpy()[0]
    assert found == pytest.approx(4.0 - np.cumsum([0.0, estimate[0], 1.5, estimate[2]]), abs=1e-5)


def test_the_estimate_learns_what_items_earn():
    algorithm = toy.build("cdt4rec", toy.network(backbone=toy.backbone(dropout=0.0)), dropout=0.0)
    # Item 1 earns 1 after item 3 and nothing after item 4.
    batch = toy.batch([[3, 1], [4, 1], [3, 2]], [[0.2, 1.0], [0.2, 0.0], [0.2, 0.5]])
    algorithm.adapt([batch])
    train = TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)
    for step in range(150):
        train(batch, step)
    found = algorithm.estimated_reward(algorithm.encoder(batch.item_id)[:, :-1], batch.item_id).numpy()
    assert found == pytest.approx(batch.reward.numpy(), abs=0.1)
