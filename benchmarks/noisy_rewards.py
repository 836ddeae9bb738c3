"""Samples that TF-Agents' agents need with noisy rewards, with expected ones (SRS, SRS2), and with none of the noise.

    python benchmarks/noisy_rewards.py benchmarks/noisy_rewards/session_shop.yaml [--set KEY=VALUE]... [--out FOLDER] [--agents NAME...]

Every variant learns from the same seeds, in the same world, with the same chance; policies are measured without noise on the same
sessions. Each run is a file of JSON lines below --out, and a run that is there is not made again. Prints a Markdown table: samples to
the threshold, and how many times more of them the agent needs on the rewards as they are paid (pairs of seeds, geometric mean, 95 %
interval by Student's t; `>` where a run never got there, and what it was given stands for it).

Peer: the same agent of TF-Agents on the rewards as they are paid; the limit is the agent on rewards without noise.

References: Zhang et al. (2023), arXiv 2308.13246.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.environments import create_simulator
from models.agents.comparison import NoisyRewardsConfig, name_of, paired_ratio, samples_to
from models.agents.learning import OnlineLearner
from models.simulators.noise import NoisySimulator
from schemas.config import load


def run(config: NoisyRewardsConfig, agent: Any, row: str, seed: int, path: Path) -> list[dict[str, Any]]:
    """The curve of one run, from its file where it is complete."""
    if path.is_file():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    stabiliser, is_noisy = config.rows()[row]
    world = create_simulator(config.simulator)
    noisy = NoisySimulator(world, config.noise) if is_noisy and config.noise is not None else world
    rows = [measured.as_row() for measured in OnlineLearner(agent, stabiliser, config.learning, noisy, world, seed).run()]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    unfinished.replace(path)
    return rows


def mean_of(curves: list[list[dict[str, Any]]], name: str) -> str:
    """Mean of the last values of a measure over seeds."""
    found = [curve[-1][name] for curve in curves if curve[-1][name] is not None]
    return f"{np.mean(found):.3f}" if found else "–"


def table_of(config: NoisyRewardsConfig, agent: str, curves: dict[str, list[list[dict[str, Any]]]]) -> list[str]:
    """Lines of the table."""
    samples = {row: [samples_to(curve, config.threshold, config.unit) for curve in found] for row, found in curves.items()}
    given = float(np.mean([curve[-1][config.unit] for found in curves.values() for curve in found]))
    lines = []
    for row, found in curves.items():
        reached = [one for one in samples[row] if one is not None]
        needed = f"{np.median(reached):,.0f}" if len(reached) == len(samples[row]) else f"{len(reached)} of {len(samples[row])} got there"
        cell = "–"
        if "raw" in samples and row != "raw":
            ratio = paired_ratio(samples["raw"], samples[row], given)
            interval = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.low is not None else ""
            cell = f"{'> ' if ratio.num_censored else ''}{ratio.ratio:.2f}{interval}"
        last = np.array([curve[-1]["mean_return"] for curve in found])
        spread = f" ± {last.std(ddof=1):.3f}" if len(last) > 1 else ""
        measures = " | ".join(mean_of(found, name) for name in ("calibration_error", "true_error", "tried", "purity"))
        seconds = np.mean([curve[-1]["seconds"] for curve in found])
        lines.append(f"| {agent} | {row} | {needed} | {cell} | {last.mean():.3f}{spread} | {measures} | {seconds:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--out", type=Path, default=Path("artifacts/noisy_rewards"))
    parser.add_argument("--agents", nargs="*", help="of the configuration's; without it all")
    arguments = parser.parse_args()
    config = load(NoisyRewardsConfig, arguments.config, arguments.overrides)
    print(f"{config.name}: threshold {config.threshold:g}, {len(config.seeds)} seeds, samples are {config.unit}\n")
    heads = (
        "agent",
        "rewards",
        "samples, median",
        "raw needs times",
        "last return",
        "calibration",
        "true error",
        "tried",
        "purity",
        "seconds",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for agent in config.agents:
        name = name_of(agent)
        if arguments.agents and name not in arguments.agents:
            continue
        curves: dict[str, list[list[dict[str, Any]]]] = {}
        for row in config.rows():
            file = row.replace(", ", "_").replace(" ", "_")
            folder = arguments.out / config.name / name / file
            curves[row] = [run(config, agent, row, seed, folder / f"{seed}.jsonl") for seed in config.seeds]
        print("\n".join(table_of(config, name, curves)), flush=True)


if __name__ == "__main__":
    main()
