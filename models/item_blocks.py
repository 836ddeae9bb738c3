"""Items in blocks of similar ones, so that a search looks into few of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_SAMPLE = 2048
"""Vectors of a part that decide how it is divided."""
_POWER_STEPS, _MEAN_STEPS = 4, 4


class ItemBlocks(NamedTuple):
    """I items in blocks of at most S.

    Attributes:
        item_index: [P, S] int32 items of each block, rising, from 0; -1 fills up.
        mean: [P, D] of the vectors of a block.
        variance: [P, D] of each dimension within a block.
        size: [P] int32 items of a block, at least 1.
    """

    item_index: Ints
    mean: Floats
    variance: Floats
    size: Ints


def make_blocks(vectors: Floats, size: int, seed: int = 0) -> ItemBlocks:
    """Divides items in two again and again, each time into halves that are far apart, until a part fits a block.

    Blocks are full but for the halves' rounding, whatever the items look like: each division sorts a part along the line
    between the means of its two halves, found by a few steps of 2-means with equal halves, and cuts where the numbers of blocks
    on both sides want it.

    Args:
        vectors: [I, D], I at least 1.
        size: S.
        seed: Seed of the samples.

    Returns:
        The blocks, the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    done: list[npt.NDArray[np.int64]] = []
    waiting = [np.arange(len(vectors))]
    while waiting:
        part = waiting.pop()
        num_blocks = -(-len(part) // size)
        if num_blocks == 1:
            done.append(np.sort(part))
            continue
        cut = len(part) * (num_blocks // 2) // num_blocks
        projected = _direction(vectors, part, cut / len(part), rng)
        order = np.argpartition(projected, cut)
        waiting += [part[order[cut:]], part[order[:cut]]]
    return _described(vectors, done, size)


def _direction(vectors: Floats, part: npt.NDArray[np.int64], share: float, rng: np.random.Generator) -> Floats:
    """[n] how far each item of a part is to one side."""
    sampled = part if len(part) <= _SAMPLE else rng.choice(part, _SAMPLE, replace=False)
    sample = vectors[sampled]
    centred = sample - sample.mean(axis=0)
    # The direction of most variance, about, is where halves begin to be found.
    line = centred[np.argmax(np.einsum("nd,nd->n", centred, centred))]
    for _ in range(_POWER_STEPS):
        line = centred.T @ (centred @ line)
        line /= max(float(np.linalg.norm(line)), 1e-30)
    cut = min(max(1, round(share * len(sample))), len(sample) - 1)
    for _ in range(_MEAN_STEPS):
        order = np.argpartition(centred @ line, cut)
        line = centred[order[cut:]].mean(axis=0) - centred[order[:cut]].mean(axis=0)
    projected: Floats = vectors[part] @ line
    return projected


def _described(vectors: Floats, parts: list[npt.NDArray[np.int64]], size: int) -> ItemBlocks:
    num_blocks, width = len(parts), vectors.shape[1]
    index = np.full((num_blocks, size), -1, np.int32)
    mean, variance = np.zeros((num_blocks, width), np.float32), np.zeros((num_blocks, width), np.float32)
    for number, part in enumerate(parts):
        index[number, : len(part)] = part
        of_part = vectors[part].astype(np.float64)
        mean[number], variance[number] = of_part.mean(axis=0), of_part.var(axis=0)
    return ItemBlocks(index, mean, variance, (index >= 0).sum(axis=1).astype(np.int32))
