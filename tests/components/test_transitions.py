"""Transitions that are drawn one by one."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trajectory_io import Transitions, shard_files
from models.batch import TrajectoryBatch

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")


def _transitions(folder: Path, records: list, context: int = 3) -> Transitions:
    examples = toy.write_examples(folder, {"train": records})
    return Transitions(shard_files(examples, "train"), context)


def _rows(batch: TrajectoryBatch) -> list[tuple]:
    """(events before, target, reward, done) of every row."""
    rows = []
    for row in range(batch.item_id.shape[0]):
        length = int(batch.length[row])
        items = batch.item_id.numpy()[row]
        assert (items[length:] == 0).all()
        assert int(batch.num_context[row]) == length - 1
        reward = round(float(batch.reward[row, length - 1]), 6)
        rows.append((tuple(items[: length - 1].tolist()), int(items[length - 1]), reward, bool(batch.is_terminal[row])))
    return rows


def test_every_target_is_a_transition_with_the_latest_events_before_it(tmp_path: Path):
    found = _transitions(tmp_path, [toy.Record([5, 6, 7, 8, 9], [0.2, 0.2, 1.0, 0.2, 0.2]), toy.Record([4], [1.0])])
    assert len(found) == 6
    (batch,) = found.batches(6, seed=0, epoch=0)
    assert sorted(_rows(batch)) == [
        ((), 4, 1.0, True),
        ((), 5, 0.2, False),
        ((5,), 6, 0.2, False),
        ((5, 6), 7, 1.0, False),
        ((5, 6, 7), 8, 0.2, False),
        ((6, 7, 8), 9, 0.2, True),
    ]


def test_context_is_no_target_and_a_stretch_that_goes_on_does_not_end(tmp_path: Path):
    found = _transitions(tmp_path, [toy.Record([5, 6, 7], num_context=2, is_terminal=0)])
    (batch,) = found.batches(1, seed=0, epoch=0)
    assert [(before, item, done) for before, item, _, done in _rows(batch)] == [((5, 6), 7, False)]


def test_no_transition_comes_twice_in_a_batch_and_all_come_as_often(tmp_path: Path):
    # 40 sessions of one event: 40 different targets, drawn 8 at a time. 100 passes of 5 batches draw each 100 times on average,
    # with a standard deviation of sqrt(500 * .2 * .8) = 8.9.
    found = _transitions(tmp_path, [toy.Record([item % 19 + 1], [item / 100.0]) for item in range(40)])
    counts = np.zeros(40)
    for epoch in range(100):
        batches = list(found.batches(8, seed=1, epoch=epoch))
        assert len(batches) == 5
        for batch in batches:
            rewards = np.round(batch.reward.numpy()[:, 0] * 100).astype(int)
            assert len(set(rewards)) == 8
            counts[rewards] += 1
    assert counts.sum() == 4000
    assert np.abs(counts - 100).max() < 5 * 8.9


def test_a_pass_goes_on_in_its_middle_and_depends_on_seed_and_epoch(tmp_path: Path):
    found = _transitions(tmp_path, toy.successor_sessions(20, 1))

    def items(seed: int, epoch: int, skip: int = 0) -> list:
        return [batch.item_id.numpy().tolist() for batch in found.batches(16, seed, epoch, skip)]

    assert items(0, 0, 2) == items(0, 0)[2:]
    assert items(0, 0) != items(1, 0)
    assert items(0, 0) != items(0, 1)


@pytest.mark.parametrize("size", [1, 50])
def test_fewer_transitions_than_a_batch_are_one_batch(size: int, tmp_path: Path):
    found = _transitions(tmp_path, [toy.Record([3])])
    assert [batch.item_id.shape[0] for batch in found.batches(size, 0, 0)] == [1]


def test_no_records_are_no_transitions(tmp_path: Path):
    found = _transitions(tmp_path, [])
    assert len(found) == 0
    assert list(found.batches(4, 0, 0)) == []
