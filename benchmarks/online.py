"""Speed of the simulators, thousands of sessions side by side against one at a time, and of a decision transformer in them.

    python benchmarks/online.py [--weights ../shared/data/virtual_taobao] [--rows 4096] [--seconds 4] [--items 1000] [--players 512]

Peer: `models/simulators/reference.py`, each world written one session at a time, the way environments usually are; the networks of
Virtual Taobao are NumPy products of one row there. Ours: the same worlds with all rows in one call. Like is compared with like: both
bare, both as TF-Agents environments, both inside a graph. All of them draw their chance, step, observe and begin the next session;
actions are drawn beforehand.

The second table plays sessions of 50 events with a decision transformer: a decision from what was kept of each session against one
that reads the whole session anew. Both rank the same items. The third trains it beside sqn on the same sessions.

Everything is measured in one process, in turns, so that the ratios hold on a noisy machine. Prints a Markdown table. Virtual Taobao
is bound by NumPy's matrix products: where OpenBLAS does not know the processor it falls back to a kernel several times slower, and
OPENBLAS_CORETYPE names a better one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.environments import read_weights
from components.trainer.step import TrainStep
from models.agents.environments import SessionEnvironment, as_specs
from models.algorithms.base import Algorithm, Catalogue, Condition, NetworkConfig
from models.algorithms.registry import ALGORITHMS
from models.algorithms.sequence_model import SequenceModel
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.incremental import IncrementalPolicy
from models.optimizers import LazyAdam
from models.simulators.base import Sessions, Simulator
from models.simulators.reference import REFERENCES
from models.simulators.registry import SIMULATORS
from models.simulators.virtual_taobao import VirtualTaobaoConfig

# Behind our own imports, which choose Keras 2.
from tf_agents.environments import py_environment, tf_py_environment  # isort: skip
from tf_agents.trajectories import time_step as ts  # isort: skip

ROUNDS = 5
EVENTS, SESSIONS, TOP = 50, 128, 100
"""Of a session, of a batch of training, and of a ranking."""
NUM_ACTIONS = 64
"""Batches of actions that are drawn beforehand and used in turn."""

Call = Callable[[], int]
"""Makes some steps and returns how many."""


def actions_of(simulator: Simulator, rows: int) -> list[Any]:
    space, rng = simulator.action_space, np.random.default_rng(0)
    shape = (NUM_ACTIONS, rows, *space.shape)
    if space.dtype is np.int32:
        return list(rng.integers(int(space.low), int(space.high), shape, dtype=np.int32, endpoint=True))
    return list(rng.uniform(space.low, space.high, shape).astype(np.float32))


class ReferenceEnvironment(py_environment.PyEnvironment):
    """A reference as an environment of one session, the ordinary way to write one."""

    def __init__(self, reference: Any, simulator: Simulator):
        super().__init__()
        self._reference, self._simulator = reference, simulator
        self._rng = np.random.default_rng(0)
        self._specs = as_specs(simulator.observation_space), as_specs(simulator.action_space)
        self._is_over = False

    def observation_spec(self) -> Any:
        return self._specs[0]

    def action_spec(self) -> Any:
        return self._specs[1]

    def _observe(self) -> Any:
        spec, seen = self._specs[0], self._reference.observe()
        if isinstance(spec, dict):
            return {name: np.asarray(seen[name], part.dtype) for name, part in spec.items()}
        return np.asarray(seen, spec.dtype)

    def _reset(self) -> ts.TimeStep:
        self._is_over = False
        self._reference.begin(self._rng.random(self._simulator.num_begin_draws).tolist())
        return ts.restart(self._observe())

    def _step(self, action: Any) -> ts.TimeStep:
        if self._is_over:
            return self.reset()
        reward, self._is_over = self._reference.step(action, self._rng.random(self._simulator.num_step_draws).tolist())
        return (ts.termination if self._is_over else ts.transition)(self._observe(), reward)


def bare_reference(reference: Any, simulator: Simulator) -> Call:
    rng = np.random.default_rng(0)
    actions = itertools.cycle(actions_of(simulator, 16)[0])
    begin, step = simulator.num_begin_draws, simulator.num_step_draws
    reference.begin(rng.random(begin).tolist())

    def call() -> int:
        for _ in range(200):
            _, is_over = reference.step(next(actions), rng.random(step).tolist())
            reference.observe()
            if is_over:
                reference.begin(rng.random(begin).tolist())
                reference.observe()
        return 200

    return call


def bare(simulator: Simulator, rows: int) -> Call:
    sessions, actions = Sessions(simulator, rows, seed=0), itertools.cycle(actions_of(simulator, rows))

    def call() -> int:
        moved = sessions.step(next(actions))
        sessions.observe()
        # The step that begins a session moves nothing.
        return rows - int(moved.is_first.sum())

    return call


def as_environment(environment: py_environment.PyEnvironment, actions: list[Any]) -> Call:
    following = itertools.cycle(actions)

    def call() -> int:
        return int((~np.asarray(environment.step(next(following)).is_first())).sum())

    return call


def in_a_graph(environment: py_environment.PyEnvironment, actions: list[Any]) -> Call:
    inside = tf_py_environment.TFPyEnvironment(environment)
    following = itertools.cycle([tf.constant(action) for action in actions])
    move = tf.function(inside.step)
    return lambda: int(tf.reduce_sum(tf.cast(~move(next(following)).is_first(), tf.int32)))


def rate(call: Call, seconds: float) -> float:
    """Steps per second."""
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        steps += call()
    return steps / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("../shared/data/virtual_taobao"), help="folder of Virtual Taobao's weights")
    parser.add_argument("--rows", type=int, default=4096, help="sessions side by side")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each figure of the table")
    parser.add_argument("--items", type=int, default=1000, help="catalogue of the models")
    parser.add_argument("--players", type=int, default=512, help="sessions that a model plays side by side")
    arguments = parser.parse_args()
    simulators(arguments)
    deciding(arguments.items, arguments.players, arguments.seconds)
    training(arguments.items, arguments.seconds)


def simulators(arguments: argparse.Namespace) -> None:
    """Prints the table of the simulators."""
    print(f"{arguments.rows:,} sessions side by side, {os.cpu_count()} cores\n")
    print("| world | as | one session at a time, steps/s | side by side, steps/s | ratio |")
    print("|---|---|---|---|---|")
    for name, kind in SIMULATORS.items():
        made: tuple[Any, ...]
        if name != "virtual_taobao":
            made = (kind.config_class(),)
        elif arguments.weights.is_dir():
            made = (VirtualTaobaoConfig(weights=str(arguments.weights)), read_weights(arguments.weights))
        else:
            print(f"| {name} | not measured, no weights in {arguments.weights} | | | |")
            continue
        for layer, one, many, ratio in measured(name, made, arguments.rows, arguments.seconds):
            print(f"| {name} | {layer} | {one:,.0f} | {many:,.0f} | {ratio:.0f}x |")


def measured(name: str, made: tuple[Any, ...], rows: int, seconds: float) -> list[tuple[str, float, float, float]]:
    """Median steps per second one at a time and side by side, taken in turns, and the median of the rounds' ratios, by layer."""
    build: Any = SIMULATORS[name]
    simulator: Simulator = build(*made)

    def alone() -> ReferenceEnvironment:
        return ReferenceEnvironment(REFERENCES[name](*made), simulator)

    def together() -> SessionEnvironment:
        return SessionEnvironment(simulator, rows, seed=0)

    single, many = actions_of(simulator, 1), actions_of(simulator, rows)
    layers = {
        "bare": (bare_reference(REFERENCES[name](*made), simulator), bare(simulator, rows)),
        "TF-Agents environment": (as_environment(alone(), [action[0] for action in single]), as_environment(together(), many)),
        "TF-Agents environment in a graph": (in_a_graph(alone(), single), in_a_graph(together(), many)),
    }
    rows_of_table = []
    for layer, (one, other) in layers.items():
        rows_of_table.append((layer, *in_turns(one, other, seconds)))
    return rows_of_table


