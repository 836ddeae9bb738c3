"""Fitted Q evaluation: the value of a policy by regression on its own expected next value.

    y = r + g (1 - is_terminal) sum_a pi(a | x') q(x', a),    value = mean over first states of sum_a pi(a | x_0) q(x_0, a)

The expectation is over the target policy, not its best item. What regresses is left open; the model must not have been fitted on
sessions that it is asked about, and no interval of its value shows its bias.

References:
    Le, Voloshin and Yue (2019), algorithm 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

State = TypeVar("State", bound=npt.NDArray[np.generic])
States = TypeVar("States", bound=npt.NDArray[np.generic], contravariant=True)


@dataclass(frozen=True)
class Transitions(Generic[State]):
    """n logged steps.

    Attributes:
        state: [n, ...].
        item: [n] what was shown.
        reward: [n].
        next_state: [n, ...]; anything where the session ended.
        is_terminal: [n] True where the session ended with this step.
    """

    state: State
    item: Ints
    reward: Floats
    next_state: State
    is_terminal: Bools


class Regression(Protocol[States]):
    """A Q function that can be fitted; a Keras model trains some steps in `fit`, a table takes means."""

    def fit(self, state: States, item: Ints, target: Floats) -> None:
        """Regresses targets [n] on states [n, ...] and items [n]."""

    def predict(self, state: States) -> Floats:
        """[n, A] values of every item; finite before the first fit too."""


class Policy(Protocol[States]):
    """The target policy."""

    def __call__(self, state: States, /) -> Floats:
        """[n, A] probabilities of every item."""


class TabularRegression:
    """The exact least squares of a table: the mean target of every pair of state and item, 0 for pairs never logged.

    Args:
        num_states: States are numbers from 0 to `num_states` - 1.
        num_items: A.
    """

    def __init__(self, num_states: int, num_items: int):
        self.table = np.zeros((num_states, num_items))

    def fit(self, state: Ints, item: Ints, target: Floats) -> None:
        pair = state * self.table.shape[1] + item
        count = np.bincount(pair, minlength=self.table.size)
        total = np.bincount(pair, weights=target, minlength=self.table.size)
        self.table = np.divide(total, count, out=np.zeros(self.table.size), where=count > 0).reshape(self.table.shape)

    def predict(self, state: Ints) -> Floats:
        return self.table[state]


def expected(probabilities: Floats, values: Floats) -> Floats:
    """[n] expectation of values [n, A] under probabilities [n, A]; what has none does not count, whatever its value."""
    means: Floats = (probabilities * np.where(probabilities > 0.0, values, 0.0)).sum(axis=-1)
    return means


def targets(reward: Floats, is_terminal: Bools, next_probabilities: Floats, next_values: Floats, discount: float) -> Floats:
    """[n] regression targets.

    Args:
        reward: [n].
        is_terminal: [n].
        next_probabilities: [n, A] of the target policy in the next state.
        next_values: [n, A] of the Q function there.
        discount: g.
    """
    return reward + discount * np.where(is_terminal, 0.0, expected(next_probabilities, next_values))


@dataclass(frozen=True)
class Fit:
    """How the iterations ended.

    Attributes:
        iterations: How many were made.
        change: Greatest change of a target in the last one.
        converged: True if that is within the tolerance.
    """

    iterations: int
    change: float
    converged: bool


def evaluate(
    transitions: Transitions[State],
    policy: Policy[State],
    regression: Regression[State],
    discount: float,
    max_iterations: int = 1000,
    tolerance: float = 1e-10,
) -> Fit:
    """Fits the Q function of a policy by iterating regressions.

    Args:
        transitions: n steps.
        policy: Target policy.
        regression: Is fitted.
        discount: g.
        max_iterations: Regressions at most.
        tolerance: Greatest change of a target at which iterations end.
    """
    probabilities = policy(transitions.next_state)
    last: Floats | None = None
    change = np.inf
    for iteration in range(1, max_iterations + 1):
        found = targets(transitions.reward, transitions.is_terminal, probabilities, regression.predict(transitions.next_state), discount)
        change = np.inf if last is None else float(np.abs(found - last).max(initial=0.0))
        if change <= tolerance:
            return Fit(iteration - 1, change, True)
        regression.fit(transitions.state, transitions.item, found)
        last = found
    return Fit(max_iterations, change, False)


def initial_value(first_state: State, policy: Policy[State], regression: Regression[State]) -> Floats:
    """[S] value of each session in its first state; their mean is that of the policy."""
    return expected(policy(first_state), regression.predict(first_state))
