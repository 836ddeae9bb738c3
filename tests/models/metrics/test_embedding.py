"""Purity of neighbourhoods, worked out by hand."""

import numpy as np
import pytest

from models.metrics.embedding import neighbour_purity


def test_purity_by_hand() -> None:
    # On a circle at 0, 10, 90 and 110 degrees. The nearest of 0 is 10 and the other way round, so with 90 and 110.
    angle = np.radians([0.0, 10.0, 90.0, 110.0])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert neighbour_purity(vectors, np.array([0, 0, 1, 1]), k=1) == 1.0
    assert neighbour_purity(vectors, np.array([0, 1, 0, 1]), k=1) == 0.0
    # The two nearest: of 0 they are 10 and 90, of 10: 0 and 90, of 90: 110 and 10, of 110: 90 and 10.
    assert neighbour_purity(vectors, np.array([0, 0, 1, 1]), k=2) == 0.5
    # Lengths do not count.
    assert neighbour_purity(vectors * [[1.0], [5.0], [0.1], [2.0]], np.array([0, 0, 1, 1]), k=1) == 1.0


def test_vectors_without_knowledge_are_as_pure_as_chance() -> None:
    # 300 items in 10 groups of 30: of the other 299 items 29 are of an item's group.
    vectors = np.random.default_rng(0).normal(size=(300, 8))
    assert neighbour_purity(vectors, np.arange(300) % 10, k=10) == pytest.approx(29 / 299, abs=0.02)


def test_more_neighbours_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 to 3 neighbours of 4 items, found 4"):
        neighbour_purity(np.eye(4), np.arange(4), k=4)
