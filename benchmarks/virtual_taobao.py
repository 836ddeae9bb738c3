"""Clicks in Virtual Taobao: a decision transformer trained on logs and tuned online, beside TF-Agents and the best constant action.

    python benchmarks/virtual_taobao.py [--weights ../shared/data/virtual_taobao] [--seeds 3] [--sessions 10000]

Logs are those of a shop half way: every session has settings of its own, some share (0 to .6) of the best constant action with noise, so
that sessions differ in what they brought and none shows the best. The transformers learn from the best of them and from rounds of
their own sessions (`models.agents.episodes.tune`); the agents of TF-Agents (Haarnoja et al., 2018; Fujimoto et al., 2018) begin with the
same logs in their replay buffer and learn from as many sessions online. All are measured without exploration on the same sessions.
The best constant action needs no policy at all, so no result here is worth more than its distance to that.

CTR is clicks / (10 * pages), pooled over sessions. Prints a Markdown table and, with --curves, the CTR after every round as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.environments import create_simulator
from components.trainer.step import TrainStep
from models.agents.environments import SessionEnvironment, graph_environment
from models.agents.episodes import GaussianBehaviour, TransformerActor, as_episodes, best_of, collect, tune
from models.agents.gaussian_transformer import GaussianTransformer, GaussianTransformerConfig
from models.frameworks import keras, tf
from models.online.buffer import ReplayBuffer, Sessions
from models.simulators.base import Simulator
from models.simulators.constant_action import best_constant_action
from models.simulators.virtual_taobao import VirtualTaobaoConfig

# Behind our own imports, which choose Keras 2.
from tf_agents.agents.ddpg import critic_network  # isort: skip
from tf_agents.agents.sac import sac_agent, tanh_normal_projection_network  # isort: skip
from tf_agents.agents.td3 import td3_agent  # isort: skip
from tf_agents.agents.ddpg import actor_network  # isort: skip
from tf_agents.networks import actor_distribution_network  # isort: skip
from tf_agents.trajectories import time_step as ts  # isort: skip
from tf_agents.trajectories import trajectory  # isort: skip

OBSERVED, DIMENSIONS, MAX_STEPS = 91, 27, 32
"""Pages of a session beyond the 32nd are not shown: one in a thousand has more."""
LOGGED, BEST, EVALUATED = 4000, 1000, 1000
ROUNDS, BATCH, UPDATES, OFFLINE_UPDATES = 20, 64, 100, 1000
_EVALUATION_SEED = 9

Curve = Iterator[tuple[int, float]]
"""Sessions played online, CTR without exploration."""


def click_rate(sessions: Sessions) -> float:
    """Clicks / (10 * pages)."""
    return float(sessions.steps["reward"].sum() / (10.0 * sessions.length.sum()))


class HalfWay(GaussianBehaviour):
    """Settings of a session: up to .6 of a direction, and noise."""

    def __init__(self, direction: Any):
        super().__init__(len(direction), between=0.1, within=0.1)
        self._direction = direction

    def begin(self, count: int, normal: Callable[[int], Any]) -> None:
        drawn = normal(self._num_dimensions + 1)
        share = np.clip(0.3 + 0.15 * drawn[:, :1], 0.0, 0.6)
        self._center = share * self._direction + self._between * drawn[:, 1:]


class Vectors:
    """An actor that answers with a function of the observation."""

    def __init__(self, act: Callable[[Any], Any]):
        self._act = act

    def begin(self, count: int, normal: Any) -> None:
        """Nothing is kept."""

    def act(self, observation: Any, normal: Any) -> Any:
        return self._act(observation)

    def told(self, reward: Any, goes_on: Any) -> None:
        """Nothing is kept."""


def measured(simulator: Simulator, actor: Any) -> float:
    """CTR on the sessions that all are measured on."""
    return click_rate(collect(simulator, actor, np.arange(EVALUATED), _EVALUATION_SEED, MAX_STEPS))


def transformer(simulator: Simulator, logs: Sessions, seed: int, rounds: int, per_round: int, **changes: Any) -> Curve:
    """A decision transformer: 1,000 updates on the best logs, then rounds online."""
    keras.utils.set_random_seed(seed)
    config = GaussianTransformerConfig(width=64, max_steps=MAX_STEPS, context_length=2, num_blocks=1, expansion=2, **changes)
    model = GaussianTransformer(config, OBSERVED, DIMENSIONS, seed)
    model.fit(as_episodes(logs))
    step = TrainStep(model, lambda _: keras.optimizers.Adam(1e-3, jit_compile=False), xla=False)  # type: ignore[arg-type]
    buffer = ReplayBuffer(2 * BEST, MAX_STEPS)
    buffer.add(best_of(logs, BEST))
    for number in range(OFFLINE_UPDATES):
        step(as_episodes(buffer.draw(BATCH, seed, number)), number)  # type: ignore[arg-type]
    actor = TransformerActor(model, DIMENSIONS)
    yield 0, measured(simulator, actor)
    done = OFFLINE_UPDATES
    for played in tune(
        model,
        lambda batch, number: step(batch, done + number),  # type: ignore[arg-type]
        simulator,
        buffer,
        rounds,
        per_round,
        UPDATES,
        BATCH,
        seed,
    ):
        yield (played.number + 1) * per_round, measured(simulator, actor)


def transitions(sessions: Sessions) -> dict[str, Any]:
    """Steps with the observations after them: [E, ...]; the last one of a session has discount 0."""
    inside = np.arange(MAX_STEPS)[None, :] < sessions.length[:, None]
    observation = sessions.steps["observation"]
    after = np.concatenate([observation[:, 1:], np.zeros_like(observation[:, :1])], axis=1)
    is_last = np.arange(MAX_STEPS)[None, :] == sessions.length[:, None] - 1
    return {
        "observation": observation[inside],
        "action": sessions.steps["action"][inside],
        "reward": sessions.steps["reward"][inside],
        "next": after[inside],
        "discount": np.where(is_last, 0.0, 1.0).astype(np.float32)[inside],
    }


def agent_of(name: str, environment: Any) -> Any:
    """SAC or TD3 with two layers of 256, at TF-Agents' own settings."""
    observation, action = environment.time_step_spec().observation, environment.action_spec()
    critic = critic_network.CriticNetwork((observation, action), joint_fc_layer_params=(256, 256))
    adam = lambda: tf.compat.v1.train.AdamOptimizer(3e-4)  # noqa: E731
    if name == "sac":
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation,
            action,
            fc_layer_params=(256, 256),
            continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork,
        )
        made = sac_agent.SacAgent(
            environment.time_step_spec(),
            action,
            critic_network=critic,
            actor_network=actor,
            actor_optimizer=adam(),
            critic_optimizer=adam(),
            alpha_optimizer=adam(),
            target_update_tau=0.005,
            gamma=0.99,
        )
    else:
        actor = actor_network.ActorNetwork(observation, action, fc_layer_params=(256, 256))
        made = td3_agent.Td3Agent(environment.time_step_spec(), action, actor, critic, adam(), adam(), target_update_tau=0.005, gamma=0.99)
    made.initialize()
    return made


