"""Values of items in a state."""

import numpy as np
import pytest

from models.candidates import Candidates
from models.frameworks import keras, tf
from models.heads.item_value import ItemValueHead, ValueState
from models.sampling import NegativeSampler, Seed

NUM_ITEMS, MAX_STEPS, WIDTH = 9, 5, 4
UNKNOWN = NUM_ITEMS
SESSIONS = np.array([[3, 5, 3, 8, 3], [UNKNOWN, 2, 2, UNKNOWN, 0], [7, 0, 0, 0, 0]], np.int32)
ROWS, STEPS = SESSIONS.shape

HEADS = pytest.mark.parametrize("heads", [1, 3])
COPY = pytest.mark.parametrize("copy", [True, False], ids=["copy", "no_copy"])
MODES = pytest.mark.parametrize("mode", ["full", "sampled"])


def _head(heads: int = 1, copy: bool = True, trained: bool = True) -> ItemValueHead:
    keras.utils.set_random_seed(0)
    head = ItemValueHead(NUM_ITEMS, WIDTH, MAX_STEPS, copy, heads)
    head(_states(), tf.constant(SESSIONS))
    if trained:
        rng = np.random.default_rng(1)
        for variable in head.trainable_variables:
            variable.assign_add(rng.normal(0.0, 0.7, variable.shape).astype(np.float32))
    return head


def _states() -> tf.Tensor:
    return tf.constant(np.random.default_rng(3).normal(size=(ROWS, STEPS + 1, WIDTH)), tf.float32)


def _state(head: ItemValueHead) -> ValueState:
    found: ValueState = head(_states(), tf.constant(SESSIONS))
    return found


def _candidates(mode: str) -> Candidates:
    if mode == "full":
        return Candidates(tf.constant(SESSIONS), NUM_ITEMS)
    sampler = NegativeSampler(np.ones(NUM_ITEMS - 1), 0.5, 4, seed=Seed(0))
    return Candidates(tf.constant(SESSIONS), NUM_ITEMS, sampler, sampler.draw(tf.constant(0, tf.int64)))


def _ids(mode: str) -> np.ndarray:
    """[B, T+1, A] what stands at every place of the candidates; 0 where there is none."""
    if mode == "full":
        return np.broadcast_to(np.arange(1, NUM_ITEMS), (ROWS, STEPS + 1, NUM_ITEMS - 1))
    drawn = NegativeSampler(np.ones(NUM_ITEMS - 1), 0.5, 4, seed=Seed(0)).draw(tf.constant(0, tf.int64)).numpy()
    ids = np.zeros((ROWS, STEPS + 1, 4 + STEPS + 1), np.int32)
    ids[:, :, :4], ids[:, :, 4:-1], ids[:, :STEPS, -1] = drawn, SESSIONS[:, None], SESSIONS
    counted = _candidates(mode).log_weights(tf.zeros(ids.shape)).numpy() > -1e29
    return np.where(counted, ids, 0)


def _slow(head: ItemValueHead) -> np.ndarray:
    """[B, T+1, H, N+1] values of everything that has a row in the table, one product and one event at a time."""
    state = _state(head)
    table = head.table.numpy().reshape(NUM_ITEMS + 1, head.heads, WIDTH + 1)
    values = np.zeros((ROWS, STEPS + 1, head.heads, NUM_ITEMS + 1))
    for row, step, number, item in np.ndindex(values.shape):
        values[row, step, number, item] = _states()[row, step].numpy() @ table[item, number, :WIDTH] + table[item, number, WIDTH]
        repetition = state.copy_weights.numpy()[row, step][SESSIONS[row] == item].sum()
        values[row, step, number, item] += state.bonus.numpy()[row, step, number] * repetition
    return values


# === Values ===


@HEADS
@COPY
@MODES
def test_values_of_the_candidates_are_those_of_a_slow_computation(mode: str, copy: bool, heads: int):
    head = _head(heads, copy)
    found = head.among(_state(head), _candidates(mode)).numpy()
    ids, values = _ids(mode), _slow(head)
    assert found.shape == (ROWS, STEPS + 1, heads, ids.shape[-1])
    for row, step, number, place in np.ndindex(found.shape):
        item = ids[row, step, place]
        expected = values[row, step, number, item] if item else -1e30
        assert found[row, step, number, place] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@HEADS
