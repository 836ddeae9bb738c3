"""The random ensemble mixture against a slow computation."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


def _mixture(algorithm, step: int) -> np.ndarray:
    found: np.ndarray = algorithm.mixture(tf.constant(step, tf.int64)).numpy()
    return found


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_the_loss_is_that_of_a_slow_computation(softmax: str, num_heads: int):
    algorithm = slow.build("rem", softmax, discount=0.7, num_heads=num_heads)
    values, alpha = slow.Values(algorithm), _mixture(algorithm, slow.STEP)
    # The same weights for both networks; the greatest value of the target's own mixture, not double Q-learning.
    online, target = (np.einsum("bthn,h->btn", networks, alpha) for networks in (values.online, values.target))
    logged = np.take_along_axis(online[:, :-1], slow.batch().item_id.numpy()[:, :, None], axis=2)[..., 0]
    wanted = values.bootstrapped(0.7, lambda row, state: max(target[row, state, item] for item in values.candidates(row, state)))
    # Errors on both sides of 1, where the loss changes its form.
    sizes = np.abs(wanted - logged)[slow.mask(algorithm) > 0]
    assert sizes.min() < 1.0 < sizes.max()
    found = slow.parts(algorithm)
    assert list(found) == ["td"]
    assert found["td"] == pytest.approx(slow.huber(wanted - logged) * slow.mask(algorithm), rel=1e-4, abs=1e-5)


def test_weights_are_a_convex_combination_that_is_new_at_every_step():
    algorithm = slow.build("rem", num_heads=6)
    drawn = np.stack([_mixture(algorithm, step) for step in range(200)])
    assert (drawn >= 0).all()
    assert drawn.sum(axis=1) == pytest.approx(np.ones(200), rel=1e-5)
    assert len({tuple(row) for row in drawn.tolist()}) == 200
    # Uniform numbers over their sum: each head has a sixth on average. The deviation of one is about .09, of the mean .0065.
    assert drawn.mean(axis=0) == pytest.approx(np.full(6, 1 / 6), abs=5 * 0.0065)


def test_weights_depend_on_seed_and_step_alone():
    one, again, other = (slow.build("rem", num_heads=6, **seed) for seed in ({}, {}, {"seed": 1}))
    tf.random.uniform([3])
    assert _mixture(one, 7).tolist() == _mixture(again, 7).tolist() != _mixture(other, 7).tolist()


def test_all_heads_of_a_mixture_get_a_gradient():
    algorithm = slow.build("rem", num_heads=3)
    gradient = slow.gradients(algorithm, "td")["values/0"].reshape(toy.NUM_ITEMS + 1, 3, -1)
    sizes = np.abs(gradient).max(axis=(0, 2))
    # In proportion to their weights.
    assert sizes / sizes.sum() == pytest.approx(_mixture(algorithm, slow.STEP), rel=1e-3)


def test_recommendations_are_those_of_the_mean_of_the_heads():
    algorithm = slow.build("rem", num_heads=5)
    batch, mean = slow.batch(), slow.Values(algorithm).online.mean(axis=2)
    mask = tf.sequence_mask(batch.length, 5)
    state, history = algorithm.evaluation_states(batch.item_id, mask)
    ranking = algorithm.rank(state, history, 20)
    for place, (row, step) in enumerate(np.argwhere(mask.numpy())):
        expected = mean[row, step, 1 : toy.NUM_ITEMS]
        assert ranking.score.numpy()[place] == pytest.approx(np.sort(expected)[::-1], abs=1e-4)
        assert ranking.item_id.numpy()[place].tolist() == (np.argsort(-expected) + 1).tolist()


def test_the_mean_table_is_the_mean_of_the_tables_of_the_heads():
    algorithm = slow.build("rem", num_heads=5)
    heads = algorithm.values.table.numpy().reshape(toy.NUM_ITEMS + 1, 5, -1)
    assert algorithm.tables()["values"].numpy() == pytest.approx(heads.mean(axis=1), rel=1e-5, abs=1e-6)


def test_one_head_is_q_learning_with_a_huber_loss():
    # A mixture of one is that one.
    assert _mixture(slow.build("rem", num_heads=1), 3).tolist() == [1.0]
