"""Behaviour cloning recovers what the log does."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.frameworks import tf
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parents[1]))
toy = import_module("toy_shop")


def _log_prob(algorithm, batch) -> np.ndarray:
    return algorithm.log_prob(algorithm.encoder(batch.item_id), batch.item_id, None).numpy()


def test_the_loss_is_the_negative_log_probability_of_the_logged_items():
    algorithm = toy.shake(toy.build("bc"))
    batch = toy.batch([[3, 5, 3], [9, 1]])
    losses = algorithm.losses(batch, tf.constant(0, tf.int64), training=False)
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    assert losses.parts["cross_entropy"].numpy() * mask == pytest.approx(-_log_prob(algorithm, batch) * mask, rel=1e-5)
    # Five events count the same, whichever session they are of.
    assert toy.mean_loss(algorithm, batch)["cross_entropy"] == pytest.approx(
        float((-_log_prob(algorithm, batch) * mask).sum() / 5), rel=1e-5
    )


def test_rewards_do_not_matter():
    algorithm = toy.shake(toy.build("bc"))
    one, other = toy.batch([[3, 5]], [[0.2, 0.2]]), toy.batch([[3, 5]], [[1.0, -7.0]])
    assert toy.mean_loss(algorithm, one) == toy.mean_loss(algorithm, other)


@pytest.mark.parametrize("copy_head", [True, False], ids=["copy", "no_copy"])
def test_the_policy_recovers_the_frequencies_of_the_log(copy_head: bool):
    # First events: item 1 in 6 of 10 sessions, 2 in 3, 3 in 1. After item 1: item 1 again in half of them, else 4.
    sessions = [[1, 1]] * 3 + [[1, 4]] * 3 + [[2, 5]] * 3 + [[3, 6]]
    networks = toy.network(copy_head=copy_head, backbone=toy.backbone(dropout=0.0))
    algorithm = toy.build("bc", networks)
    train = TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)
    batch = toy.batch(sessions)
    for step in range(250):
        train(batch, step)
    probability = np.exp(_log_prob(algorithm, toy.batch([[1, 1], [1, 4], [2, 5], [3, 6]])))
    assert probability[:, 0] == pytest.approx([0.6, 0.6, 0.3, 0.1], abs=0.03)
    assert probability[:2, 1] == pytest.approx([0.5, 0.5], abs=0.05)
    assert (probability[2:, 1] > 0.9).all()
