"""The model of the logging policy: probabilities that sum to one, recover a known policy and are calibrated."""

import numpy as np
import pytest

from models.ope.behaviour import CountBehaviour, Counts, CrossFittedBehaviour, Rounds
from models.ope.diagnostics import Calibration
from models.ope.resampling import folds

NUM_ITEMS = 21
"""N: items 1..20."""


def markov_log(num_sessions: int, seed: int, stay: float = 0.3) -> tuple[np.ndarray, Rounds, np.ndarray]:
    """Sessions of a known policy: with `stay` the last item again, else a step on a random walk whose table is known.

    Returns:
        Session of each round, the rounds, and the true probabilities [n, N-1].
    """
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(99).dirichlet(np.full(NUM_ITEMS - 1, 0.3), NUM_ITEMS)
    session, history, item, truth = [], [], [], []
    for number in range(num_sessions):
        so_far: list[int] = []
        for _ in range(5):
            shares = table[so_far[-1] if so_far else 0].copy()
            if so_far:
                shares *= 1.0 - stay
                shares[so_far[-1] - 1] += stay
            chosen = int(rng.choice(NUM_ITEMS - 1, p=shares)) + 1
            session.append(number)
            history.append((so_far + [0] * 5)[:5])
            item.append(chosen)
            truth.append(shares)
            so_far.append(chosen)
    return np.array(session, np.uint64), Rounds(np.array(history), np.array(item)), np.array(truth)


def test_counts_of_parts_add_up_to_those_of_the_whole():
    session, rounds, _ = markov_log(60, 0)
    half = session < 25
    whole = Counts.of(rounds, NUM_ITEMS)
    summed = Counts.of(rounds.take(half), NUM_ITEMS) + Counts.of(rounds.take(~half), NUM_ITEMS)
    for name in ("fresh", "first", "pair", "times"):
        np.testing.assert_array_equal(getattr(summed, name), getattr(whole, name))
    last, item = rounds.last, rounds.item
    chosen = (last == last[7]) & (item == item[7])
    assert whole.pairs(last[[7]], item[[7]]) == chosen.sum()


def test_probabilities_of_all_items_sum_to_one():
    session, rounds, _ = markov_log(100, 0)
    model = CountBehaviour(Counts.of(rounds, NUM_ITEMS), rounds, session)
    table = model.table(rounds.history)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    assert table.min() > 0.0
    np.testing.assert_allclose(model.probabilities(rounds.history, rounds.item[:, None])[:, 0], table[np.arange(500), rounds.item - 1])


def test_a_state_that_was_never_seen_has_probabilities_too():
    session, rounds, _ = markov_log(50, 0)
    model = CountBehaviour(Counts.of(rounds, NUM_ITEMS), rounds, session)
    # The unknown item, and nothing at all.
    table = model.table(np.array([[NUM_ITEMS, 0], [0, 0]]))
    np.testing.assert_allclose(table[1].sum(), 1.0, atol=1e-12)
    assert (table > 0.0).all()


def test_it_comes_near_the_policy_that_logged():
    session, rounds, truth = markov_log(4000, 1)
    model = CrossFittedBehaviour(NUM_ITEMS)
    model.fit(session, rounds)
    table = model.table(session, rounds.history)
    distance = np.abs(table - truth).sum(axis=1).mean() / 2.0
    # A policy that only knew popularity is further off than three times as much.
    popular = np.bincount(rounds.item, minlength=NUM_ITEMS)[1:] / len(rounds.item)
    assert distance < 0.08 < 3.0 * 0.08 < np.abs(popular - truth).sum(axis=1).mean() / 2.0
    assert Calibration.of(table[:2000], rounds.item[:2000] - 1).error() < 0.03


def test_on_few_sessions_it_is_calibrated_where_plain_counts_are_not():
    session, rounds, _ = markov_log(120, 2)
    model = CrossFittedBehaviour(NUM_ITEMS)
    model.fit(session, rounds)
    crossed = Calibration.of(model.table(session, rounds.history), rounds.item - 1).error()
    # Transitions as they were counted, asked about sessions that were not: the same model without weights.
    counts, (_, fresh, _) = Counts.of(rounds, NUM_ITEMS), markov_log(120, 3)
    items = np.broadcast_to(np.arange(1, NUM_ITEMS), (len(fresh.item), NUM_ITEMS - 1))
    seen = counts.pairs(np.broadcast_to(fresh.last[:, None], items.shape), items)
    plain = seen / np.maximum(counts.first[fresh.last], 1)[:, None]
    assert crossed < 0.1 < Calibration.of(plain, fresh.item - 1).error()


