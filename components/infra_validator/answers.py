"""Compares answers to the warm-up requests with those at export."""

from __future__ import annotations

import math
from typing import Any

from schemas import serving


def answer_problem(answers: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float) -> str | None:
    """What is wrong first, or nothing.

    Args:
        answers: Outputs by name of each request.
        expected: The same at export.
        tolerance: Difference of scores and propensities that is none, as a part of scores above 1.
    """
    if len(answers) != len(expected):
        return f"{len(answers)} answers to {len(expected)} warm-up requests"
    for number, (found, wanted) in enumerate(zip(answers, expected, strict=True)):
        problem = _request_problem(found, wanted, tolerance)
        if problem:
            return f"request {number}{problem}"
    return None


def _request_problem(found: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> str | None:
    if set(found) != set(wanted):
        return f": outputs {', '.join(sorted(found))}, {', '.join(sorted(wanted))} at export"
    if len(found[serving.SCORE]) != len(wanted[serving.SCORE]):
        return f": {len(found[serving.SCORE])} rows, {len(wanted[serving.SCORE])} at export"
    if found.get(serving.NUM_VALID) != wanted.get(serving.NUM_VALID):
        return f": {found[serving.NUM_VALID]} items in its rows, {wanted[serving.NUM_VALID]} at export"
    for row, scores in enumerate(found[serving.SCORE]):
        # Where candidates are scored, the places stand for the items.
        items, items_wanted = ([str(place) for place in range(len(answer[serving.SCORE][row]))] for answer in (found, wanted))
        if serving.ITEM_ID in wanted:
            items, items_wanted = found[serving.ITEM_ID][row], wanted[serving.ITEM_ID][row]
        problem = _row_problem(items, scores, items_wanted, wanted[serving.SCORE][row], tolerance)
        if not problem and serving.PROPENSITY in wanted:
            chances = found[serving.PROPENSITY][row] if row < len(found[serving.PROPENSITY]) else []
            problem = _chance_problem(chances, wanted[serving.PROPENSITY][row], items == items_wanted, tolerance)
        if problem:
            return f", row {row}: {problem}"
    return None


def _chance_problem(chances: list[float], wanted: list[float], has_same_items: bool, tolerance: float) -> str | None:
    """What is wrong with the propensities of a row; where near ties changed places, they belong to other items than at export."""
    if len(chances) != len(wanted):
        return f"{len(chances)} propensities, {len(wanted)} at export"
    if not all(math.isfinite(chance) for chance in chances):
        return f"propensities are not finite: {chances}"
    off = [place for place, (a, b) in enumerate(zip(chances, wanted, strict=True)) if abs(a - b) > tolerance]
    if has_same_items and off:
        return f"propensity {chances[off[0]]} at place {off[0]}, {wanted[off[0]]} at export"
    return None


def _row_problem(items: list[str], scores: list[float], wanted: list[str], wanted_scores: list[float], tolerance: float) -> str | None:
    real = [item for item in items if item]
    if len(set(real)) < len(real):
        return f"items repeat: {items}"
    if len(items) != len(wanted) or len(scores) != len(wanted_scores):
        return f"{len(items)} items with {len(scores)} scores, {len(wanted)} at export"
    if not all(math.isfinite(score) for score in scores):
        return f"scores are not finite: {scores}"
    off = [place for place, (a, b) in enumerate(zip(scores, wanted_scores, strict=True)) if abs(a - b) > tolerance * max(1.0, abs(b))]
    if off:
        return f"score {scores[off[0]]} at place {off[0]}, {wanted_scores[off[0]]} at export"
    # Near ties may change places; anything else may not.
    score_at_export = dict(zip(wanted, wanted_scores, strict=True))
    moved = [
        item
        for item, other, score in zip(items, wanted, scores, strict=True)
        if item != other and not abs(score - score_at_export.get(item, math.inf)) <= tolerance * max(1.0, abs(score))
    ]
    return f"items {items}, {wanted} at export" if moved else None
