"""What every reward estimator keeps to, with every kind of outcome, straight from the registry."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pydantic
import pytest

from models.frameworks import tf
from models.learner import StepLosses
from models.rewards.base import EstimatorConfig, Features, RewardEstimator
from models.rewards.outcomes import OUTCOMES, Prediction
from models.rewards.registry import REWARDS, AnyEstimator, create_estimator
from schemas.config import Config, canonical_json, decode

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

SESSIONS = [[3, 5, 3, 5, 1], [toy.UNKNOWN, 2, 2], [7], [4, 4, 4, 20, 6]]
REWARD = [[0.2, 0.2, 1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [0.2], [0.2, 0.2, 0.2, 1.0, 0.2]]
NUM_CONTEXT = [0, 0, 0, 2]
LOOKS = [("role", {}), ("binary", {}), ("continuous", {}), ("continuous", {"has_variance": True}), ("role", {"calibration": "isotonic"})]


class Holder(Config):
    estimator: AnyEstimator


def config(name: str, outcome: str = "role", **changes) -> EstimatorConfig:
    small = {"width": 6, "hidden": (8,), "attention_hidden": 5, "outcome": outcome, "unknown_rate": 0.2, **changes}
    kind = REWARDS[name].config_class
    return kind(**{key: value for key, value in small.items() if key in kind.model_fields})


def fresh(name: str, seed: int = 0, **changes) -> RewardEstimator:
    toy.seed_everything(seed)
    return create_estimator(config(name, **changes), toy.catalogue(), seed)


def shaken(name: str, size: float = 0.3, **changes) -> RewardEstimator:
    """Every weight moved, and worths of classes that no formula gives by chance; calibrators stay as they are."""
    estimator = fresh(name, **changes)
    rng = np.random.default_rng(1)
    for variable in estimator.trainable_variables:
        variable.assign_add(rng.normal(0.0, size, variable.shape).astype(np.float32))
    estimator.adapt([batch()])
    return estimator


def batch(steps: int | None = None, rows: slice = slice(None)):
    return toy.batch(SESSIONS[rows], REWARD[rows], NUM_CONTEXT[rows], steps=steps)


@pytest.fixture(scope="module", params=[(name, *look) for name in REWARDS for look in LOOKS], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[str, dict]:
    name, outcome, changes = request.param
    return name, {"outcome": outcome, **changes}


USERS = np.array([2**62, 3, 99, -(2**40)])
"""Keys of users, in no order."""


@pytest.fixture(scope="module")
def model(case: tuple[str, dict]) -> RewardEstimator:
    found = shaken(case[0], members=2, num_user_features=3, num_users=4, num_item_features=2, **case[1])
    found.set_user_features(USERS, np.zeros((4, 3), np.float32))
    return found


def losses(model: RewardEstimator, of, training: bool = False) -> StepLosses:
    return model.losses(of, tf.constant(3, tf.int64), training=training)


def same(one: Prediction, other: Prediction, rows: np.ndarray | slice = slice(None), tolerance: float = 1e-5) -> None:
    for name, left, right in zip(Prediction._fields, one, other, strict=True):
        np.testing.assert_allclose(left.numpy()[rows], right.numpy()[rows], atol=tolerance, err_msg=name)


# === Shapes ===


def test_every_step_has_a_loss_and_only_targets_count(model: RewardEstimator):
    found = losses(model, batch(), training=True)
    (part,) = found.parts.values()
    assert (part.shape, part.dtype) == ((4, 5), tf.float32)
    assert np.isfinite(part.numpy()).all()
    # Unlike for policies the unknown item is a target: it has a reward like any other.
    assert found.mask.numpy().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1]]


def test_predictions_have_their_shapes_and_are_finite(model: RewardEstimator, case: tuple[str, dict]):
    classes = 0 if case[1]["outcome"] == "continuous" else 2
    items = tf.constant(np.random.default_rng(0).integers(0, toy.NUM_ITEMS + 1, (4, 5, 7)), tf.int32)
    singles = model.pairs(Features(batch().item_id, batch().feedback), batch().length, tf.constant([1, 2, 3, toy.UNKNOWN]))
    for found, shape in ((model.events(batch()), (4, 5)), (model.candidates(batch(), items), (4, 5, 7)), (singles, (4,))):
        assert found.mean.shape == found.noise.shape == found.doubt.shape == shape
        assert found.probability.shape == (*shape, classes)
        assert {part.dtype for part in found} == {tf.float32}
        assert np.isfinite(found.mean.numpy()).all()
        assert (found.doubt.numpy() >= 0).all()
        if classes:
            assert found.probability.numpy().sum(axis=-1) == pytest.approx(np.ones(shape), abs=1e-5)
            assert (found.noise.numpy() >= 0).all()
        else:
            assert np.isnan(found.noise.numpy()).all() == (not case[1].get("has_variance", False))


def test_events_candidates_and_single_pairs_are_one_function(model: RewardEstimator):
    of = batch()
    model.set_user_features(USERS, np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32))
    of = of._replace(user=tf.constant(USERS))
    events = model.events(of)
    # The logged item as the middle one of three candidates.
    items = tf.stack([tf.ones_like(of.item_id), of.item_id, 2 * tf.ones_like(of.item_id)], axis=-1)
    among = model.candidates(of, items)
    same(Prediction(*(part[:, :, 1] for part in among)), events)
    for step in range(5):
        features = Features(of.item_id[:, :step], of.feedback[:, :step], of.user)
        alone = model.pairs(features, tf.fill([4], step), of.item_id[:, step])
        inside = np.asarray(of.length) > step
        same(Prediction(*(part[:, step] for part in events)), alone, inside)
    model.set_user_features(USERS, np.zeros((4, 3), np.float32))


# === Padding, other rows, leaks ===


def test_padding_and_other_rows_change_nothing(model: RewardEstimator):
    inside = batch().is_step().numpy()
    together, longer = model.events(batch()), model.events(batch(steps=8))
    same(together, Prediction(*(part[:, :5] for part in longer)), inside)
    alone = model.events(batch(steps=5, rows=slice(3, 4)))
    same(Prediction(*(part[3:] for part in together)), alone)
    name = model.outcome.loss_name
    assert float(losses(model, batch(steps=8)).mean(name)) == pytest.approx(float(losses(model, batch()).mean(name)), rel=1e-4)


def test_a_prediction_knows_neither_its_own_feedback_and_reward_nor_anything_later(model: RewardEstimator):
    of = batch()
    before = model.events(of).mean.numpy()
    for step in range(5):
        later, place = np.arange(5) >= step, np.arange(5) > step
        feedback = np.where(later, 1 - of.feedback.numpy(), of.feedback.numpy())
        reward = np.where(later, 9.0, of.reward.numpy()).astype(np.float32)
        item = np.where(place, 17, of.item_id.numpy())
        changed = of._replace(
            feedback=tf.constant(feedback), reward=tf.constant(reward), item_id=tf.constant(item), return_to_go=tf.constant(reward)
        )
        after = model.events(changed).mean.numpy()
        assert after[:, : step + 1] == pytest.approx(before[:, : step + 1], abs=1e-5), step


def test_a_prediction_knows_items_and_feedback_before_it(model: RewardEstimator):
    of = batch()
    before = model.events(of).mean.numpy()[0]
    feedback, item = of.feedback.numpy(), of.item_id.numpy()
    feedback[0, 1], item[0, 0] = 1 - feedback[0, 1], 11
    assert np.abs(model.events(of._replace(feedback=tf.constant(feedback))).mean.numpy()[0, 2:] - before[2:]).min() > 1e-6
    assert np.abs(model.events(of._replace(item_id=tf.constant(item))).mean.numpy()[0, 1:] - before[1:]).min() > 1e-6


def test_side_features_count_and_missing_ones_are_zeros(model: RewardEstimator):
    of = batch()
    before = model.events(of).mean.numpy()
    # Of the first and the third row numbers are known; the second is somebody else, the last is nobody.
    model.set_user_features(USERS, np.array([[1, 2, 3], [0, 0, 0], [-1, 5, 1], [4, 4, 4]], np.float32))
    told = model.events(of._replace(user=tf.constant([USERS[0], 17, USERS[2], 0], tf.int64))).mean.numpy()
    assert model.events(of).mean.numpy() == pytest.approx(before)
    model.set_user_features(USERS, np.zeros((4, 3), np.float32))
    differs = np.abs(told - before).max(axis=1)
    assert min(differs[0], differs[2]) > 1e-4
    assert max(differs[1], differs[3]) < 1e-6
    model.set_item_features(np.random.default_rng(2).normal(size=(toy.NUM_ITEMS + 1, 2)).astype(np.float32))
    after = model.events(of).mean.numpy()
    model.set_item_features(np.zeros((toy.NUM_ITEMS + 1, 2), np.float32))
    assert np.abs(after - before).max() > 1e-4
    assert model.events(of).mean.numpy() == pytest.approx(before)
    # Two networks read one table of each.
    assert len(model.networks) == 2
    assert sorted(path for path in model.named_variables() if path.startswith("numbers")) == [
        "numbers/item/0",
        "numbers/user/0",
        "numbers/user_keys/0",
    ]


# === Learning ===


def test_gradients_reach_every_weight(model: RewardEstimator):
    model.set_item_features(np.ones((toy.NUM_ITEMS + 1, 2), np.float32))
    model.set_user_features(USERS, np.ones((4, 3), np.float32))
    named = {path: v for path, v in model.named_variables().items() if any(v is other for other in model.trainable_variables)}
    with tf.GradientTape() as tape:
        found = losses(model, batch()._replace(user=tf.constant(USERS)))
        total = found.mean(model.outcome.loss_name)
    gradients = dict(zip(named, tape.gradient(total, list(named.values())), strict=True))
    model.set_item_features(np.zeros((toy.NUM_ITEMS + 1, 2), np.float32))
    model.set_user_features(USERS, np.zeros((4, 3), np.float32))
    for path, gradient in gradients.items():
        assert gradient is not None, path
        assert np.abs(tf.convert_to_tensor(gradient).numpy()).max() > 0, path


def test_same_seed_same_weights_and_members_differ(case: tuple[str, dict]):
    one, other, third = fresh(case[0], **case[1]), fresh(case[0], **case[1]), fresh(case[0], seed=1, **case[1])
    weights = [{path: v.numpy() for path, v in model.named_variables().items()} for model in (one, other, third)]
    assert list(weights[0]) == list(weights[1])
    for path in weights[0]:
        np.testing.assert_array_equal(weights[0][path], weights[1][path], err_msg=path)
    assert any(np.abs(weights[0][path] - weights[2][path]).max() > 0 for path in weights[0])
    pair = fresh(case[0], members=2, **case[1])
    assert np.abs(pair.networks[0].fields.items.table.numpy() - pair.networks[1].fields.items.table.numpy()).max() > 0


def test_one_member_has_no_doubt_and_equal_members_none_either(case: tuple[str, dict]):
    assert np.abs(shaken(case[0], **case[1]).events(batch()).doubt.numpy()).max() < 1e-6
    pair = shaken(case[0], members=2, **case[1])
    assert pair.events(batch()).doubt.numpy().max() > 1e-4
    for source, target in zip(pair.networks[0].variables, pair.networks[1].variables, strict=True):
        target.assign(source)
    assert pair.events(batch()).doubt.numpy().max() < 1e-5


@pytest.mark.parametrize("name", REWARDS)
def test_configurations_come_back(name: str):
    holder = Holder(estimator=config(name, members=3, calibration="isotonic"))
    assert decode(Holder, json.loads(canonical_json(holder)), "test") == holder


@pytest.mark.parametrize("name", REWARDS)
def test_what_does_not_go_together_is_refused(name: str):
    with pytest.raises(pydantic.ValidationError, match="has_variance is of continuous rewards"):
        config(name, has_variance=True)
    with pytest.raises(pydantic.ValidationError, match="calibration: isotonic is of probabilities"):
        config(name, outcome="continuous", calibration="isotonic")


def test_mixed_precision_is_finite(case: tuple[str, dict]):
    with toy.precision("mixed_bfloat16"):
        mixed = shaken(case[0], members=2, **case[1])
        with tf.GradientTape() as tape:
            total = losses(mixed, batch(), training=True).mean(mixed.outcome.loss_name)
        gradients = tape.gradient(total, mixed.trainable_variables)
        found = mixed.events(batch())
    assert all(v.dtype == tf.float32 for v in mixed.variables)
    assert all(np.isfinite(tf.convert_to_tensor(gradient).numpy()).all() for gradient in gradients)
    assert found.mean.dtype == tf.float32
    assert np.isfinite(found.mean.numpy()).all()


@pytest.mark.parametrize("case", [(name, {"outcome": "role"}) for name in REWARDS], ids=str, scope="module")
def test_it_compiles_with_unknown_shapes(model: RewardEstimator):
    of = batch()
    compiled = tf.function(
        lambda item, feedback, length, wanted: model.pairs(Features(item, feedback), length, wanted)
    ).get_concrete_function(
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.int32),
    )
    wanted = tf.constant([1, 2, 3, 4])
    same(
        Prediction(*compiled(of.item_id, of.feedback, of.length, wanted)),
        model.pairs(Features(of.item_id, of.feedback), of.length, wanted),
    )


# === Outcomes ===


def test_every_outcome_is_looked_at():
    assert {outcome for outcome, _ in LOOKS} == set(OUTCOMES)


@pytest.mark.parametrize("outcome", ["binary", "role"])
def test_what_has_learned_nothing_expects_the_shares_of_the_train_split(outcome: str):
    estimator = fresh("fm", outcome=outcome, unknown_rate=0.0)
    # One purchase beside four clicks, and a context that does not count.
    rewards = [[0.2, 0.2, 1.0], [0.2, 0.2], [1.0, 0.2]]
    estimator.adapt([toy.batch([[1, 2, 3], [4, 5], [6, 7]], rewards, num_context=[0, 0, 2])])
    # Half an event is added to either side.
    nothing = tf.zeros([1, 1, 1, estimator.outcome.num_outputs])
    assert estimator.outcome.predict(nothing).probability.numpy()[0, 0] == pytest.approx([4.5 / 6.0, 1.5 / 6.0])
    # The loss is that of these shares, too.
    loss = estimator.outcome.loss(nothing[0], tf.constant([[1]]))
    assert loss.numpy()[0, 0] == pytest.approx(np.log(6.0 / 1.5))


def test_every_event_counts_alike_whatever_sessions_its_batch_holds():
    estimator = fresh("fm", outcome="binary", unknown_rate=0.0)
    short, long = toy.batch([[1], [2]], [[1.0], [0.0]]), toy.batch([[1, 2, 3], [4, 5, 6]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    before = losses(estimator, short, training=True).parts["cross_entropy"].numpy()
    estimator.adapt([short, long])
    # Two and six events, four in the usual batch: a half and three halves of the means, which are a quarter of the sums.
    sums = []
    for of, share in ((short, 0.5), (long, 1.5)):
        plain, shared = (losses(estimator, of, training=training) for training in (False, True))
        assert shared.mean("cross_entropy").numpy() == pytest.approx(share * plain.mean("cross_entropy").numpy(), rel=1e-5)
        sums.append(tf.reduce_sum(plain.parts["cross_entropy"] * plain.mask).numpy())
        assert shared.mean("cross_entropy").numpy() == pytest.approx(sums[-1] / 4.0, rel=1e-5)
    # Before it has seen the train split a batch is a usual one.
    assert before.mean() == pytest.approx(np.log(2.0), abs=0.2)


@pytest.mark.parametrize("name", REWARDS)
def test_classes_are_worth_what_they_paid_in_the_train_split(name: str):
    rewards = [[0.1, 0.3, 1.0], [2.0, 0.2]]
    estimator = fresh(name, outcome="binary")
    estimator.adapt([toy.batch([[1, 2, 3], [4, 5]], rewards), toy.batch([[1, 2]], [[9.0, 0.6]], num_context=[1])])
    # Above .5 are 1, 2 and .6; 9 was context.
    assert estimator.outcome.level.numpy() == pytest.approx([0.2, 1.2])
    assert estimator.outcome.square.numpy() == pytest.approx([(0.01 + 0.09 + 0.04) / 3, (1 + 4 + 0.36) / 3])
    found = estimator.events(toy.batch([[1, 2, 3], [4, 5]], rewards))
    p = found.probability.numpy()[..., 1]
    assert found.mean.numpy() == pytest.approx(0.2 * (1 - p) + 1.2 * p, abs=1e-5)
    expected = (1 - p) * 0.14 / 3 + p * 5.36 / 3 - found.mean.numpy() ** 2
    assert found.noise.numpy() == pytest.approx(np.sqrt(expected), abs=1e-4)


def _learned(estimator: RewardEstimator, of, steps: int, rate: float) -> Prediction:
    from models.optimizers import LazyAdam

    optimizer, variables = LazyAdam(rate), estimator.trainable_variables
    estimator.adapt([of])

    @tf.function(autograph=False)
    def update() -> None:
        with tf.GradientTape() as tape:
            total = losses(estimator, of, training=True).mean(estimator.outcome.loss_name)
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))

    optimizer.build(variables)
    for _ in range(steps):
        update()
    return estimator.events(of)


@pytest.mark.parametrize("name", REWARDS)
def test_the_mean_of_a_noisy_reward_is_learned(name: str):
    # Item 1 pays 1 in three of four cases and item 2 in one of four; one event each, so nothing else can be known.
    of = toy.batch([[1]] * 40 + [[2]] * 40, [[1.0]] * 30 + [[0.0]] * 10 + [[1.0]] * 10 + [[0.0]] * 30)
    found = _learned(fresh(name, outcome="binary", unknown_rate=0.0), of, 150, 0.02)
    assert found.mean.numpy()[[0, 79], 0] == pytest.approx([0.75, 0.25], abs=0.03)
    assert found.noise.numpy()[[0, 79], 0] == pytest.approx([0.1875**0.5] * 2, abs=0.02)
    noisy = _learned(fresh(name, outcome="continuous", has_variance=True, unknown_rate=0.0), of, 200, 0.02)
    assert noisy.mean.numpy()[[0, 79], 0] == pytest.approx([0.75, 0.25], abs=0.05)
    assert noisy.noise.numpy()[[0, 79], 0] == pytest.approx([0.1875**0.5] * 2, abs=0.05)


@pytest.mark.parametrize("name", REWARDS)
def test_what_was_looked_at_before_is_learned(name: str):
    # A purchase comes where, and only where, the item was the one before: only the state says it.
    rng = np.random.default_rng(0)
    sessions, rewards = [], []
    for _ in range(120):
        first, other = rng.choice(np.arange(1, 20), 2, replace=False)
        repeats = bool(rng.integers(2))
        sessions.append([int(first), int(first if repeats else other)])
        rewards.append([0.2, 1.0 if repeats else 0.2])
    of = toy.batch(sessions, rewards)
    found = _learned(fresh(name, unknown_rate=0.0), of, 120, 0.03)
    assert np.abs(found.mean.numpy()[:, 1] - np.array(rewards)[:, 1]).max() < 0.2


@pytest.mark.parametrize(("name", "calibration"), [(name, kind) for name in REWARDS for kind in ("temperature", "isotonic", "none")])
def test_calibration_repairs_predictions_that_are_too_sure(name: str, calibration: str):
    estimator = shaken(name, size=0.6, outcome="binary", calibration=calibration, unknown_rate=0.0)
    rng = np.random.default_rng(3)
    sessions = rng.integers(1, 20, (600, 4)).tolist()
    of = toy.batch(sessions)
    p = estimator.events(of).probability.numpy()[..., 1]
    inside = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    logit = np.log(inside / (1 - inside)) / 3.0
    happened = rng.random(p.shape) < 1 / (1 + np.exp(-logit))
    of = of._replace(reward=tf.constant(happened.astype(np.float32)))
    estimator.calibrate([of])
    after = estimator.events(of).probability.numpy()[..., 1]
    if calibration == "none":
        assert after == pytest.approx(p)
        return
    wanted = 1 / (1 + np.exp(-logit))
    assert np.abs(after - wanted).mean() < 0.5 * np.abs(p - wanted).mean()
