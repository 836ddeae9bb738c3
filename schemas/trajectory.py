"""Names, types, shapes and padding of a trajectory, the record that everything after ingestion reads.

Shape letters: B batch, T steps, N items including padding, D width, K slate.

A record is one session, or one stretch of a session longer than `max_length`. A later stretch repeats the last events
of the one before as context: they are input, not targets, so every event is a target exactly once. Words follow RLDS
(Ramos et al., 2021); `is_first` and `is_last` derive from the position.
"""

from dataclasses import dataclass
from typing import Literal

USER_ID = "user_id"
SESSION_ID = "session_id"
ITEM_ID = "item_id"
FEEDBACK = "feedback"
TIMESTAMP = "timestamp"
REWARD = "reward"
RETURN_TO_GO = "return_to_go"
PROPENSITY = "propensity"
NUM_CONTEXT = "num_context"
IS_TERMINAL = "is_terminal"

PAD_ITEM_ID = 0
"""Id of padding; real items are 1..N-1, most frequent first, and the bucket of unknown items is N."""

SPLITS = ("train", "eval", "test")


@dataclass(frozen=True)
class Feature:
    """One feature of a trajectory record.

    Attributes:
        name: Key in the tf.Example.
        dtype: Type of a value.
        per_step: True for a list of T values, False for exactly one.
        optional: True where a record may lack it.
        description: What a value means, with its unit.
    """

    name: str
    dtype: Literal["bytes", "int64", "float32"]
    per_step: bool
    optional: bool
    description: str


FEATURES = {
    feature.name: feature
    for feature in (
        Feature(USER_ID, "bytes", False, False, "User of the session, as in the log."),
        Feature(SESSION_ID, "bytes", False, False, "Session; the same in every stretch of a long one."),
        Feature(ITEM_ID, "int64", True, False, "Item of each event; 1..N-1, or N for an unknown item."),
        Feature(FEEDBACK, "int64", True, False, "Role of each event: 0 click, 1 purchase."),
        Feature(TIMESTAMP, "int64", True, False, "Time of each event, UTC seconds."),
        Feature(REWARD, "float32", True, False, "Reward of each event."),
        Feature(RETURN_TO_GO, "float32", True, False, "Discounted reward from this event to the session's end."),
        Feature(PROPENSITY, "float32", True, True, "Probability of the logging policy to show the item; 0 where none was logged."),
        Feature(NUM_CONTEXT, "int64", False, False, "Leading events that an earlier stretch already had as targets."),
        Feature(IS_TERMINAL, "int64", False, False, "1 when the last event ends the session, else 0."),
    )
}


def unknown_item_id(num_items: int) -> int:
    """Id of the bucket of items the vocabulary does not hold; `num_items` is N, padding included."""
    return num_items
