"""Returns-to-go of concatenated sequences."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reward import discounted_returns


def returns(sequences: list[list[float]], discount: float) -> list[list[float]]:
    lengths = np.array([len(s) for s in sequences], np.int64)
    flat = np.array([r for s in sequences for r in s], np.float32)
    out = discounted_returns(flat, lengths, discount)
    assert out.dtype == np.float32
    assert out.shape == flat.shape
    return [part.tolist() for part in np.split(out, np.cumsum(lengths)[:-1])] if sequences else []


def test_without_discount_a_return_is_the_sum_of_what_is_left() -> None:
    # 1+2+4 = 7, 2+4 = 6, 4; the second sequence is not added to the first.
    assert returns([[1.0, 2.0, 4.0], [8.0]], 1.0) == [[7.0, 6.0, 4.0], [8.0]]


def test_with_discount_a_half_each_step_counts_half() -> None:
    # 1 + 2/2 + 4/4 = 3, 2 + 4/2 = 4, 4
    assert returns([[1.0, 2.0, 4.0]], 0.5) == [[3.0, 4.0, 4.0]]


def test_without_future_a_return_is_the_reward() -> None:
    assert returns([[1.0, 2.0], [3.0]], 0.0) == [[1.0, 2.0], [3.0]]


def test_a_constant_reward_gives_the_geometric_series() -> None:
    # (1 - g^n) / (1 - g) with n steps left
    (found,) = returns([[1.0] * 40], 0.9)
    expected = [(1 - 0.9**left) / (1 - 0.9) for left in range(40, 0, -1)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_order_of_sequences_of_different_length_does_not_matter() -> None:
    short, long, middle = [1.0], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0]
    assert returns([short, long, middle], 0.5) == [
        *returns([short], 0.5),
        *returns([long], 0.5),
        *returns([middle], 0.5),
    ]


def test_no_sequences_have_no_returns() -> None:
    assert returns([], 0.5) == []


def test_sums_are_accumulated_in_double_precision() -> None:
    # From the end: 2^24, then + 1 sixty-four times. In single precision each 1 is lost.
    steps = [1.0] * 64 + [float(1 << 24)]
    assert returns([steps], 1.0)[0][0] == float((1 << 24) + 64)


def test_the_rewards_are_not_changed() -> None:
    rewards = np.array([1.0, 2.0], np.float32)
    discounted_returns(rewards, np.array([2], np.int64), 1.0)
    assert rewards.tolist() == [1.0, 2.0]


def naive(rewards: npt.NDArray[np.float64], discount: float) -> list[float]:
    out, following = [], 0.0
    for reward in reversed(rewards.tolist()):
        following = reward + discount * following
        out.append(following)
    return out[::-1]


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]),
)
def test_returns_equal_a_loop_from_the_end(sequences: list[list[float]], discount: float) -> None:
    expected = [naive(np.array(s, np.float64), discount) for s in sequences]
    for found, wanted in zip(returns(sequences, discount), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-4)
