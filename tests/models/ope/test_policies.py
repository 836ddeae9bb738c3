"""Rankers made stochastic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ope.policies import RANKERS, EpsilonMixing, Softmax, of_logged, places

SCORES = np.array([[1.0, 3.0, 2.0, 3.0]])


def test_the_softmax_of_a_score_is_its_share_of_the_powers():
    powers = np.exp(SCORES / 0.5)
    assert Softmax(temperature=0.5).probabilities(SCORES) == pytest.approx(powers / powers.sum())


def test_a_mixture_is_its_best_and_chance():
    # Equal scores rank by id: item 1 before item 3.
    assert EpsilonMixing(epsilon=0.2).probabilities(SCORES)[0] == pytest.approx([0.05, 0.85, 0.05, 0.05])
    assert EpsilonMixing(epsilon=0.2, k=2).probabilities(SCORES)[0] == pytest.approx([0.05, 0.45, 0.05, 0.45])
    assert EpsilonMixing(epsilon=0.0).probabilities(SCORES)[0].tolist() == [0, 1, 0, 0]


def test_what_is_no_candidate_is_never_shown():
    candidate = np.array([True, False, True, False])
    assert EpsilonMixing(epsilon=0.2, k=3).probabilities(SCORES, candidate)[0] == pytest.approx([0.5, 0, 0.5, 0])
    found = Softmax().probabilities(SCORES, candidate)[0]
    assert found == pytest.approx([1 / (1 + np.e), 0, np.e / (1 + np.e), 0])


@pytest.mark.parametrize("name", RANKERS)
@given(st.integers(0, 10**6))
def test_probabilities_are_some_and_follow_the_ranking(name: str, seed: int):
    rng = np.random.default_rng(seed)
    scores = rng.choice([-300.0, 0.0, 1.5, 400.0], (3, 6))
    candidate = rng.random((3, 6)) < 0.7
    candidate[:, 2] = True
    found = RANKERS[name]().probabilities(scores, candidate)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert (found >= 0).all()
    assert (found[~candidate] == 0).all()
    for row in range(3):
        order = np.argsort(places(np.where(candidate, scores, -np.inf))[row])
        assert (np.diff(found[row][order]) <= 1e-15).all()


@pytest.mark.parametrize("name", RANKERS)
def test_scores_that_rank_nothing_are_refused(name: str):
    with pytest.raises(ValueError, match="without candidates"):
        RANKERS[name]().probabilities(SCORES, np.zeros(4, bool))
    with pytest.raises(ValueError, match="finite score"):
        RANKERS[name]().probabilities(np.array([[1.0, np.nan]]))


def test_the_key_says_how_chance_was_mixed_in():
    assert Softmax(temperature=0.5).key == "softmax@0.5"
    assert EpsilonMixing(epsilon=0.05, k=10).key == "epsilon@0.05@10"


def test_entries_of_logged_items():
    assert of_logged(np.array([[0.1, 0.9], [0.3, 0.7]]), np.array([1, 0])).tolist() == [0.9, 0.3]
