"""Recommendations from a SavedModel on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO, TypeVar

from schemas import serving
from schemas.request import EXPECTED, Request, RequestFormatError, check_rewards, parse_request

_Value = TypeVar("_Value")


class PredictError(ValueError):
    """A model or a request that cannot be used."""


def find_model(path: Path) -> Path:
    """The SavedModel in a folder, or the latest version below it.

    Raises:
        PredictError: There is none.
    """
    from components.rollout import versions_in

    if not path.is_dir():
        raise PredictError(f"--model: no such directory: {path}")
    if (path / serving.SAVED_MODEL_FILE).is_file():
        return path
    versions = versions_in(path)
    if not versions:
        raise PredictError(f"--model: {path} holds neither {serving.SAVED_MODEL_FILE} nor numbered versions that do")
    return path / str(versions[-1])


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
    request = Request(history, exclude, target_return=target_return, reward_history=reward_history)
    try:
        # Before the model is loaded, which takes seconds.
        check_rewards(request, "--target-return", "--reward-history")
    except RequestFormatError as error:
        raise PredictError(str(error)) from None
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
            if request.is_restricted:
                loaded.must_choose(f"line {number}")
            waiting.append(request)
        if len(waiting) == batch:
            answer()
    answer()


def _request(line: str, number: int) -> Request:
    try:
        return parse_request(json.loads(line))
    except json.JSONDecodeError as error:
        raise PredictError(f"line {number}: not JSON ({error}); {EXPECTED}") from None
    except RequestFormatError as error:
        raise PredictError(f"line {number}: {error}") from None


class _Model:
    """A SavedModel with what it can be asked."""

    def __init__(self, path: Path):
        self._path = find_model(path)

    @cached_property
    def _loaded(self) -> Any:
        """Only when it is asked, which takes seconds; a file whose first line is no request is refused at once."""
        from models.frameworks import tf

        # The signatures do not keep the model alive by themselves.
        loaded = tf.saved_model.load(str(self._path))
        found = ", ".join(loaded.signatures) or "none"
        if serving.SERVING_DEFAULT not in loaded.signatures:
            raise PredictError(f"--model: {self._path} has no signature {serving.SERVING_DEFAULT!r}; found {found}")
        return loaded

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

    def must_choose(self, what: str) -> None:
        """Refuses a model from before there were candidates, tags and numbers of items.

        Args:
            what: The part of the request that asks for them.

        Raises:
            PredictError: It has no signature for them.
        """
        if serving.RECOMMEND not in self._loaded.signatures:
            found = ", ".join(self._loaded.signatures)
            raise PredictError(f"{what}: the model in {self._path} has no signature {serving.RECOMMEND!r} (found {found}); export it again")

    def recommend(self, requests: Sequence[Request], k: int) -> list[list[tuple[str, float]]]:
        """Items with their scores for each request, best first."""
        from models.frameworks import tf

        def lists(field: str) -> tf.Tensor:
            return tf.constant(_padded([list(getattr(request, field)) for request in requests], ""))

        inputs = {serving.ITEM_HISTORY: lists("history"), serving.EXCLUDE: lists("exclude")}
        name, is_conditioned = serving.SERVING_DEFAULT, any(request.is_conditioned for request in requests)
        if any(request.is_restricted for request in requests):
            name = serving.RECOMMEND
            inputs |= {serving.CANDIDATES: lists("candidates"), serving.ALLOW_TAGS: lists("allow_tags")}
            inputs[serving.NUM_WANTED] = tf.constant([k if request.k is None else request.k for request in requests], tf.int32)
        elif is_conditioned:
            name = serving.SERVING_RETURN
        if is_conditioned:
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
