"""Work of trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import HISTORY_FILE, Artifact, open_artifact, write_json
from components.base import Context, Properties
from components.model_io import LoadedModel, ModelConfig, build_model, load_model, save_model, warm_start
from components.trainer.config import TrainerConfig
from components.trainer.loop import LoopState, TrainingLoop
from components.trajectory_gen.vocabulary import ITEMS_FILE, read_vocabulary
from models.frameworks import keras
from models.optimizers import LazyAdam
from models.targets import copy_variables


def execute(
    config: TrainerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    examples = inputs["examples"]
    vocabulary = read_vocabulary(inputs["vocabulary"])
    model_config = ModelConfig(algorithm=config.algorithm, network=config.network, max_steps=examples.properties["max_length"])
    with _frameworks(config):
        algorithm = build_model(model_config, vocabulary, config.seed)
        base = _base_model(config, inputs)
        started_from = warm_start(algorithm, load_model(base), vocabulary) if base is not None else None
        model = LoadedModel(algorithm, model_config, vocabulary)
        loop = TrainingLoop(model, _optimizer(config), config, examples, context, outputs["model_run"] / "logs")
        state = loop.run()
    if config.mixed_precision:
        # Evaluated in the precision it is served in.
        trained, algorithm = algorithm, build_model(model_config, vocabulary, config.seed)
        copy_variables(trained, algorithm)
    save_model(outputs["model"], algorithm, model_config, inputs["vocabulary"].path / ITEMS_FILE)
    write_json(outputs["model_run"] / HISTORY_FILE, {"steps": state.steps, "epochs": state.epochs})
    parameters = int(sum(np.prod(variable.shape) for variable in algorithm.trainable_variables))
    return {
        "model": {
            "algorithm": model_config.algorithm.model_dump(mode="json"),
            "network": model_config.network.model_dump(mode="json"),
            "num_items": vocabulary.num_rows + 1,
            "max_steps": model_config.max_steps,
            "parameters": parameters,
            "validation": {config.early_stopping.metric: state.best},
        },
        "model_run": _describe(config, state, started_from),
    }


@contextmanager
def _frameworks(config: TrainerConfig) -> Iterator[None]:
    """Seeds and precision for the time of the training; both are global in Keras."""
    keras.utils.set_random_seed(config.seed)
    # Generators whose state is a variable, so that checkpoints hold it and a resumed run draws the same dropout.
    keras.backend.experimental.enable_tf_random_generator()
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if config.mixed_precision else "float32")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _optimizer(config: TrainerConfig) -> Any:
    rate: Any = config.learning_rate
    if config.warmup_steps:
        rate = keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate / config.warmup_steps, config.warmup_steps, config.learning_rate
        )
    return LazyAdam(rate, global_clipnorm=config.gradient_clip_norm, jit_compile=False)


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
