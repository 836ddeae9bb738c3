"""Recommendations from a SavedModel on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from schemas import serving


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


def predict_one(model: Path, history: Sequence[str], exclude: Sequence[str], k: int) -> list[tuple[str, float]]:
    """Items with their scores, best first."""
    return _recommend(_load(model), [list(history)], [list(exclude)], k)[0]


def predict_lines(model: Path, requests: TextIO, answers: TextIO, k: int, batch: int = 256) -> None:
    """Answers JSON lines with JSON lines, in order.

    Raises:
        PredictError: A line is no request; the message names it.
    """
    signature = _load(model)
    waiting: list[tuple[list[str], list[str]]] = []

    def answer() -> None:
        if waiting:
            for row in _recommend(signature, [h for h, _ in waiting], [e for _, e in waiting], k):
                record = {serving.ITEM_ID: [item for item, _ in row], serving.SCORE: [score for _, score in row]}
                answers.write(json.dumps(record) + "\n")
            waiting.clear()

    for number, line in enumerate(requests, 1):
        if line.strip():
            waiting.append(_request(line, number))
        if len(waiting) == batch:
            answer()
    answer()


def _request(line: str, number: int) -> tuple[list[str], list[str]]:
    expected = f'expected {{"{serving.ITEM_HISTORY}": ["item", ...]}} with an optional list "{serving.EXCLUDE}"'
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise PredictError(f"line {number}: not JSON ({error}); {expected}") from None
    if not isinstance(record, dict) or set(record) - {serving.ITEM_HISTORY, serving.EXCLUDE} or serving.ITEM_HISTORY not in record:
        raise PredictError(f"line {number}: found {line.strip()[:100]}; {expected}")
    lists = [record[serving.ITEM_HISTORY], record.get(serving.EXCLUDE, [])]
    if not all(isinstance(items, list) and all(isinstance(item, str) for item in items) for items in lists):
        raise PredictError(f"line {number}: items must be text in a list; {expected}")
    try:
        for item in (*lists[0], *lists[1]):
            item.encode()
    except UnicodeEncodeError as error:
        raise PredictError(f"line {number}: half a character in {item!r} ({error.reason}); {expected}") from None
    return lists[0], lists[1]


def _load(model: Path) -> Any:
    path = find_model(model)
    from models.frameworks import tf

    loaded = tf.saved_model.load(str(path))
    if serving.SERVING_DEFAULT not in loaded.signatures:
        raise PredictError(f"--model: {path} has no signature {serving.SERVING_DEFAULT!r}; found {', '.join(loaded.signatures) or 'none'}")
    signature = loaded.signatures[serving.SERVING_DEFAULT]
    # The signature does not keep the model alive by itself.
    signature.owner = loaded
    return signature


def _recommend(signature: Any, histories: list[list[str]], excludes: list[list[str]], k: int) -> list[list[tuple[str, float]]]:
    from models.frameworks import tf

    answer = signature(**{serving.ITEM_HISTORY: tf.constant(_padded(histories)), serving.EXCLUDE: tf.constant(_padded(excludes))})
    items, scores = answer[serving.ITEM_ID].numpy(), answer[serving.SCORE].numpy()
    if k > items.shape[1]:
        raise PredictError(f"-k {k}: the model was exported for at most {items.shape[1]} items (exporter.k)")
    return [
        [(item.decode(), float(score)) for item, score in zip(row, row_scores, strict=True) if item][:k]
        for row, row_scores in zip(items, scores, strict=True)
    ]


def _padded(rows: list[list[str]]) -> list[list[str]]:
    width = max(1, max(len(row) for row in rows))
    return [row + [""] * (width - len(row)) for row in rows]
