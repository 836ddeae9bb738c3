"""Recommendations from a SavedModel on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from schemas import serving

_Value = TypeVar("_Value")
_GREATEST = 3.4e38
"""Size of the greatest number that a float32 holds, about."""


class PredictError(ValueError):
    """A model or a request that cannot be used."""


def find_model(path: Path) -> Path:
    """The SavedModel in a folder, or the latest version below it.

    Raises:
        PredictError: There is none.
    """
    if not path.is_dir():
        raise PredictError(f"--model: no such directory: {path}")
    if (path / serving.SAVED_MODEL_FILE).is_file():
        return path
    versions = sorted((int(p.name), p) for p in path.iterdir() if p.name.isdigit() and (p / serving.SAVED_MODEL_FILE).is_file())
    if not versions:
        raise PredictError(f"--model: {path} holds neither {serving.SAVED_MODEL_FILE} nor numbered versions that do")
    return versions[-1][1]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        history: Items so far, oldest first.
        exclude: Items not to recommend.
        target_return: Sum of rewards that is wanted from the first item on; None leaves it to the model.
        reward_history: Rewards of the items of the history, None where one is not known; None where none is.
    """

    history: Sequence[str]
    exclude: Sequence[str] = ()
    target_return: float | None = None
    reward_history: Sequence[float | None] | None = None

    @property
    def is_conditioned(self) -> bool:
        """True where something is said that only a model conditioned on a return understands."""
        return self.target_return is not None or self.reward_history is not None


def predict_one(
    model: Path,
    history: Sequence[str],
    exclude: Sequence[str],
    k: int,
    target_return: float | None = None,
    reward_history: Sequence[float | None] | None = None,
) -> list[tuple[str, float]]:
    """Items with their scores, best first; see `Request`.

    Raises:
        PredictError: The model or the request cannot be used.
    """
    request = Request(history, exclude, target_return, reward_history)
    # Before the model is loaded, which takes seconds.
    _check_rewards(request, "--target-return", "--reward-history")
    loaded = _Model(model)
    if request.is_conditioned:
        loaded.must_be_conditioned("--target-return" if target_return is not None else "--reward-history")
    return loaded.recommend([request], k)[0]


def predict_lines(model: Path, requests: TextIO, answers: TextIO, k: int, batch: int = 256) -> None:
    """Answers JSON lines with JSON lines, in order.

    Raises:
        PredictError: A line is no request; the message names it.
    """
    loaded = _Model(model)
    waiting: list[Request] = []

    def answer() -> None:
        if waiting:
            for row in loaded.recommend(waiting, k):
                record = {serving.ITEM_ID: [item for item, _ in row], serving.SCORE: [score for _, score in row]}
                answers.write(json.dumps(record) + "\n")
            waiting.clear()

    for number, line in enumerate(requests, 1):
        if line.strip():
            request = _request(line, number)
            if request.is_conditioned:
                key = serving.TARGET_RETURN if request.target_return is not None else serving.REWARD_HISTORY
                loaded.must_be_conditioned(f"line {number}: {key}")
            waiting.append(request)
        if len(waiting) == batch:
            answer()
    answer()


_KEYS = (serving.ITEM_HISTORY, serving.EXCLUDE, serving.TARGET_RETURN, serving.REWARD_HISTORY)


