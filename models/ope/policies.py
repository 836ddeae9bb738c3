"""Rankers as policies that show every candidate with some probability, so that a log can say something about them.

A ranker that always shows its best item agrees with a log almost nowhere. Mixed with chance it overlaps with it; the mixture is
part of what is evaluated, so its key stands in the name of the result.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic

from schemas.config import Config
from schemas.registry import Registry

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class StochasticRanker(Config):
    """Makes probabilities of scores."""

    @property
    def key(self) -> str:
        """Name with every setting: `softmax@0.5`."""
        settings = [f"{value:g}" if isinstance(value, float) else str(value) for field, value in self if field != "name"]
        return "@".join([str(getattr(self, "name", "")), *settings])

    @abstractmethod
    def _shares(self, scores: Floats) -> Floats:
        """[n, A] probabilities; a score of minus infinity is no candidate."""

    def probabilities(self, scores: Floats, candidate: Bools | None = None) -> Floats:
        """Probability of every item to be shown first.

        Args:
            scores: [n, A] higher is better; equal scores rank by id, the lower first.
            candidate: [n, A] or [A], False for items that may not be shown; None for all.

        Returns:
            [n, A], rows with sum 1, 0 for what is no candidate.

        Raises:
            ValueError: A row has no candidate, or a candidate no finite score.
        """
        scores = np.asarray(scores, np.float64)
        allowed = np.broadcast_to(True if candidate is None else candidate, scores.shape)
        if not allowed.any(axis=-1).all():
            raise ValueError("a state without candidates")
        if not np.isfinite(scores[allowed]).all():
            raise ValueError("a candidate without a finite score")
        return self._shares(np.where(allowed, scores, -np.inf))


class Softmax(StochasticRanker):
    """exp(score / temperature), normalised: every candidate has a chance, the better the greater."""

    name: Literal["softmax"] = "softmax"
    temperature: float = pydantic.Field(default=1.0, gt=0.0)
    """In units of the score; towards 0 the best item alone."""

    def _shares(self, scores: Floats) -> Floats:
        powers = np.exp((scores - scores.max(axis=-1, keepdims=True)) / self.temperature)
        shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
        return shares


class EpsilonMixing(StochasticRanker):
    """A share of all decisions at random over the candidates, the rest evenly over the best k.

    Every candidate has at least epsilon over their number, so no weight exceeds one over the least logging probability, and a log
    of an epsilon mixture bounds the weights of any policy.
    """

    name: Literal["epsilon"] = "epsilon"
    epsilon: float = pydantic.Field(default=0.1, ge=0.0, le=1.0)
    """Share that is random."""
    k: int = pydantic.Field(default=1, ge=1)
    """How many of the best share the rest."""

    def _shares(self, scores: Floats) -> Floats:
        allowed = np.isfinite(scores)
        count = allowed.sum(axis=-1, keepdims=True)
        best = (places(scores) < self.k) & allowed
        shares: Floats = self.epsilon * allowed / count + (1.0 - self.epsilon) * best / np.minimum(count, self.k)
        return shares


RANKERS: Registry[type[StochasticRanker]] = Registry("stochastic ranker", {"softmax": Softmax, "epsilon": EpsilonMixing})


def places(scores: Floats) -> Ints:
    """[n, A] place of every item from 0; equal scores by id, the lower first."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(scores.shape[-1]), scores.shape), axis=-1)
    return place


def of_logged(table: Floats, item: Ints) -> Floats:
    """[n] entries of a table [n, A] at the logged items [n] from 0 to A - 1."""
    found: Floats = np.take_along_axis(table, item[:, None], axis=1)[:, 0]
    return found
