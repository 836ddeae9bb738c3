"""Off-policy evaluation speed: all bandit estimators of a long log with their bootstrap intervals.

    python benchmarks/ope.py [--rounds 10000000] [--items 10] [--resamples 100]

Both start from the same arrays: logged items, rewards, propensities, and the target policy and a reward model as tables over
rounds and items. The other side is Open Bandit Pipeline (Saito et al., 2021), in the same process, one estimator after the other,
value and interval. It does not fit our pins; a folder of its own is enough, because of what it imports the estimators use little:

    pip install --target FOLDER --no-deps --ignore-requires-python obp==0.5.7 'scikit-learn<1.6' 'scipy<1.14' 'pandas<2.3' \\
        joblib threadpoolctl pytz python-dateutil six tzdata tqdm
    PYTHONPATH=FOLDER python benchmarks/ope.py

Its values must be ours to 1e-9. Its intervals resample the terms of a mean with the normaliser held fixed, ours sessions with the
normaliser, so widths of self-normalised estimators differ. Without it only our time is shown. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import types
from typing import Any

import numpy as np

from models.ope.bandit import (
    DR,
    IPS,
    SNDR,
    SNIPS,
    ClippedIPS,
    DirectMethod,
    OptimisticShrinkageDR,
    SubGaussianDR,
    SubGaussianIPS,
    SwitchDR,
)
from models.ope.base import Estimator
from models.ope.intervals import bootstrap
from models.ope.log import SessionLog
from models.ope.policies import of_logged
from models.ope.resampling import Resampling
from models.ope.statistics import Panel

UNUSED = ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.utils", "torch.utils.data", "matplotlib", "matplotlib.pyplot")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=100)
    arguments = parser.parse_args()
    logged = log(arguments.rounds, arguments.items)

    begun = time.perf_counter()
    ours = evaluate(**logged, resamples=arguments.resamples)
    seconds = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{arguments.rounds:,} rounds, {arguments.items} items, {arguments.resamples} resamples, {os.cpu_count()} cores\n")
    print(f"ours, {len(ours)} estimators: {seconds:.1f} s, {arguments.rounds / seconds:,.0f} rounds/s, peak {memory:.1f} GB with the log\n")
    estimators = theirs()
    if not estimators:
        print("Open Bandit Pipeline is not installed")
        return
    print("| estimator | ours | interval | obp | interval | difference | obp seconds |\n|---|---|---|---|---|---|---|")
    total, worst = 0.0, 0.0
    for key, (value, low, high) in ours.items():
        begun = time.perf_counter()
        other, other_low, other_high = run_theirs(estimators[key], **logged, resamples=arguments.resamples)
        spent = time.perf_counter() - begun
        total, worst = total + spent, max(worst, abs(other - value))
        print(
            f"| {key} | {value:.9f} | {low:.6f} {high:.6f} | {other:.9f} | {other_low:.6f} {other_high:.6f} "
            f"| {abs(other - value):.1e} | {spent:.1f} |",
            flush=True,
        )
    print(f"\nobp: {total:.1f} s; {total / seconds:.1f}x; greatest difference of a value {worst:.1e}")
    if worst > 1e-9:
        sys.exit("values differ by more than 1e-9")


def log(rounds: int, items: int) -> dict[str, Any]:
    """Rounds of a logging policy with weights that are uneven, a policy [n, A] and a model [n, A]."""
    rng = np.random.default_rng(0)
    kinds = 1000
    behaviour, target = (rng.dirichlet(np.full(items, concentration), kinds) * 0.95 + 0.05 / items for concentration in (1.0, 0.3))
    means = rng.beta(1.0, 9.0, (kinds, items))
    kind = rng.integers(0, kinds, rounds)
    item = (behaviour.cumsum(axis=1)[kind] < rng.random(rounds)[:, None]).sum(axis=1).clip(0, items - 1)
    return {
        "item": item,
        "reward": (rng.random(rounds) < means[kind, item]).astype(np.float64),
        "behaviour": behaviour[kind, item],
        "target": target[kind],
        "model": np.clip(means * rng.uniform(0.7, 1.3, means.shape), 0.0, 1.0)[kind],
    }


def evaluate(
    item: np.ndarray, reward: np.ndarray, behaviour: np.ndarray, target: np.ndarray, model: np.ndarray, resamples: int
) -> dict[str, tuple[float, float, float]]:
    """Value and interval of every bandit estimator; each round is a session."""
    estimators: list[Estimator] = [
        *(IPS(), ClippedIPS(), SNIPS(), DirectMethod(), DR(), SNDR(), SwitchDR(), OptimisticShrinkageDR()),
        *(SubGaussianIPS(), SubGaussianDR()),
    ]
    sessions = SessionLog.from_rounds(
        np.arange(len(item), dtype=np.uint64),
        reward,
        of_logged(target, item),
        behaviour,
        of_logged(model, item),
        np.einsum("na,na->n", target, model),
    )
    panel = Panel(estimators, Resampling(num_resamples=resamples), keep_products=False).add(sessions)
    intervals = {key: bootstrap(statistics) for key, statistics in panel.statistics.items()}
    return {key: (interval.value, interval.low, interval.high) for key, interval in intervals.items()}


def theirs() -> dict[str, Any]:
    """Their estimators by our keys; empty where they are not installed."""
    for name in (*UNUSED, "seaborn"):
        try:
            __import__(name)
        except ImportError:
            stand_in = types.ModuleType(name)
            stand_in.__path__ = []
            stand_in.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
            sys.modules[name] = stand_in
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, stand_in)
    try:
        from obp import ope
    except ImportError as error:
        print(f"obp: {error}")
        return {}
    return {
        "ips": ope.InverseProbabilityWeighting(),
        "clipped_ips@10": ope.InverseProbabilityWeighting(lambda_=10.0),
        "snips": ope.SelfNormalizedInverseProbabilityWeighting(),
        "dm": ope.DirectMethod(),
        "dr": ope.DoublyRobust(),
        "sndr": ope.SelfNormalizedDoublyRobust(),
        "switch_dr@10": ope.SwitchDoublyRobust(lambda_=10.0),
        "dr_os@100": ope.DoublyRobustWithShrinkage(lambda_=100.0),
        "sub_gaussian_ips@0.05": ope.SubGaussianInverseProbabilityWeighting(lambda_=0.05),
        "sub_gaussian_dr@0.05": ope.SubGaussianDoublyRobust(lambda_=0.05),
    }


def run_theirs(
    estimator: Any, item: np.ndarray, reward: np.ndarray, behaviour: np.ndarray, target: np.ndarray, model: np.ndarray, resamples: int
) -> tuple[float, float, float]:
    """Value and interval of one of theirs."""
    given = {
        "reward": reward,
        "action": item,
        "pscore": behaviour,
        "action_dist": target[:, :, None],
        "estimated_rewards_by_reg_model": model[:, :, None],
        "position": np.zeros(len(item), np.int64),
    }
    value = estimator.estimate_policy_value(**given)
    interval = estimator.estimate_interval(**given, alpha=0.05, n_bootstrap_samples=resamples, random_state=0)
    low, high = (limit for name, limit in interval.items() if "CI" in name)
    return value, low, high


if __name__ == "__main__":
    main()
