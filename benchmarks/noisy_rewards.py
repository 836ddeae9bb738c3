"""Samples that TF-Agents' agents need with noisy rewards, with expected ones (SRS, SRS2), and with none of the noise.

    python benchmarks/noisy_rewards.py benchmarks/noisy_rewards/session_shop.yaml [--set KEY=VALUE]... [--out FOLDER] [--agents NAME...]

Every variant learns from the same seeds, in the same world, with the same chance; policies are measured without noise on the same
sessions. Each run is a file of JSON lines below --out, named by its seed and settings, and is not made again. Prints a table: samples to
shares of what the agent gains on rewards without noise, and how many times more of them it needs on the rewards as they are paid (pairs
of seeds, geometric mean, 95 % interval by Student's t). What a run was given stands for one that never got there: `>` where those are
runs on the rewards as they are paid, so that the number is a lower bound, `<` where they are the others, `?` where both are.

Peer: the same agent of TF-Agents on the rewards as they are paid; the limit is the agent on rewards without noise.

References: Zhang et al. (2023), arXiv 2308.13246.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.environments import create_simulator
from models.agents.comparison import Curve, NoisyRewardsConfig, paired_ratio, thresholds
from models.agents.learning import OnlineLearner
from models.agents.registry import name_of
from models.simulators.noise import NoisySimulator
from schemas.config import canonical_json, load


def run(config: NoisyRewardsConfig, agent: Any, row: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The curve of one run, from its file where it is complete."""
    stabiliser, is_noisy = config.rows()[row]
    noise = config.noise if is_noisy else None
    settings = [canonical_json(part) for part in (agent, config.simulator, config.learning, noise, stabiliser) if part is not None]
    path = folder / f"{seed}-{hashlib.sha256(chr(10).join(settings).encode()).hexdigest()[:8]}.jsonl"
    if path.is_file():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    world = create_simulator(config.simulator)
    noisy = NoisySimulator(world, noise) if noise is not None else world
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


def samples_cells(samples: list[float | None], raw: list[float | None] | None, given: float) -> str:
    """Median samples to a threshold, and how many times more the rewards as they are paid need."""
    reached = [one for one in samples if one is not None]
    needed = f"{np.median(reached):,.0f}" if len(reached) == len(samples) else f"{len(reached)} of {len(samples)} got there"
    if raw is None:
        return f"{needed} | –"
    ratio = paired_ratio(raw, samples, given)
    interval = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.low is not None else ""
    return f"{needed} | {ratio.sign} {ratio.ratio:.2f}{interval}"


def table_of(config: NoisyRewardsConfig, agent: str, runs: dict[str, list[list[dict[str, Any]]]]) -> tuple[list[str], str]:
    """Lines of the table, and what its thresholds are."""
    curves = {row: [Curve.of(run, config.measure, config.unit, config.window) for run in found] for row, found in runs.items()}
    found = thresholds(curves[config.reference], config.gain_shares)
    given = float(np.mean([curve.samples[-1] for row in curves.values() for curve in row]))
    lines = []
    for row in runs:
        cells = []
        for threshold in found:
            samples = {name: [curve.samples_to(threshold) for curve in curves[name]] for name in {row, "raw"} & set(runs)}
            cells.append(samples_cells(samples[row], samples.get("raw") if row != "raw" else None, given))
        last = np.array([curve.end for curve in curves[row]])
        spread = f" ± {last.std(ddof=1):.3f}" if len(last) > 1 else ""
        measures = " | ".join(mean_of(runs[row], name) for name in ("calibration_error", "true_error", "tried", "purity"))
        seconds = np.mean([run[-1]["seconds"] for run in runs[row]])
        lines.append(f"| {agent} | {row} | {' | '.join(cells)} | {last.mean():.3f}{spread} | {measures} | {seconds:.0f} |")
    shares = ", ".join(f"{share:.0%} at {threshold:.3f}" for share, threshold in zip(config.gain_shares, found, strict=True))
    return lines, f"{agent}: of the gain of {config.reference}, {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--out", type=Path, default=Path("artifacts/noisy_rewards"))
    parser.add_argument("--agents", nargs="*", help="of the configuration's; without it all")
    arguments = parser.parse_args()
    config = load(NoisyRewardsConfig, arguments.config, arguments.overrides)
    print(f"{config.name}: {config.measure}, {len(config.seeds)} seeds, samples are {config.unit}\n")
    heads = (
        "agent",
        "rewards",
        *(head for share in config.gain_shares for head in (f"samples to {share:.0%}", "raw needs times")),
        f"{config.measure}, last quarter",
        "calibration",
        "true error",
        "tried",
        "purity",
        "seconds",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    notes = []
    for agent in config.agents:
        name = name_of(agent)
        if arguments.agents and name not in arguments.agents:
            continue
        curves: dict[str, list[list[dict[str, Any]]]] = {}
        for row in config.rows():
            file = row.replace(", ", "_").replace(" ", "_")
            folder = arguments.out / config.name / name / file
            curves[row] = [run(config, agent, row, seed, folder) for seed in config.seeds]
        lines, note = table_of(config, name, curves)
        print("\n".join(lines), flush=True)
        notes.append(note)
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
