"""Training of models that are judged before anything learns from them: what their trainers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from components.artifacts import HISTORY_FILE, Artifact, write_json
from components.base import Context
from components.judged_model import save_judged
from components.trainer.config import TrainingConfig
from components.trainer.loop import LoopState, TrainingLoop
from components.trainer.seeds import frameworks
from components.trainer.step import TrainStep
from components.trainer.trainable import make_optimizer
from components.trainer.trainee import Trainee
from components.trajectory_gen.vocabulary import ITEMS_FILE
from components.trajectory_io import Window
from models.batch import TrajectoryBatch
from models.learner import Learner
from models.module import Module
from models.targets import copy_variables
from schemas.config import Config

M = TypeVar("M", bound=Learner)


class JudgedTrainable(Generic[M]):
    """Such a model with its compiled step, as the training loop takes it; how it is validated is its trainer's own.

    Args:
        model: What is trained; its variables exist.
        config: How.
    """

    section: str
    context_steps = 1

    def __init__(self, model: M, config: TrainingConfig):
        self._model = model
        self._most_events = config.early_stopping.max_states
        self.step: Any = TrainStep(model, partial(make_optimizer, config), config.xla)

    @property
    def learner(self) -> Learner:
        return self._model

    def modules(self) -> Mapping[str, Module]:
        return {"model": self._model}

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        self._model.adapt(batches)

    def window(self, relabelled: Artifact) -> Window | None:
        return None

    def validate(self, examples: Artifact, context: Context) -> dict[str, float]:
        """Metrics after an epoch."""
        raise NotImplementedError


def train_judged(
    build: Callable[[], M],
    trainable: Callable[[M, TrainingConfig], Trainee],
    config: TrainingConfig,
    examples: Artifact,
    context: Context,
    logs: Path,
) -> tuple[M, LoopState]:
    """Trains a model, going on where an earlier attempt with the same scratch folder was stopped.

    Args:
        build: Makes one with fresh weights.
        trainable: Makes of it what the training loop takes.
        config: How it is trained.
        examples: Trajectories.
        context: Scratch folder and progress.
        logs: Folder of TensorBoard's event files.

    Returns:
        The model in the precision it is used in, and how the training went.
    """
    with frameworks(config):
        model = build()
        state = TrainingLoop(trainable(model, config), config, examples, context, logs).run()
    if config.mixed_precision:
        # Measured in the precision it is used in.
        trained, model = model, build()
        copy_variables(trained, model)
    return model, state


def keep_judged(
    output: Path, model: Learner, saved: Config, vocabulary: Artifact, state: LoopState, checks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Writes a model and how its training went into a folder.

    Args:
        output: The folder.
        model: The model.
        saved: Everything that says what it is, but for its weights.
        vocabulary: Its items.
        state: How the training went.
        checks: Its conditions, see `components.judged_model.judge`.

    Returns:
        Properties that every such model has.
    """
    blessed = all(check["passed"] for check in checks)
    save_judged(output, model, saved, vocabulary.path / ITEMS_FILE, blessed)
    write_json(output / HISTORY_FILE, {"steps": state.steps, "epochs": state.epochs})
    return {
        "enabled": True,
        "blessed": blessed,
        "checks": checks,
        "reasons": [check["reason"] for check in checks if not check["passed"]],
        "epochs": len(state.epochs),
        "best_epoch": state.best_epoch + 1,
        "stopped": state.stopped,
    }
