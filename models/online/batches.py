"""Sessions as batches that losses take."""

from __future__ import annotations

import numpy as np

from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.online.buffer import Sessions
from models.online.rollout import PASSED_AT, PASSED_ITEM
from schemas.trajectory import FEEDBACK, IS_TERMINAL, ITEM_ID, NUM_CONTEXT, RETURN_TO_GO, REWARD, SESSION_ID

_STEPS = (ITEM_ID, FEEDBACK, REWARD, RETURN_TO_GO)
_FACTS = (NUM_CONTEXT, IS_TERMINAL, SESSION_ID)


def failures_of(sessions: Sessions) -> Sessions:
    """What was passed in some sessions, each as a record of its own.

    Its context is what had come before, its one target is the item, which earned nothing, and it ends there. So values learn
    what share of those who are shown an item take it, of which a log without what was passed knows nothing. That a session may go on after
    it is left out: it would add the same to every item of a state, but for the share that passes it, times the discount.
    """
    row, column = np.nonzero(sessions.facts[PASSED_ITEM])
    at = sessions.facts[PASSED_AT][row, column].astype(np.int64)
    chosen, number = sessions.take(row), np.arange(len(row))
    # Room for the item after the last event of the longest session.
    before = {name: np.pad(values, [(0, 0), (0, 1)]) for name, values in chosen.steps.items()}
    step = np.arange(before[ITEM_ID].shape[1])[None, :]
    steps = {name: np.where(step < at[:, None], values, 0).astype(values.dtype) for name, values in before.items()}
    steps[ITEM_ID][number, at] = sessions.facts[PASSED_ITEM][row, column]
    facts = {**chosen.facts, NUM_CONTEXT: at.astype(np.int32), IS_TERMINAL: np.ones(len(row), np.float32)}
    return Sessions(steps, at + 1, facts)


def as_batch(*parts: Sessions) -> TrajectoryBatch:
    """Sessions of several sources as one batch, padded to the longest."""
    parts = tuple(part.cut() for part in parts)
    longest = max(part.steps[ITEM_ID].shape[1] for part in parts)

    def padded(name: str) -> tf.Tensor:
        rows = [np.pad(part.steps[name], [(0, 0), (0, longest - part.steps[name].shape[1])]) for part in parts]
        return tf.constant(np.concatenate(rows))

    steps = {name: padded(name) for name in _STEPS}
    facts = {name: tf.constant(np.concatenate([part.facts[name] for part in parts])) for name in _FACTS}
    return TrajectoryBatch(
        item_id=steps[ITEM_ID],
        feedback=steps[FEEDBACK],
        reward=steps[REWARD],
        return_to_go=steps[RETURN_TO_GO],
        length=tf.constant(np.concatenate([part.length for part in parts]).astype(np.int32)),
        num_context=facts[NUM_CONTEXT],
        is_terminal=facts[IS_TERMINAL],
        session=facts[SESSION_ID],
        user=tf.zeros_like(facts[SESSION_ID]),
    )
