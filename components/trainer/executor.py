"""Work of trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.artifacts import HEALTH, HISTORY_FILE, Artifact, write_json
from components.base import Context, Properties
from components.trainer.config import TrainerConfig
from components.trainer.workers import Workers

if TYPE_CHECKING:
    from components.trainer.loop import LoopState


def execute(
    config: TrainerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`. Of several workers the chief alone fills the folders."""
    workers = Workers.from_environment(config.strategy)
    # Not before: workers are joined before TensorFlow computes anything, and modules of models compute when they are imported.
    from components.model_io import save_model
    from components.neighbours import read_neighbours
    from components.trainer.fitting import fit
    from components.trajectory_gen.vocabulary import ITEMS_FILE

    kept = config.network.neighbours
    fitted = fit(
        config,
        inputs["examples"],
        inputs["vocabulary"],
        context,
        outputs["model_run"] / "logs",
        relabelled=_relabelled(inputs),
        neighbours=read_neighbours(inputs["neighbours"], kept) if kept else None,
        latest=inputs.get("base_model"),
        reward_model=inputs.get("reward_model"),
        user_model=inputs.get("user_model"),
        workers=workers,
    )
    if not workers.is_chief:
        return {}
    algorithm, model_config, state = fitted.algorithm, fitted.config, fitted.state
    save_model(outputs["model"], algorithm, model_config, inputs["vocabulary"].path / ITEMS_FILE)
    write_json(outputs["model_run"] / HISTORY_FILE, {"steps": state.steps, "epochs": state.epochs})
    return {
        "model": {
            "algorithm": model_config.algorithm.model_dump(mode="json"),
            "network": model_config.network.model_dump(mode="json"),
            "num_items": algorithm.catalogue.num_items,
            "max_steps": model_config.max_steps,
            "parameters": fitted.num_parameters,
            "validation": {config.early_stopping.metric: state.best},
            "health": _health(state),
        },
        "model_run": _describe(config, state, fitted.started_from),
    }


def _health(state: LoopState) -> dict[str, float]:
    """The last health numbers without `health/`; the greatest bound of all batches."""
    from models.losses.health import Q_BOUND

    found = {name.removeprefix(HEALTH): value for name, value in state.health.items() if math.isfinite(value)}
    return found | ({Q_BOUND: state.q_bound} if Q_BOUND in found else {})


def _relabelled(inputs: Mapping[str, Artifact]) -> Artifact | None:
    """Trajectories with other returns, if they were asked for."""
    found = inputs.get("relabelled")
    return found if found is not None and found.properties["relabelled"] else None


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
