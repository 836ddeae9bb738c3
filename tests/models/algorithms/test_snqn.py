"""Self-supervised negative Q-learning against a slow computation."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.algorithms.value_based import Best, UniformNegatives
from models.frameworks import tf
from models.sampling import Seed

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


def _drawn(count: int) -> np.ndarray:
    drawn: np.ndarray = UniformNegatives(toy.NUM_ITEMS, count, seed=Seed(0)).draw(tf.constant(slow.STEP, tf.int64)).numpy()
    return drawn


def _slow_td(algorithm, discount: float, count: int, reward: float, drawn: np.ndarray) -> np.ndarray:
    """[B, T] loss of the logged items and of `count` negatives, whose target is of the state they leave as it is."""
    values = slow.Values(algorithm)
    td = 0.5 * (values.bootstrapped(discount, values.double_q) - values.logged()[..., 0]) ** 2
    for row, step in values.events():
        target = reward + discount * values.double_q(row, step)
        losses = [0.5 * (target - values.online[row, step, 0, item]) ** 2 for item in values.negatives_of(drawn, row, step)]
        td[row, step] += count * np.mean(losses)
    return td * slow.mask(algorithm)


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize(("q_weight", "reward"), [(1.0, 0.0), (0.3, -0.4)])
def test_the_td_loss_is_that_of_a_slow_computation(softmax: str, q_weight: float, reward: float):
    algorithm = slow.build("snqn", softmax, discount=0.7, q_weight=q_weight, num_negatives=10, negative_reward=reward, shared_negatives=30)
    expected = q_weight * _slow_td(algorithm, 0.7, 10, reward, _drawn(30))
    found = slow.parts(algorithm)
    assert list(found) == ["cross_entropy", "td"]
    assert found["td"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found["cross_entropy"] == pytest.approx(-slow.log_prob(algorithm) * slow.mask(algorithm), rel=1e-5)


def test_the_worked_example_of_a_negative_has_the_published_loss():
    # The online network says [.1, .4, -.2] of the state, the target network [.05, .35, -.1]: item 2 is worth .35, the target is
    # .5 * .35 = .175, and the loss of item 3 is .5 * (.175 + .2)^2 = .0703125.
    algorithm = slow.few_items("snqn", 3, discount=0.5, num_negatives=1)
    best = Best(online=tf.fill([1, 2, 1], 0.4), target=tf.fill([1, 2, 1], 0.35))
    loss = algorithm.negative_td(best, tf.constant([[[-0.2]]]), tf.ones([1, 1, 1]))
    assert loss.numpy() == pytest.approx(np.array([[0.0703125]]), rel=1e-5)


def test_the_sum_over_ten_negatives_is_ten_times_that_over_one():
    plain, one, ten = (
        slow.parts(algorithm)["td"]
        for algorithm in (slow.build("sqn"), slow.build("snqn", num_negatives=1), slow.build("snqn", num_negatives=10))
    )
    assert ten - plain == pytest.approx(10.0 * (one - plain), rel=1e-4, abs=1e-5)
    assert (one - plain).max() > 1e-3


def test_the_target_of_negatives_goes_on_where_the_session_ends():
    # In the first two sessions nothing of the logged item's target comes from the target network at the last event, and yet the
    # loss depends on it: a negative leaves the state as it is.
    algorithm = slow.build("snqn")
    before = slow.parts(algorithm)["td"]
    table = algorithm.target.values.table
    table.assign(table + 1.0)
    assert ((np.abs(slow.parts(algorithm)["td"] - before) > 1e-4) == (slow.mask(algorithm) > 0)).all()


def test_the_target_of_negatives_gets_no_gradient():
    # One item is best by far, and neither logged nor drawn: nothing may move it but the targets' own choice of it.
    algorithm = slow.build("snqn", shared_negatives=2)
    drawn = set(_drawn(2).tolist())
    best = next(item for item in slow.ITEMS if item not in drawn | {item for session in slow.SESSIONS for item in session})
    for head in slow.value_heads(algorithm):
        head.table.assign(tf.tensor_scatter_nd_add(head.table, [[best, head.width]], [30.0]))
    found = slow.gradients(algorithm, "td")
    assert np.abs(found["values/0"][best]).max() == 0.0
    assert np.abs(found["values/0"][3]).max() > 0.0
    assert [path for path, gradient in found.items() if path.startswith("target/") and gradient is not None] == []


def test_the_logged_item_is_no_negative_of_its_own_step():
    # Item 2 is all that can be drawn beside item 1; where it is logged, item 1 alone is a negative.
    algorithm = slow.few_items("snqn", 2, discount=0.0, num_negatives=3)
    slow.say(algorithm.values, [0.5, -1.0])
    # Logged 1 with reward .2: .5 * .3^2 + 3 * .5 * 1^2. Logged 2: .5 * 1.2^2 + 3 * .5 * .5^2.
    expected = [[0.045 + 1.5, 0.72 + 0.375]]
    assert slow.parts(algorithm, toy.batch([[1, 2]]))["td"] == pytest.approx(np.array(expected), rel=1e-4)


def test_draws_are_uniform_and_the_same_for_all_that_have_the_seed():
    # 2,000 draws of 20 items: 100 each, give or take five standard deviations.
    drawn = np.concatenate(
        [UniformNegatives(toy.NUM_ITEMS, 100, seed=Seed(1)).draw(tf.constant(step, tf.int64)).numpy() for step in range(20)]
    )
    counts = np.bincount(drawn, minlength=toy.NUM_ITEMS + 1)
    assert counts[0] == counts[toy.UNKNOWN] == 0
    assert (np.abs(counts[1 : toy.NUM_ITEMS] - 100) < 50).all()
    again = UniformNegatives(toy.NUM_ITEMS, 100, seed=Seed(1)).draw(tf.constant(0, tf.int64)).numpy()
    assert again.tolist() == drawn[:100].tolist()
