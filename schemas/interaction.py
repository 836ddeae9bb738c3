"""One logged event: the columns that every dataset is normalised to.

| column | type | meaning |
|---|---|---|
| `user` | string | who; required |
| `session` | string or absent | the log's own session, where it has one |
| `item` | string | what; required |
| `time` | int64 | microseconds since 1970-01-01 UTC; required |
| `feedback` | int8 | role, an index into `FEEDBACK_ROLES` |
| `reward` | float32 | reward of the event, after the dataset's mapping |
| `propensity` | float32 or null | probability with which the logging policy showed the item, where it was logged |
| `position` | int64 | place in the input: file, then row; breaks ties of time |
"""

USER = "user"
SESSION = "session"
ITEM = "item"
TIME = "time"
FEEDBACK = "feedback"
REWARD = "reward"
PROPENSITY = "propensity"
POSITION = "position"

FEEDBACK_ROLES = ("click", "purchase")
"""What an event means to the learner; the index is stored. Datasets map their event names onto these."""

MICROSECONDS_PER_SECOND = 1_000_000
