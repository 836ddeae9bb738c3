"""What online_tuner tunes, and what it states about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import HISTORY_FILE, Artifact, write_json
from components.base import ComponentError, Context, Properties
from components.environments import EnvironmentFileError, create_simulator
from components.model_io import LoadedModel, load_model, save_model
from components.online_tuner.config import OnlineTunerConfig
from components.online_tuner.loop import TuningLoop, TuningState, training_config
from components.online_tuner.offline import read_offline
from components.trainer.seeds import frameworks
from components.trajectory_gen.vocabulary import ITEM, ITEMS_FILE
from models.online.world import ItemWorld


def tune(
    config: OnlineTunerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Tunes the model; arguments as of an executor."""
    with frameworks(training_config(config)):
        model = load_model(inputs["offline_model"], config.seed)
        state = tune_model(model, inputs["examples"], config, context)
    save_model(outputs["model"], model.algorithm, model.config, inputs["offline_model"].path / ITEMS_FILE)
    write_json(outputs["tuning_run"] / HISTORY_FILE, {"rounds": state.rounds, "evaluations": state.evaluations})
    kept = describe(config, state)
    return {
        "model": {**inputs["offline_model"].properties, "validation": {"online_return": kept["kept"]["return"][0]}},
        "tuning_run": {"tuned": 1, **kept},
    }


def tune_model(model: LoadedModel, examples: Artifact, config: OnlineTunerConfig, context: Context) -> TuningState:
    """Tunes a model in its place; it goes on where an earlier attempt with the same scratch folder was stopped.

    Args:
        model: What is tuned.
        examples: What it was trained on.
        config: How.
        context: Scratch folder and progress.

    Raises:
        ComponentError: The simulator cannot try this model.
    """
    world = _world(config, model)
    offline = read_offline(examples, config.buffer_sessions, config.offline_sessions, model.config.max_steps, config.seed)
    return TuningLoop(model, world, offline, config, context).run()


def _world(config: OnlineTunerConfig, model: LoadedModel) -> ItemWorld:
    if model.algorithm.transitions:
        raise ComponentError(
            "online_tuner: the model is trained on single transitions (mode: faithful), online learning on whole sessions; use mode: fast"
        )
    name = getattr(config.simulator, "name")  # noqa: B009  (every subclass has a literal `name`)
    try:
        return ItemWorld(create_simulator(config.simulator), model.vocabulary[ITEM].to_pylist())
    except EnvironmentFileError as error:
        raise ComponentError(f"online_tuner.simulator: {error}") from None
    except ValueError as error:
        raise ComponentError(f"online_tuner.simulator: {name} cannot try this model: {error}") from None


def describe(config: OnlineTunerConfig, state: TuningState) -> dict[str, Any]:
    """What is stated about a tuning."""
    return {
        "rounds": state.round,
        "updates": state.update,
        "sessions": state.round * config.sessions_per_round,
        "stopped": state.stopped,
        "dropped": int(state.dropped),
        "floor": state.drop["floor"],
        "offline": state.evaluations[0],
        "kept": state.evaluations[state.kept],
        "simulator": config.simulator.model_dump(mode="json"),
    }
