"""Work of user_model_trainer. What needs TensorFlow is imported when there is something to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import HISTORY_FILE, METRICS_FILE, Artifact, write_json
from components.base import Context, Properties
from components.user_model_trainer.config import UserModelTrainerConfig


def execute(
    config: UserModelTrainerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    output = outputs["user_model"]
    output.mkdir(parents=True, exist_ok=True)
    if config.model is None:
        return {"user_model": {"enabled": False}}
    from components.judged_model import judge, save_judged
    from components.neighbours import read_neighbours
    from components.trainer.loop import TrainingLoop, frameworks
    from components.trajectory_gen.vocabulary import ITEMS_FILE, read_vocabulary
    from components.user_model_io import SavedUserModelConfig, build_user_model
    from components.user_model_trainer.trainable import TrainableUserModel, measure_users
    from models.targets import copy_variables

    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    saved = SavedUserModelConfig(model=config.model, max_steps=examples.properties["max_length"])
    kept = config.model.behaviour.neighbours
    neighbours = read_neighbours(inputs["neighbours"], kept) if kept else None
    with frameworks(config):
        model = build_user_model(saved, vocabulary, config.seed, neighbours)
        state = TrainingLoop(TrainableUserModel(model, config), config, examples, context, output / "logs").run()
    if config.mixed_precision:
        # Measured in the precision it is used in.
        trained, model = model, build_user_model(saved, vocabulary, config.seed)
        copy_variables(trained, model)
    measured = measure_users(model, examples)
    metrics = measured.metrics()
    checks = judge(config.conditions, metrics, measured.leaving.rewards.count)
    blessed = all(check["passed"] for check in checks)
    save_judged(output, model, saved, inputs["vocabulary"].path / ITEMS_FILE, blessed)
    write_json(output / HISTORY_FILE, {"steps": state.steps, "epochs": state.epochs})
    write_json(output / METRICS_FILE, {"metrics": metrics, "curves": measured.curves()})
    return {
        "user_model": {
            "enabled": True,
            "blessed": blessed,
            "checks": checks,
            "reasons": [check["reason"] for check in checks if not check["passed"]],
            "metrics": metrics,
            "model": config.model.model_dump(mode="json"),
            "num_items": vocabulary.num_rows + 1,
            "max_steps": saved.max_steps,
            "events": measured.leaving.rewards.count,
            "epochs": len(state.epochs),
            "best_epoch": state.best_epoch + 1,
            "stopped": state.stopped,
        }
    }
