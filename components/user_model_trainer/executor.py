"""Work of user_model_trainer. What needs TensorFlow is imported when there is something to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import METRICS_FILE, Artifact, write_json
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
    from components.judged_model import judge
    from components.judged_training import keep_judged, train_judged
    from components.neighbours import read_neighbours
    from components.trajectory_gen.vocabulary import read_vocabulary
    from components.user_model_io import SavedUserModelConfig, build_user_model
    from components.user_model_trainer.trainable import TrainableUserModel, measure_users

    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    saved = SavedUserModelConfig(model=config.model, max_steps=examples.properties["max_length"])
    per_item = config.model.behaviour.neighbours
    neighbours = read_neighbours(inputs["neighbours"], per_item) if per_item else None
    model, state = train_judged(
        lambda: build_user_model(saved, vocabulary, config.seed, neighbours), TrainableUserModel, config, examples, context, output / "logs"
    )
    measured = measure_users(model, examples)
    metrics = measured.metrics()
    checks = judge(config.conditions, metrics, measured.leaving.rewards.count)
    kept = keep_judged(output, model, saved, inputs["vocabulary"], state, checks)
    write_json(output / METRICS_FILE, {"metrics": metrics, "curves": measured.curves()})
    return {
        "user_model": {
            **kept,
            "metrics": metrics,
            "model": config.model.model_dump(mode="json"),
            "num_items": vocabulary.num_rows + 1,
            "max_steps": saved.max_steps,
            "events": measured.leaving.rewards.count,
        }
    }