def agent(name: str, simulator: Simulator, logs: Sessions, seed: int, rounds: int, per_round: int) -> Curve:
    """An agent of TF-Agents that begins with the logs in its replay buffer."""
    keras.utils.set_random_seed(seed)
    made = agent_of(name, graph_environment(SessionEnvironment(simulator, 1, seed)))
    greedy, exploring = (
        tf.function(policy.action, autograph=False, reduce_retracing=True) for policy in (made.policy, made.collect_policy)
    )
    train = tf.function(made.train, autograph=False)

    def act(policy: Any) -> Any:
        return lambda seen: np.clip(policy(ts.restart(tf.constant(seen), batch_size=len(seen))).action.numpy(), -1.0, 1.0)

    held, rng = transitions(logs), np.random.default_rng(seed)

    def update() -> None:
        rows = rng.integers(0, len(held["reward"]), BATCH)
        pair = [tf.constant(np.stack([held[one][rows], held[other][rows]], axis=1)) for one, other in (("observation", "next"),)]
        twice = lambda values: tf.constant(np.repeat(values[rows][:, None], 2, axis=1))  # noqa: E731
        middle = tf.ones([BATCH, 2], tf.int32)
        steps = trajectory.Trajectory(
            step_type=middle,
            observation=pair[0],
            action=twice(held["action"]),
            policy_info=(),
            next_step_type=middle,
            reward=twice(held["reward"]),
            discount=twice(held["discount"]),
        )
        train(steps)

    for _ in range(OFFLINE_UPDATES):
        update()
    actor = Vectors(act(greedy))
    yield 0, measured(simulator, actor)
    for number in range(rounds):
        first = number * per_round
        played = collect(simulator, Vectors(act(exploring)), first + np.arange(per_round), seed, MAX_STEPS)
        held = {key: np.concatenate([held[key], values]) for key, values in transitions(played).items()}
        for _ in range(UPDATES):
            update()
        yield first + per_round, measured(simulator, actor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path(os.environ.get("LONGPLAY_DATA", "../shared/data")) / "virtual_taobao")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=10_000, help="sessions played online")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="*", help="rows of the table")
    parser.add_argument("--curves", type=Path, help="file for the CTR after every round")
    arguments = parser.parse_args()
    simulator = create_simulator(VirtualTaobaoConfig(weights=str(arguments.weights)))
    per_round = arguments.sessions // arguments.rounds
    rows: dict[str, Callable[[Sessions, int], Curve]] = {
        "edt4rec": lambda logs, seed: transformer(simulator, logs, seed, arguments.rounds, per_round),
        "without entropy": lambda logs, seed: transformer(simulator, logs, seed, arguments.rounds, per_round, entropy_per_dimension=None),
        "TF-Agents SAC": lambda logs, seed: agent("sac", simulator, logs, seed, arguments.rounds, per_round),
        "TF-Agents TD3": lambda logs, seed: agent("td3", simulator, logs, seed, arguments.rounds, per_round),
    }
    best = best_constant_action(simulator)  # type: ignore[arg-type]
    fixed = {
        "best constant action": lambda seen: np.tile(best.action.astype(np.float32), (len(seen), 1)),
        "zero action": lambda seen: np.zeros((len(seen), DIMENSIONS), np.float32),
        "random action": lambda seen: np.random.default_rng(len(seen)).uniform(-1, 1, (len(seen), DIMENSIONS)).astype(np.float32),
    }
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    logs = {seed: collect(simulator, HalfWay(best.action), np.arange(LOGGED), 1000 + seed, MAX_STEPS) for seed in range(arguments.seeds)}
    print(f"{LOGGED:,} logged sessions, CTR {np.mean([click_rate(found) for found in logs.values()]):.4f}; {arguments.seeds} seeds\n")
    print(f"| policy | CTR after the logs | after half | after {arguments.sessions:,} sessions | seconds |\n|---|---|---|---|---|")
    for name, act in fixed.items():
        print(f"| {name} | {measured(simulator, Vectors(act)):.4f} | | | |", flush=True)
    for name, make in rows.items():
        if arguments.only and name not in arguments.only:
            continue
        begun = time.perf_counter()
        curves[name] = [list(make(logs[seed], seed)) for seed in range(arguments.seeds)]
        found = np.array([[rate for _, rate in curve] for curve in curves[name]])
        cells = [
            f"{found[:, place].mean():.4f} ({found[:, place].min():.4f}–{found[:, place].max():.4f})"
            for place in (0, arguments.rounds // 2, -1)
        ]
        print(f"| {name} | {' | '.join(cells)} | {(time.perf_counter() - begun) / arguments.seeds:.0f} |", flush=True)
    if arguments.curves:
        arguments.curves.write_text("".join(json.dumps({"policy": name, "curves": found}) + "\n" for name, found in curves.items()))


if __name__ == "__main__":
    main()
