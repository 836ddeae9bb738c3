"""Returns raised to values: the paper's recursion by hand, the stitching world exactly, and windows that agree with their rewards."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.frameworks import tf
from models.relabelling import NO_NEXT_STATE, relabel, returns_of_windows
from models.simulators.stitching import FIRST, SECOND, Stitching, StitchingConfig
from schemas.reward import discounted_returns

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")


def _relabel(rewards: list[float], values: list[float], lengths: list[int], discount: float):
    return relabel(np.array(rewards, np.float32), np.array(values, np.float64), np.array(lengths), discount)


def test_the_recursion_by_hand():
    # V of the states is [3, 1.5, 2.5, .4]; the value after event t is that of state t+1.
    # R_4 = 1; R_3 = 0 + max(1, .4) = 1; R_2 = 1 + max(1, 2.5) = 3.5; R_1 = 0 + max(3.5, 1.5) = 3.5. Plain: 2, 2, 1, 1.
    found = _relabel([0, 1, 0, 1], [1.5, 2.5, 0.4, NO_NEXT_STATE], [4], 1.0)
    assert found.returns.tolist() == [3.5, 3.5, 1.0, 1.0]
    assert found.replaced.tolist() == [False, True, False, False]


def test_the_recursion_with_a_discount_by_hand():
    # R_4 = 1; R_3 = 0 + .5 * max(1, .4) = .5; R_2 = 1 + .5 * max(.5, 2.5) = 2.25; R_1 = 0 + .5 * max(2.25, 1.5) = 1.125.
    found = _relabel([0, 1, 0, 1], [1.5, 2.5, 0.4, NO_NEXT_STATE], [4], 0.5)
    assert found.returns.tolist() == [1.125, 2.25, 0.5, 1.0]


def test_a_session_that_was_cut_off_is_worth_what_its_next_state_is():
    # What the log knows after the last event is 0: R_2 = 1 + max(0, 2) = 3, R_1 = 1 + max(3, 0) = 4; below 0 nothing changes.
    assert _relabel([1, 1], [0.0, 2.0], [2], 1.0).returns.tolist() == [4.0, 3.0]
    assert _relabel([1, 1], [0.0, -2.0], [2], 1.0).returns.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("discount", [0.0, 0.7, 1.0])
def test_sessions_side_by_side_do_not_touch(discount: float):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, 50)
    rewards, values = rng.random(lengths.sum()).astype(np.float32), rng.random(lengths.sum()) * 3
    values[np.cumsum(lengths) - 1] = NO_NEXT_STATE
    together = relabel(rewards, values, lengths, discount)
    begin = 0
    for length in lengths:
        rest = 0.0
        for step in reversed(range(begin, begin + length)):
            rest = float(rewards[step]) + discount * max(rest, values[step] if step < begin + length - 1 else 0.0)
            assert together.returns[step] == pytest.approx(rest)
        begin += length
    plain = discounted_returns(rewards, lengths, discount)
    assert (together.returns >= plain - 1e-6).all()
    nothing = relabel(rewards, np.full(len(rewards), NO_NEXT_STATE), lengths, discount)
    assert nothing.returns == pytest.approx(plain, rel=1e-6)
    assert not nothing.replaced.any()
    assert len(relabel(rewards[:0], values[:0], lengths[:0], discount).returns) == 0


def test_with_exact_values_the_stitched_return_is_reached_and_plain_ones_do_not():
    world = Stitching(StitchingConfig(steps_per_half=2))
    log = world.logs(40, seed=3)
    lengths = np.full(40, 4)
    value = world.value(world.optimal_policy())
    after = np.append(value[log.state[1:]], 0.0)
    after[log.is_last] = NO_NEXT_STATE
    rewards = log.reward.astype(np.float32)
    first = np.cumsum(lengths) - lengths
    plain, found = discounted_returns(rewards, lengths, 1.0), relabel(rewards, after, lengths, 1.0).returns
    # Best is 1 for the first half and 2 for the second; no session has both.
    assert plain.max() == 2.0
    assert value[0] == found.max() == 3.0
    # The first action decides: right is worth both halves, wrong the second alone.
    does_first = log.policy[first] == FIRST
    assert set(found[first][does_first]) == {3.0}
    assert set(found[first][~does_first]) == {2.0}
    # At the junction a wrong action is worth nothing, whatever was possible before it.
    junction = first + 2
    assert set(found[junction][log.policy[junction] == FIRST]) == {0.0}
    assert set(found[junction][log.policy[junction] == SECOND]) == {2.0}


def test_a_window_keeps_its_last_return_and_goes_back_by_the_rewards():
    # Windows of the worked example: end at event 4: [2, 2, 1, 1]; at 2: [0 + 3.5, 3.5]; at 1: [3.5].
    reward = tf.constant([[0.0, 1.0, 0.0, 1.0]] * 3)
    returns = tf.constant([[3.5, 3.5, 1.0, 1.0]] * 3)
    found = returns_of_windows(reward, returns, tf.constant([4, 2, 1]), 1.0).numpy()
    assert found.tolist() == [[2.0, 2.0, 1.0, 1.0], [3.5, 3.5, 0.0, 0.0], [3.5, 0.0, 0.0, 0.0]]
    # Discount .5, end at event 3 with R_3 = .5: R_2 = 1 + .25, R_1 = 0 + .5 * 1.25.
    found = returns_of_windows(reward[:1], tf.constant([[1.125, 2.25, 0.5, 1.0]]), tf.constant([3]), 0.5).numpy()
    assert found.tolist() == [[0.625, 1.25, 0.5, 0.0]]


@pytest.mark.parametrize("discount", [0.0, 0.6, 1.0])
def test_returns_that_agree_with_their_rewards_stay_in_every_window(discount: float):
    rewards = np.random.default_rng(1).random((1, 6)).astype(np.float32)
    plain = discounted_returns(rewards[0], np.array([6]), discount)[None, :]
    for length in range(1, 7):
        found = returns_of_windows(tf.constant(rewards), tf.constant(plain), tf.constant([length]), discount).numpy()
        assert found[0, :length] == pytest.approx(plain[0, :length], rel=1e-5)


def test_the_value_of_a_state_is_the_greatest_of_all_items():
    algorithm = toy.shake(toy.build("cql"))
    batch = toy.batch([[3, 5, 3, 7], [1, toy.UNKNOWN, 2]])
    mask = np.zeros((2, 5), bool)
    mask[0, 1:5], mask[1, 0], mask[1, 3] = True, True, True
    found = algorithm.state_values(batch.item_id, tf.constant(mask)).numpy()
    state = algorithm.values(algorithm.encoder(batch.item_id), batch.item_id)
    every = algorithm.values.of_items(state, batch.item_id, tf.range(1, toy.NUM_ITEMS)).numpy()[:, :, 0]
    assert found == pytest.approx(every.max(axis=-1)[mask], rel=1e-5)
