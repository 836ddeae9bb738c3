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
    from components.feature_files import read_item_features, read_user_features
    from components.judged_model import judge
    from components.judged_training import keep_judged, train_judged
    from components.reward_io import RewardModelConfig, build_reward_model
    from components.reward_trainer.measuring import measure, part_of_eval
    from components.reward_trainer.trainable import TrainableRewards
    from components.trajectory_gen.vocabulary import ITEM, read_vocabulary
    from components.trajectory_io import name_keys
    from models.frameworks import tf
    from models.rewards.base import RewardEstimator

    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    items = read_item_features("reward_trainer.item_features", config.item_features, vocabulary[ITEM]) if config.item_features else None
    users = read_user_features("reward_trainer.user_features", config.user_features) if config.user_features else None
    told: dict[str, int] = {"num_item_features": len(items.names)} if items else {}
    told |= {"num_user_features": len(users.names), "num_users": len(users.users)} if users else {}
    model_config = RewardModelConfig(estimator=config.estimator.model_copy(update=told), max_steps=examples.properties["max_length"])

    def build() -> RewardEstimator:
        estimator = build_reward_model(model_config, vocabulary, config.seed)
        if items:
            estimator.set_item_features(items.values)
        if users:
            estimator.set_user_features(name_keys(tf.constant(users.users)).numpy(), users.values)
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
            "item_features": {"names": list(items.names), "items": items.num_known} if items else None,
            "user_features": {"names": list(users.names), "users": len(users.users)} if users else None,
        }
    }
