"""What is compared in every state, against one state and one candidate at a time."""

import numpy as np
import pytest

from models.candidates import Candidates
from models.frameworks import tf
from models.numerics import IMPOSSIBLE
from models.sampling import NegativeSampler, Seed

NUM_ITEMS, WIDTH, SAMPLED = 9, 3, 7
UNKNOWN = NUM_ITEMS
COUNTS = np.array([30, 20, 10, 5, 5, 3, 2, 1])
# Repetition, the unknown item at the beginning and in between, an item that comes back after another, padding of all lengths.
SESSIONS = np.array([[3, 5, 3, 3, 8], [UNKNOWN, 2, UNKNOWN, 2, 0], [7, 0, 0, 0, 0], [1, 1, 4, 1, 0], [0, 0, 0, 0, 0]], np.int32)
ROWS, STEPS = SESSIONS.shape
MODES = ("full", "sampled")


def _sampler(num_sampled: int = SAMPLED) -> NegativeSampler:
    return NegativeSampler(COUNTS, 0.5, num_sampled, seed=Seed(2))


def _negatives(step: int = 0) -> np.ndarray:
    drawn: np.ndarray = _sampler().draw(tf.constant(step, tf.int64)).numpy()
    return drawn


def _candidates(mode: str, step: int = 0) -> Candidates:
    item_id = tf.constant(SESSIONS)
    if mode == "full":
        return Candidates(item_id, NUM_ITEMS)
    return Candidates(item_id, NUM_ITEMS, _sampler(), tf.constant(_negatives(step)))


def _table(heads: int) -> np.ndarray:
    return np.random.default_rng(heads).normal(size=(NUM_ITEMS + 1, heads, WIDTH)).astype(np.float32)


def _vectors(table: np.ndarray):
    return lambda item_id: tf.constant(table[1:NUM_ITEMS]) if item_id is None else tf.gather(tf.constant(table), item_id)


def _states() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(ROWS, STEPS + 1, WIDTH)).astype(np.float32)


def _weights() -> np.ndarray:
    """[B, T+1, T] weights of earlier events that are items, as attention gives them."""
    weights = np.random.default_rng(8).random((ROWS, STEPS + 1, STEPS)).astype(np.float32)
    earlier = np.arange(STEPS)[None, :] < np.arange(STEPS + 1)[:, None]
    is_item = (SESSIONS > 0) & (SESSIONS < NUM_ITEMS)
    return weights * earlier[None] * is_item[:, None, :]


def _ids(mode: str, step: int = 0) -> np.ndarray:
    """[B, T+1, A] what stands at every place, padding and unknown items included."""
    if mode == "full":
        return np.broadcast_to(np.arange(1, NUM_ITEMS), (ROWS, STEPS + 1, NUM_ITEMS - 1))
    ids = np.zeros((ROWS, STEPS + 1, SAMPLED + STEPS + 1), np.int32)
    ids[:, :, :SAMPLED] = _negatives(step)
    ids[:, :, SAMPLED:-1] = SESSIONS[:, None]
    ids[:, :STEPS, -1] = np.where(SESSIONS < NUM_ITEMS, SESSIONS, 0)
    return ids


def _known(row: int, state: int) -> set[int]:
    """Items of the session so far, and the one that is logged."""
    return {int(item) for item in SESSIONS[row, : state + 1] if 0 < item < NUM_ITEMS}


def _counts(step: int = 0) -> np.ndarray:
    """[B, T+1, A] how often each candidate of the sample counts."""
    ids, counts = _ids("sampled", step), np.zeros((ROWS, STEPS + 1, SAMPLED + STEPS + 1))
    expected = np.sqrt(COUNTS) / np.sqrt(COUNTS).sum() * SAMPLED
    for row, state, place in np.ndindex(counts.shape):
        item, logged = ids[row, state, place], ids[row, state, -1]
        if place < SAMPLED:
            counts[row, state, place] = 0.0 if item in _known(row, state) else 1.0 / expected[item - 1]
        elif place < SAMPLED + STEPS:
            event = place - SAMPLED
            first = item not in SESSIONS[row, :event]
            counts[row, state, place] = event < state and first and 0 < item < NUM_ITEMS and item != logged
        else:
            counts[row, state, place] = item != 0
    return counts


