"""The learned user model: what it is trained on, what its parts are worth, and what plans are made for."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from components.trainer.step import TrainStep
from models.frameworks import tf
from models.optimizers import LazyAdam
from models.ranking import Ranking
from models.rewards.fm import FMConfig
from models.rewards.outcomes import Prediction
from models.user_model.debiasing import debiased, doubly_robust, target_weights
from models.user_model.model import Situation, UserModelConfig, as_leaving, entropy_of, usual_role
from models.user_model.planning import PlanningConfig, planned_reward

sys.path.append(str(Path(__file__).parent))
users = import_module("toy_users")
toy = users.toy

STEP = tf.constant(3, tf.int64)


# === Debiasing ===

SHOWN = np.array([0.7, 0.2, 0.1])
"""What the logs show of three items."""
EARNED = np.array([1.0, 0.0, 0.5])
"""What they earn: .75 as they are shown, .5 if they were shown evenly."""


def best_constant(loss: Any) -> float:
    """The constant estimate of least loss, which is quadratic in it: where the line of its gradient is 0."""

    def gradient(value: float) -> float:
        estimate = tf.Variable(value)
        with tf.GradientTape() as tape:
            total = loss(estimate)
        return float(tape.gradient(total, estimate))

    at_0, at_1 = gradient(0.0), gradient(1.0)
    return at_0 / (at_0 - at_1)


def squared(estimate: Any, reward: Any) -> Any:
    return 0.5 * tf.square(estimate - tf.constant(reward, tf.float32))


def log_of(probability: np.ndarray) -> Any:
    return tf.constant(np.log(probability), tf.float32)


@pytest.mark.parametrize(("kind", "expected"), [("none", 0.75), ("ips", 0.5), ("snips", 0.5)])
def test_weights_move_the_mean_of_what_was_shown_to_that_of_an_even_choice(kind: Any, expected: float) -> None:
    # 70, 20 and 10 events of the three items: the log is exactly as likely as it should be.
    item = np.repeat([0, 1, 2], [70, 20, 10])
    weight = target_weights(log_of(SHOWN[item]), 3, 0.01)
    mask = tf.ones(100)
    found = best_constant(lambda f: tf.reduce_mean(debiased(kind, squared(f, EARNED[item]), weight, mask)))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("believed", "imputed", "expected"),
    [
        # Right probabilities, imputed rewards of nowhere; the other way round; both right: .5. Both wrong: something else.
        (SHOWN, np.array([0.3, 0.9, 0.0]), 0.5),
        (np.array([0.1, 0.1, 0.8]), EARNED, 0.5),
        (SHOWN, EARNED, 0.5),
        # .4 + sum of shown * w * (earned - imputed), w = 1 / (3 believed): .7 * 10/3 * .7 - .2 * 10/3 * .9 + .1 * 5/12 * .5.
        (np.array([0.1, 0.1, 0.8]), np.array([0.3, 0.9, 0.0]), 0.4 + 0.7 * 10 / 3 * 0.7 - 0.2 * 10 / 3 * 0.9 + 0.1 * 5 / 12 * 0.5),
    ],
)
def test_one_of_probabilities_and_imputed_rewards_must_be_right(believed: np.ndarray, imputed: np.ndarray, expected: float) -> None:
    # 210, 60 and 30 events; the items drawn beside them are each item a hundred times.
    item, drawn = np.repeat([0, 1, 2], [210, 60, 30]), np.arange(300) % 3
    weight = target_weights(log_of(believed[item]), 3, 0.01)

    def loss(f: Any) -> Any:
        return tf.reduce_mean(doubly_robust(squared(f, EARNED[item]), squared(f, imputed[item]), squared(f, imputed[drawn]), weight))

    assert best_constant(loss) == pytest.approx(expected, abs=1e-5)


def test_weights_are_clipped_and_have_no_gradient() -> None:
    # 1 / (4 * .2) and 1 / (4 * .01).
    log_shown = tf.Variable(np.log([0.2, 0.001]).astype(np.float32))
    with tf.GradientTape() as tape:
        weight = target_weights(log_shown, 4, 0.01)
    assert weight.numpy() == pytest.approx([1.25, 25.0])
    assert tape.gradient(weight, log_shown) is None


# === Planning ===


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variant": "mbpo"}, 0.5),
        ({"variant": "ips", "least_reward": -0.25}, 0.75),
        # Less .5 * doubt .2; less .5 * (.3^2 + .2^2).
        ({"variant": "mopo"}, 0.4),
        ({"variant": "mopo", "uncertainty": "total"}, 0.435),
        # More 2 * .7 for the entropy.
        ({"variant": "dorl"}, 1.8),
        ({"variant": "dorl", "least_reward": 0.1}, 1.7),
    ],
)
def test_planned_rewards_by_hand(changes: dict[str, Any], expected: float) -> None:
    prediction = Prediction(*(tf.constant([value]) for value in (0.5, 0.3, 0.2)), tf.zeros([1, 0]))
    config = PlanningConfig(penalty=0.5, entropy_weight=2.0, **changes)
    assert float(planned_reward(prediction, tf.constant([0.7]), config)[0]) == pytest.approx(expected)


def test_noise_that_was_not_learned_is_none() -> None:
    prediction = Prediction(tf.constant([0.5]), tf.constant([float("nan")]), tf.constant([0.2]), tf.zeros([1, 0]))
    config = PlanningConfig(variant="mopo", penalty=1.0, uncertainty="total")
    assert float(planned_reward(prediction, tf.zeros([1]), config)[0]) == pytest.approx(0.46)


def test_entropy_of_the_best_items_counts_the_rest_as_one() -> None:
    even = Ranking(tf.constant([[1, 2, 3, 4]]), tf.constant(np.log([[0.25] * 4]), tf.float32))
    assert entropy_of(even).numpy() == pytest.approx([np.log(4.0)])
    # A quarter, a quarter and a half.
    best = Ranking(even.item_id[:, :2], even.score[:, :2])
    assert entropy_of(best).numpy() == pytest.approx([1.5 * np.log(2.0)])
    sure = Ranking(tf.constant([[1, 2]]), tf.constant([[0.0, -1e30]]))
    assert entropy_of(sure).numpy() == pytest.approx([0.0], abs=1e-6)


def test_roles_are_those_with_the_nearest_usual_reward() -> None:
    # Click .2, purchase 1: the middle is .6.
    assert usual_role(tf.constant([-1.0, 0.2, 0.59, 0.61, 3.0])).numpy().tolist() == [0, 0, 0, 1, 1]


# === The model ===


def batch() -> Any:
    return toy.batch([[1, 2, 3], [4, 5], [toy.UNKNOWN, 7, 7, 8]], [[0.2, 1.0, 0.2], [1.0, 0.2], [0.2, 0.2, 1.0, 0.2]], [0, 0, 1], [1, 0, 1])


PARTS = {"next_item": "behaviour", "leaving": "leaving", "rewards": "rewards", "negatives": "rewards", "imputation": "imputation"}


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("debiasing", ["none", "ips", "snips", "dr"])
def test_every_part_of_the_loss_moves_its_own_model_alone(debiasing: str) -> None:
    model = users.fresh(debiasing=debiasing)
    variables = model.named_variables()
    with tf.GradientTape(persistent=True) as tape:
        found = model.losses(batch(), STEP, training=False)
        means = {name: found.mean(name) for name in found.parts}
    assert set(means) == {name for name in PARTS if name != "imputation" or debiasing == "dr"}
    for name, mean in means.items():
        gradients = tape.gradient(mean, list(variables.values()))
        reached = {path.split("/")[0] for path, gradient in zip(variables, gradients, strict=True) if gradient is not None}
        assert reached == {PARTS[name]}, name


@pytest.mark.usefixtures("eagerly")
def test_weights_of_the_reward_loss_are_those_of_the_learned_behaviour() -> None:
    plain, weighted = users.fresh(num_negatives=0), users.fresh(debiasing="ips", num_negatives=0)
    logged = plain.losses(batch(), STEP, training=False)
    found = weighted.losses(batch(), STEP, training=False)
    weight = 1.0 / (20.0 * np.maximum(np.exp(-logged.parts["next_item"].numpy()), 0.01))
    mask = logged.mask.numpy() > 0
    assert found.parts["rewards"].numpy()[mask] == pytest.approx((weight * logged.parts["rewards"].numpy())[mask], rel=1e-4)
    assert mask.sum() == 8  # Nine events, one of them context.


def test_a_session_that_was_cut_off_has_not_left() -> None:
    # The first and the last session ended; the second went on elsewhere.
    assert as_leaving(batch()).reward.numpy().tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.usefixtures("eagerly")
def test_answers_are_those_of_the_parts() -> None:
    model = users.fresh()
    toy.shake(model)
    of = batch()
    # What the third event of the first session is, given the two before it.
    situation = Situation(of.item_id, of.feedback, tf.constant([2, 1, 3]))
    answer = model.answer(situation, tf.constant([3, 5, 8]))
    places = [(0, 2), (1, 1), (2, 3)]
    whole, leaving = model.rewards.events(of), model.leaving.events(of).probability[..., 1]
    for row, place in enumerate(places):
        assert float(answer.reward.mean[row]) == pytest.approx(float(whole.mean[place]), abs=1e-5)
        assert float(answer.reward.doubt[row]) == pytest.approx(float(whole.doubt[place]), abs=1e-5)
        assert float(answer.leaving[row]) == pytest.approx(float(leaving[place]), abs=1e-5)
    ranking = model.what_comes(situation, 100)
    assert ranking.item_id.shape == (3, 20)
    assert np.exp(ranking.score.numpy()).sum(axis=1) == pytest.approx([1.0] * 3, abs=1e-4)


def test_what_has_learned_nothing_expects_sessions_to_end_as_often_as_they_did() -> None:
    model = users.fresh()
    model.adapt([batch()])
    # Of eight targets two end their sessions; half an event on either side.
    nothing = tf.zeros([1, 1, 1, 1])
    assert model.leaving.outcome.predict(nothing).mean.numpy().item() == pytest.approx(2.5 / 9.0)
    assert model.leaving.outcome.level.numpy() == pytest.approx([0.0, 1.0])


def test_outcomes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"rewards\.outcome: expected continuous, found role"):
        UserModelConfig(rewards=FMConfig())
    with pytest.raises(pydantic.ValidationError, match=r"leaving\.outcome: expected binary, found continuous"):
        UserModelConfig(leaving=FMConfig(outcome="continuous"))


@pytest.mark.slow
def test_it_learns_what_comes_what_it_earns_and_when_users_leave() -> None:
    # After item i comes i + 1; even items are bought, and item 8 ends every session.
    rng = np.random.default_rng(0)
    sessions = [list(range(int(first), 9)) for first in rng.integers(1, 8, 300)]
    rewards = [[1.0 if item % 2 == 0 else 0.2 for item in session] for session in sessions]
    of = toy.batch(sessions, rewards)
    model = users.fresh(num_negatives=0)
    model.adapt([of])
    step = TrainStep(model, lambda _: LazyAdam(0.02), xla=False)
    for number in range(150):
        step(of, number)
    # Situations as the sessions have them; of others the networks may say what they like.
    before = tf.constant([[1, 2, 3, 0, 0, 0, 0, 0], [2, 3, 4, 0, 0, 0, 0, 0], [5, 6, 7, 0, 0, 0, 0, 0]])
    situation = Situation(before, tf.where(before > 0, 1 - before % 2, 0), tf.constant([3] * 3))
    answer = model.answer(situation, tf.constant([4, 5, 8]))
    assert answer.reward.mean.numpy() == pytest.approx([1.0, 0.2, 1.0], abs=0.1)
    assert answer.feedback.numpy().tolist() == [1, 0, 1]
    assert answer.leaving.numpy()[:2].max() < 0.1
    assert answer.leaving.numpy()[2] > 0.9
    assert model.what_comes(situation, 1).item_id.numpy()[:, 0].tolist() == [4, 5, 8]
