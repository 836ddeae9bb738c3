"""Ranking metrics from the place of the one relevant item, and their intervals over sessions.

Every state has one relevant item, the next one. Its rank comes from the full catalogue with a fixed rule for ties (the lower,
more popular id first). So for a cut-off k, with rank counted from 0:

    hit_rate@k = mean 1[rank < k]
    ndcg@k     = mean 1[rank < k] / log2(rank + 2)
    mrr@k      = mean 1[rank < k] / (rank + 1)

and weighted by the reward r of the event:

    reward@k      = mean r 1[rank < k]
    reward_ndcg@k = sum r 1[rank < k] / log2(rank + 2) / sum r

Keys: `ndcg@10` over all events, `purchase/ndcg@10` over those of a role; `seen_removed/` in front where items of the session
could not be recommended again.
"""

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.interaction import FEEDBACK_ROLES

CUTOFFS = (5, 10, 20)
MAX_RANK = max(CUTOFFS)
"""Rank of an item that is not among the best."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankedSteps:
    """Outcome of ranking M states.

    Attributes:
        rank: [M] place of the relevant item from 0, `MAX_RANK` where it is not among the best.
        role: [M] feedback role of the relevant event.
        reward: [M] its reward.
        session: [M] session it belongs to, any integer.
        known: [M] True where the relevant item is in the vocabulary.
        recommended: cut-off -> [N] how often each item was among the best k.
        best: [M, K] best items of each state, or None where they were not kept.
    """

    rank: npt.NDArray[np.int64]
    role: npt.NDArray[np.int64]
    reward: npt.NDArray[np.float32]
    session: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]
    recommended: Mapping[int, npt.NDArray[np.int64]]
    best: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Estimate:
    """A metric with its percentile interval."""

    value: float
    low: float
    high: float


def gain(rank: npt.NDArray[np.int64], name: str, k: int) -> Floats:
    """[M] contribution of each state to a metric."""
    hit = rank < k
    if name == "hit_rate":
        return hit.astype(np.float64)
    if name == "ndcg":
        return np.where(hit, 1.0 / np.log2(rank + 2.0), 0.0)
    if name == "mrr":
        return np.where(hit, 1.0 / (rank + 1.0), 0.0)
    raise ValueError(f"unknown ranking metric {name!r}; known: hit_rate, ndcg, mrr")


@dataclass(frozen=True)
class SessionSums:
    """Numerators and denominators of all ranking metrics by session; a metric is a ratio of their sums.

    Attributes:
        names: [C] metric keys.
        numerators: [S, C].
        denominators: [S, C].
    """

    names: tuple[str, ...]
    numerators: Floats
    denominators: Floats

    def values(self) -> dict[str, float]:
        """Value of every metric; a role without events is left out."""
        top, bottom = self.numerators.sum(axis=0), self.denominators.sum(axis=0)
        return {name: float(t / b) for name, t, b in zip(self.names, top, bottom, strict=True) if b > 0}


def sum_by_session(steps: RankedSteps, cutoffs: Sequence[int] = CUTOFFS) -> SessionSums:
    """Sums the gains of every metric and role by session."""
    _, session = np.unique(steps.session, return_inverse=True)
    size = int(session.max()) + 1 if len(session) else 0
    groups = {"": np.ones(len(session), bool), **{f"{role}/": steps.role == r for r, role in enumerate(FEEDBACK_ROLES)}}
    names: list[str] = []
    tops: list[Floats] = []
    bottoms: list[Floats] = []
    for prefix, member in groups.items():
        events = _sum(session, member.astype(np.float64), size)
        for metric in ("hit_rate", "ndcg", "mrr"):
            for k in cutoffs:
                names.append(f"{prefix}{metric}@{k}")
                tops.append(_sum(session, gain(steps.rank, metric, k) * member, size))
                bottoms.append(events)
    events, rewards = _sum(session, np.ones(len(session)), size), _sum(session, steps.reward.astype(np.float64), size)
    for k in cutoffs:
        names.append(f"reward@{k}")
        tops.append(_sum(session, np.where(steps.rank < k, steps.reward, 0.0), size))
        bottoms.append(events)
    for k in cutoffs:
        names.append(f"reward_ndcg@{k}")
        tops.append(_sum(session, steps.reward * gain(steps.rank, "ndcg", k), size))
        bottoms.append(rewards)
    return SessionSums(tuple(names), np.stack(tops, axis=1), np.stack(bottoms, axis=1))


def _sum(session: npt.NDArray[np.int64], values: Floats, size: int) -> Floats:
    """[S] sums of values by session."""
    sums: Floats = np.bincount(session, weights=values, minlength=size).astype(np.float64)
    return sums


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> tuple[str, ...]:
    """Keys of all metrics that are sums over sessions."""
    nothing = np.zeros(0, np.int64)
    return sum_by_session(RankedSteps(nothing, nothing, np.zeros(0, np.float32), nothing, nothing > 0, {}), cutoffs).names


def values_by_session(name: str, values: Floats) -> SessionSums:
    """One value for each session, such as its return, as a metric: their mean; `values` is [S]."""
    return SessionSums((name,), values.astype(np.float64)[:, None], np.ones((len(values), 1)))


def average(sums: Sequence[SessionSums]) -> SessionSums:
    """The mean of several models over the same sessions, such as one model from several seeds: its metrics are the means of theirs.

    Raises:
        ValueError: They are of other metrics or other events.
    """
    for other in sums[1:]:
        _check_same_events(sums[0], other)
    return SessionSums(sums[0].names, np.mean([model.numerators for model in sums], axis=0), sums[0].denominators)


def difference(one: SessionSums, other: SessionSums) -> SessionSums:
    """How far one model is above another on the same sessions: its metrics are the differences of theirs.

    Resampled, it gives the interval of a paired comparison: what makes a session hard for both cancels.

    Raises:
        ValueError: They are of other metrics or other events.
    """
    _check_same_events(one, other)
    return SessionSums(one.names, one.numerators - other.numerators, one.denominators)


def _check_same_events(one: SessionSums, other: SessionSums) -> None:
    if one.names != other.names:
        raise ValueError(f"metrics differ: {', '.join(one.names)} and {', '.join(other.names)}")
    # Up to the last digits: files of a split may be read in another order.
    if one.denominators.shape != other.denominators.shape or not np.allclose(one.denominators, other.denominators):
        raise ValueError(f"models were measured on different events: {len(one.numerators)} and {len(other.numerators)} sessions")


def write_sums(path: Path, sums: Mapping[str, SessionSums]) -> None:
    """Writes sums by name as one .npz file of plain arrays; the file appears when it is complete."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for key, model in sums.items():
        arrays[f"{key}|names"] = np.array(model.names)
        arrays[f"{key}|numerators"], arrays[f"{key}|denominators"] = model.numerators, model.denominators
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    temporary.replace(path)


