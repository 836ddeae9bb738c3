"""The stitching world as a shop: what is clicked says where it leads, so that a model of items knows the state.

An item stands for an action and the state that it leads to. A network that reads the last event alone then sees the state of the
world and the action before it, and not what was done earlier: the junction forgets, as it should.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from components.artifacts import Artifact
from components.model_io import ModelConfig, build_model, save_model
from models.simulators.stitching import Stitching

toy = import_module("toy_shop")


def item_of(world: Stitching, state: Any, action: Any) -> Any:
    """Item of an action in a state; both are arrays or numbers."""
    return (world._next[state, action] - 1) * world.config.num_actions + action + 1


def state_after(world: Stitching, item_id: Any) -> Any:
    """State that an item leads to."""
    return (item_id - 1) // world.config.num_actions + 1


def num_items(world: Stitching) -> int:
    """N, padding included."""
    return int(world.end * world.config.num_actions + 1)


def records(world: Stitching, num_sessions: int, seed: int) -> list[Any]:
    """Logged sessions as records."""
    log = world.logs(num_sessions, seed)
    steps = 2 * world.config.steps_per_half
    items, reward = item_of(world, log.state, log.action).reshape(-1, steps), log.reward.reshape(-1, steps)
    return [toy.Record(row.tolist(), paid.tolist()) for row, paid in zip(items, reward, strict=True)]


def write(folder: Path, world: Stitching, num_sessions: int, seed: int = 0) -> tuple[Artifact, Artifact]:
    """Logs and catalogue as artifacts."""
    steps = 2 * world.config.steps_per_half
    splits = {"train": records(world, num_sessions, seed), "eval": records(world, 8, seed + 1)}
    examples = toy.write_examples(folder / "examples", splits, steps)
    stated = {**examples.properties, "discount": 1.0, "num_items": num_items(world)}
    names = [f"item-{number}" for number in range(1, num_items(world))]
    return toy.artifact(examples.path, "Examples", stated), toy.write_vocabulary(folder / "vocabulary", names)


def network(**changes: Any) -> Any:
    """Networks that see the last event of a session."""
    plain = {"window": 1, "copy_head": False, "width": 16, "backbone": toy.backbone(dropout=0.0), "softmax": "full"}
    return toy.network(**{**plain, **changes})


def save_q(folder: Path, shop: tuple[Artifact, Artifact], world: Stitching) -> Artifact:
    """An untrained value function of the world's items."""
    from components.trajectory_gen.vocabulary import read_vocabulary

    config = ModelConfig(algorithm=toy.algorithm_config("cql", discount=1.0), network=network(), max_steps=2 * world.config.steps_per_half)
    save_model(folder / "model", build_model(config, read_vocabulary(shop[1]), 0), config, shop[1].path / "items.parquet")
    saved: Artifact = toy.artifact(folder / "model", "Model", {})
    return saved
