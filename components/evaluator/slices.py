"""Metrics of parts of the evaluated events, so that a win on average hides no loss."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.base import ComponentError
from components.datasets.files import list_files, open_log
from components.evaluation import Decisions
from components.evaluator.blessing import CANDIDATE, LAST_BLESSED
from components.evaluator.config import SliceTable
from components.trajectory_io import name_keys, places_of
from models.frameworks import tf
from models.metrics.ranking import RankedSteps, bootstrap, difference, intervals, sum_by_session
from schemas.interaction import FEEDBACK_ROLES

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MIN_SESSIONS = 30
"""Slices of fewer sessions say nothing."""
_OTHER, _NONE = "other", "(none)"


def slice_masks(decisions: Decisions, num_items: int, train_events: Ints | None = None) -> dict[str, Bools]:
    """[M] members of every slice, by its name: place in the session, popularity of the item, length of the session, activity of the user,
    feedback.

    Args:
        decisions: The evaluated states.
        num_items: N; ids are in order of popularity.
        train_events: [M] events of each state's user in the train split; None for no slices by activity.
    """
    step = (decisions.history > 0).sum(axis=1)
    _, place, counts = np.unique(decisions.session, return_inverse=True, return_counts=True)
    length = counts[place.ravel()]
    head, middle = max(1, (num_items - 1) // 100), max(2, (num_items - 1) // 10)
    known = decisions.target < num_items
    masks = {
        "step/1-2": step <= 2,
        "step/3-9": (step > 2) & (step < 10),
        "step/10+": step >= 10,
        "item/top 1%": known & (decisions.target <= head),
        "item/next 9%": known & (decisions.target > head) & (decisions.target <= middle),
        "item/tail": known & (decisions.target > middle),
        "session/1-3 events": length <= 3,
        "session/4-9 events": (length > 3) & (length < 10),
        "session/10+ events": length >= 10,
    }
    if train_events is not None:
        masks |= {
            "user/new": train_events == 0,
            "user/1-9 train events": (train_events > 0) & (train_events < 10),
            "user/10+ train events": train_events >= 10,
        }
    return masks | {f"feedback/{name}": decisions.role == role for role, name in enumerate(FEEDBACK_ROLES)}


def known_before(masks: Mapping[str, Bools], tables: Sequence[SliceTable]) -> dict[str, Bools]:
    """The slices by what is known before a decision is made, in which a policy has a value of its own.

    What came of a decision (its item, its feedback, how long the session went on) is another thing under another policy: of the events on
    popular items, a policy that shows them more often would have had more.
    """
    features = tuple(f"{table.name}/" for table in tables if table.of == "user")
    return {name: mask for name, mask in masks.items() if name.startswith(("step/", "user/", *features))}


def table_masks(tables: Sequence[SliceTable], decisions: Decisions, items: Sequence[str]) -> dict[str, Bools]:
    """[M] members of the slices by features of items or users that stand in files.

    Args:
        tables: The files.
        decisions: The evaluated states.
        items: [N-1] names of items 1 to N-1.

    Raises:
        ComponentError: A file cannot be read, a column or a field is missing, or a key has two values.
    """
    masks: dict[str, Bools] = {}
    for table in tables:
        values = _read(table)
        if table.of == "item":
            names = np.array([_NONE, *(values.get(item, _NONE) for item in items), _NONE], np.object_)
            found = names[np.minimum(decisions.target, len(items) + 1)]
        else:
            keys = name_keys(tf.constant(list(values), tf.string, [len(values)])).numpy()
            order = np.argsort(keys)
            names = np.array([*(list(values.values())[place] for place in order), _NONE], np.object_)
            # The last name is of users that are not there.
            found = names[places_of(decisions.user, keys[order])]
        kinds, counts = np.unique(found.astype(str), return_counts=True)
        # By number of events, names decide between equals.
        frequent = [str(kinds[place]) for place in np.lexsort((kinds, -counts))[: table.max_values]]
        for kind in frequent:
            masks[f"{table.name}/{kind}"] = found == kind
        rest = ~np.isin(found.astype(str), frequent)
        if rest.any():
            # A value may be called so, too.
            name = f"{table.name}/{_OTHER}"
            masks[name] = masks[name] | rest if name in masks else rest
    return masks


def _read(table: SliceTable) -> dict[str, str]:
    """Feature by item or user id."""
    values: dict[str, str] = {}
    for file in list_files([table.path], "evaluator.slices"):
        try:
            # What spreadsheets write has a mark of byte order in front.
            with open_log(file.path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
                _read_rows(csv.reader(text), table, file.path, values)
        except UnicodeDecodeError as error:
            raise ComponentError(f"{file.path}: cannot be read as UTF-8 text: {error}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise ComponentError(f"{file.path}: {type(error).__name__}: {error}") from None
    return values


def _read_rows(rows: Any, table: SliceTable, path: str, values: dict[str, str]) -> None:
    """Adds the features of one file; `rows` is a reader of csv."""
    try:
        names: list[str] = next(rows, [])
        for column in (table.key_column, table.column):
            if column not in names:
                raise ComponentError(f"{path}: no column {column!r}; its columns are {', '.join(names) or '(none)'}")
        key_place, place = names.index(table.key_column), names.index(table.column)
        for row in rows:
            if not row:
                continue
            if len(row) <= max(key_place, place):
                raise ComponentError(f"{path}:{rows.line_num}: expected {len(names)} fields, found {len(row)}")
            key, value = row[key_place], row[place] or _NONE
            if values.setdefault(key, value) != value:
                raise ComponentError(f"{path}:{rows.line_num}: {table.of} {key!r} is {value!r} here and {values[key]!r} before")
    except csv.Error as error:
        raise ComponentError(f"{path}:{rows.line_num}: {error}") from None


def measure_slices(
    ranked: Mapping[str, RankedSteps], masks: Mapping[str, Bools], metric: str, num_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The metric of every model in every slice, and how far the candidate is above the last blessed model there.

    Args:
        ranked: Ranks by model, over the same states.
        masks: Members of every slice.
        metric: Key of a ranking metric.
        num_resamples: Bootstrap resamples of sessions.
        seed: Of the resamples.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, mask in masks.items():
        sessions = len(np.unique(ranked[CANDIDATE].session[mask]))
        if sessions < MIN_SESSIONS:
            continue
        sums = {model: sum_by_session(_rows(steps, mask)) for model, steps in ranked.items()}
        if LAST_BLESSED in sums:
            sums["difference"] = difference(sums[CANDIDATE], sums[LAST_BLESSED])
        values = {}
        for (model, total), resampled in zip(sums.items(), bootstrap(list(sums.values()), num_resamples, seed), strict=True):
            estimate = intervals(total, resampled).get(metric)
            if estimate is not None:
                values[model] = [estimate.value, estimate.low, estimate.high]
        if CANDIDATE in values:
            found[name] = {"events": int(mask.sum()), "sessions": sessions, "models": values}
    return found


def _rows(steps: RankedSteps, mask: Bools) -> RankedSteps:
    return RankedSteps(steps.rank[mask], steps.role[mask], steps.reward[mask], steps.session[mask], steps.known[mask], {})