@COPY
@MODES
def test_values_of_the_logged_items_are_theirs_among_all(mode: str, copy: bool, heads: int):
    head = _head(heads, copy)
    found = head.logged(_state(head), _candidates(mode)).numpy()
    values = _slow(head)
    assert found.shape == (ROWS, STEPS, heads)
    # What is no item has a finite value, because it is masked by a product.
    assert np.isfinite(found).all()
    for row, step in np.argwhere((SESSIONS > 0) & (SESSIONS < NUM_ITEMS)):
        assert found[row, step] == pytest.approx(values[row, step, :, SESSIONS[row, step]], rel=1e-4, abs=1e-5)


@HEADS
@COPY
def test_values_of_the_same_items_in_every_state_are_theirs_among_all(copy: bool, heads: int):
    head = _head(heads, copy)
    items = [5, 1, 1, 3, 8]
    found = head.of_items(_state(head), tf.constant(SESSIONS), tf.constant(items)).numpy()
    assert found == pytest.approx(_slow(head)[..., items], rel=1e-4, abs=1e-5)


@HEADS
@COPY
def test_values_of_one_item_of_every_state_are_theirs_among_all(copy: bool, heads: int):
    # Items that are in the session, those that come later, others; and with weights for the heads.
    head, state = _head(heads, copy), _state(_head(heads, copy))
    chosen = np.random.default_rng(4).integers(1, NUM_ITEMS, (ROWS, STEPS + 1)).astype(np.int32)
    expected = np.take_along_axis(_slow(head), chosen[:, :, None, None], axis=3)[..., 0]
    assert head.of_one(state, tf.constant(SESSIONS), tf.constant(chosen)).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    mix = np.arange(1, heads + 1, dtype=np.float32)
    mixed = head.of_one(state, tf.constant(SESSIONS), tf.constant(chosen), tf.constant(mix)).numpy()
    assert mixed[..., 0] == pytest.approx(expected @ mix, rel=1e-4, abs=1e-4)


@COPY
@MODES
def test_a_mixture_is_the_weighted_sum_of_the_heads(mode: str, copy: bool):
    head, mix = _head(3, copy), np.array([0.2, 0.5, 0.3], np.float32)
    state, candidates = _state(head), _candidates(mode)
    among, logged = head.among(state, candidates).numpy(), head.logged(state, candidates).numpy()
    mixed = head.among(state, candidates, tf.constant(mix)).numpy()
    possible = among[:, :, 0] > -1e29
    assert mixed.shape == (ROWS, STEPS + 1, 1, among.shape[-1])
    assert mixed[:, :, 0][possible] == pytest.approx(np.einsum("btha,h->bta", among, mix)[possible], rel=1e-4, abs=1e-5)
    assert (mixed[:, :, 0][~possible] < -1e29).all()
    assert head.logged(state, candidates, tf.constant(mix)).numpy()[..., 0] == pytest.approx(logged @ mix, rel=1e-4, abs=1e-5)


def test_vectors_of_a_mixture_are_the_weighted_sum_of_those_of_the_heads():
    head, mix = _head(3), tf.constant([0.2, 0.5, 0.3])
    by_head = head.vectors(tf.constant([[4, 0], [1, UNKNOWN]])).numpy()
    assert by_head.shape == (2, 2, 3, WIDTH + 1)
    mixed = head.vectors(tf.constant([[4, 0], [1, UNKNOWN]]), mix).numpy()
    assert mixed[..., 0, :] == pytest.approx(np.einsum("xyhd,h->xyd", by_head, mix.numpy()), rel=1e-5)
    assert head.vectors(None).shape == (NUM_ITEMS - 1, 3, WIDTH + 1)
    assert head.vectors(None).numpy()[3].tolist() == by_head[0, 0].tolist()


# === The bonus of repetition ===


