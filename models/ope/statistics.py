"""Sufficient statistics of estimators: `add` a log, `merge` shards, `estimate`.

The sums are exact, so that the estimate of a log does not depend, in any bit, on how it was cut into shards of whole sessions, on
their order, or on how the sums were joined. Resamples are sums too, in which each session counts as often as its key says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """

    estimator: Estimator
    total: ExactSums
    resampled: ExactSums | None
    products: ExactSums | None
    num_sessions: int = 0
    num_rounds: int = 0
    longest: int = 0
    squared_lengths: int = 0

    @classmethod
    def of(cls, estimator: Estimator, log: SessionLog, weights: Floats | None = None, keep_products: bool = True) -> Statistics:
        """Statistics of one part of a log.

        Args:
            estimator: Whose.
            log: At most `MAX_TERMS` sessions; see `SessionLog.parts`.
            weights: [S, R] how often each session counts in each resample.
            keep_products: False without intervals that need a variance.
        """
        columns = estimator.columns(log)
        products = None
        if estimator.products != "none" and (keep_products or estimator.products == "numerators"):
            kept = columns if estimator.products == "all" else columns[0]
            flat = kept.reshape(-1, kept.shape[-1])
            products = ExactSums.of((flat[:, None] * flat[None]).reshape(*kept.shape[:-1], *kept.shape))
        return cls(
            estimator,
            ExactSums.of(columns),
            None if weights is None else ExactSums.weighted(columns, weights),
            products,
            log.num_sessions,
            log.num_rounds,
            int(log.lengths.max(initial=0)),
            int((log.lengths * log.lengths).sum()),
        )

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
            self._join({each.key: Statistics.of(each, part, weights, self.keep_products) for each in self.estimators})
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
