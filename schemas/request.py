"""One request to a served policy as a JSON object, checked before a model sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas import serving

_GREATEST = 3.4e38
"""Size of the greatest number that a float32 holds, about."""
_MOST_WANTED = 2**31 - 1
_LISTS = (serving.ITEM_HISTORY, serving.EXCLUDE, serving.CANDIDATES, serving.ALLOW_TAGS)

KEYS = (*_LISTS, serving.NUM_WANTED, serving.TARGET_RETURN, serving.REWARD_HISTORY)
"""Keys of the object; only the history must be there."""

EXPECTED = (
    f'expected {{"{serving.ITEM_HISTORY}": ["item", ...]}} with optional lists "{serving.EXCLUDE}", "{serving.CANDIDATES}" and '
    f'"{serving.ALLOW_TAGS}", an optional whole number "{serving.NUM_WANTED}" and, for a model conditioned on a return, an optional '
    f'number "{serving.TARGET_RETURN}" and list of numbers "{serving.REWARD_HISTORY}"'
)


class RequestFormatError(ValueError):
    """An object that is no request; the message says what was found."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        history: Items so far, oldest first.
        exclude: Items not to recommend.
        candidates: The only items to choose from; none for the whole catalogue.
        allow_tags: Tags of which an item must have one; none for any.
        k: Items wanted; None for as many as the model gives.
        target_return: Sum of rewards that is wanted from the first item on; None leaves it to the model.
        reward_history: Rewards of the items of the history, None where one is not known; None where none is.
    """

    history: Sequence[str]
    exclude: Sequence[str] = ()
    candidates: Sequence[str] = ()
    allow_tags: Sequence[str] = ()
    k: int | None = None
    target_return: float | None = None
    reward_history: Sequence[float | None] | None = None

    @property
    def is_conditioned(self) -> bool:
        """True where something is said that only a model conditioned on a return understands."""
        return self.target_return is not None or self.reward_history is not None

    @property
    def is_restricted(self) -> bool:
        """True where something is said that the default signature does not take."""
        return bool(self.candidates or self.allow_tags) or self.k is not None


def parse_request(record: Any, others: Sequence[str] = ()) -> Request:
    """A request from an object, which may hold more keys than those of a request where they are named.

    Args:
        record: What the JSON holds.
        others: Keys that are not part of the request and may be there.

    Raises:
        RequestFormatError: It is no request.
    """
    if not isinstance(record, dict) or set(record) - set(KEYS) - set(others) or serving.ITEM_HISTORY not in record:
        raise RequestFormatError(f"found {json.dumps(record, ensure_ascii=False, default=str)[:100]}; {EXPECTED}")
    history, exclude, candidates, tags = (_items(record.get(name, [])) for name in _LISTS)
    k = record.get(serving.NUM_WANTED)
    if not (k is None or (isinstance(k, int) and not isinstance(k, bool) and 0 <= k <= _MOST_WANTED)):
        raise RequestFormatError(f"{serving.NUM_WANTED}: found {k!r}; {EXPECTED}")
    target, reward = record.get(serving.TARGET_RETURN), record.get(serving.REWARD_HISTORY)
    if not _is_number_or_none(target) or not (reward is None or (isinstance(reward, list) and all(map(_is_number_or_none, reward)))):
        raise RequestFormatError(f"returns and rewards must be numbers, or null where they are not known; {EXPECTED}")
    request = Request(history, exclude, candidates, tags, k, target, reward)
    check_rewards(request)
    return request


def check_rewards(request: Request, target_name: str = serving.TARGET_RETURN, reward_name: str = serving.REWARD_HISTORY) -> None:
    """Refuses what is not finite, and rewards that do not belong to the items one by one.

    Args:
        request: Numbers, as far as something is said.
        target_name: How the target is called where it came from.
        reward_name: And the rewards.

    Raises:
        RequestFormatError: They are no such numbers.
    """
    rewards = [reward for reward in request.reward_history or () if reward is not None]
    for name, values in ((target_name, [request.target_return]), (reward_name, rewards)):
        for value in values:
            # Also what is finite here and not in the model.
            if value is not None and not abs(value) <= _GREATEST:
                raise RequestFormatError(f"{name}: expected a finite number, found {value}")
    if request.reward_history is not None and len(request.reward_history) != len(request.history):
        count = len(request.reward_history)
        raise RequestFormatError(f"{reward_name}: {count} rewards for {len(request.history)} items; expected one for each")


def _items(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise RequestFormatError(f"items must be text in a list; {EXPECTED}")
    for item in values:
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise RequestFormatError(f"half a character in {item!r} ({error.reason}); {EXPECTED}") from None
    return values


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
