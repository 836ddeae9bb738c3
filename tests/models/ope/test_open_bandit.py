"""Estimates on the sample of the Open Bandit Dataset: two policies logged the same shop, so one log can be asked about the other.

References:
    Saito, Aihara, Matsutani and Narita (2021), "Open Bandit Dataset and Pipeline".
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.ope.diagnostics import WeightStatistics
from models.ope.intervals import bootstrap, student_t
from models.ope.log import SessionLog
from models.ope.policies import EpsilonMixing
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling
from models.ope.statistics import Panel
from models.ope.support import Evidence, judge

pytestmark = pytest.mark.data

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
open_bandit = import_module("open_bandit")

GOLDEN = Path(__file__).parents[2] / "golden" / "open_bandit_ope.json"
ITEMS = open_bandit.ITEMS


@pytest.fixture(scope="module")
def logs(data_folder: Path) -> dict[str, Any]:
    folder = data_folder / "open_bandit_men"
    if not folder.is_dir():
        pytest.skip(f"no Open Bandit sample: {folder} does not exist")
    return {name: open_bandit.Rounds(folder / name / "men.csv.gz") for name in ("random", "bts")}


def _panel(log: SessionLog) -> Panel:
    estimators = [kind() for kind in ESTIMATORS.values() if not kind.sequential]
    return Panel(estimators, Resampling(num_resamples=500)).add(log)


@pytest.mark.parametrize(("source", "wanted"), [("bts", "random"), ("random", "bts")])
def test_one_log_tells_the_clicks_of_the_other_policy(source: str, wanted: str, logs: dict[str, Any]):
    assert logs["random"].propensity == pytest.approx(1 / ITEMS)
    policy = np.full(ITEMS, 1 / ITEMS) if wanted == "random" else logs["bts"].shares()
    observed = logs[wanted].click.mean()
    # Within 3.5 standard errors of both; 46 and 69 clicks are not many.
    error = logs[wanted].click.std() / 100
    found = _panel(logs[source].log(policy)).statistics
    for statistics in found.values():
        if not statistics.estimator.uses_weights:
            # The spread of a model's own predictions says nothing about its bias.
            continue
        own = statistics.resampled_values().std()
        assert abs(statistics.estimate() - observed) < 3.5 * np.hypot(own, error), statistics.estimator.key


def test_shares_of_items_are_a_policy_at_every_position(logs: dict[str, Any]):
    assert logs["bts"].shares().sum(axis=1) == pytest.approx(1.0)
    # At 10,000 rounds each of 102 cells of the uniform policy has 98, give or take 10.
    assert np.abs(logs["random"].shares() - 1 / ITEMS).max() < 4.5 * 10 / 3333


def test_what_the_log_hardly_shows_is_refused(logs: dict[str, Any]):
    # The policy that always shows the item logged least agrees with few rounds.
    rounds = logs["bts"]
    rarest = -np.bincount(rounds.item, minlength=ITEMS).astype(float)
    log = rounds.log(EpsilonMixing(epsilon=0.0).probabilities(rarest[None])[0])
    statistics = _panel(log).statistics["ips"]
    verdict = judge(statistics, bootstrap(statistics), Evidence(WeightStatistics.of_rounds(log)))
    assert verdict.interval is None
    assert "low_effective_size" in {reason.code for reason in verdict.reasons}


def test_estimates_match_the_golden(logs: dict[str, Any], update_golden: bool):
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