# === A decision transformer ===


def model_of(name: str, num_items: int) -> Algorithm:
    """An algorithm of the registry with its default sizes and fresh weights."""
    kind = ALGORITHMS[name]
    catalogue = Catalogue(num_items, EVENTS, np.arange(num_items - 1, 0, -1))
    algorithm = kind.create(kind.config_class(), NetworkConfig(), catalogue)
    algorithm.build()
    return algorithm


def deciding(num_items: int, players: int, seconds: float) -> None:
    """Prints decisions a second with a cache and without, by the length that sessions have."""
    model = model_of("decision_transformer", num_items)
    assert isinstance(model, SequenceModel)
    policy, rng = IncrementalPolicy(model), np.random.default_rng(0)
    items = tf.constant(rng.integers(1, num_items, (players, EVENTS)), tf.int32)
    reward, target = tf.fill([players, EVENTS], 0.2), tf.fill([players], 3.0)

    def next_decision(progress: Any, item: tf.Tensor, earned: tf.Tensor) -> Any:
        progress = policy.advance(progress, item, earned)
        return progress, policy.rank(progress, TOP)

    def anew(history: tf.Tensor, earned: tf.Tensor) -> Any:
        state = model.final_states(history, tf.fill([players], tf.shape(history)[1]), Condition(target, earned))
        return model.rank(state, history, TOP)

    cached = tf.function(next_decision, autograph=False, reduce_retracing=True)
    recomputed = tf.function(anew, autograph=False, reduce_retracing=True)

    def with_cache(events: int) -> Call:
        progress = policy.begin(target)
        for step in range(events - 1):
            progress, _ = cached(progress, items[:, step], reward[:, step])
        return lambda: len(cached(progress, items[:, events - 1], reward[:, events - 1])[1].item_id)

    def without(events: int) -> Call:
        return lambda: len(recomputed(items[:, :events], reward[:, :events]).item_id)

    print(f"\n{players:,} sessions side by side, {num_items:,} items, best {TOP}\n")
    print("| events so far | whole session anew, decisions/s | from the cache, decisions/s | ratio |")
    print("|---|---|---|---|")
    for events in (5, 20, EVENTS):
        slow, fast = without(events), with_cache(events)
        same = recomputed(items[:, :events], reward[:, :events]).score.numpy()
        assert np.allclose(same, cached_score(cached, policy, items, reward, target, events), atol=1e-3)
        one, other, ratio = in_turns(slow, fast, seconds)
        print(f"| {events} | {one:,.0f} | {other:,.0f} | {ratio:.1f}x |")


