"""Which steps of a batch are targets, and which end their session."""

import sys
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")


def test_targets_are_the_steps_after_the_context_and_before_the_padding():
    batch = toy.batch([[1, 2, 3, 4], [5, 6], [7, 8, 9]], num_context=[0, 1, 3])
    assert batch.is_target().numpy().tolist() == [[True] * 4, [False, True, False, False], [False] * 4]


def test_only_the_last_step_of_a_session_that_ends_is_done():
    batch = toy.batch([[1, 2, 3], [4, 5], [6, 7, 8], [9]], is_terminal=[1, 1, 0, 1])
    assert batch.done().numpy().tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_a_batch_of_padding_has_no_target_and_no_end():
    batch = toy.batch([[], []], steps=2)
    assert not batch.is_target().numpy().any()
    assert not batch.done().numpy().any()
