"""Off-policy estimates beside the truth: two policies logged the same shop, and each log is asked about the other one's clicks.

    python benchmarks/open_bandit.py [--data ../shared/data/open_bandit_men] [--resamples 2000]

The sample of the Open Bandit Dataset, men's campaign: 10,000 rounds of the uniform policy (`random`) and 10,000 of Bernoulli Thompson
sampling (`bts`), each with the true propensities. A round is a session: the sample does not name visitors. The uniform policy is known;
what Thompson sampling would show is the share of each item at each position of its own log, of which no click is used. Its policy
changed from day to day, so that is the policy of the week. Reward models are the cross-fitted mean clicks of positions and items.

Prints a Markdown table of each direction: every estimator of rounds with its intervals, the clicks that the other log really had, and
what a blessing would say of the estimate.

References:
    Saito, Aihara, Matsutani and Narita (2021), "Open Bandit Dataset and Pipeline".
"""

from __future__ import annotations

import argparse
import csv
import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.ope.bandit import IPS
from models.ope.diagnostics import WeightStatistics
from models.ope.intervals import Interval, bootstrap, student_t
from models.ope.log import SessionLog
from models.ope.policies import of_logged
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling, session_keys
from models.ope.reward_model import CrossFitted, TabularRewardModel
from models.ope.statistics import Panel
from models.ope.support import Evidence, refuse

ITEMS = 34
POSITIONS = 3
_PRIOR_ROUNDS = 200.0

Floats = npt.NDArray[np.float64]


class Rounds:
    """n rounds of one log: item from 0 on, position from 0 on, click and propensity, [n] each."""

    def __init__(self, file: Path):
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.item = np.array([int(row["item_id"]) for row in rows])
        self.position = np.array([int(row["position"]) for row in rows]) - 1
        self.click = np.array([float(row["click"]) for row in rows])
        self.propensity = np.array([float(row["propensity_score"]) for row in rows])
        self.session = session_keys(f"{number}".encode() for number in range(len(rows)))

    def shares(self) -> Floats:
        """[positions, items] how often each item was shown at each position."""
        counts = np.bincount(self.position * ITEMS + self.item, minlength=POSITIONS * ITEMS).reshape(POSITIONS, ITEMS)
        found: Floats = counts / counts.sum(axis=1, keepdims=True)
        return found

    def log(self, policy: Floats) -> SessionLog:
        """With a policy [items] or [positions, items] and the cross-fitted mean click of each position and item."""
        model = CrossFitted(lambda: TabularRewardModel(POSITIONS, ITEMS, _PRIOR_ROUNDS), num_folds=3)
        model.fit(self.session, self.position, self.item, self.click)
        predicted = model.predict(self.session, self.position)
        target = np.broadcast_to(policy, (POSITIONS, ITEMS))[self.position]
        return SessionLog.from_rounds(
            self.session,
            self.click,
            of_logged(target, self.item),
            self.propensity,
            of_logged(predicted, self.item),
            (target * predicted).sum(axis=1),
        )

    def on_policy(self, resampling: Resampling) -> Interval:
        """Mean click of the policy that logged, with its interval."""
        log = SessionLog.from_rounds(self.session, self.click, self.propensity, self.propensity)
        (statistics,) = Panel([IPS()], resampling).add(log).statistics.values()
        return bootstrap(statistics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/open_bandit_men"))
    parser.add_argument("--resamples", type=int, default=2000)
    arguments = parser.parse_args()
    logs = {name: Rounds(arguments.data / name / "men.csv.gz") for name in ("random", "bts")}
    resampling = Resampling(num_resamples=arguments.resamples)
    for source, wanted, policy in (("bts", "random", np.full(ITEMS, 1.0 / ITEMS)), ("random", "bts", logs["bts"].shares())):
        compare(logs[source], logs[wanted].on_policy(resampling), f"{wanted} from the log of {source}", policy, resampling)


def compare(rounds: Rounds, truth: Interval, caption: str, policy: Floats, resampling: Resampling) -> None:
    """Prints the estimates of a policy beside what it really had."""
    log = rounds.log(policy)
    weights = WeightStatistics.of_rounds(log)
    print(
        f"\n{caption}: {len(log.reward):,} rounds, {int(log.reward.sum())} clicks; effective size {weights.effective_size():,.0f}, ", end=""
    )
    print(f"largest weight {weights.largest_share():.1%} of all, tail index {weights.tail_index():.2f}, mean weight {weights.mean():.3f}\n")
    print("| estimator | clicks per 1,000 | bootstrap | t | off by | for a blessing |\n|---|---|---|---|---|---|")
    print(f"| on policy | {_thousands(truth.value)} | {_between(truth)} | | | |")
    for key, statistics in Panel([kind() for kind in ESTIMATORS.values() if not kind.sequential], resampling).add(log).statistics.items():
        resampled, by_t = bootstrap(statistics), student_t(statistics)
        reasons = ", ".join(reason.code.replace("_", " ") for reason in refuse(statistics, Evidence(weights)))
        off = f"{resampled.value / truth.value - 1.0:+.0%}"
        print(f"| {key} | {_thousands(resampled.value)} | {_between(resampled)} | {_between(by_t)} | {off} | {reasons or 'given'} |")


def _between(interval: Interval) -> str:
    return f"{_thousands(interval.low)} to {_thousands(interval.high)}"


def _thousands(value: float) -> str:
    return f"{1000.0 * value:.2f}"


if __name__ == "__main__":
    main()
