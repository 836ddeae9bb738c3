"""Reward estimators on held-out events: how well they tell events apart, and how far they can be believed.

    python benchmarks/reward_models.py pipeline/configs/quickstart.yaml [--set KEY=VALUE]... [--root FOLDER] [--estimators NAME...]
        [--outcomes binary role continuous] [--calibrations none temperature isotonic]

Runs the pipeline up to `reward_trainer` for every combination, each step from the cache where it has run before, and prints a Markdown
table: AUC, log loss, share of the log loss explained, calibration error of probabilities before and after calibration, and calibration
error of expected rewards. On the simulated shop with noise (`trajectory_gen.dataset.noise`) the mean of an event's reward is known: the
last column is the root of the mean squared distance from it, beside that of the rewards as they were paid.

Peer: the mean reward of the train split, which explains 0.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.artifacts import Artifact
from components.base import SilentProgress
from components.judged_model import load_judged
from components.reward_io import REWARD_MODEL
from components.reward_trainer.measuring import part_of_eval
from models.rewards.registry import REWARDS
from pipeline.config import PipelineConfig
from pipeline.local import LocalRunner, RunResult
from schemas.config import decode, load_plain
from schemas.reward import CLICK, PURCHASE

STEP, DATA = "reward_trainer", "trajectory_gen"
COLUMNS = ("auc", "log_loss", "explained", "calibration_error", "reward_calibration_error")


def run(config: PipelineConfig, root: Path) -> RunResult:
    """The pipeline up to the reward model."""
    for outcome in LocalRunner(root, SilentProgress()).run(config, None, STEP):
        if isinstance(outcome, RunResult):
            return outcome
    raise AssertionError("a run ends with its result")


def true_error(model: Artifact, examples: Artifact) -> tuple[float, float]:
    """Root of the mean squared distance from the mean reward of an event's role: of expected rewards, and of those that were paid."""
    estimator = load_judged(REWARD_MODEL, model, must_be_blessed=False).model
    errors: list[Any] = []
    for batch in part_of_eval(examples, "judging"):
        inside = np.asarray(batch.is_target())
        truth = np.where(np.asarray(batch.feedback) == 1, PURCHASE.reward, CLICK.reward)
        found = np.asarray(estimator.events(batch).mean), np.asarray(batch.reward)
        errors.append([np.square(one - truth)[inside] for one in found])
    return tuple(float(np.sqrt(np.concatenate(parts).mean())) for parts in zip(*errors, strict=True))  # type: ignore[return-value]


def number(values: Any, name: str) -> str:
    return f"{values[name]:.4f}" if name in values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--estimators", nargs="*", default=list(REWARDS))
    parser.add_argument("--outcomes", nargs="*", default=["role"])
    parser.add_argument("--calibrations", nargs="*", default=["temperature", "isotonic"])
    parser.add_argument("--members", type=int, default=1)
    arguments = parser.parse_args()
    plain = load_plain(arguments.config, arguments.overrides)
    noisy = plain.get(DATA, {}).get("dataset", {}).get("noise") is not None
    print(f"| estimator | outcome | calibration | {' | '.join(COLUMNS)} | before calibration | {'true error (paid) |' if noisy else ''}")
    print(f"|{'---|' * (len(COLUMNS) + 4 + noisy)}")
    for name, outcome, calibration in product(arguments.estimators, arguments.outcomes, arguments.calibrations):
        if outcome == "continuous" and calibration != arguments.calibrations[0]:
            continue
        estimator = {"name": name, "outcome": outcome, "members": arguments.members}
        estimator["calibration"] = "none" if outcome == "continuous" else calibration
        section = {**plain.get(STEP, {}), "estimator": estimator}
        config = decode(PipelineConfig, {**plain, STEP: section}, str(arguments.config))
        result = run(config, arguments.root)
        if result.failed:
            print(f"| {name} | {outcome} | {calibration} | {result.failed.name} failed: {result.failed.error} |")
            continue
        model, examples = result.output(STEP, "reward_model"), result.output(DATA, "examples")
        assert model is not None
        assert examples is not None
        after, before = model.properties["metrics"], model.properties["before"]
        cells = [number(after, column) for column in COLUMNS] + [number(before, "calibration_error")]
        if noisy:
            cells.append("{:.4f} ({:.4f})".format(*true_error(model, examples)))
        print(f"| {name} | {outcome} | {estimator['calibration']} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