# === The pieces, one at a time ===


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("heads", [1, 3])
def test_logits_are_the_products_of_states_and_vectors(mode: str, heads: int):
    table, states = _table(heads), _states()
    found = _candidates(mode).logits(tf.constant(states), _vectors(table))
    expected = np.einsum("btd,btahd->btha", states, table[_ids(mode)])
    assert (found.shape, found.dtype) == (expected.shape, tf.float32)
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_logged_logits_are_those_of_the_logged_items(heads: int):
    table, states = _table(heads), _states()
    for mode in MODES:
        found = _candidates(mode).logged_logits(tf.constant(states), _vectors(table)).numpy()
        expected = np.einsum("btd,bthd->bth", states[:, :-1], table[np.where(SESSIONS < NUM_ITEMS, SESSIONS, 0)])
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("heads", [1, 3])
def test_candidates_of_the_session_have_a_bonus_by_their_weight(mode: str, heads: int):
    table, states, weights = _table(heads), tf.constant(_states()), tf.constant(_weights())
    bonus = np.random.default_rng(11).normal(size=(ROWS, STEPS + 1, heads)).astype(np.float32)
    candidates = _candidates(mode)
    spread = candidates.spread(weights).numpy()
    expected = candidates.logits(states, _vectors(table)).numpy() + bonus[..., None] * spread[:, :, None]
    found = candidates.logits(states, _vectors(table), tf.constant(bonus), weights).numpy()
    is_candidate = np.broadcast_to(np.ones(spread.shape, bool) if mode == "full" else _counts() > 0, spread.shape)
    is_candidate = np.broadcast_to(is_candidate[:, :, None], found.shape)
    assert (spread[_counts() > 0] > 0).sum() > 5 if mode == "sampled" else (spread > 0).sum() > 5
    assert found[is_candidate] == pytest.approx(expected[is_candidate], abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_every_place_tells_its_item(mode: str):
    ids = np.where(_ids(mode) == UNKNOWN, 0, _ids(mode))
    for place in range(ids.shape[2]):
        found = _candidates(mode).items(tf.fill([ROWS, STEPS + 1], place)).numpy()
        assert found.tolist() == ids[:, :, place].tolist(), place


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_spread_over_the_places_of_their_items(mode: str):
    weights, ids = _weights(), _ids(mode)
    expected = np.zeros(ids.shape)
    for row, state, place in np.ndindex(ids.shape):
        expected[row, state, place] = weights[row, state][SESSIONS[row] == ids[row, state, place]].sum()
    found = _candidates(mode).spread(tf.constant(weights)).numpy()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_the_logged_item_are_those_of_its_earlier_events(mode: str):
    weights = _weights()
    found = _candidates(mode).spread_logged(tf.constant(weights)).numpy()
    for row, step in np.ndindex(SESSIONS.shape):
        is_item = 0 < SESSIONS[row, step] < NUM_ITEMS
        expected = weights[row, step][SESSIONS[row] == SESSIONS[row, step]].sum() if is_item else 0.0
        assert found[row, step] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_candidates_that_an_earlier_event_holds_are_told(mode: str):
    ids = _ids(mode)
    found = _candidates(mode).in_session(tf.zeros(ids.shape)).numpy()
    assert (found.shape, found.dtype) == (ids.shape, bool)
    counts = np.ones(ids.shape) if mode == "full" else _counts()
    for row, state, place in np.argwhere(counts > 0):
        assert found[row, state, place] == (ids[row, state, place] in SESSIONS[row, :state]), (row, state, place)


def test_every_item_of_the_whole_catalogue_counts_once():
    values = tf.random.stateless_normal([ROWS, STEPS + 1, NUM_ITEMS - 1], [1, 2])
    candidates = _candidates("full")
    assert (candidates.log_weights(values).numpy() == 0.0).all()
    assert (candidates.usable(values[:, :, None]).numpy() == values[:, :, None].numpy()).all()


@pytest.mark.parametrize("step", range(5))
def test_negatives_count_by_how_rarely_they_are_drawn_and_the_others_once(step: int):
    found = _candidates("sampled", step).log_weights(tf.zeros([ROWS, STEPS + 1, SAMPLED + STEPS + 1])).numpy()
    expected = _counts(step)
    assert np.exp(found) == pytest.approx(expected, rel=1e-4)
    assert (found[expected == 0] == np.float32(IMPOSSIBLE)).all()


def test_what_does_not_count_is_no_candidate():
    values = np.random.default_rng(3).normal(size=(ROWS, STEPS + 1, 2, SAMPLED + STEPS + 1)).astype(np.float32)
    found = _candidates("sampled").usable(tf.constant(values)).numpy()
    counts = np.broadcast_to(_counts()[:, :, None], values.shape)
    assert (found[counts > 0] == values[counts > 0]).all()
    assert (found[counts == 0] == np.float32(IMPOSSIBLE)).all()


# === What counts, and how often ===


@pytest.mark.parametrize("step", range(5))
def test_items_of_the_session_and_the_logged_item_count_once_in_all(step: int):
    # Negatives that are among them, repeated events, and a logged item that was there before: every item has one place that counts.
    ids = _ids("sampled", step)
    weights = np.exp(_candidates("sampled", step).log_weights(tf.zeros(ids.shape)).numpy())
    hits = 0
    for row, state in np.ndindex(ROWS, STEPS + 1):
        for item in _known(row, state):
            total = weights[row, state][ids[row, state] == item].sum()
            assert total == pytest.approx(1.0), (row, state, item)
            hits += int((ids[row, state, :SAMPLED] == item).sum())
    # It says nothing where no negative hits.
    assert hits > 10


def test_padding_and_the_unknown_item_never_count():
    ids = _ids("sampled")
    weights = _candidates("sampled").log_weights(tf.zeros(ids.shape)).numpy()
    no_item = (ids == 0) | (ids == UNKNOWN)
    assert no_item.sum() > 20
    assert (weights[no_item] == np.float32(IMPOSSIBLE)).all()


def test_the_greatest_candidate_is_never_padding_or_unknown():
    # Their vectors would win everywhere.
    table, states = _table(1), np.ones((ROWS, STEPS + 1, WIDTH), np.float32)
    table[[0, UNKNOWN]] = 100.0
    for mode in MODES:
        candidates = _candidates(mode)
        values = candidates.usable(candidates.logits(tf.constant(states), _vectors(table))).numpy()[:, :, 0]
        best = np.take_along_axis(_ids(mode), values.argmax(axis=2)[:, :, None], axis=2)
        assert ((best > 0) & (best < NUM_ITEMS)).all()
        assert values.max() < 50.0


def test_later_events_are_no_candidates():
    ids = _ids("sampled")
    weights = _candidates("sampled").log_weights(tf.zeros(ids.shape)).numpy()
    for state in range(STEPS + 1):
        later = weights[:, state, SAMPLED + state : SAMPLED + STEPS]
        assert (later == np.float32(IMPOSSIBLE)).all()


# === Sums over the catalogue ===


@pytest.mark.parametrize("heads", [1, 3])
def test_the_sum_over_the_whole_catalogue_is_exact(heads: int):
    table, states = _table(heads), _states()
    candidates = _candidates("full")
    found = candidates.log_sum_exp(candidates.logits(tf.constant(states), _vectors(table))).numpy()
    expected = np.log(np.exp(np.einsum("btd,nhd->bthn", states, table[1:NUM_ITEMS])).sum(axis=-1))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_the_sum_over_a_sample_is_that_of_a_slow_computation(heads: int):
    table, states = _table(heads), _states()
    candidates = _candidates("sampled")
    found = candidates.log_sum_exp(candidates.usable(candidates.logits(tf.constant(states), _vectors(table)))).numpy()
    expected = (np.exp(np.einsum("btd,btahd->btha", states, table[_ids("sampled")])) * _counts()[:, :, None]).sum(axis=-1)
    assert found == pytest.approx(np.log(expected), abs=1e-4)


def test_the_sum_over_a_sample_is_unbiased():
    # exp of the estimate is the sum over the catalogue on average, in every state, whatever is known of it. Five standard errors.
    table, states, sampler = _table(2), _states(), _sampler(4)

    def estimate(step: tf.Tensor) -> tf.Tensor:
        candidates = Candidates(tf.constant(SESSIONS), NUM_ITEMS, sampler, sampler.draw(step))
        return tf.exp(candidates.log_sum_exp(candidates.logits(tf.constant(states), _vectors(table))))

    compiled = tf.function(estimate, autograph=False)
    estimates = np.stack([compiled(tf.constant(step, tf.int64)).numpy() for step in range(2000)]).astype(np.float64)
    true = np.exp(np.einsum("btd,nhd->bthn", states, table[1:NUM_ITEMS])).sum(axis=-1)
    error = estimates.std(axis=0) / np.sqrt(len(estimates))
    # The first state of the first session knows one item of eight, its last one three.
    assert (error < 0.05 * true).all()
    assert (np.abs(estimates.mean(axis=0) - true) < 5 * error).all()


def test_a_session_that_has_seen_everything_has_an_exact_sum():
    # Every item is known in the last state, so no negative counts.
    item_id = tf.constant([[1, 2, 3, 4, 5, 6, 7, 8]])
    candidates = Candidates(item_id, NUM_ITEMS, _sampler(), tf.constant(_negatives()))
    table, states = _table(1), np.random.default_rng(9).normal(size=(1, 9, WIDTH)).astype(np.float32)
    found = candidates.log_sum_exp(candidates.logits(tf.constant(states), _vectors(table))).numpy()[0, -1, 0]
    assert found == pytest.approx(np.log(np.exp(table[1:NUM_ITEMS, 0] @ states[0, -1]).sum()), abs=1e-5)


def test_values_that_are_marked_as_no_candidate_add_nothing_to_the_sum():
    candidates = _candidates("sampled")
    values = candidates.logits(tf.constant(_states()), _vectors(_table(1)))
    one, other = (candidates.log_sum_exp(given).numpy() for given in (values, candidates.usable(values)))
    assert other == pytest.approx(one, abs=1e-6)


# === Gradients ===


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_the_sum_are_the_shares_of_the_candidates(mode: str):
    table, states = tf.Variable(_table(1)), tf.constant(_states())
    candidates = _candidates(mode)

    def vectors(item_id):
        return table[1:NUM_ITEMS] if item_id is None else tf.gather(table, item_id)

    with tf.GradientTape() as tape:
        total = tf.reduce_sum(candidates.log_sum_exp(candidates.logits(states, vectors)))
    gradient = tape.gradient(total, table)
    # A sample touches only the rows that are in it, and what is made of them must not be as large as the catalogue.
    assert isinstance(gradient, tf.IndexedSlices) == (mode == "sampled")
    found = tf.convert_to_tensor(gradient).numpy()
    counts = np.ones(_ids("full").shape) if mode == "full" else _counts()
    shares = np.exp(np.einsum("btd,btad->bta", _states(), table.numpy()[_ids(mode), 0])) * counts
    shares /= shares.sum(axis=-1, keepdims=True)
    expected = np.zeros((NUM_ITEMS + 1, WIDTH))
    np.add.at(expected, _ids(mode), shares[..., None] * _states()[:, :, None])
    assert found[:, 0] == pytest.approx(expected, abs=1e-4)
    assert np.abs(found[[0, UNKNOWN]]).max() == 0.0


def test_a_batch_without_events_has_one_state():
    candidates = Candidates(tf.zeros([2, 0], tf.int32), NUM_ITEMS, _sampler(), tf.constant(_negatives()))
    values = candidates.logits(tf.ones([2, 1, WIDTH]), _vectors(_table(1)))
    assert values.shape == (2, 1, 1, SAMPLED + 1)
    assert np.isfinite(candidates.log_sum_exp(values).numpy()).all()
    assert candidates.items(tf.zeros([2, 1], tf.int32)).numpy().tolist() == [[_negatives()[0]]] * 2
    assert candidates.items(tf.fill([2, 1], SAMPLED)).numpy().tolist() == [[0]] * 2
    assert Candidates(tf.zeros([2, 0], tf.int32), NUM_ITEMS).spread(tf.zeros([2, 1, 0])).shape == (2, 1, NUM_ITEMS - 1)