def test_the_bonus_goes_to_the_items_of_the_session_by_their_share():
    # In the last state of the first session items 3, 5 and 8 have been there. One more for the bonus is shared by them, and the
    # others get nothing.
    head = _head()
    before = head.among(_state(head), _candidates("full")).numpy()[0, STEPS, 0]
    head.gain.bias.assign_add([1.0])
    gained = head.among(_state(head), _candidates("full")).numpy()[0, STEPS, 0] - before
    weights = _state(head).copy_weights.numpy()[0, STEPS]
    expected = np.zeros(NUM_ITEMS - 1)
    for event, item in enumerate(SESSIONS[0]):
        expected[item - 1] += weights[event]
    assert gained == pytest.approx(expected, abs=1e-5)
    assert set((np.flatnonzero(gained > 1e-4) + 1).tolist()) == {3, 5, 8}
    assert 0.0 < gained.sum() < 1.0 + 1e-5


def test_a_fresh_head_does_not_know_what_repetition_is_worth():
    head = _head(3, trained=False)
    assert (_state(head).bonus.numpy() == 0.0).all()
    assert np.abs(head.among(_state(head), _candidates("full")).numpy()).max() < 0.5


@HEADS
def test_without_copying_there_is_no_bonus(heads: int):
    head = _head(heads, copy=False)
    state = _state(head)
    assert state.bonus.shape == (ROWS, STEPS + 1, heads)
    assert state.copy_weights.shape == (ROWS, STEPS + 1, STEPS)
    assert float(tf.reduce_max(tf.abs(state.bonus)) + tf.reduce_max(state.copy_weights)) == 0.0
    assert [tuple(variable.shape) for variable in head.variables] == [(NUM_ITEMS + 1, heads * (WIDTH + 1))]


def test_there_is_nothing_to_repeat_before_the_first_item_that_is_known():
    weights = _state(_head()).copy_weights.numpy()
    assert (weights[:, 0] == 0.0).all()
    assert (weights[1, 1] == 0.0).all()  # only the unknown item was there
    assert (weights[1, 2] > 0.0).tolist() == [False, True, False, False, False]


# === The table ===


@HEADS
def test_every_head_has_a_vector_and_a_bias_for_every_id(heads: int):
    head = _head(heads, trained=False)
    assert head.table.shape == (NUM_ITEMS + 1, heads * (WIDTH + 1))
    by_head = head.table.numpy().reshape(NUM_ITEMS + 1, heads, WIDTH + 1)
    assert (by_head[..., WIDTH] == 0.0).all()
    assert 0.0 < np.abs(by_head[..., :WIDTH]).max() < 0.1
    assert head.item_weights == ("table",)


def test_the_state_ends_with_a_one_that_the_bias_is_multiplied_with():
    head = _head()
    state = _state(head).states.numpy()
    assert (state[..., WIDTH] == 1.0).all()
    assert state[..., :WIDTH].tolist() == _states().numpy().tolist()


@MODES
def test_values_of_a_sample_send_gradients_to_their_own_rows_alone(mode: str):
    head = _head(3)
    with tf.GradientTape() as tape:
        state = _state(head)
        values = head.among(state, _candidates(mode))
        total = tf.reduce_sum(tf.where(values > -1e29, tf.square(values), 0.0)) + tf.reduce_sum(head.logged(state, _candidates(mode)))
        total += tf.reduce_sum(head.of_items(state, tf.constant(SESSIONS), tf.constant([1, 2])))
    gradient = tape.gradient(total, head.table)
    assert isinstance(gradient, tf.IndexedSlices) == (mode == "sampled")
    if mode == "sampled":
        assert set(gradient.indices.numpy().tolist()) <= {0, UNKNOWN, 1, 2, *_ids(mode).ravel().tolist()}
    assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()


@pytest.mark.parametrize("mix", [None, [0.2, 0.5, 0.3]])
def test_a_mixture_of_a_sample_sends_sparse_gradients_too(mix: list[float] | None):
    head = _head(3)
    weights = None if mix is None else tf.constant(mix)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(head.logged(_state(head), _candidates("sampled"), weights))
    assert isinstance(tape.gradient(total, head.table), tf.IndexedSlices)


@HEADS
@COPY
def test_the_configuration_makes_the_same_layer(copy: bool, heads: int):
    head = _head(heads, copy)
    again = ItemValueHead.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    assert (again.heads, again.copy, again.max_steps) == (heads, copy, MAX_STEPS)
