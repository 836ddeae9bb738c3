"""Logits of the whole catalogue in blocks against the same in one piece."""

import numpy as np
import pytest

from models.catalogue import CatalogueLogits
from models.frameworks import tf

# Around the borders of blocks of 64, with and without a rest.
SIZES = [1, 2, 63, 64, 65, 127, 128, 129, 200, 320]


def _case(size: int, seed: int = 0, levels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States and vectors of small whole numbers, and their logits: exact, and with many ties."""
    rng = np.random.default_rng(seed)
    states = rng.integers(-levels, levels + 1, (5, 2)).astype(np.float32)
    vectors = rng.integers(-levels, levels + 1, (size, 2)).astype(np.float32)
    return states, vectors, states @ vectors.T


@pytest.mark.parametrize("size", SIZES)
def test_the_greatest_logits_come_in_order_and_of_equal_ones_the_first(size: int):
    for seed in range(5):
        states, vectors, logits = _case(size, seed)
        for k in sorted({1, min(5, size), (size + 1) // 2, size}):
            value, index = CatalogueLogits(tf.constant(states), tf.constant(vectors)).top_k(k)
            order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
            assert index.numpy().tolist() == order.tolist(), (size, seed, k)
            assert value.numpy().tolist() == np.take_along_axis(logits, order, axis=1).tolist()


def test_equal_logits_everywhere_come_by_index():
    logits = CatalogueLogits(tf.zeros([2, 3]), tf.ones([300, 3]))
    assert logits.top_k(150)[1].numpy().tolist() == [list(range(150))] * 2


@pytest.mark.parametrize("size", SIZES)
def test_the_normaliser_is_the_logarithm_of_the_sum_of_exponentials(size: int):
    states, vectors, logits = _case(size)
    expected = np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    assert CatalogueLogits(tf.constant(states), tf.constant(vectors)).logsumexp().numpy() == pytest.approx(expected, rel=1e-5)


def test_the_normaliser_of_large_logits_does_not_overflow():
    # log(2 exp(1000) + ...) = 1000 + log 2
    vectors = np.full((130, 1), -1000.0, np.float32)
    vectors[[3, 129]] = 1000.0
    found = CatalogueLogits(tf.ones([1, 1]), tf.constant(vectors)).logsumexp().numpy()
    assert found.item() == pytest.approx(1000.0 + np.log(2.0), rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_logits_of_some_items_are_those_at_their_indices(size: int):
    states, vectors, logits = _case(size)
    index = np.random.default_rng(1).integers(0, size, (5, 7))
    index[:, 0], index[:, 1] = 0, size - 1
    found = CatalogueLogits(tf.constant(states), tf.constant(vectors)).at(tf.constant(index, tf.int32))
    assert found.numpy().tolist() == np.take_along_axis(logits, index, axis=1).tolist()


@pytest.mark.parametrize("size", [2, 64, 130])
def test_no_states_and_no_indices_give_nothing(size: int):
    _, vectors, _ = _case(size)
    empty = CatalogueLogits(tf.zeros([0, 2]), tf.constant(vectors))
    assert empty.top_k(2)[1].shape == (0, 2)
    assert empty.logsumexp().shape == (0, 1)
    some = CatalogueLogits(tf.zeros([3, 2]), tf.constant(vectors))
    assert some.at(tf.zeros([3, 0], tf.int32)).shape == (3, 0)
