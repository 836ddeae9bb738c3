"""Declaration of online_tuner."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.online_tuner.config import OnlineTunerConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    run = outputs["tuning_run"]
    if not run["tuned"]:
        return "off: the trainer's model as it is"
    before, after = ((run[which]["return"][0], run[which]["click_rate"][0]) for which in ("offline", "kept"))
    return (
        f"{run['sessions']:,} sessions in {run['rounds']} rounds ({run['stopped']}), "
        f"return {before[0]:.3f} -> {after[0]:.3f}, click rate {before[1]:.1%} -> {after[1]:.1%}"
    )


ONLINE_TUNER = Component(
    name="online_tuner",
    description="Tunes the policy in rounds of simulated sessions, when enabled; else passes it on.",
    config=OnlineTunerConfig,
    inputs={
        "offline_model": Port("Model", "Policy trained on logs."),
        "examples": Port("Examples", "Trajectories that the replay begins with."),
    },
    outputs={
        "model": Port("Model", "Configuration, weights and vocabulary."),
        "tuning_run": Port("ModelRun", "Rewards, losses and buffer over the rounds."),
    },
    describe=_describe,
)
