"""How an exported model finds the best items: by scoring all of them, or by searching among blocks of similar ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from components.base import ComponentError, Progress
from components.exporter.config import RetrievalConfig
from components.model_io import LoadedModel
from models.algorithms.base import Algorithm
from models.clustered import ClusteredTable
from models.frameworks import tf
from models.item_blocks import make_blocks

_BATCH = 64
_MOST_SHARE = 4
"""At most one block in so many is looked into; beyond that, scoring everything is as fast."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Retrieval:
    """What was chosen.

    Attributes:
        stated: What the artifact says of it: method, and of a search blocks, probes, recall and how far scores are off.
        tables: Head to the table that is searched; empty where everything is scored.
    """

    stated: Mapping[str, Any]
    tables: Mapping[str, ClusteredTable] = field(default_factory=dict)


def choose_retrieval(config: RetrievalConfig, model: LoadedModel, histories: list[Ints], k: int, progress: Progress) -> Retrieval:
    """Chooses the fewest blocks that find as many of the best items as are wanted.

    They are chosen on one half of the histories, and the recall is measured on the other.

    Args:
        config: What is wanted.
        model: The policy.
        histories: Items by id, oldest first.
        k: K.
        progress: Where it is said when a search is not good enough.

    Raises:
        ComponentError: A search is asked for, and the model does not allow one or it does not find enough.
    """
    num_items, head = model.algorithm.catalogue.num_items - 1, model.algorithm.searched_head
    if config.method == "exact" or (config.method == "auto" and num_items < config.clustered_from):
        return Retrieval({"method": "exact"})
    if head is None:
        return _exact(config, f"{type(model.algorithm).__name__} needs the scores of all items", progress)
    vectors = np.asarray(model.algorithm.tables()[head])[1 : num_items + 1].astype(np.float32)
    blocks = make_blocks(vectors, config.block_size)
    chosen, checked = histories[::2], histories[1::2] or histories
    expected = {part: _ranked(model.algorithm, rows, k, None) for part, rows in (("chosen", chosen), ("checked", checked))}
    probes, recall = 1, 0.0
    tables = {head: ClusteredTable(vectors, blocks, probes)}
    while probes * _MOST_SHARE <= len(blocks.item_index):
        tables[head].look_into(probes)
        recall = _recall(_ranked(model.algorithm, chosen, k, tables), expected["chosen"])
        if recall >= config.min_recall:
            found = _ranked(model.algorithm, checked, k, tables)
            recall = _recall(found, expected["checked"])
            if recall >= config.min_recall:
                stated = {"method": "clustered", "blocks": len(blocks.item_index), "probes": probes, "block_size": config.block_size}
                measured = {f"recall@{k}": round(recall, 4), "histories": len(checked)}
                return Retrieval({**stated, **measured, "score_difference": round(_difference(found, expected["checked"]), 4)}, tables)
        probes *= 2
    return _exact(config, f"looking into a quarter of the blocks finds {recall:.3f} of the best items", progress)


def _exact(config: RetrievalConfig, reason: str, progress: Progress) -> Retrieval:
    if config.method == "clustered":
        raise ComponentError(f"exporter.retrieval.method is clustered, but {reason} (min_recall is {config.min_recall:g})")
    progress.log(f"all items are scored, because {reason}")
    return Retrieval({"method": "exact", "reason": reason})


_Ranked = list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]


def _ranked(algorithm: Algorithm, histories: list[Ints], k: int, tables: Mapping[str, Any] | None) -> _Ranked:
    """Items and scores of each history."""
    steps = algorithm.catalogue.max_steps
    # Those that are not searched are scored as they are.
    all_tables = {**algorithm.tables(), **(tables or {})}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, steps], tf.int32), tf.TensorSpec([None], tf.int32)])
    def rank(item_id: tf.Tensor, length: tf.Tensor) -> Any:
        return tuple(algorithm.rank(algorithm.final_states(item_id, length), item_id, k, tables=all_tables))

    found: _Ranked = []
    for begin in range(0, len(histories), _BATCH):
        rows = [row[-steps:] for row in histories[begin : begin + _BATCH]]
        items = np.zeros((len(rows), steps), np.int32)
        for place, row in enumerate(rows):
            items[place, : len(row)] = row
        item_id, score = rank(tf.constant(items), tf.constant([len(row) for row in rows], tf.int32))
        found += list(zip(item_id.numpy(), score.numpy(), strict=True))
    return found


def _recall(found: _Ranked, expected: _Ranked) -> float:
    """Share of the best items that were found."""
    hits = [np.isin(wanted, items).mean() for (items, _), (wanted, _) in zip(found, expected, strict=True)]
    return float(np.mean(hits))


def _difference(found: _Ranked, expected: _Ranked) -> float:
    """Greatest difference of the scores of an item that stands in both."""
    most = 0.0
    for (items, scores), (wanted, wanted_scores) in zip(found, expected, strict=True):
        _, here, there = np.intersect1d(items, wanted, return_indices=True)
        most = max(most, float(np.abs(scores[here] - wanted_scores[there]).max(initial=0.0)))
    return most
