"""The verdict of the audit: pure functions of what was counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from components.leakage_audit.config import CHECKS, CheckName, LeakageAuditConfig
from components.leakage_audit.findings import SplitFindings
from schemas.interaction import FEEDBACK_ROLES
from schemas.trajectory import SPLITS

Ints = npt.NDArray[np.int64]
Status = Literal["passed", "failed", "warned", "not_checked"]

_SAMPLES = 5
_ROUNDING = 1e-6
"""Share of the summed returns that their float32 may be off."""
_MISSING: Mapping[CheckName, str] = {
    "window_crosses_boundary": "no moment divides the splits (trajectory_gen.split.by)",
    "future_reward": "the trajectories do not say by which factor their returns are discounted",
}
"""Why a check cannot be made."""


@dataclass(frozen=True)
class Shared:
    """Sessions that an evaluated split shares with an earlier one.

    Attributes:
        count: By the name of the later split.
        samples: A few of their names, by the same.
    """

    count: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at.

    Attributes:
        splits: Findings by split.
        is_by_time: True where a moment divides the splits.
        has_returns: True where the discount of the returns is known.
        same_name: Sessions of an earlier split's user and session name.
        same_content: Sessions with an earlier split's items and pauses.
        compared: Sessions whose content was compared, by split.
        vocabulary: [roles, N] events of each item by the vocabulary.
        neighbour_sessions: [N] sessions of each item by the table of neighbours.
        names: Names of items 1..N-1.
    """

    splits: Mapping[str, SplitFindings]
    is_by_time: bool
    has_returns: bool
    same_name: Shared
    same_content: Shared
    compared: Mapping[str, int]
    vocabulary: Ints
    neighbour_sessions: Ints
    names: Callable[[int], str]


@dataclass(frozen=True)
class Check:
    """One check and what came of it.

    Attributes:
        name: Kind of leak.
        status: What came of it.
        reason: The same in words, with numbers.
        found: How many leaks.
        of: Out of how many.
        allowed: Greatest number that is none.
        details: Numbers by split and the like.
    """

    name: CheckName
    status: Status
    reason: str
    found: int
    of: int
    allowed: int
    details: Mapping[str, Any]


@dataclass(frozen=True)
class _Finding:
    """What a check found: how many of how many are allowed, in words for either outcome."""

    found: int
    of: int
    allowed: int
    good: str
    bad: str
    details: Mapping[str, Any]


def audit(evidence: Evidence, config: LeakageAuditConfig) -> list[Check]:
    """All checks, in the order of `CHECKS`."""
    return [_check(name, evidence, config) for name in CHECKS]


def _check(name: CheckName, evidence: Evidence, config: LeakageAuditConfig) -> Check:
    finding = _FINDINGS[name](evidence, config)
    if finding is None:
        return Check(name, "not_checked", _MISSING[name], 0, 0, 0, {})
    status: Status = "passed" if finding.found <= finding.allowed else "failed"
    reason = finding.good if status == "passed" else finding.bad
    if status == "failed" and name == "time_order" and not evidence.is_by_time:
        # Asked for, so it cannot stop every such run; but whoever reads the numbers must know.
        status, reason = "warned", f"{reason}; as trajectory_gen.split.by says"
    if status == "failed" and name in config.warn:
        status = "warned"
    return Check(name, status, reason, finding.found, finding.of, finding.allowed, finding.details)


