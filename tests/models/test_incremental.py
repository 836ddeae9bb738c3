"""Sessions that are played event by event get the answers of whole histories."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.algorithms.base import Condition
from models.frameworks import tf
from models.incremental import IncrementalPolicy, Progress

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")

MODELS = ("decision_transformer", "dt4rec", "cdt4rec", "edt4rec")
ITEMS = np.array([[3, 5, 3, 9, 1, 2, 2, 7], [7, 2, 2, toy.UNKNOWN, 8, 8, 3, 3], [1, 1, 1, 1, 4, 1, 1, 1]], np.int32)
REWARD = np.array([[0.2, np.nan, 1.0, 0.2, 0.2, np.nan, 1.0, 0.2], [np.nan] * 8, [0.2, 0.2, 1.0, 1.0, 0.2, 0.2, 0.2, 0.2]], np.float32)
TARGET = tf.constant([2.0, float("nan"), 0.5])


def _model(name: str, backbone: str = "sasrec", window: int | None = None, **changes):
    networks = toy.network(backbone=toy.backbone(backbone), window=window)
    return toy.shake(toy.build(name, networks, num_blocks=2, **{"context_length": 3, **changes}))


def _whole(model, steps: int, rows: slice = slice(None)):
    """The heads' states after the first events, from the whole history."""
    item_id = tf.constant(ITEMS[rows, :steps])
    condition = Condition(TARGET[rows], tf.constant(REWARD[rows, :steps]))
    return model.final_states(item_id, tf.fill([len(ITEMS[rows])], steps), condition), item_id


def _assert_same(model, policy: IncrementalPolicy, progress: Progress, steps: int, rows: slice = slice(None)):
    expected, item_id = _whole(model, steps, rows)
    found = policy.head_states(progress)
    for ours, theirs in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)
    assert policy.rank(progress, 7).item_id.numpy().tolist() == model.rank(expected, item_id, 7).item_id.numpy().tolist()


@pytest.mark.parametrize(
    ("name", "backbone", "window"),
    [*((name, "sasrec", None) for name in MODELS), ("decision_transformer", "gru4rec", None), ("decision_transformer", "sasrec", 3)],
)
def test_every_event_gets_the_answer_of_the_whole_history(name: str, backbone: str, window: int | None):
    # Eight events and three of reach: places of the cache are taken again.
    model = _model(name, backbone, window)
    policy = IncrementalPolicy(model)
    progress = policy.begin(TARGET)
    if window is None:
        # Windows need a column of events.
        _assert_same(model, policy, progress, 0)
    for step in range(8):
        progress = policy.advance(progress, tf.constant(ITEMS[:, step]), tf.constant(REWARD[:, step]))
        _assert_same(model, policy, progress, step + 1)


def test_sessions_go_at_their_own_pace():
    model = _model("decision_transformer")
    policy = IncrementalPolicy(model)
    progress = policy.begin(TARGET)
    # The second session has had three events before the others have had one.
    for step in range(3):
        alone = progress.take([1])
        progress = progress.put(tf.constant([1]), policy.advance(alone, tf.constant(ITEMS[1:2, step]), tf.constant(REWARD[1:2, step])))
    rest = progress.take([0, 2])
    progress = progress.put(tf.constant([0, 2]), policy.advance(rest, tf.constant(ITEMS[[0, 2], 0]), tf.constant(REWARD[[0, 2], 0])))
    assert progress.length.numpy().tolist() == [1, 3, 1]
    _assert_same(model, policy, progress.take([1]), 3, slice(1, 2))
    _assert_same(model, policy, progress.take([0]), 1, slice(0, 1))
    _assert_same(model, policy, progress.take([2]), 1, slice(2, 3))


def test_a_session_cannot_outgrow_the_model():
    policy = IncrementalPolicy(_model("decision_transformer"))
    progress = policy.begin(tf.constant([1.0]))
    for _ in range(toy.MAX_STEPS):
        progress = policy.advance(progress, tf.constant([3]), tf.constant([0.2]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more events than the model"):
        policy.advance(progress, tf.constant([3]), tf.constant([0.2]))


def test_it_compiles_once_for_all_steps():
    model = _model("decision_transformer")
    policy = IncrementalPolicy(model)
    advance = tf.function(policy.advance, autograph=False, reduce_retracing=True)
    progress = policy.begin(TARGET)
    for step in range(4):
        progress = advance(progress, tf.constant(ITEMS[:, step]), tf.constant(REWARD[:, step]))
    assert advance.experimental_get_tracing_count() <= 2
    _assert_same(model, policy, progress, 4)