def _request(line: str, number: int) -> Request:
    expected = (
        f'expected {{"{serving.ITEM_HISTORY}": ["item", ...]}} with an optional list "{serving.EXCLUDE}" and, for a model conditioned on '
        f'a return, an optional number "{serving.TARGET_RETURN}" and list of numbers "{serving.REWARD_HISTORY}"'
    )
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise PredictError(f"line {number}: not JSON ({error}); {expected}") from None
    if not isinstance(record, dict) or set(record) - set(_KEYS) or serving.ITEM_HISTORY not in record:
        raise PredictError(f"line {number}: found {line.strip()[:100]}; {expected}")
    lists = [record[serving.ITEM_HISTORY], record.get(serving.EXCLUDE, [])]
    if not all(isinstance(items, list) and all(isinstance(item, str) for item in items) for items in lists):
        raise PredictError(f"line {number}: items must be text in a list; {expected}")
    try:
        for item in (*lists[0], *lists[1]):
            item.encode()
    except UnicodeEncodeError as error:
        raise PredictError(f"line {number}: half a character in {item!r} ({error.reason}); {expected}") from None
    target, reward = record.get(serving.TARGET_RETURN), record.get(serving.REWARD_HISTORY)
    if not _is_number_or_none(target) or not (reward is None or (isinstance(reward, list) and all(map(_is_number_or_none, reward)))):
        raise PredictError(f"line {number}: returns and rewards must be numbers, or null where they are not known; {expected}")
    request = Request(lists[0], lists[1], target, reward)
    _check_rewards(request, f"line {number}: {serving.TARGET_RETURN}", f"line {number}: {serving.REWARD_HISTORY}")
    return request


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _check_rewards(request: Request, target_name: str, reward_name: str) -> None:
    """Refuses what is not finite, and rewards that do not belong to the items one by one."""
    rewards = [reward for reward in request.reward_history or () if reward is not None]
    for name, values in ((target_name, [request.target_return]), (reward_name, rewards)):
        for value in values:
            # Also what is finite here and not in the model.
            if value is not None and not abs(value) <= _GREATEST:
                raise PredictError(f"{name}: expected a finite number, found {value}")
    if request.reward_history is not None and len(request.reward_history) != len(request.history):
        raise PredictError(f"{reward_name}: {len(request.reward_history)} rewards for {len(request.history)} items; expected one for each")


class _Model:
    """A SavedModel with what it can be asked."""

    def __init__(self, path: Path):
        self._path = find_model(path)
        from models.frameworks import tf

        # The signatures do not keep the model alive by themselves.
        self._loaded = tf.saved_model.load(str(self._path))
        found = ", ".join(self._loaded.signatures) or "none"
        if serving.SERVING_DEFAULT not in self._loaded.signatures:
            raise PredictError(f"--model: {self._path} has no signature {serving.SERVING_DEFAULT!r}; found {found}")

    def must_be_conditioned(self, what: str) -> None:
        """Refuses a model that cannot be told which return is wanted.

        Args:
            what: The part of the request that asks for it.

        Raises:
            PredictError: It cannot.
        """
        if serving.SERVING_RETURN not in self._loaded.signatures:
            found = ", ".join(self._loaded.signatures)
            raise PredictError(
                f"{what}: the model in {self._path} is not conditioned on a return, it has no signature {serving.SERVING_RETURN!r} "
                f"(found {found}); decision transformers have it"
            )

    def recommend(self, requests: Sequence[Request], k: int) -> list[list[tuple[str, float]]]:
        """Items with their scores for each request, best first."""
        from models.frameworks import tf

        histories = [list(request.history) for request in requests]
        inputs = {
            serving.ITEM_HISTORY: tf.constant(_padded(histories, "")),
            serving.EXCLUDE: tf.constant(_padded([list(request.exclude) for request in requests], "")),
        }
        name = serving.SERVING_DEFAULT
        if any(request.is_conditioned for request in requests):
            name = serving.SERVING_RETURN
            rewards = [request.reward_history or [None] * len(request.history) for request in requests]
            inputs[serving.TARGET_RETURN] = tf.constant([_or_nan(request.target_return) for request in requests], tf.float32)
            inputs[serving.REWARD_HISTORY] = tf.constant(_padded([list(map(_or_nan, row)) for row in rewards], math.nan), tf.float32)
        answer = self._loaded.signatures[name](**inputs)
        items, scores = answer[serving.ITEM_ID].numpy(), answer[serving.SCORE].numpy()
        if k > items.shape[1]:
            raise PredictError(f"-k {k}: the model was exported for at most {items.shape[1]} items (exporter.k)")
        return [
            [(item.decode(), float(score)) for item, score in zip(row, row_scores, strict=True) if item][:k]
            for row, row_scores in zip(items, scores, strict=True)
        ]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _padded(rows: list[list[_Value]], padding: _Value) -> list[list[_Value]]:
    width = max(1, max(len(row) for row in rows))
    return [row + [padding] * (width - len(row)) for row in rows]
