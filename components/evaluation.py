"""Ranks every evaluated state of a split, for models and baselines alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.artifacts import Artifact
from components.base import Context
from components.model_io import item_rows
from components.trajectory_io import ordered_batches, shard_files
from models.baselines import Baseline
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.metrics.ranking import CUTOFFS, MAX_RANK, RankedSteps

_BATCH_RECORDS = 64
_BASELINE_STATES = 512
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """What is evaluated.

    Attributes:
        min_history: States with fewer earlier events are left out.
        exclude_seen: True takes the session's items out of the ranking.
        max_states: Stop after about this many states, None for all.
    """

    min_history: int = 1
    exclude_seen: bool = False
    max_states: int | None = None


@dataclass
class _Collector:
    num_items: int
    rank: list[Ints] = field(default_factory=list)
    role: list[Ints] = field(default_factory=list)
    reward: list[npt.NDArray[np.float32]] = field(default_factory=list)
    session: list[Ints] = field(default_factory=list)
    known: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    recommended: dict[int, Ints] = field(default_factory=dict)

    def add(self, items: Ints, states: _States) -> None:
        """Adds [M, MAX_RANK] recommendations for M states."""
        hit = items == np.where(states.known, states.target, -1)[:, None]
        self.rank.append(np.where(hit.any(axis=1), hit.argmax(axis=1), MAX_RANK))
        self.role.append(states.role)
        self.reward.append(states.reward)
        self.session.append(states.session)
        self.known.append(states.known)
        for k in CUTOFFS:
            counts = np.bincount(items[:, :k].ravel(), minlength=self.num_items)
            self.recommended[k] = self.recommended.get(k, np.zeros(self.num_items, np.int64)) + counts

    def result(self) -> RankedSteps:
        return RankedSteps(
            np.concatenate(self.rank or [np.zeros(0, np.int64)]),
            np.concatenate(self.role or [np.zeros(0, np.int64)]),
            np.concatenate(self.reward or [np.zeros(0, np.float32)]),
            np.concatenate(self.session or [np.zeros(0, np.int64)]),
            np.concatenate(self.known or [np.zeros(0, bool)]),
            self.recommended,
        )


@dataclass(frozen=True)
class _States:
    """M states: items so far [M, L] (0 for padding) and the event that followed."""

    history: Ints
    target: Ints
    role: Ints
    reward: npt.NDArray[np.float32]
    session: Ints
    known: npt.NDArray[np.bool_]


def rank_baseline(baseline: Baseline, examples: Artifact, split: str, num_items: int, protocol: Protocol, context: Context) -> RankedSteps:
    """Ranks a split under a recommender without training."""
    collector = _Collector(num_items)
    with context.progress.task(f"rank {split}", examples.properties["splits"][split]["trajectories"], "records") as task:
        for batch, states in _states(examples, split, num_items, protocol):
            for start in range(0, len(states.target), _BASELINE_STATES):
                chunk = _rows(states, slice(start, start + _BASELINE_STATES))
                collector.add(baseline.recommend(chunk.history, MAX_RANK, protocol.exclude_seen), chunk)
            task.advance(int(batch.item_id.shape[0]))
    return collector.result()


def rank_model(
    ranker: Ranker,
    own_vocabulary: pa.Table,
    examples: Artifact,
    split: str,
    protocol: Protocol,
    context: Context,
    vocabulary: pa.Table | None = None,
) -> RankedSteps:
    """Ranks a split under a model, all states of a session from one causal pass.

    Args:
        ranker: The model.
        own_vocabulary: Vocabulary it was trained with.
        examples: Trajectories.
        split: Split to rank.
        protocol: What is evaluated.
        context: Where to report progress.
        vocabulary: Vocabulary the trajectories were written with, where it is not the model's own: items are matched by name.

    Returns:
        The ranks, in ids of the trajectories' vocabulary.
    """
    vocabulary = own_vocabulary if vocabulary is None else vocabulary
    num_items = vocabulary.num_rows + 1
    translation = None if vocabulary is own_vocabulary else Translation(own_vocabulary, vocabulary)
    collector = _Collector(num_items)
    with context.progress.task(f"rank {split}", examples.properties["splits"][split]["trajectories"], "records") as task:
        for batch, states in _states(examples, split, num_items, protocol):
            mask = _evaluated(batch, protocol)
            item_id = batch.item_id if translation is None else tf.gather(translation.to_model, batch.item_id)
            items = ranker(item_id, mask, tf.constant(protocol.exclude_seen), batch.reward).numpy()
            collector.add(items if translation is None else translation.from_model[items], states)
            task.advance(int(batch.item_id.shape[0]))
    return collector.result()


class Translation:
    """Ids between the vocabulary of a model and that of the trajectories.

    Attributes:
        to_model: [N'+1] id of the model for each id of the trajectories; items it does not know are its unknown item.
        from_model: [N+1] the other way; items the trajectories do not know become padding, which is no hit.
    """

    def __init__(self, model: pa.Table, trajectories: pa.Table):
        rows = np.array(item_rows(model, trajectories))
        self.to_model = np.where(rows >= 0, rows, model.num_rows + 1).astype(np.int32)
        self.from_model = np.array(item_rows(trajectories, model))
        self.from_model[self.from_model < 0] = 0


Ranker = Callable[["tf.Tensor", "tf.Tensor", "tf.Tensor", "tf.Tensor"], "tf.Tensor"]
"""From (item_id [B, T], mask of evaluated steps [B, T], exclude seen, reward [B, T]) to [M, MAX_RANK] items: a `RankedPolicy`, live or
loaded. Of the rewards, only those before a step say something about it."""


def _evaluated(batch: TrajectoryBatch, protocol: Protocol) -> tf.Tensor:
    """[B, T] True for the steps that are evaluated."""
    step = tf.range(tf.shape(batch.item_id)[1])[None, :]
    return batch.is_target() & (step >= protocol.min_history)


def _states(examples: Artifact, split: str, num_items: int, protocol: Protocol) -> Iterator[tuple[TrajectoryBatch, _States]]:
    """Batches of a split with their evaluated states, in an order that depends on the files alone."""
    seen = 0
    for batch in ordered_batches(shard_files(examples, split), _BATCH_RECORDS):
        mask = _evaluated(batch, protocol).numpy()
        if not mask.any():
            continue
        item_id = batch.item_id.numpy().astype(np.int64)
        row, step = np.nonzero(mask)
        history = np.where(np.arange(item_id.shape[1])[None, :] < step[:, None], item_id[row], 0)
        target = item_id[row, step]
        yield (
            batch,
            _States(
                history=history,
                target=target,
                role=batch.feedback.numpy()[row, step].astype(np.int64),
                reward=batch.reward.numpy()[row, step],
                session=batch.session.numpy()[row],
                known=target < num_items,
            ),
        )
        seen += len(row)
        if protocol.max_states is not None and seen >= protocol.max_states:
            return


def _rows(states: _States, rows: slice) -> _States:
    return _States(*(getattr(states, name)[rows] for name in ("history", "target", "role", "reward", "session", "known")))
