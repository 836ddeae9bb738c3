"""Fitted Q evaluation against the values of a small process, solved exactly."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.ope.fqe import TabularRegression, Transitions, evaluate, expected, initial_value, targets

sys.path.append(str(Path(__file__).parent))
worlds = import_module("worlds")

STATES, ITEMS, DISCOUNT = 5, 4, 0.9


def _process(seed: int = 0) -> tuple[Transitions, np.ndarray]:
    """Every pair of state and item of a process with certain outcomes, and a policy."""
    rng = np.random.default_rng(seed)
    state, item = (part.ravel() for part in np.indices((STATES, ITEMS)))
    following = rng.integers(0, STATES, STATES * ITEMS)
    ends = rng.random(STATES * ITEMS) < 0.2
    return Transitions(state, item, rng.normal(size=STATES * ITEMS), following, ends), rng.dirichlet(np.ones(ITEMS), STATES)


def test_the_fixed_point_is_the_exact_value_of_the_policy():
    steps, policy = _process()
    # Q = r + g P_pi Q, as one linear system.
    next_pairs = np.zeros((STATES * ITEMS, STATES * ITEMS))
    for row in range(STATES * ITEMS):
        if not steps.is_terminal[row]:
            begin = steps.next_state[row] * ITEMS
            next_pairs[row, begin : begin + ITEMS] = policy[steps.next_state[row]]
    exact = np.linalg.solve(np.eye(STATES * ITEMS) - DISCOUNT * next_pairs, steps.reward).reshape(STATES, ITEMS)
    table = TabularRegression(STATES, ITEMS)
    fit = evaluate(steps, lambda state: policy[state], table, DISCOUNT)
    assert fit.converged
    assert table.table == pytest.approx(exact, abs=1e-8)
    first = np.array([0, 3])
    assert initial_value(first, lambda state: policy[state], table) == pytest.approx((policy * exact).sum(axis=1)[first], abs=1e-8)


def test_the_value_of_the_chain_is_found_from_its_population():
    chain = worlds.Chain()
    q, v = chain.values(DISCOUNT)
    # A state for each step, because the chain ends at the third; a session that stopped early earned nothing more.
    rows = []
    for chance, path in chain.paths():
        for step, (state, item) in enumerate(path):
            last = step + 1 == len(path)
            following = 2 * (step + 1) + path[step + 1][0] if not last else 0
            rows += [(2 * step + state, item, chain.rewards[state, item], following, last)] * round(chance * 256)
    state, item, reward, following, ends = (np.array(column) for column in zip(*rows, strict=True))
    table = TabularRegression(6, 2)

    def policy(states: np.ndarray) -> np.ndarray:
        return chain.target[states % 2]

    assert evaluate(Transitions(state, item, reward, following, ends), policy, table, DISCOUNT).converged
    assert initial_value(np.zeros(1, int), policy, table)[0] == pytest.approx(v[0, 0], abs=1e-12)
    assert table.table[0] == pytest.approx(q[0, 0], abs=1e-12)


def test_targets_take_the_expectation_of_the_policy_and_end_with_the_session():
    found = targets(
        reward=np.array([1.0, 1.0]),
        is_terminal=np.array([False, True]),
        next_probabilities=np.array([[0.25, 0.75], [0.5, 0.5]]),
        next_values=np.array([[4.0, 8.0], [4.0, 8.0]]),
        discount=0.5,
    )
    # Not the greatest value: that would be 1 + 4.
    assert found.tolist() == [1 + 0.5 * 7, 1.0]


def test_what_is_never_shown_does_not_count_whatever_its_value():
    assert expected(np.array([[1.0, 0.0]]), np.array([[2.0, -np.inf]])).tolist() == [2.0]


def test_iterations_that_end_too_early_say_so():
    steps, policy = _process()
    fit = evaluate(steps, lambda state: policy[state], TabularRegression(STATES, ITEMS), DISCOUNT, max_iterations=3)
    assert (fit.iterations, fit.converged) == (3, False)
    assert fit.change > 1e-3
