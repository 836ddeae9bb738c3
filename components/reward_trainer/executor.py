"""Work of reward_trainer. What needs TensorFlow is imported when there is something to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import HISTORY_FILE, METRICS_FILE, Artifact, write_json
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
    from components.judged_model import judge, save_judged
    from components.reward_io import RewardModelConfig, build_reward_model
    from components.reward_trainer.measuring import measure, part_of_eval
    from components.reward_trainer.trainable import TrainableRewards
    from components.trainer.loop import TrainingLoop, frameworks
    from components.trajectory_gen.vocabulary import ITEMS_FILE, read_vocabulary
    from models.targets import copy_variables

    examples, vocabulary = inputs["examples"], read_vocabulary(inputs["vocabulary"])
    model_config = RewardModelConfig(estimator=config.estimator, max_steps=examples.properties["max_length"])
    with frameworks(config):
        estimator = build_reward_model(model_config, vocabulary, config.seed)
        trainable = TrainableRewards(estimator, config)
        state = TrainingLoop(trainable, config, examples, context, output / "logs").run()
    if config.mixed_precision:
        # Measured in the precision it is used in.
        trained, estimator = estimator, build_reward_model(model_config, vocabulary, config.seed)
        copy_variables(trained, estimator)
    before = measure(estimator, part_of_eval(examples, "judging"))
    estimator.calibrate(part_of_eval(examples, "fitting"))
    measured = measure(estimator, part_of_eval(examples, "judging"))
    metrics = measured.metrics()
    checks = judge(config.conditions, metrics, measured.rewards.count)
    blessed = all(check["passed"] for check in checks)
    save_judged(output, estimator, model_config, inputs["vocabulary"].path / ITEMS_FILE, blessed)
    write_json(output / HISTORY_FILE, {"steps": state.steps, "epochs": state.epochs})
    write_json(output / METRICS_FILE, {"metrics": metrics, "before": before.metrics(), "curves": measured.curves(), "raw": before.curves()})
    return {
        "reward_model": {
            "enabled": True,
            "blessed": blessed,
            "checks": checks,
            "reasons": [check["reason"] for check in checks if not check["passed"]],
            "metrics": metrics,
            "before": before.metrics(),
            "estimator": model_config.estimator.model_dump(mode="json"),
            "num_items": vocabulary.num_rows + 1,
            "max_steps": model_config.max_steps,
            "events": measured.rewards.count,
            "epochs": len(state.epochs),
            "best_epoch": state.best_epoch + 1,
            "stopped": state.stopped,
        }
    }