def cached_score(cached: Any, policy: IncrementalPolicy, items: tf.Tensor, reward: tf.Tensor, target: tf.Tensor, events: int) -> Any:
    """Scores that come from the cache, to see that both sides answer alike."""
    progress, ranking = policy.begin(target), None
    for step in range(events):
        progress, ranking = cached(progress, items[:, step], reward[:, step])
    assert ranking is not None
    return ranking.score.numpy()


def training(num_items: int, seconds: float) -> None:
    """Prints how fast a decision transformer trains beside sqn, on the same full sessions."""
    rng, shape = np.random.default_rng(0), (SESSIONS, EVENTS)
    batch = TrajectoryBatch(
        item_id=tf.constant(rng.integers(1, num_items, shape), tf.int32),
        feedback=tf.zeros(shape, tf.int32),
        reward=tf.constant(rng.choice([0.2, 1.0], shape), tf.float32),
        return_to_go=tf.ones(shape),
        length=tf.fill([SESSIONS], EVENTS),
        num_context=tf.zeros([SESSIONS], tf.int32),
        is_terminal=tf.ones([SESSIONS]),
        session=tf.range(SESSIONS, dtype=tf.int64),
        user=tf.zeros([SESSIONS], tf.int64),
    )

    def trained(name: str) -> Call:
        step, number = TrainStep(model_of(name, num_items), lambda _: LazyAdam(1e-3, jit_compile=False), xla=False), itertools.count()

        def call() -> int:
            step(batch, next(number))[2].numpy()
            return SESSIONS * EVENTS

        return call

    print(f"\n{SESSIONS} sessions of {EVENTS} events a batch, {num_items:,} items\n")
    print("| algorithm | transitions/s | against sqn |")
    print("|---|---|---|")
    sqn = trained("sqn")
    for name in ("decision_transformer", "edt4rec"):
        one, other, ratio = in_turns(sqn, trained(name), seconds)
        if name == "decision_transformer":
            print(f"| sqn | {one:,.0f} | |")
        print(f"| {name} | {other:,.0f} | {ratio:.2f}x |")


def in_turns(one: Call, other: Call, seconds: float) -> tuple[float, float, float]:
    """Median rates of two calls, taken in turns, and the median of the rounds' ratios."""
    for call in (one, other, one, other):
        call()
    rounds = [(rate(one, seconds / ROUNDS), rate(other, seconds / ROUNDS)) for _ in range(ROUNDS)]
    ones, others = (float(np.median(rates)) for rates in zip(*rounds, strict=True))
    return ones, others, float(np.median([right / left for left, right in rounds]))


if __name__ == "__main__":
    main()
