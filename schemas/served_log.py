"""One line of the log of what was served: a row of a request with its answer, as JSON.

| key | type | meaning |
|---|---|---|
| `time` | number | seconds since 1970-01-01 UTC when it was answered |
| `request_id` | text | what the client called the request, or what the server did |
| `row` | integer | place of the row in the request; 0 where each row has an id of its own |
| `model`, `version`, `signature` | text, integer, text | what answered |
| `user_id`, `session_id` | text or null | what the client said |
| `item_history` | list of text | items so far, oldest first |
| `item_id` | list of text | items shown, best first |
| `score` | list of numbers | their scores |
| `propensity` | list of numbers or null | probability of each to stand where it did, given those before it; null where nothing was drawn |

Events that came of it carry the request's id; `longplay feedback` gives them their propensities.
"""

TIME = "time"
ROW = "row"
MODEL = "model"
VERSION = "version"
SIGNATURE = "signature"
USER_ID = "user_id"
SESSION_ID = "session_id"

PLACE = "place"
"""Of an event that was joined: where its item stood, from 0."""
