"""Work of trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import HISTORY_FILE, Artifact, open_artifact, write_json
from components.base import Context, Properties
from components.model_io import LoadedModel, ModelConfig, build_model, load_model, save_model, warm_start
from components.neighbours import read_neighbours
from components.trainer.config import TrainerConfig
from components.trainer.loop import LoopState, Trainable, TrainingLoop, frameworks
from components.trainer.rewards import estimated_rewards
from components.trajectory_gen.vocabulary import ITEMS_FILE, read_vocabulary
from models.targets import copy_variables


def execute(
    config: TrainerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    examples = inputs["examples"]
    vocabulary = read_vocabulary(inputs["vocabulary"])
    model_config = ModelConfig(algorithm=config.algorithm, network=config.network, max_steps=examples.properties["max_length"])
    kept = config.network.neighbours
    neighbours = read_neighbours(inputs["neighbours"], kept) if kept else None
    with frameworks(config):
        algorithm = build_model(model_config, vocabulary, config.seed, neighbours)
        base = _base_model(config, inputs)
        started_from = warm_start(algorithm, load_model(base), vocabulary) if base is not None else None
        rewards = estimated_rewards(config.reward, algorithm, vocabulary, examples, config.seed, inputs.get("reward_model"))
        trainable = Trainable(LoadedModel(algorithm, model_config, vocabulary), config, rewards)
        state = TrainingLoop(trainable, config, examples, context, outputs["model_run"] / "logs").run()
    if config.mixed_precision:
        # Evaluated in the precision it is served in.
        trained, algorithm = algorithm, build_model(model_config, vocabulary, config.seed)
        copy_variables(trained, algorithm)
    save_model(outputs["model"], algorithm, model_config, inputs["vocabulary"].path / ITEMS_FILE)
    write_json(outputs["model_run"] / HISTORY_FILE, {"steps": state.steps, "epochs": state.epochs})
    return {
        "model": {
            "algorithm": model_config.algorithm.model_dump(mode="json"),
            "network": model_config.network.model_dump(mode="json"),
            "num_items": vocabulary.num_rows + 1,
            "max_steps": model_config.max_steps,
            "parameters": trainable.num_parameters,
            "validation": {config.early_stopping.metric: state.best},
        },
        "model_run": _describe(config, state, started_from),
    }


def _base_model(config: TrainerConfig, inputs: Mapping[str, Artifact]) -> Artifact | None:
    if config.warm_start_from not in (None, "latest_blessed"):
        return open_artifact(config.warm_start_from)
    return inputs.get("base_model") if config.warm_start_from else None


def _describe(config: TrainerConfig, state: LoopState, started_from: Mapping[str, int] | None) -> dict[str, Any]:
    speeds = [row["transitions_per_second"] for row in state.steps]
    waits = [row["input_wait_share"] for row in state.steps]
    return {
        "epochs": len(state.epochs),
        "steps": state.step,
        "stopped": state.stopped,
        "best_epoch": state.best_epoch + 1,
        "metric": config.early_stopping.metric,
        "best": state.best,
        "warm_start": started_from,
        "median_transitions_per_second": float(np.median(speeds)) if speeds else 0.0,
        "median_input_wait_share": float(np.median(waits)) if waits else 0.0,
    }
