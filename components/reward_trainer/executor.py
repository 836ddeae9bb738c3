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
    from components.judged_model import judge
    from components.judged_training import keep_judged, train_judged
    from components.reward_io import RewardModelConfig, build_reward_model
    from components.reward_trainer.measuring import measure, part_of_eval
    from components.reward_trainer.told import read_told
    from components.reward_trainer.trainable import TrainableRewards
    from components.trajectory_gen.vocabulary import read_vocabulary
    from models.rewards.base import RewardEstimator

    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    told = read_told(config, examples, vocabulary)
    estimator_config = config.estimator.model_copy(update=told.sizes())
    model_config = RewardModelConfig(estimator=estimator_config, max_steps=examples.properties["max_length"])

    def build() -> RewardEstimator:
        estimator = build_reward_model(model_config, vocabulary, config.seed)
        told.tell(estimator)
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
            **told.properties(),
        }
    }
