"""A decision transformer in the stitching world: relabelled returns let it join halves of different sessions, logged ones do not."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.algorithms.base import Condition
from models.frameworks import tf
from models.optimizers import LazyAdam
from models.relabelling import NO_NEXT_STATE, relabel
from models.simulators.stitching import Stitching, StitchingConfig

sys.path.append(str(Path(__file__).parents[1]))
toy = import_module("toy_shop")
stitching = import_module("stitching_shop")

WORLD = Stitching(StitchingConfig(steps_per_half=2))
STEPS = 4


def _batch(num_sessions: int, values: np.ndarray | None) -> Any:
    """Logged sessions; their returns relabelled where values of states are given."""
    records = stitching.records(WORLD, num_sessions, seed=0)
    items, rewards = np.array([record.items for record in records]), np.array([record.reward for record in records], np.float32)
    batch = toy.batch([record.items for record in records], [record.reward for record in records])
    if values is None:
        return batch
    after = values[stitching.state_after(WORLD, items)]
    after[:, -1] = NO_NEXT_STATE
    found = relabel(rewards.ravel(), after.ravel(), np.full(num_sessions, STEPS), 1.0).returns
    return batch._replace(return_to_go=tf.constant(found.reshape(-1, STEPS), tf.float32))


def _train(batch: Any, seed: int, steps: int) -> Any:
    items = toy.catalogue(stitching.num_items(WORLD), STEPS)
    # Every token sees its own step, so that windows are single steps and agree with any reward.
    settings = {"context_length": 1, "dropout": 0.0, "target_quantile": 1.0}
    algorithm = toy.build("decision_transformer", stitching.network(), seed, items, **settings)
    algorithm.adapt([batch])
    optimizer = LazyAdam(0.01, jit_compile=False)
    variables = algorithm.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def update(step: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = algorithm.losses(batch, step, training=True).mean("cross_entropy")
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    for step in range(steps):
        update(tf.constant(step, tf.int64))
    return algorithm


def _play(algorithm: Any, target: float) -> float:
    """Return of the session in which the likeliest action is always taken."""
    history, rewards, state = [], [], 0
    while state != WORLD.end:
        items = tf.constant([[*history, *[0] * (STEPS - len(history))]])
        known = tf.constant([[*rewards, *[np.nan] * (STEPS - len(rewards))]], tf.float32)
        found = algorithm.final_states(items, tf.constant([len(history)]), Condition(tf.constant([target]), known))
        ranked = algorithm.rank(found, items, stitching.num_items(WORLD) - 1).item_id.numpy()[0]
        possible = stitching.item_of(WORLD, state, np.arange(WORLD.config.num_actions)).tolist()
        item = next(int(item) for item in ranked if item in possible)
        rewards.append(float(WORLD._reward[state, possible.index(item)]))
        history.append(item)
        state = int(stitching.state_after(WORLD, item))
    return float(np.sum(rewards))


def _returns(seed: int, steps: int) -> tuple[float, float]:
    """What is earned with logged returns and with relabelled ones, when the best return there is was asked for."""
    best = WORLD.value(WORLD.optimal_policy())
    return tuple(_play(_train(_batch(128, values), seed, steps), float(best[0])) for values in (None, best))  # type: ignore[return-value]


def test_relabelled_returns_are_reached_by_joining_halves_of_different_sessions():
    assert _returns(seed=0, steps=120) == (2.0, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_relabelled_returns_are_reached_from_every_seed(seed: int):
    assert _returns(seed, steps=200) == (2.0, 3.0)
