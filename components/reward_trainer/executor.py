"""Work of reward_trainer. What needs TensorFlow is imported when there is something to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import METRICS_FILE, Artifact, write_json
from components.base import Context, Properties
from components.reward_trainer.config import RewardTrainerConfig


def execute(
    config: RewardTrainerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    output = outputs["reward_model"]
    output.mkdir(parents=True, exist_ok=True)
    if config.estimator is None:
        return {"reward_model": {"enabled": False}}
    from components.item_files import read_features
    from components.judged_model import judge
    from components.judged_training import keep_judged, train_judged
    from components.reward_io import RewardModelConfig, build_reward_model
    from components.reward_trainer.measuring import measure, part_of_eval
    from components.reward_trainer.trainable import TrainableRewards
    from components.trajectory_gen.vocabulary import ITEM, read_vocabulary
    from models.rewards.base import RewardEstimator

    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    features = read_features("reward_trainer.item_features", config.item_features, vocabulary[ITEM]) if config.item_features else None
    told = config.estimator.model_copy(update={"num_item_features": len(features.names) if features else 0})
    model_config = RewardModelConfig(estimator=told, max_steps=examples.properties["max_length"])

    def build() -> RewardEstimator:
        estimator = build_reward_model(model_config, vocabulary, config.seed)
        if features:
            estimator.set_item_features(features.values)
        return estimator

    estimator, state = train_judged(build, TrainableRewards, config, examples, context, output / "logs")
    before = measure(estimator, part_of_eval(examples, "judging"))
    estimator.calibrate(part_of_eval(examples, "fitting"))
    measured = measure(estimator, part_of_eval(examples, "judging"))
    metrics = measured.metrics()
    checks = judge(config.conditions, metrics, measured.rewards.count)
    kept = keep_judged(output, estimator, model_config, inputs["vocabulary"], state, checks)
    write_json(output / METRICS_FILE, {"metrics": metrics, "before": before.metrics(), "curves": measured.curves(), "raw": before.curves()})
    return {
        "reward_model": {
            **kept,
            "metrics": metrics,
            "before": before.metrics(),
            "estimator": model_config.estimator.model_dump(mode="json"),
            "num_items": vocabulary.num_rows + 1,
            "max_steps": model_config.max_steps,
            "events": measured.rewards.count,
            "item_features": {"names": list(features.names), "items": features.num_known} if features else None,
        }
    }
