"""Estimates on the sample of the Open Bandit Dataset: two policies logged the same shop, so one log can be asked about the other.

References:
    Saito, Aihara, Matsutani and Narita (2021), "Open Bandit Dataset and Pipeline".
"""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from models.ope.diagnostics import WeightStatistics
from models.ope.intervals import bootstrap, student_t
from models.ope.log import SessionLog
from models.ope.policies import EpsilonMixing, of_logged
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling, session_keys
from models.ope.reward_model import CrossFitted, TabularRewardModel
from models.ope.statistics import Panel
from models.ope.support import Evidence, judge

pytestmark = pytest.mark.data

GOLDEN = Path(__file__).parents[2] / "golden" / "open_bandit_ope.json"
ITEMS = 34


class Rounds:
    """Rounds of one log: position, item, click and propensity."""

    def __init__(self, file: Path):
        with gzip.open(file, "rt") as stream:
            rows = list(csv.DictReader(stream))
        self.item = np.array([int(row["item_id"]) for row in rows])
        self.position = np.array([int(row["position"]) for row in rows]) - 1
        self.click = np.array([float(row["click"]) for row in rows])
        self.propensity = np.array([float(row["propensity_score"]) for row in rows])
        self.session = session_keys(f"{number}".encode() for number in range(len(rows)))

    def log(self, policy: np.ndarray) -> SessionLog:
        """With a policy [A] and the cross-fitted mean click of each position and item."""
        model = CrossFitted(lambda: TabularRewardModel(3, ITEMS, prior_rounds=200.0), num_folds=3)
        model.fit(self.session, self.position, self.item, self.click)
        predicted = model.predict(self.session, self.position)
        target = np.broadcast_to(policy, predicted.shape)
        return SessionLog.from_rounds(
            self.session,
            self.click,
            of_logged(target, self.item),
            self.propensity,
            of_logged(predicted, self.item),
            (target * predicted).sum(axis=1),
        )


@pytest.fixture(scope="module")
def logs(data_folder: Path) -> dict[str, Rounds]:
    folder = data_folder / "open_bandit_men"
    if not folder.is_dir():
        pytest.skip(f"no Open Bandit sample: {folder} does not exist")
    return {name: Rounds(folder / name / "men.csv.gz") for name in ("random", "bts")}


def _panel(log: SessionLog) -> Panel:
    estimators = [kind() for kind in ESTIMATORS.values() if not kind.sequential]
    return Panel(estimators, Resampling(num_resamples=500)).add(log)


def test_one_log_tells_the_clicks_of_the_other_policy(logs: dict[str, Rounds]):
    uniform = np.full(ITEMS, 1 / ITEMS)
    observed = logs["random"].click.mean()
    error = logs["random"].click.std() / 100
    assert logs["random"].propensity == pytest.approx(1 / ITEMS)
    for statistics in _panel(logs["bts"].log(uniform)).statistics.values():
        if not statistics.estimator.uses_weights:
            # The spread of a model's own predictions says nothing about its bias.
            continue
        own = statistics.resampled_values().std()
        assert abs(statistics.estimate() - observed) < 3.5 * np.hypot(own, error), statistics.estimator.key


def test_what_the_log_hardly_shows_is_refused(logs: dict[str, Rounds]):
    # The policy that always shows the item logged least agrees with few rounds.
    rounds = logs["bts"]
    rarest = -np.bincount(rounds.item, minlength=ITEMS).astype(float)
    log = rounds.log(EpsilonMixing(epsilon=0.0).probabilities(rarest[None])[0])
    statistics = _panel(log).statistics["ips"]
    verdict = judge(statistics, bootstrap(statistics), Evidence(WeightStatistics.of_rounds(log)))
    assert verdict.interval is None
    assert "low_effective_size" in {reason.code for reason in verdict.reasons}


def test_estimates_match_the_golden(logs: dict[str, Rounds], update_golden: bool):
    clicks = np.bincount(logs["random"].item, weights=logs["random"].click, minlength=ITEMS)
    policies = {"uniform": np.full(ITEMS, 1 / ITEMS), "epsilon@0.3@5": EpsilonMixing(epsilon=0.3, k=5).probabilities(clicks[None])[0]}
    found: dict[str, dict[str, list[float]]] = {}
    for name, policy in policies.items():
        log = logs["bts"].log(policy)
        weights = WeightStatistics.of_rounds(log)
        found[name] = {"effective_size": [weights.effective_size()], "tail_index": [weights.tail_index()]}
        for key, statistics in _panel(log).statistics.items():
            resampled, by_t = bootstrap(statistics), student_t(statistics)
            found[name][key] = [resampled.value, resampled.low, resampled.high, by_t.low, by_t.high]
    if update_golden:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found.keys() == golden.keys()
    for name in golden:
        assert found[name].keys() == golden[name].keys()
        for key in golden[name]:
            assert found[name][key] == pytest.approx(golden[name][key], rel=1e-9), (name, key)
