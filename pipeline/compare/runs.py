"""The runs of a comparison as files: finished ones are found again, killed ones leave nothing that looks finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.artifacts import write_json
from models.metrics.ranking import SessionSums, read_sums, write_sums

RETURN = "return"
"""Metric of a session's true return."""


@dataclass(frozen=True)
class Play:
    """How a policy conditioned on a return is rolled out.

    Attributes:
        target_return: What it is asked for; None leaves it to the policy.
        is_drawn: Items are drawn with their probabilities; else the best one is shown.
    """

    target_return: float | None = None
    is_drawn: bool = False

    @property
    def name(self) -> str:
        """What stands in brackets behind the name of the model; empty for the policy as it recommends."""
        target = [] if self.target_return is None else [f"return {self.target_return:g}"]
        return ", ".join(target + ["drawn"] * self.is_drawn)


@dataclass(frozen=True)
class Run:
    """One thing that was measured: a model trained from one seed, or a baseline.

    Attributes:
        facts: JSON values. `error` says why it failed, or is None; `heads` has for each head what is no sum over sessions, `plays`
            the same for other ways to play the head that recommends, by `Play.name`; `training`, `history`, `counts` as
            `pipeline.compare.training` writes them.
        sums: Ranking metrics of each head by session.
        returns: True return of each head and each play by session, where it is known.
    """

    facts: Mapping[str, Any]
    sums: Mapping[str, SessionSums] = field(default_factory=dict)
    returns: Mapping[str, SessionSums] = field(default_factory=dict)

    @property
    def error(self) -> str | None:
        """Why it failed, or None."""
        error: str | None = self.facts["error"]
        return error

    @property
    def main_head(self) -> str:
        """The head that recommends."""
        return next(name for name, head in self.facts["heads"].items() if head["is_main"])


class RunStore:
    """Runs below a folder: KEY.json what happened, KEY.npz the sums by session.

    Args:
        folder: The folder.
    """

    _METRICS, _RETURNS = "metrics", "returns"

    def __init__(self, folder: Path):
        self._folder = folder

    def path(self, key: str) -> Path:
        """The file of a run."""
        return self._folder / f"{key[:16]}.json"

    def scratch(self, key: str) -> Path:
        """An empty folder for a run that is about to begin."""
        folder = self._scratch(key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def discard(self, key: str) -> None:
        """Throws the scratch folder of a run away."""
        shutil.rmtree(self._scratch(key), ignore_errors=True)

    def _scratch(self, key: str) -> Path:
        return self._folder.parent / "scratch" / key[:16]

    def find(self, key: str) -> Run | None:
        """A finished run, if all of it is there."""
        path = self.path(key)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.pop("key") != key:
                return None
            if stored["error"] is not None:
                return Run(stored)
            sums = read_sums(path.with_suffix(".npz"))
            heads, plays = list(stored["heads"]), list(stored.get("plays", ()))
            return Run(
                stored,
                {head: sums[f"{self._METRICS}/{head}"] for head in heads},
                {entry: sums[name] for entry in heads + plays if (name := f"{self._RETURNS}/{entry}") in sums},
            )
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    def write(self, key: str, run: Run) -> None:
        """Keeps a finished run; its JSON file comes last and whole."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if run.error is None:
            metrics = {f"{self._METRICS}/{head}": sums for head, sums in run.sums.items()}
            returns = {f"{self._RETURNS}/{entry}": sums for entry, sums in run.returns.items()}
            write_sums(path.with_suffix(".npz"), {**metrics, **returns})
        write_json(path, {"key": key, **run.facts})
