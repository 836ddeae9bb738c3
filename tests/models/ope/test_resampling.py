"""Poisson counts from keys."""

import math

import numpy as np
import pytest

from models.ope.resampling import Resampling, folds, session_keys


def test_counts_are_those_of_a_poisson_variable_with_mean_one():
    weights = Resampling(num_resamples=200).weights(np.arange(5000, dtype=np.uint64))
    assert weights.shape == (5000, 200)
    for count in range(5):
        share = math.exp(-1) / math.factorial(count)
        assert (weights == count).mean() == pytest.approx(share, abs=5 * (share / weights.size) ** 0.5)
    assert weights.mean() == pytest.approx(1.0, abs=5e-3)
    assert weights.var() == pytest.approx(1.0, abs=1e-2)


def test_sessions_and_resamples_are_independent():
    weights = Resampling(num_resamples=40, seed=3).weights(np.arange(20_000, dtype=np.uint64))
    between = np.corrcoef(weights.T) - np.eye(40)
    assert np.abs(between).max() < 5 / 20_000**0.5
    neighbours = (weights[1:] - 1) * (weights[:-1] - 1)
    assert neighbours.mean() == pytest.approx(0.0, abs=5 / neighbours.size**0.5)


def test_a_count_depends_on_seed_and_key_alone():
    keys = np.array([5, 9, 2**63 + 1], np.uint64)
    resampling = Resampling(num_resamples=9, seed=1)
    whole = resampling.weights(keys)
    assert (whole == np.concatenate([resampling.weights(keys[k : k + 1]) for k in range(3)])).all()
    assert (Resampling(num_resamples=5, seed=1).weights(keys) == whole[:, :5]).all()
    assert (Resampling(num_resamples=9, seed=2).weights(keys) != whole).any()


def test_counts_of_a_key_are_the_same_in_every_version():
    # What was computed on another machine or last year must still merge.
    found = Resampling(num_resamples=10, seed=7).weights(session_keys([b"a", b"session"]))
    assert found.astype(int).tolist() == [[0, 0, 0, 2, 1, 5, 0, 2, 0, 1], [0, 1, 0, 0, 3, 3, 1, 1, 2, 1]]


def test_folds_hold_about_as_many_sessions_and_follow_the_key():
    keys = session_keys(str(k).encode() for k in range(3000))
    found = folds(keys, 3)
    assert np.bincount(found) == pytest.approx([1000] * 3, abs=130)
    assert (folds(keys[::-1], 3) == found[::-1]).all()
    assert (folds(keys, 3, seed=1) != found).any()
    with pytest.raises(ValueError, match="at least 2"):
        folds(keys, 1)


def test_the_fold_of_a_session_says_nothing_about_its_resamples():
    keys = np.arange(20_000, dtype=np.uint64)
    weights, fold = Resampling(num_resamples=20).weights(keys), folds(keys, 2)
    for number in range(2):
        assert weights[fold == number].mean() == pytest.approx(1.0, abs=0.02)