def test_no_session_is_predicted_by_what_it_said_itself():
    session, rounds, _ = markov_log(90, 4)
    model = CrossFittedBehaviour(NUM_ITEMS)
    model.fit(session, rounds)
    before = model.probabilities(session, rounds.history, rounds.item[:, None])
    mine = session == 11
    changed = Rounds(rounds.history, np.where(mine, 1 + (rounds.item + 7) % 20, rounds.item))
    again = CrossFittedBehaviour(NUM_ITEMS)
    again.fit(session, changed)
    after = again.probabilities(session, rounds.history, rounds.item[:, None])
    np.testing.assert_array_equal(before[mine], after[mine])
    assert not np.array_equal(before[~mine], after[~mine])


def wide_log(num_sessions: int, num_items: int, seed: int) -> tuple[np.ndarray, Rounds]:
    """Sessions that come back to what they have seen half of the time, over a catalogue of which much is seen once."""
    rng = np.random.default_rng(seed)
    popular = 1.0 / np.arange(1, num_items)
    popular /= popular.sum()
    session, history, item = [], [], []
    for number in range(num_sessions):
        so_far: list[int] = []
        for step in range(6):
            chosen = so_far[int(rng.integers(step))] if step and rng.random() < 0.5 else int(rng.choice(num_items - 1, p=popular)) + 1
            session.append(number)
            history.append((so_far + [0] * 6)[:6])
            item.append(chosen)
            so_far.append(chosen)
    return np.array(session, np.uint64), Rounds(np.array(history), np.array(item))


def test_calibration_without_whole_tables_is_that_of_whole_tables():
    session, rounds = wide_log(150, 400, 6)
    # Of every model the items: some that it has never counted, the unknown one in a history, beginnings.
    rounds.history[7, 0] = 400
    model = CrossFittedBehaviour(400)
    model.fit(session, rounds)
    floor = 1e-3
    table = model.table(session, rounds.history)
    found, outside = model.check(session, rounds, floor)
    whole = Calibration.of(table, rounds.item - 1)
    np.testing.assert_allclose(found.sums.value(), whole.sums.value(), rtol=1e-9, atol=1e-9)
    assert found.mean_log_loss() == pytest.approx(whole.mean_log_loss(), rel=1e-12)
    assert outside == pytest.approx(float((table < floor).mean()), rel=1e-12)
    assert 0.1 < outside < 0.99
    # Fewer probabilities than there are: rounds are left out, evenly.
    some, _ = model.check(session, rounds, floor, max_cells=3000)
    assert 100 < some.num_rounds < 900


def test_visitors_who_go_back_and_forth_do_not_deceive_it():
    session, rounds = wide_log(1200, 3000, 7)
    model = CrossFittedBehaviour(3000)
    model.fit(session, rounds)
    assert model.check(session, rounds)[0].error() < 0.02
    # With single rounds left out instead of sessions, what a visitor went back to looks like what others will go to.
    alone = CrossFittedBehaviour(3000)
    singly = np.arange(len(session)).astype(np.uint64)
    alone.models = [
        CountBehaviour(Counts.of(rounds.take(rows), 3000), rounds.take(rows), singly[rows])
        for rows in (np.flatnonzero(folds(session, 3) != number) for number in range(3))
    ]
    assert alone.check(session, rounds)[0].error() > 0.028


def test_items_never_counted_get_what_such_items_get_elsewhere():
    session, rounds = wide_log(400, 3000, 8)
    model = CrossFittedBehaviour(3000)
    model.fit(session, rounds)
    fold = folds(session, 3)
    logged, expected = 0.0, 0.0
    for number, each in enumerate(model.models):
        mine, others = rounds.take(np.flatnonzero(fold == number)), rounds.take(np.flatnonzero(fold != number))
        never = np.setdiff1d(np.arange(1, 3000), others.item)
        logged += np.isin(mine.item, never).sum()
        expected += each.probabilities(mine.history, np.broadcast_to(never, (len(mine.item), len(never)))).sum()
    assert logged > 200
    assert expected == pytest.approx(logged, rel=0.15)


def test_too_few_sessions_are_an_error():
    session, rounds, _ = markov_log(1, 0)
    with pytest.raises(ValueError, match="too few for 3 folds"):
        CrossFittedBehaviour(NUM_ITEMS).fit(session, rounds)


def test_the_likeliest_items_are_nearly_those_of_the_whole_table():
    session, rounds, _ = markov_log(300, 5)
    model = CrossFittedBehaviour(NUM_ITEMS)
    model.fit(session, rounds)
    best = model.best(session, rounds.history, 4)
    assert all(len(set(row)) == 4 for row in best.tolist())
    table = model.table(session, rounds.history)
    reached = np.take_along_axis(table, best - 1, axis=1).sum()
    # Whoever is popular, followed or stood there is looked at; what is a little of everything may be passed over.
    assert reached > 0.98 * (-np.sort(-table, axis=1)[:, :4]).sum()
