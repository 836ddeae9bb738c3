"""What item vectors know of groups that nobody told them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def neighbour_purity(vectors: npt.NDArray[np.floating[Any]], group: npt.NDArray[np.integer[Any]], k: int = 10) -> float:
    """Mean share of an item's K nearest items, by the cosine of their vectors, that are of its group.

    Vectors that know nothing reach the share of pairs that are of one group; vectors that tell groups apart reach 1 where every group has
    more than K items.

    Args:
        vectors: [N, D].
        group: [N].
        k: K, at most N - 1. Of equal cosines the lower number counts as nearer.
    """
    if not 1 <= k < len(vectors):
        raise ValueError(f"expected 1 to {len(vectors) - 1} neighbours of {len(vectors)} items, found {k}")
    unit = vectors.astype(np.float64) / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    return float((group[nearest] == group[:, None]).mean())
