"""Reward models that have not seen what they predict."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.ope.bandit import DR, DirectMethod
from models.ope.log import SessionLog
from models.ope.policies import of_logged
from models.ope.resampling import folds
from models.ope.reward_model import CrossFitted, TabularRewardModel, regression_weights
from models.ope.statistics import Statistics

sys.path.append(str(Path(__file__).parent))
worlds = import_module("worlds")


def test_a_table_is_the_weighted_mean_of_each_pair():
    model = TabularRewardModel(2, 2)
    model.fit(np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([1.0, 0.0, 0.5]), np.array([3.0, 1.0, 1.0]))
    # A pair that was never logged has the mean of all: 3.5 / 5.
    assert model.predict(np.array([0, 1])) == pytest.approx(np.array([[0.7, 0.75], [0.5, 0.7]]))
    drawn = TabularRewardModel(2, 2, prior_rounds=4.0)
    drawn.fit(np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([1.0, 0.0, 0.5]), np.array([3.0, 1.0, 1.0]))
    assert drawn.table[0, 1] == pytest.approx((3 + 4 * 0.7) / 8)


def test_a_round_does_not_change_its_own_prediction():
    rng = np.random.default_rng(0)
    size = 60
    session, context, item = worlds.keys(size) // np.uint64(2), rng.integers(0, 2, size), rng.integers(0, 3, size)
    reward = rng.random(size)
    predictions = []
    for changed in (reward, np.where(session == 7, 100.0, reward)):
        model = CrossFitted(lambda: TabularRewardModel(2, 3), num_folds=3)
        model.fit(session, context, item, changed)
        predictions.append(model.predict(session, context))
    own_fold = folds(session, 3) == folds(np.array([7], np.uint64), 3)[0]
    assert (predictions[0][own_fold] == predictions[1][own_fold]).all()
    assert not (predictions[0][~own_fold] == predictions[1][~own_fold]).all()


def test_cross_fitting_takes_the_optimism_out_of_doubly_robust_estimates():
    # Rewards are noise. A table fitted on the same rounds explains all of it and leaves DR nothing to correct.
    rng = np.random.default_rng(1)
    size, cells = 400, 400
    context, item, reward = np.arange(size), rng.integers(0, 2, size), rng.normal(size=size)
    target, behaviour = np.full(size, 1.0) * (item == 0), np.full(size, 0.5)

    def estimates(q: np.ndarray) -> tuple[float, float]:
        log = SessionLog.from_rounds(worlds.keys(size), reward, target, behaviour, of_logged(q, item), q[:, 0])
        return Statistics.of(DR(), log).estimate(), Statistics.of(DirectMethod(), log).estimate()

    same = TabularRewardModel(cells, 2)
    same.fit(context, item, reward, np.ones(size))
    doubly, direct = estimates(same.predict(context))
    assert doubly == pytest.approx(direct, abs=1e-12)
    crossed = CrossFitted(lambda: TabularRewardModel(cells, 2), num_folds=2)
    crossed.fit(worlds.keys(size), context, item, reward)
    doubly, direct = estimates(crossed.predict(worlds.keys(size), context))
    assert abs(doubly - direct) > 0.01


def test_weights_of_the_regression():
    target, behaviour = np.array([0.5, 0.2]), np.array([0.25, 0.5])
    assert regression_weights("normal", target, behaviour).tolist() == [1, 1]
    assert regression_weights("importance", target, behaviour) == pytest.approx([2, 0.4])
    assert regression_weights("mrdr", target, behaviour) == pytest.approx([6, 0.4])
    with pytest.raises(ValueError, match="known: normal"):
        regression_weights("other", target, behaviour)  # type: ignore[arg-type]


def test_too_few_sessions_for_the_folds_are_refused():
    with pytest.raises(ValueError, match="too few"):
        CrossFitted(lambda: TabularRewardModel(1, 1)).fit(worlds.keys(1), np.zeros(1, int), np.zeros(1, int), np.zeros(1))
