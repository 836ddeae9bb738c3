"""Models of the mean reward, fitted on other sessions than those they are asked about.

A model that has seen a round predicts that round too well, and the correction of a doubly robust estimator then leaves out what it
should correct. So sessions are dealt into folds by their keys, and each fold is predicted by the model of the others.

References:
    Chernozhukov et al. (2018): cross-fitting. Farajtabar, Chow and Ghavamzadeh (2018): MRDR weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from models.ope.resampling import folds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

Context = TypeVar("Context", bound=npt.NDArray[np.generic])
Contexts = TypeVar("Contexts", bound=npt.NDArray[np.generic], contravariant=True)

Weighting = Literal["normal", "importance", "mrdr"]


class RewardModel(Protocol[Contexts]):
    """What any regression of rewards offers, a Keras model as well as a table."""

    def fit(self, context: Contexts, item: Ints, reward: Floats, weight: Floats) -> None:
        """Learns from rounds: contexts [n, ...], logged items [n], rewards [n], weights of the squared errors [n]."""

    def predict(self, context: Contexts) -> Floats:
        """[n, A] predicted reward of every item in every context."""


class TabularRewardModel:
    """Mean reward of every pair of cell and item, drawn towards the mean of all where there are few rounds.

    Args:
        num_cells: Contexts, which are numbers from 0 to `num_cells` - 1.
        num_items: A.
        prior_rounds: How many rounds the mean of all counts as; 0 gives the exact mean, and that mean where there are none.
    """

    def __init__(self, num_cells: int, num_items: int, prior_rounds: float = 0.0):
        self._shape = (num_cells, num_items)
        self._prior_rounds = prior_rounds
        self.table = np.zeros(self._shape)

    def fit(self, context: Ints, item: Ints, reward: Floats, weight: Floats) -> None:
        pair = context * self._shape[1] + item
        size = self._shape[0] * self._shape[1]
        top = np.bincount(pair, weights=weight * reward, minlength=size)
        bottom = np.bincount(pair, weights=weight, minlength=size)
        mean = float(top.sum() / bottom.sum()) if bottom.sum() > 0.0 else 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            table = (top + self._prior_rounds * mean) / (bottom + self._prior_rounds)
        self.table = np.where(bottom + self._prior_rounds > 0.0, table, mean).reshape(self._shape)

    def predict(self, context: Ints) -> Floats:
        return self.table[context]


class CrossFitted(Generic[Context]):
    """One model for each fold of sessions, each fitted on all other folds.

    Args:
        make: A new, unfitted model.
        num_folds: At least 2.
        seed: Of the folds.
    """

    def __init__(self, make: Callable[[], RewardModel[Context]], num_folds: int = 3, seed: int = 0):
        self._num_folds = num_folds
        self._seed = seed
        self.models = [make() for _ in range(num_folds)]

    def fit(self, session: Keys, context: Context, item: Ints, reward: Floats, weight: Floats | None = None) -> None:
        """Fits all models on n rounds.

        Args:
            session: [n] key of each round's session.
            context: [n, ...].
            item: [n] logged items.
            reward: [n].
            weight: [n] of the squared errors; see `regression_weights`. None for ones.

        Raises:
            ValueError: A fold or all others are empty.
        """
        fold = folds(session, self._num_folds, self._seed)
        weight = np.ones(len(reward)) if weight is None else weight
        for number, model in enumerate(self.models):
            other = fold != number
            if other.all() or not other.any():
                raise ValueError(f"{len(np.unique(session))} sessions are too few for {self._num_folds} folds")
            model.fit(context[other], item[other], reward[other], weight[other])

    def predict(self, session: Keys, context: Context) -> Floats:
        """[n, A] by the model that has not seen the session."""
        fold = folds(session, self._num_folds, self._seed)
        found: Floats | None = None
        for number, model in enumerate(self.models):
            rows = fold == number
            if rows.any():
                predicted = model.predict(context[rows])
                found = np.empty((len(fold), predicted.shape[1])) if found is None else found
                found[rows] = predicted
        if found is None:
            raise ValueError("no rounds to predict")
        return found


def regression_weights(kind: Weighting, target: Floats, behaviour: Floats) -> Floats:
    """[n] weights of the squared errors.

    `importance` fits where the target policy goes; `mrdr` is the variance of the doubly robust estimator itself, pi (1 - beta) /
    beta^2.

    Args:
        kind: Which.
        target: [n] pi of the logged item.
        behaviour: [n] beta of the logged item.
    """
    if kind == "normal":
        return np.ones(len(target))
    if kind == "importance":
        return target / behaviour
    if kind == "mrdr":
        return target * (1.0 - behaviour) / behaviour**2
    raise ValueError(f"unknown weighting {kind!r}; known: normal, importance, mrdr")