def read_sums(path: Path) -> dict[str, SessionSums]:
    """Reads what `write_sums` wrote.

    Raises:
        OSError: There is no such file.
        ValueError: It holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [name.removesuffix("|names") for name in arrays if name.endswith("|names")]
        return {
            name: SessionSums(tuple(arrays[f"{name}|names"].tolist()), arrays[f"{name}|numerators"], arrays[f"{name}|denominators"])
            for name in names
        }
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of sums by session: {error}") from None


def bootstrap(sums: Sequence[SessionSums], num_resamples: int, seed: int, chunk: int = 64) -> list[Floats]:
    """Resampled values of all metrics of several models over the same sessions, resampled together.

    Args:
        sums: Sums of each model; row s is the same session in all.
        num_resamples: R.
        seed: Seed.
        chunk: Resamples at a time, which bounds memory.

    Returns:
        [R, C] values for each model; a resample without events of a role gives NaN there.

    References:
        Chamandy et al. (2012): Poisson weights, the bootstrap that needs no joint draw over sessions.
    """
    rng = np.random.default_rng(seed)
    size = len(sums[0].numerators)
    parts: list[list[Floats]] = [[] for _ in sums]
    for start in range(0, num_resamples, chunk):
        weights = rng.poisson(1.0, (min(chunk, num_resamples - start), size)).astype(np.float64)
        for part, model in zip(parts, sums, strict=True):
            with np.errstate(invalid="ignore"):
                part.append((weights @ model.numerators) / (weights @ model.denominators))
    return [np.concatenate(part) for part in parts]


def intervals(sums: SessionSums, resampled: Floats, level: float = 0.95) -> dict[str, Estimate]:
    """Value and percentile interval of every metric."""
    tail = 100.0 * (1.0 - level) / 2.0
    values = sums.values()
    estimates = {}
    for column, name in enumerate(sums.names):
        if name in values:
            found = resampled[:, column]
            found = found[np.isfinite(found)]
            # A role so rare that no resample holds it says nothing about its spread.
            low, high = np.percentile(found, [tail, 100.0 - tail]) if len(found) else (values[name], values[name])
            estimates[name] = Estimate(values[name], float(low), float(high))
    return estimates


def beyond_accuracy(steps: RankedSteps, num_items: int) -> dict[str, float]:
    """How the recommendations spread over the catalogue.

    Args:
        steps: Ranked states.
        num_items: N, padding included; ids are in order of popularity.

    Returns:
        `coverage@k`, share of the catalogue that was recommended to anybody; `popularity_share@k`, share of all
        recommendations that went to the most popular hundredth of the catalogue; `entropy@k`, entropy of what was recommended, 1
        where every item was as often as every other and 0 where one had everything.
    """
    head = max(1, (num_items - 1) // 100)
    found: dict[str, float] = {}
    for k, counts in steps.recommended.items():
        total = int(counts[1:num_items].sum())
        found[f"coverage@{k}"] = float((counts[1:num_items] > 0).sum() / (num_items - 1))
        found[f"popularity_share@{k}"] = float(counts[1 : head + 1].sum() / total) if total else 0.0
        shares = counts[1:num_items][counts[1:num_items] > 0] / max(1, total)
        found[f"entropy@{k}"] = float(-(shares * np.log(shares)).sum() / np.log(num_items - 1)) if num_items > 2 else 0.0
    return found
