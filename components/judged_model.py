"""Models that are judged before anything learns from them, as files: configuration, weights, vocabulary, and whether they may be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import BLESSED, NOT_BLESSED, Artifact, ArtifactError, write_json
from components.base import ComponentError
from components.model_io import MODEL_FILE, WEIGHTS, precision, read_weights, write_weights
from components.trajectory_gen.vocabulary import ITEM, ITEMS_FILE
from models.learner import Learner
from schemas.config import Config, decode

C = TypeVar("C", bound=Config)
M = TypeVar("M", bound=Learner)


@dataclass(frozen=True)
class JudgedKind(Generic[C, M]):
    """One kind of such models.

    Attributes:
        name: What it is called, such as `reward model`.
        config_class: Everything that says what one is, but for its weights.
        build: Makes one with fresh weights from its configuration, the vocabulary and a seed.
        off: What to set where there is none, as a sentence's end.
    """

    name: str
    config_class: type[C]
    build: Callable[[C, pa.Table, int], M]
    off: str


@dataclass(frozen=True)
class LoadedJudged(Generic[C, M]):
    """A model and its items.

    Attributes:
        model: With its weights.
        config: What it is.
        vocabulary: Table with columns item and count; row i is id i + 1.
    """

    model: M
    config: C
    vocabulary: pa.Table


def save_judged(folder: Path, model: Learner, config: Config, vocabulary_file: Path, blessed: bool) -> None:
    """Writes a model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MODEL_FILE, config.model_dump(mode="json"))
    shutil.copyfile(vocabulary_file, folder / ITEMS_FILE)
    write_weights(model, folder / WEIGHTS)
    (folder / (BLESSED if blessed else NOT_BLESSED)).touch()


def load_judged(
    kind: JudgedKind[C, M], artifact: Artifact, must_be_blessed: bool = True, vocabulary: pa.Table | None = None, seed: int = 0
) -> LoadedJudged[C, M]:
    """Builds the model of an artifact and reads its weights.

    Args:
        kind: What it should be.
        artifact: What its component made.
        must_be_blessed: False takes one that missed its conditions, too.
        vocabulary: Items that it must know; None takes any.
        seed: Seed of what it draws.

    Raises:
        ComponentError: The step was off, or the model missed its conditions, or it knows other items.
        ArtifactError: The artifact is no such model, or its weights do not fit.
    """
    path = artifact.path / MODEL_FILE
    if not artifact.properties.get("enabled", True):
        raise ComponentError(f"there is no {kind.name}: {kind.off}")
    if not path.is_file():
        raise ArtifactError(f"{artifact.path}: not a {kind.name}, it has no {MODEL_FILE}")
    if must_be_blessed and not (artifact.path / BLESSED).is_file():
        reasons = "; ".join(artifact.properties.get("reasons", ())) or "it is not marked as fit for use"
        raise ComponentError(f"{artifact.path}: the {kind.name} may not be used: {reasons}")
    config = decode(kind.config_class, json.loads(path.read_text(encoding="utf-8")), str(path))
    items = pq.read_table(artifact.path / ITEMS_FILE).combine_chunks()
    if vocabulary is not None and items[ITEM].to_pylist() != vocabulary[ITEM].to_pylist():
        raise ComponentError(f"{artifact.path}: the {kind.name} knows other items than the vocabulary of this training")
    with precision(is_mixed=False):
        # As it was judged, whatever the precision of what learns from it.
        model = kind.build(config, items, seed)
    read_weights(model, artifact.path / WEIGHTS)
    return LoadedJudged(model, config, items)


Bound = tuple[str, str, float | None]
"""A metric, `at most` or `at least`, and the number; None asks nothing."""


class Conditions(Protocol):
    """What a model must keep to before anything learns from it."""

    min_events: int
    """Fewest events that it is judged on."""

    def bounds(self) -> Sequence[Bound]:
        """What its metrics are held to."""


def judge(conditions: Conditions, metrics: Mapping[str, float], num_events: int) -> list[dict[str, object]]:
    """Whether each condition is met, and in which words."""
    checks: list[dict[str, object]] = [
        {"passed": num_events >= conditions.min_events, "reason": f"{num_events:,} events are judged, at least {conditions.min_events:,}"}
    ]
    for name, words, bound in conditions.bounds():
        if bound is None or not num_events:
            continue
        if name not in metrics:
            # One kind of event alone says nothing of how well two are told apart.
            checks.append({"passed": False, "reason": f"{name} cannot be measured on these events, {words} {bound:g}"})
            continue
        passed = metrics[name] <= bound if words == "at most" else metrics[name] >= bound
        checks.append({"passed": passed, "reason": f"{name} {metrics[name]:.4f}, {words} {bound:g}"})
    return checks
