"""Target networks that follow."""

import pytest

from models.frameworks import tf
from models.module import Module
from models.targets import copy_variables, follow


class _Net(Module):
    def __init__(self, first: list[float], second: float):
        self.first = tf.Variable(first)
        self.second = tf.Variable(second)


def test_a_target_moves_by_the_stated_share():
    # 1 + .25 * (5 - 1) = 2;  -2 + .25 * (2 - -2) = -1;  8 + .25 * (0 - 8) = 6
    source, target = _Net([5.0, 2.0], 0.0), _Net([1.0, -2.0], 8.0)
    follow(source, target, 0.25)
    assert target.first.numpy().tolist() == [2.0, -1.0]
    assert target.second.numpy() == 6.0
    assert source.first.numpy().tolist() == [5.0, 2.0]


def test_ten_small_moves_are_one_of_their_joint_share():
    source, many, once = _Net([5.0, 2.0], 0.0), _Net([1.0, -2.0], 8.0), _Net([1.0, -2.0], 8.0)
    for _ in range(10):
        follow(source, many, 0.1)
    follow(source, once, 1.0 - 0.9**10)
    assert once.first.numpy() == pytest.approx(many.first.numpy(), rel=1e-5)


def test_a_copy_is_equal_and_does_not_follow_by_itself():
    source, target = _Net([5.0, 2.0], 0.0), _Net([1.0, -2.0], 8.0)
    copy_variables(source, target)
    source.first.assign([0.0, 0.0])
    assert target.first.numpy().tolist() == [5.0, 2.0]


def test_networks_that_are_not_alike_are_an_error():
    source, target = _Net([5.0, 2.0], 0.0), _Net([1.0, -2.0], 8.0)
    target.third = tf.Variable(1.0)
    with pytest.raises(ValueError, match="zip"):
        follow(source, target, 0.5)
