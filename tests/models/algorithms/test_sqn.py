"""Self-supervised Q-learning against a slow computation."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("q_weight", [1.0, 0.3])
def test_the_td_loss_is_that_of_a_slow_computation(softmax: str, q_weight: float):
    algorithm = slow.build("sqn", softmax, discount=0.7, q_weight=q_weight)
    values = slow.Values(algorithm)
    target = values.bootstrapped(0.7, values.double_q)
    expected = q_weight * 0.5 * (target - values.logged()[..., 0]) ** 2
    mask = slow.mask(algorithm)
    assert mask.sum() == slow.TARGETS
    assert slow.parts(algorithm)["td"] == pytest.approx(expected * mask, rel=1e-4, abs=1e-5)


def test_the_worked_example_has_the_published_loss():
    # Q(s, a) = .4, the online network says [.3, .1, .5, .4] of every state, the target network [.2, .9, .6, 0]: it values item 3,
    # y = .2 + .5 * .6 = .5 and the loss is .005; where the session ends y = .2 and the loss is .02.
    algorithm = slow.few_items("sqn", 4, discount=0.5)
    slow.say(algorithm.values, [0.3, 0.1, 0.5, 0.4])
    slow.say(algorithm.target.values, [0.2, 0.9, 0.6, 0.0])
    found = slow.parts(algorithm, toy.batch([[4, 4]]))["td"]
    assert found == pytest.approx(np.array([[0.005, 0.02]]), rel=1e-4)


def test_the_cross_entropy_is_that_of_behaviour_cloning():
    networks = toy.network()
    sqn, bc = toy.shake(toy.build("sqn", networks)), toy.build("bc", networks)
    mine = sqn.named_variables()
    for path, variable in bc.named_variables().items():
        variable.assign(mine[path])
    batch = slow.batch()
    assert toy.mean_loss(sqn, batch)["cross_entropy"] == pytest.approx(toy.mean_loss(bc, batch)["cross_entropy"], rel=1e-5)


def test_a_weight_of_zero_leaves_the_cross_entropy_alone():
    algorithm = toy.shake(toy.build("sqn", q_weight=0.0))
    assert toy.mean_loss(algorithm, slow.batch())["td"] == 0.0


def test_a_stretch_that_goes_on_elsewhere_is_not_the_end_of_its_session():
    # The same events, once as a whole session and once as a stretch of a longer one.
    algorithm = toy.shake(toy.build("sqn"))
    whole = algorithm.losses(toy.batch([[3, 5]]), tf.constant(0, tf.int64), training=False).parts["td"].numpy()[0]
    stretch = algorithm.losses(toy.batch([[3, 5]], is_terminal=[0]), tf.constant(0, tf.int64), training=False).parts["td"].numpy()[0]
    assert stretch[0] == pytest.approx(whole[0])
    assert abs(stretch[1] - whole[1]) > 1e-3


def test_a_fresh_target_network_is_a_copy_of_the_online_one():
    algorithm = toy.build("sqn")
    named = algorithm.named_variables()
    for path, variable in named.items():
        if path.startswith("target/"):
            np.testing.assert_array_equal(variable.numpy(), named[path.removeprefix("target/")].numpy(), err_msg=path)


def test_the_target_network_sees_no_dropout():
    # Rates so high that two passes with dropout never agree; the online network's values of the next state only choose.
    algorithm = toy.shake(toy.build("sqn", toy.network(backbone=toy.backbone(dropout=0.9))))
    item_id = tf.constant([[1, 2, 3]])
    seen = []
    original = algorithm.target.encoder.backbone.__class__.__call__

    def watch(self, embedded, training=False):
        seen.append((self is algorithm.target.encoder.backbone, training))
        return original(self, embedded, training=training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm.target.encoder.backbone.__class__, "__call__", watch)
        algorithm.losses(toy.batch(item_id.numpy().tolist()), tf.constant(0, tf.int64), training=True)
    assert (True, False) in seen
    assert (False, True) in seen
    assert (True, True) not in seen


def test_the_target_of_the_last_event_of_a_session_does_not_know_the_target_network():
    algorithm = slow.build("sqn")
    before = slow.parts(algorithm)["td"]
    table = algorithm.target.values.table
    table.assign(table + 1.0)
    changed = np.abs(slow.parts(algorithm)["td"] - before) > 1e-4
    # The first two sessions end with their last events, the others go on elsewhere.
    assert (changed == (slow.mask(algorithm) > 0) & (slow.batch().done().numpy() == 0)).all()


@pytest.mark.parametrize(("recommend", "head"), [("policy", "policy"), ("values", "values")])
def test_the_head_that_recommends_is_the_configured_one(recommend: str, head: str):
    algorithm = slow.build("sqn", recommend=recommend)
    batch = slow.batch()
    states = algorithm.final_states(batch.item_id, batch.length)
    mine, by_head = (algorithm.rank(states, batch.item_id, 10, head=choice).item_id.numpy().tolist() for choice in (None, head))
    assert mine == by_head
    assert algorithm.recommender == head