def _time_order(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """Every event of a split is earlier than every event of the next."""
    splits = evidence.splits
    # An empty split does not keep those around it apart.
    late = {
        f"{one}/{other}": splits[one].last_time - splits[other].first_time
        for one, other in pairwise([name for name in SPLITS if splits[name].records])
        if splits[one].last_time >= splits[other].first_time
    }
    words = ", ".join(
        f"{pair.partition('/')[0]} goes on {seconds:,} s after {pair.partition('/')[2]} begins" for pair, seconds in late.items()
    )
    return _Finding(len(late), len(SPLITS) - 1, 0, "every split ends before the next begins", words, {"overlap_seconds": late})


def _window_crosses_boundary(evidence: Evidence, config: LeakageAuditConfig) -> _Finding | None:
    """No record, context included, reaches out of its split's time."""
    if not evidence.is_by_time:
        return None
    found = {name: split.outside for name, split in evidence.splits.items()}
    return _Finding(
        sum(found.values()),
        sum(split.records for split in evidence.splits.values()),
        0,
        "no record reaches over a boundary between splits",
        f"records that reach over a boundary between splits: {_by_split(found)}",
        {"records": found},
    )


def _future_item(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """What was never seen in training has no id: it was not known then."""
    trained = evidence.splits["train"].item_events.sum(axis=0) > 0
    late: dict[str, int] = {}
    samples: list[str] = []
    of = 0
    for name in SPLITS[1:]:
        seen = np.flatnonzero(evidence.splits[name].item_events.sum(axis=0) > 0)
        unseen = seen[~trained[seen]]
        of += len(seen)
        late[name] = len(unseen)
        samples += [evidence.names(int(item)) for item in unseen[:_SAMPLES]]
    words = f"items of the vocabulary that were first seen after training: {_by_split(late)}, such as {', '.join(samples[:_SAMPLES])}"
    return _Finding(sum(late.values()), of, 0, "every item that has an id was seen in training", words, {"items": late, "samples": samples})


def _duplicated_session(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """No session is in two splits."""
    shared = evidence.same_name
    return _Finding(
        sum(shared.count.values()),
        sum(evidence.splits[name].records for name in SPLITS[1:]),
        0,
        "no session is in two splits",
        f"sessions that are in an earlier split too: {_by_split(shared.count)}, such as {_some(shared)}",
        {"sessions": dict(shared.count), "samples": dict(shared.samples)},
    )


def _copied_session(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """No session is another one again, under another name or at another time."""
    shared, of = evidence.same_content, sum(evidence.compared.get(name, 0) for name in SPLITS[1:])
    found, allowed = sum(shared.count.values()), int(config.max_copied_sessions * of)
    words = f"{found:,} of {of:,} compared sessions have items and pauses of one of an earlier split"
    return _Finding(
        found,
        of,
        allowed,
        f"{words}; up to {allowed:,} may" if found else "no session is the copy of one of an earlier split",
        f"{words}, {allowed:,} may, such as {_some(shared)}",
        {"sessions": dict(shared.count), "samples": dict(shared.samples), "compared": dict(evidence.compared)},
    )


def _future_in_state(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """Events of a record are in the order of time."""
    found = {name: split.future_in_state for name, split in evidence.splits.items()}
    return _Finding(
        sum(found.values()),
        sum(split.targets for split in evidence.splits.values()),
        0,
        "no state holds an event that is later than its target",
        f"targets whose state holds a later event: {_by_split(found)}",
        {"targets": found},
    )


def _target_in_state(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """The event to predict does not stand in the state already."""
    found = {name: split.target_in_state for name, split in evidence.splits.items()}
    of = {name: split.targets for name, split in evidence.splits.items()}
    count, total = sum(found.values()), sum(of.values())
    words = f"{count:,} of {total:,} targets ({count / max(1, total):.2%}) stand in their state already, same item, feedback and second"
    details = {"targets": found, "of": of}
    # Any split alone can be the one that was spoiled.
    over = sum(max(0, found[name] - int(config.max_target_in_state * of[name])) for name in found)
    allowed = int(config.max_target_in_state * total)
    return _Finding(
        count,
        total,
        count if not over else min(allowed, count - 1),
        words if count else "no target stands in its state already",
        f"{words}: {_by_split(found)}; up to {config.max_target_in_state:.1%} of a split may",
        details,
    )


def _future_reward(evidence: Evidence, config: LeakageAuditConfig) -> _Finding | None:
    """A return is made of the rewards of its own session in its own split."""
    if not evidence.has_returns:
        return None
    wrong = {name: split.wrong_returns for name, split in evidence.splits.items()}
    borrowed = {
        name: split.borrowed if abs(split.borrowed) > _ROUNDING * (1.0 + split.returns) else 0.0 for name, split in evidence.splits.items()
    }
    words = []
    if sum(wrong.values()):
        words.append(f"events whose return is not that of the rewards from them on: {_by_split(wrong)}")
    if any(borrowed.values()):
        amounts = ", ".join(f"{name} {amount:+.4g}" for name, amount in borrowed.items() if amount)
        words.append(f"sessions that end with their split have returns of what came later: {amounts}")
    return _Finding(
        sum(wrong.values()) + sum(1 for amount in borrowed.values() if amount),
        sum(split.targets for split in evidence.splits.values()),
        0,
        "every return is that of the rewards from its event on, up to the end of the session or of the split",
        "; ".join(words),
        {"events": wrong, "borrowed": borrowed},
    )


def _vocabulary_counts(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """The vocabulary and its order come from the train split alone."""
    counted, stated = evidence.splits["train"].item_events, evidence.vocabulary
    differs = np.flatnonzero((counted != stated).any(axis=0))
    extra = int(stated.sum() - counted.sum())
    words = (
        f"the vocabulary counts {int(stated.sum()):,} events, the train split has {int(counted.sum()):,} of its items; "
        f"{len(differs):,} items differ, such as {', '.join(evidence.names(int(item)) for item in differs[:_SAMPLES])}"
    )
    good = "the vocabulary was counted on the train split alone"
    roles = {role: int(stated[r].sum() - counted[r].sum()) for r, role in enumerate(FEEDBACK_ROLES)}
    return _Finding(len(differs), max(1, stated.shape[1] - 1), 0, good, words, {"extra_events": extra, "extra_by_role": roles})


def _neighbour_counts(evidence: Evidence, config: LeakageAuditConfig) -> _Finding:
    """Neighbours come from the train split alone."""
    counted, stated = evidence.splits["train"].item_records, evidence.neighbour_sessions
    differs = np.flatnonzero(counted != stated)
    words = f"neighbours were counted on other records than those of the train split: {len(differs):,} items differ"
    good = "neighbours were counted on the train split alone"
    return _Finding(len(differs), max(1, len(stated) - 1), 0, good, words, {"extra_sessions": int(stated.sum() - counted.sum())})


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _some(shared: Shared) -> str:
    return ", ".join([name for names in shared.samples.values() for name in names][:_SAMPLES])


_FINDINGS: dict[CheckName, Callable[[Evidence, LeakageAuditConfig], _Finding | None]] = {
    "time_order": _time_order,
    "window_crosses_boundary": _window_crosses_boundary,
    "future_item": _future_item,
    "duplicated_session": _duplicated_session,
    "copied_session": _copied_session,
    "future_in_state": _future_in_state,
    "target_in_state": _target_in_state,
    "future_reward": _future_reward,
    "vocabulary_counts": _vocabulary_counts,
    "neighbour_counts": _neighbour_counts,
}
