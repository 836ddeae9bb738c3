"""Decision transformer: what it is told, what it does not know, and that it does as it is told."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.trainer.step import TrainStep
from models.algorithms.base import Condition
from models.frameworks import tf
from models.optimizers import LazyAdam

sys.path.append(str(Path(__file__).parent))
slow = import_module("slow")
toy = slow.toy

NAMES = ("decision_transformer", "dt4rec", "cdt4rec", "edt4rec")
NAN = float("nan")


def _hidden(algorithm, batch) -> tf.Tensor:
    """[B, T+1, D] conditioned on what really came."""
    returns = tf.pad(batch.return_to_go, [[0, 0], [0, 1]])
    return algorithm.read(algorithm.encoder(batch.item_id), batch.item_id, returns)


def _policy(algorithm, item_id: tf.Tensor, target: float, reward: list[list[float]] | None = None) -> np.ndarray:
    """[B, T+1, N] probability of every item, padding included, in every state."""
    rewards = None if reward is None else tf.constant(reward, tf.float32)
    condition = Condition(tf.fill(tf.shape(item_id)[:1], target), rewards)
    states = algorithm.head_states(algorithm.encoder(item_id), item_id, condition)["policy"]
    found = np.zeros((*states.states.shape[:2], toy.NUM_ITEMS))
    for step in range(found.shape[1]):
        one = tf.nest.map_structure(lambda tensor, step=step: tensor[:, step], states)
        ranking = algorithm.rank({"policy": one}, tf.where(tf.range(item_id.shape[1]) < step, item_id, 0), toy.NUM_ITEMS - 1)
        np.put_along_axis(found[:, step], ranking.item_id.numpy(), np.exp(ranking.score.numpy()), axis=1)
    return found


@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize("name", NAMES)
def test_the_cross_entropy_is_that_of_the_policy_head_given_the_logged_returns(name: str, softmax: str):
    algorithm = slow.build(name, softmax)
    batch = slow.batch()
    hidden = _hidden(algorithm, batch)
    negatives = algorithm.negatives(tf.constant(slow.STEP, tf.int64))
    table = algorithm.encoder.embedding.table
    expected = algorithm.policy.log_prob(algorithm.policy(hidden, batch.item_id), batch.item_id, table, algorithm._sampler, negatives)
    assert slow.parts(algorithm)["cross_entropy"] == pytest.approx(-expected.numpy() * slow.mask(algorithm), rel=1e-4, abs=1e-5)


def test_the_entropy_is_that_of_all_items_in_every_state():
    algorithm = slow.build("decision_transformer")
    batch = slow.batch()
    among = algorithm.predict(batch, tf.constant(slow.STEP, tf.int64), training=False)
    hidden = _hidden(algorithm, batch)
    candidates = import_module("models.candidates").Candidates(batch.item_id, toy.NUM_ITEMS)
    probability = np.exp(
        algorithm.policy.among(algorithm.policy(hidden, batch.item_id), candidates, algorithm.encoder.embedding.table).numpy()
    )
    assert probability.sum(axis=-1) == pytest.approx(np.ones(probability.shape[:2]), abs=1e-4)
    entropy = -(probability * np.log(np.maximum(probability, 1e-30))).sum(axis=-1)[:, :-1]
    assert among.entropy.numpy() == pytest.approx(entropy * slow.mask(algorithm), rel=1e-4, abs=1e-4)
    health = algorithm.losses(batch, tf.constant(slow.STEP, tf.int64), training=False).health
    assert float(health["policy_entropy"]) == pytest.approx(entropy[slow.mask(algorithm) > 0].mean(), rel=1e-4)
    returns = batch.return_to_go.numpy()[slow.mask(algorithm) > 0]
    assert float(health["return_mean"]) == pytest.approx(returns.mean(), rel=1e-5)
    assert float(health["return_deviation"]) == pytest.approx(returns.std(), rel=1e-5)


def test_a_sampled_entropy_is_near_that_of_all_items():
    full, sampled = slow.build("decision_transformer"), slow.build("decision_transformer", "sampled")
    exact = full.predict(slow.batch(), tf.constant(0, tf.int64), training=False).entropy.numpy().sum()
    found = [
        float(tf.reduce_sum(sampled.predict(slow.batch(), tf.constant(step, tf.int64), training=False).entropy)) for step in range(100)
    ]
    assert np.mean(found) == pytest.approx(exact, rel=0.1)


# === What a state does not know ===


@pytest.mark.parametrize("name", NAMES)
def test_a_state_knows_no_reward_and_no_return_that_comes_after_it(name: str):
    algorithm = slow.build(name, num_blocks=2)
    items = np.array([[3, 5, 3, 9, 1, 2]], np.int32)
    reward = np.array([[0.2, 0.2, 1.0, 0.2, 0.2, 1.0]], np.float32)
    # Wide enough that no return is clipped.
    algorithm.returns.least.assign([-50.0])
    algorithm.returns.greatest.assign([50.0])

    def heads(reward: np.ndarray) -> list[np.ndarray]:
        condition = Condition(tf.constant([3.0]), tf.constant(reward))
        item_id = tf.constant(items)
        return [part.numpy() for part in tf.nest.flatten(algorithm.head_states(algorithm.encoder(item_id), item_id, condition))]

    plain = heads(reward)
    for step in range(6):
        other = reward.copy()
        other[0, step:] += 2.0
        changed = heads(other)
        # State t is before event t: it knows rewards 0..t-1.
        for one, two in zip(plain, changed, strict=True):
            assert two[:, : step + 1] == pytest.approx(one[:, : step + 1], abs=1e-5)
        assert np.abs(changed[0][:, step + 1] - plain[0][:, step + 1]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_in_training_an_event_is_judged_by_its_return_and_earlier_ones_alone(name: str):
    algorithm = slow.build(name, num_blocks=2)
    batch = toy.batch([[3, 5, 3, 9, 1, 2]], [[0.2, 0.2, 1.0, 0.2, 0.2, 1.0]])
    plain = slow.parts(algorithm, batch)["cross_entropy"]
    returns = batch.return_to_go.numpy()
    for step in range(6):
        other = returns.copy()
        other[0, step:] += 2.0
        changed = slow.parts(algorithm, batch._replace(return_to_go=tf.constant(other)))["cross_entropy"]
        assert changed[0, :step] == pytest.approx(plain[0, :step], abs=1e-5)
        assert abs(changed[0, step] - plain[0, step]) > 1e-4
    # Rewards are in the returns and nowhere else.
    rewarded = batch._replace(reward=batch.reward + 5.0)
    assert slow.parts(algorithm, rewarded)["cross_entropy"] == pytest.approx(plain, abs=1e-6)


# === What it is told ===


def test_the_default_is_the_target_of_the_log():
    algorithm = slow.build("decision_transformer")
    algorithm.adapt([toy.batch([[1, 2]] * 40, [[0.5, float(number) / 40] for number in range(40)])])
    target = float(algorithm.returns.target.numpy()[0])
    assert target == pytest.approx(np.quantile([0.5 + number / 40 for number in range(40)], 0.9))
    item_id = tf.constant([[3, 5, 3]])
    assert _policy(algorithm, item_id, NAN) == pytest.approx(_policy(algorithm, item_id, target), abs=1e-6)
    assert np.abs(_policy(algorithm, item_id, NAN) - _policy(algorithm, item_id, 0.1)).max() > 1e-3
    plain = algorithm.head_states(algorithm.encoder(item_id), item_id)["policy"]
    told = algorithm.head_states(algorithm.encoder(item_id), item_id, Condition(tf.constant([target])))["policy"]
    assert plain.states.numpy() == pytest.approx(told.states.numpy(), abs=1e-6)


def test_rewards_that_came_are_taken_off():
    algorithm = slow.build("decision_transformer", context_length=1)
    algorithm.returns.least.assign([-50.0])
    algorithm.returns.greatest.assign([50.0])
    item_id = tf.constant([[3, 5]])
    # With a reach of one step, state 1 knows of returns only what is left: 3 - 1 = 2.5 - .5.
    one, other = (_policy(algorithm, item_id, target, [[reward, 0.0]]) for target, reward in ((3.0, 1.0), (2.5, 0.5)))
    assert one[:, 1] == pytest.approx(other[:, 1], abs=1e-5)
    assert np.abs(one[:, 0] - other[:, 0]).max() > 1e-4


def test_the_log_is_read_no_further_than_needed():
    algorithm = slow.build("decision_transformer")
    read = []

    def batches():
        for number in range(10**6):
            read.append(number)
            yield toy.batch([[1]], [[1.0]])

    algorithm.adapt(batches())
    assert 100 < len(read) < 1_000


# === It does as it is told ===


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "edt4rec" else [pytest.mark.slow]) for name in NAMES])
def test_asked_for_much_it_does_what_brought_much_and_asked_for_little_what_brought_little(name: str):
    # Item 3 pays at once and leads to nothing, item 4 pays nothing and leads to item 6, which pays most. Most sessions begin with 3.
    sessions = [[3, 5]] * 6 + [[4, 6]] * 2 + [[4, 7]] * 2
    reward = [[0.3, 0.0]] * 6 + [[0.0, 1.0]] * 2 + [[0.0, 0.1]] * 2
    changes = {"contrastive_weight": 0.1, "entropy_share": 0.05}
    algorithm = toy.build(name, toy.network(backbone=toy.backbone(dropout=0.0)), dropout=0.0, **changes)
    batch = toy.batch(sessions, reward)
    algorithm.adapt([batch])
    train = TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)
    for step in range(120):
        train(batch, step)
    item_id = tf.constant([[4, 0]])
    much, little = (_policy(algorithm, item_id, target, [[0.0, 0.0]])[0] for target in (1.0, 0.3))
    assert much[0].argmax() == 4
    assert much[0, 4] > 0.8
    assert little[0].argmax() == 3
    assert little[0, 3] > 0.8
    # After item 4, which paid nothing, item 6 pays what is still wanted, and item 7 where little was.
    assert much[1].argmax() == 6
    assert _policy(algorithm, item_id, 0.1, [[0.0, 0.0]])[0, 1].argmax() == 7
