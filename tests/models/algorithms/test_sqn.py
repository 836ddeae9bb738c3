"""Self-supervised Q-learning against a slow computation, and on a chain whose values are known."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parents[1]))
toy = import_module("toy_shop")

SESSIONS = [[3, 5, 3, 9, 1], [toy.UNKNOWN, 2, 2], [7], [4, 4, 4, 20]]
REWARD = [[0.2, 0.2, 1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [0.2], [0.2, 0.2, 0.2, 1.0]]
IS_TERMINAL = [1, 1, 0, 0]


def _values(head, states: np.ndarray) -> np.ndarray:
    """[B, T, N+1] values of all rows of a value head's table."""
    return states @ head.table.numpy().T + head.bias.numpy()


def _slow_td(algorithm, batch: TrajectoryBatch, negatives: np.ndarray | None, discount: float) -> np.ndarray:
    """[B, T] half the squared TD error of every event, one at a time; 0 for padding."""
    online = _values(algorithm.values, algorithm.encoder(batch.item_id).numpy())
    target = _values(algorithm.target.values, algorithm.target.encoder(batch.item_id).numpy())
    items, length = batch.item_id.numpy(), batch.length.numpy()
    losses = np.zeros(items.shape)
    for row in range(len(items)):
        for step in range(length[row]):
            last = step == length[row] - 1
            candidates = list(range(1, toy.NUM_ITEMS)) if negatives is None else negatives.tolist()
            if negatives is not None and not last and 0 < items[row, step + 1] < toy.NUM_ITEMS:
                candidates = [*candidates, items[row, step + 1]]
            chosen = max(candidates, key=lambda item: online[row, step + 1, item])
            done = last and batch.is_terminal.numpy()[row]
            y = batch.reward.numpy()[row, step] + (0.0 if done else discount * target[row, step + 1, chosen])
            losses[row, step] = 0.5 * (y - online[row, step, items[row, step]]) ** 2
    return losses


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("q_weight", [1.0, 0.3])
def test_the_td_loss_is_that_of_a_slow_computation(softmax: str, q_weight: float):
    algorithm = toy.shake(toy.build("sqn", toy.network(softmax=softmax), discount=0.7, q_weight=q_weight))
    for head in (algorithm.values, algorithm.target.values):
        # Padding and the unknown item would be the best of all, if they could be chosen.
        head.bias.assign(tf.tensor_scatter_nd_update(head.bias, [[0], [toy.UNKNOWN]], [50.0, 60.0]))
    batch = toy.batch(SESSIONS, REWARD, is_terminal=IS_TERMINAL)
    step = tf.constant(4, tf.int64)
    negatives = algorithm.negatives(step)
    expected = q_weight * _slow_td(algorithm, batch, None if negatives is None else negatives.numpy(), 0.7)
    found = algorithm.losses(batch, step, training=False)
    mask = found.mask.numpy()
    assert mask.sum() == 12
    assert (found.parts["td"].numpy() * mask) == pytest.approx(expected * mask, rel=1e-4, abs=1e-5)


def test_the_cross_entropy_is_that_of_behaviour_cloning():
    networks = toy.network()
    sqn, bc = toy.shake(toy.build("sqn", networks)), toy.build("bc", networks)
    mine = sqn.named_variables()
    for path, variable in bc.named_variables().items():
        variable.assign(mine[path])
    batch = toy.batch(SESSIONS, REWARD, is_terminal=IS_TERMINAL)
    assert toy.mean_loss(sqn, batch)["cross_entropy"] == pytest.approx(toy.mean_loss(bc, batch)["cross_entropy"], rel=1e-5)


def test_a_weight_of_zero_leaves_the_cross_entropy_alone():
    algorithm = toy.shake(toy.build("sqn", q_weight=0.0))
    assert toy.mean_loss(algorithm, toy.batch(SESSIONS, REWARD))["td"] == 0.0


def test_a_stretch_that_goes_on_elsewhere_is_not_the_end_of_its_session():
    # The same events, once as a whole session and once as a stretch of a longer one.
    algorithm = toy.shake(toy.build("sqn"))
    whole = algorithm.losses(toy.batch([[3, 5]]), tf.constant(0, tf.int64), training=False).parts["td"].numpy()[0]
    stretch = algorithm.losses(toy.batch([[3, 5]], is_terminal=[0]), tf.constant(0, tf.int64), training=False).parts["td"].numpy()[0]
    assert stretch[0] == pytest.approx(whole[0])
    assert abs(stretch[1] - whole[1]) > 1e-3


def test_a_fresh_target_network_is_a_copy_of_the_online_one():
    algorithm = toy.build("sqn")
    named = algorithm.named_variables()
    for path, variable in named.items():
        if path.startswith("target/"):
            np.testing.assert_array_equal(variable.numpy(), named[path.removeprefix("target/")].numpy(), err_msg=path)


def test_the_target_network_sees_no_dropout():
    # Rates so high that two passes with dropout never agree; the online network's values of the next state only choose.
    algorithm = toy.shake(toy.build("sqn", toy.network(backbone=toy.backbone(dropout=0.9))))
    item_id = tf.constant([[1, 2, 3]])
    seen = []
    original = algorithm.target.encoder.backbone.__class__.__call__

    def watch(self, embedded, training=False):
        seen.append((self is algorithm.target.encoder.backbone, training))
        return original(self, embedded, training=training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm.target.encoder.backbone.__class__, "__call__", watch)
        algorithm.losses(toy.batch(item_id.numpy().tolist()), tf.constant(0, tf.int64), training=True)
    assert (True, False) in seen
    assert (False, True) in seen
    assert (True, True) not in seen


def test_values_reach_the_fixed_point_of_a_small_mdp():
    # Two items, two events a session, every pair logged, discount .5. Item 1 pays at once (.2), item 2 pays nothing but leads to
    # where item 1 pays 1. Last event: Q(after 1) = [0, .2], Q(after 2) = [1, .2].
    # First event: Q(1) = .2 + .5 * .2 = .3, Q(2) = 0 + .5 * 1 = .5.
    networks = toy.network(backbone=toy.backbone(dropout=0.0))
    algorithm = toy.build("sqn", networks, items=toy.catalogue(3, 2), discount=0.5, target_rate=0.2, target_period=1)
    train = TrainStep(algorithm, LazyAdam(0.01), xla=False)
    batch = toy.batch([[1, 1], [1, 2], [2, 1], [2, 2]], [[0.2, 0.0], [0.2, 0.2], [0.0, 1.0], [0.0, 0.2]])
    for step in range(300):
        train(batch, tf.constant(step, tf.int64))
    states = algorithm.encoder(batch.item_id)
    assert algorithm.values(states[:1, :1]).numpy().ravel() == pytest.approx([0.3, 0.5], abs=0.02)
    assert algorithm.values(states[::2, 1:2]).numpy()[:, 0] == pytest.approx(np.array([[0.0, 0.2], [1.0, 0.2]]), abs=0.02)
    # The policy imitates the log at the same time: all four pairs are as frequent.
    assert toy.mean_loss(algorithm, batch)["cross_entropy"] == pytest.approx(np.log(2.0), abs=0.02)
