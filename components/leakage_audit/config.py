"""Configuration of leakage_audit."""

from typing import Literal, get_args

import pydantic

from schemas.config import Config

CheckName = Literal[
    "time_order",
    "window_crosses_boundary",
    "future_item",
    "duplicated_session",
    "copied_session",
    "future_in_state",
    "target_in_state",
    "future_reward",
    "vocabulary_counts",
    "neighbour_counts",
]
"""Kinds of leak, as the audit names them."""

CHECKS: tuple[CheckName, ...] = get_args(CheckName)


class LeakageAuditConfig(Config):
    """What is a leak, and which leaks stop the run; the audit is written either way."""

    warn: tuple[CheckName, ...] = ()
    """Checks that warn where others stop the run."""
    max_target_in_state: float = pydantic.Field(default=0.02, ge=0.0, le=1.0)
    """Greatest share of targets whose very event (item, feedback and second) stands in the state before them; logs record some
    events twice."""
    max_copied_sessions: float = pydantic.Field(default=0.001, ge=0.0, le=1.0)
    """Greatest share of the sessions of a split that are the copy of one of an earlier split, under another name or at another
    time: the same items with the same pauses."""
    min_copied_events: int = pydantic.Field(default=5, ge=2)
    """Shorter sessions, and those half of whose events have no time of their own, are alike by chance and not compared."""
