"""Learning from estimated rewards: what is replaced, what moves what, and that every algorithm can."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from components.model_io import load_model
from components.trainer.config import RewardSourceConfig
from components.trainer.rewards import EstimatedRewards, estimated_rewards
from components.trainer.step import TrainStep
from models.algorithms.registry import ALGORITHMS
from models.frameworks import tf
from models.optimizers import LazyAdam
from models.rewards.base import RewardEstimator
from models.rewards.fm import FMConfig
from models.rewards.registry import create_estimator
from models.rewards.source import stabilised
from schemas.config import ConfigError

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

SMALL = FMConfig(width=6, unknown_rate=0.0)

pytestmark = pytest.mark.usefixtures("eagerly")


def _estimator() -> RewardEstimator:
    toy.seed_everything()
    estimator = create_estimator(SMALL, toy.catalogue())
    for variable in estimator.trainable_variables:
        variable.assign_add(np.random.default_rng(1).normal(0.0, 0.3, variable.shape).astype(np.float32))
    return estimator


def _batch() -> Any:
    return toy.batch([[1, 2, 3], [4, 5], [toy.UNKNOWN, 7, 7, 8]], [[0.2, 1.0, 0.2], [1.0, 0.2], [0.2, 0.2, 1.0, 0.2]])


def test_rewards_are_the_estimates_and_returns_follow_them():
    estimator, of = _estimator(), _batch()
    found = stabilised(of, estimator, 0.5)
    expected = np.where(of.is_step(), estimator.events(of).mean.numpy(), 0.0)
    assert found.reward.numpy() == pytest.approx(expected)
    # G_0 of the second session: what was logged, with r^ - r of its two steps, the second halved.
    change = expected[1] - of.reward.numpy()[1]
    assert found.return_to_go.numpy()[1, 0] == pytest.approx(float(of.return_to_go[1, 0]) + change[0] + 0.5 * change[1])
    assert found.return_to_go.numpy()[1, 1] == pytest.approx(float(of.return_to_go[1, 1]) + change[1])
    same = {name: getattr(found, name) for name in of._fields if name not in ("reward", "return_to_go")}
    assert all(value is getattr(of, name) for name, value in same.items())


def test_returns_beyond_a_record_stay_as_they_were_logged():
    of = _batch()
    tail = of._replace(return_to_go=of.return_to_go + 7.0)
    assert stabilised(tail, _estimator(), 1.0).return_to_go.numpy() == pytest.approx(
        stabilised(of, _estimator(), 1.0).return_to_go.numpy() + 7.0, abs=1e-5
    )


def test_no_gradient_flows_through_the_estimate():
    estimator = _estimator()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(stabilised(_batch(), estimator, 1.0).return_to_go)
    assert tape.gradient(total, estimator.trainable_variables) == [None] * len(estimator.trainable_variables)


def _together(name: str, shares: bool) -> tuple[Any, EstimatedRewards, Any]:
    """An algorithm, its co-trained estimator, and their step."""
    algorithm = toy.shake(toy.build(name, toy.network(tied=False)))
    config = RewardSourceConfig(source="co_trained", estimator=SMALL, shares_embedding=shares)
    examples = type("Examples", (), {"properties": {"discount": 1.0}})()
    rewards = estimated_rewards(config, algorithm, toy.vocabulary(), examples, 0)
    assert rewards is not None
    make = lambda _: LazyAdam(0.05)  # noqa: E731
    step = TrainStep(algorithm, make, xla=False, held=rewards.held(algorithm))
    return algorithm, rewards, rewards.around(step, make)


def _values(module: Any) -> dict[str, np.ndarray]:
    return {path: variable.numpy() for path, variable in module.named_variables().items()}


# One of every family; the others are long tests.
IN_THE_GATE = ("bc", "sqn", "cql", "reinforce", "mcrl", "edt4rec")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in IN_THE_GATE else [pytest.mark.slow]) for name in ALGORITHMS])
def test_every_algorithm_learns_from_estimates_that_learn_beside_it(name: str):
    algorithm, rewards, step = _together(name, shares=False)
    before, of_estimator = _values(algorithm), _values(rewards.estimator)
    losses, _, targets = step(_batch(), 0)
    assert "reward_cross_entropy" in losses
    assert all(np.isfinite(float(value)) for value in losses.values())
    assert int(targets) == 8
    assert any(np.abs(value - before[path]).max() > 0 for path, value in _values(algorithm).items())
    assert any(np.abs(value - of_estimator[path]).max() > 0 for path, value in _values(rewards.estimator).items())
    # What the algorithm was given is the estimate from before the estimator saw the batch.
    again, others, _ = _together(name, shares=False)
    seen = again.losses_of(again.phase(0), others.replaced(_batch()), tf.constant(0, tf.int64), training=True)
    quiet = {part for part in seen.parts if name not in ("dt4rec", "cdt4rec", "edt4rec", "decision_transformer")}
    for part in quiet & set(losses):
        assert float(losses[part]) == pytest.approx(float(seen.mean(part)), rel=1e-3, abs=1e-5), part


@pytest.mark.parametrize("name", ["dqn", "snqn", "sa2c", "reinforce", "edt4rec"])
def test_the_shared_vectors_are_moved_by_the_supervised_loss_alone(name: str):
    algorithm, rewards, step = _together(name, shares=True)
    table = algorithm.encoder.embedding.table
    assert rewards.estimator.networks[0].fields.items is algorithm.encoder.embedding
    start = table.numpy()
    # The algorithm's own step leaves the table as it is, and moves what reads it.
    before = _values(algorithm)
    step._of_algorithm(_batch(), 0)
    np.testing.assert_array_equal(table.numpy(), start)
    assert any(np.abs(value - before[path]).max() > 0 for path, value in _values(algorithm).items() if "backbone" in path)
    # The estimator's step moves it, and no other weight of the algorithm.
    before = _values(algorithm)
    step._of_estimator(_batch(), 0)
    assert np.abs(table.numpy() - start).max() > 1e-3
    moved = {path for path, value in _values(algorithm).items() if np.abs(value - before[path]).max() > 0}
    assert moved == {"encoder/embedding/0"}
    # Without sharing, the algorithm's loss does move its table.
    apart, _, other = _together(name, shares=False)
    start = apart.encoder.embedding.table.numpy()
    other._of_algorithm(_batch(), 0)
    assert np.abs(apart.encoder.embedding.table.numpy() - start).max() > 1e-3


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(pydantic.ValidationError, match="shares_embedding needs source: co_trained, found logged"):
        RewardSourceConfig(shares_embedding=True)
    networks = toy.network(window=4, copy_head=False, occurrences=False)
    faithful = toy.build("sqn", networks, mode="faithful")
    config = RewardSourceConfig(source="co_trained", estimator=SMALL, shares_embedding=True)
    examples = type("Examples", (), {"properties": {"discount": 1.0}})()
    with pytest.raises(ConfigError, match="faithful has two networks"):
        estimated_rewards(config, faithful, toy.vocabulary(), examples, 0)


def test_estimates_have_less_variance_and_the_mean_of_the_rewards():
    # One item, which pays 1 or 0 by a coin: what is learned is one half, with the coin's noise gone.
    rng = np.random.default_rng(0)
    of = toy.batch([[1]] * 400, rng.integers(0, 2, (400, 1)).astype(float).tolist())
    toy.seed_everything()
    estimator = create_estimator(FMConfig(width=4, outcome="binary", unknown_rate=0.0), toy.catalogue())
    estimator.adapt([of])
    train = TrainStep(estimator, lambda _: LazyAdam(0.05), xla=False)
    for step in range(60):
        train(of, step)
    found = stabilised(of, estimator, 1.0).reward.numpy()[:, 0]
    assert found.var() < 1e-6
    assert found.mean() == pytest.approx(of.reward.numpy().mean(), abs=0.02)


@pytest.mark.parametrize("shares", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_trainer_learns_its_task_from_estimates_and_saves_a_model_of_its_own(shares: bool, tmp_path: Path):
    splits = {"train": toy.successor_sessions(200, 1), "eval": toy.successor_sessions(30, 2), "test": []}
    examples = toy.write_examples(tmp_path / "examples", {name: rows for name, rows in splits.items() if rows})
    reward = {"source": "co_trained", "estimator": SMALL, "shares_embedding": shares}
    config = toy.trainer_config(algorithm=toy.algorithm_config("sqn"), reward=reward, max_epochs=2)
    run = toy.train(tmp_path, config, examples, toy.write_vocabulary(tmp_path / "vocabulary"))
    # Alone it is a plain model: nothing of the estimator is in it, and its item vectors are.
    loaded = load_model(run.model)
    assert loaded.algorithm.encoder.embedding.table.shape[0] == toy.NUM_ITEMS + 1
    assert not any("reward" in path for path in loaded.algorithm.named_variables())
    assert np.isfinite(run.properties["model_run"]["best"])
    assert run.properties["model_run"]["best"] > 0.2
