"""Sufficient statistics of estimators: `add` a log, `merge` shards, `estimate`.

The sums are exact, so that the estimate of a log does not depend, in any bit, on how it was cut into shards of whole sessions, on
their order, or on how the sums were joined. Resamples are sums too, in which each session counts as often as its key says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.ope import exact
from models.ope.base import Estimator, Sums
from models.ope.exact import ExactSums
from models.ope.log import SessionLog
from models.ope.resampling import Resampling

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """All that is kept of a log for one estimator.

    Attributes:
        estimator: Whose they are.
        total: [2, J, T] numerators and denominators.
        resampled: [R, 2, J, T] the same of every resample; None without resampling.
        products: [..., ...] of sessions' sums with each other; None where they are not kept.
        num_sessions: S.
        num_rounds: n.
        longest: Most rounds of a session.
        squared_lengths: Sum over sessions of their rounds squared.
        rewards: Least and greatest reward of a round, also as the model predicts it for estimators that need one.
        greatest_weight: Greatest importance weight of a round.
    """

    estimator: Estimator
    total: ExactSums
    resampled: ExactSums | None
    products: ExactSums | None
    num_sessions: int = 0
    num_rounds: int = 0
    longest: int = 0
    squared_lengths: int = 0
    rewards: tuple[float, float] = (np.inf, -np.inf)
    greatest_weight: float = 0.0

    @classmethod
    def of(cls, estimator: Estimator, log: SessionLog, weights: Floats | None = None, keep_products: bool = True) -> Statistics:
        """Statistics of one part of a log; see `collected`."""
        return collected([estimator], log, weights, keep_products)[0]

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both logs.

        Raises:
            ValueError: They are of different estimators, or one has resamples or products and the other has none.
        """
        if self.estimator != other.estimator:
            raise ValueError(f"statistics of {self.estimator!r} and of {other.estimator!r}")
        steps = max(self.total.shape[-1], other.total.shape[-1])
        return Statistics(
            self.estimator,
            _by_step(self.total, steps) + _by_step(other.total, steps),
            _joined("resamples", self.resampled, other.resampled, lambda sums: _by_step(sums, steps)),
            _joined("products", self.products, other.products, lambda sums: _products_by_step(sums, steps)),
            self.num_sessions + other.num_sessions,
            self.num_rounds + other.num_rounds,
            max(self.longest, other.longest),
            self.squared_lengths + other.squared_lengths,
            (min(self.rewards[0], other.rewards[0]), max(self.rewards[1], other.rewards[1])),
            max(self.greatest_weight, other.greatest_weight),
        )

    def sums(self) -> Sums:
        """The sums as floats."""
        products = None
        if self.products is not None:
            values = self.products.value()
            size = int(np.prod(values.shape[: values.ndim // 2]))
            products = values.reshape(size, size)
        return Sums(self.total.value(), products, None if self.resampled is None else self.resampled.value(), self.num_sessions)

    def estimate(self) -> float:
        """The value; NaN where it does not exist, such as without any weight."""
        sums = self.sums()
        return float(self.estimator.value(sums.total, self.estimator.coefficients(sums)))

    def resampled_values(self) -> Floats:
        """[R] values of the resamples, of which intervals are made; NaN where one does not exist.

        Raises:
            ValueError: There are none.
        """
        sums = self.sums()
        if sums.resampled is None:
            raise ValueError(f"{self.estimator.key} was not resampled")
        return self.estimator.value(sums.resampled, self.estimator.interval_coefficients(sums))


def collected(
    estimators: Sequence[Estimator], log: SessionLog, weights: Floats | None = None, keep_products: bool = True
) -> list[Statistics]:
    """Statistics of one part of a log for several estimators.

    Args:
        estimators: Whose.
        log: At most `MAX_TERMS` sessions; see `SessionLog.parts`.
        weights: [S, R] how often each session counts in each resample.
        keep_products: False without intervals that need a variance.
    """
    columns = [estimator.columns(log) for estimator in estimators]
    totals, resampled = exact.collect(columns, weights)
    observed = _range([log.reward])
    modelled = _range([log.reward, *(column for column in (log.predicted, log.expected) if column is not None)])
    found = []
    for index, estimator in enumerate(estimators):
        products = None
        if estimator.products == "numerators" or (estimator.products == "all" and keep_products):
            kept = columns[index] if estimator.products == "all" else columns[index][0]
            flat = kept.reshape(-1, kept.shape[-1])
            products = ExactSums.of((flat[:, None] * flat[None]).reshape(*kept.shape[:-1], *kept.shape))
        sums = None if resampled is None else resampled[index]
        found.append(
            Statistics(
                estimator,
                totals[index],
                sums,
                products,
                log.num_sessions,
                log.num_rounds,
                longest=int(log.lengths.max(initial=0)),
                squared_lengths=int((log.lengths * log.lengths).sum()),
                rewards=modelled if estimator.needs_model else observed,
                greatest_weight=float(log.weight.max(initial=0.0)),
            )
        )
    return found


def _range(columns: Sequence[Floats]) -> tuple[float, float]:
    """Least and greatest number in several columns."""
    return min(float(column.min(initial=np.inf)) for column in columns), max(float(column.max(initial=-np.inf)) for column in columns)


def _by_step(sums: ExactSums, steps: int) -> ExactSums:
    """Sums [..., 2, J, T] up to a later step: nothing is added to numerators, and denominators carry their last sum on."""
    missing = steps - sums.shape[-1]
    if not missing:
        return sums
    windows = np.concatenate([sums.windows, np.repeat(sums.windows[..., -1:], missing, axis=-1)], axis=-1)
    windows[..., 0, :, -missing:] = 0
    return ExactSums(sums.lowest, windows)


def _products_by_step(sums: ExactSums, steps: int) -> ExactSums:
    """Products of numerators [J, T, J, T] up to a later step; sums without steps stay as they are."""
    missing = steps - sums.shape[-1]
    if not missing:
        return sums
    return ExactSums(sums.lowest, np.pad(sums.windows, [(0, 0), (0, 0), (0, missing), (0, 0), (0, missing)]))


def _joined(kind: str, one: ExactSums | None, other: ExactSums | None, fit: Callable[[ExactSums], ExactSums]) -> ExactSums | None:
    if (one is None) != (other is None):
        raise ValueError(f"one part has {kind} and the other has none")
    return None if one is None or other is None else fit(one) + fit(other)


class Panel:
    """Statistics of several estimators over one log, which share the resamples.

    Args:
        estimators: By any names; `panel` names them by their keys.
        resampling: None for no resamples.
        keep_products: False to save the sums that Student's and Bernstein's intervals need.
    """

    def __init__(self, estimators: Iterable[Estimator], resampling: Resampling | None = None, keep_products: bool = True):
        self.estimators = tuple(estimators)
        self.resampling = resampling
        self.keep_products = keep_products
        self._statistics: dict[str, Statistics] = {}

    @property
    def statistics(self) -> Mapping[str, Statistics]:
        """By key of the estimator; empty before anything was added."""
        return self._statistics

    def add(self, log: SessionLog) -> Panel:
        """Adds whole sessions that were not added before; returns itself."""
        resampling = self.resampling
        power = 2 if any(estimator.products == "numerators" for estimator in self.estimators) else 1
        for part in log.parts(resampling.num_resamples if resampling else 1, power):
            weights = None if resampling is None else resampling.weights(part.session)
            self._join({each.estimator.key: each for each in collected(self.estimators, part, weights, self.keep_products)})
        return self

    def merge(self, other: Panel) -> Panel:
        """A panel of both logs.

        Raises:
            ValueError: The panels are of different estimators or resamples.
        """
        if (self.estimators, self.resampling, self.keep_products) != (other.estimators, other.resampling, other.keep_products):
            raise ValueError("panels of different estimators or resamples")
        joined = Panel(self.estimators, self.resampling, self.keep_products)
        joined._join(self._statistics)
        joined._join(other._statistics)
        return joined

    def _join(self, statistics: Mapping[str, Statistics]) -> None:
        for key, found in statistics.items():
            self._statistics[key] = self._statistics[key].merge(found) if key in self._statistics else found
