"""A model trained from a configuration: what every step that trains one shares."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.artifacts import Artifact, open_artifact
from components.base import Context
from components.model_io import LoadedModel, ModelConfig, build_model, load_model, warm_start
from components.trainer.config import TrainerConfig
from components.trainer.imagination import imagination_of
from components.trainer.loop import LoopState, TrainingLoop
from components.trainer.rewards import estimated_rewards
from components.trainer.seeds import frameworks
from components.trainer.trainable import Trainable
from components.trainer.workers import Workers
from components.trajectory_gen.vocabulary import read_vocabulary
from models.algorithms.base import Algorithm
from models.co_visitation import Neighbours
from models.targets import copy_variables
from schemas.config import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Fitted:
    """What training leaves behind.

    Attributes:
        algorithm: The model, with the weights that were kept.
        config: What it is.
        num_parameters: Weights that gradients moved.
        state: How the training went.
        started_from: What was taken from an earlier model, or None.
    """

    algorithm: Algorithm
    config: ModelConfig
    num_parameters: int
    state: LoopState
    started_from: Mapping[str, int] | None


def fit(
    config: TrainerConfig,
    examples: Artifact,
    vocabulary: Artifact,
    context: Context,
    logs: Path,
    *,
    relabelled: Artifact | None = None,
    neighbours: Neighbours | None = None,
    latest: Artifact | None = None,
    reward_model: Artifact | None = None,
    user_model: Artifact | None = None,
    workers: Workers | None = None,
) -> Fitted:
    """Trains a model, going on where an earlier attempt with the same scratch folder was stopped.

    Args:
        config: What is trained and how.
        examples: Trajectories.
        vocabulary: The catalogue.
        context: Scratch folder and progress.
        logs: Folder of TensorBoard's event files.
        relabelled: Trajectories to train on in place of the train split of `examples`.
        neighbours: Those of the items, for models that mix them in.
        latest: The model that `warm_start_from: latest_blessed` means.
        reward_model: What `reward_trainer` made, for `reward.source: pretrained`.
        user_model: What `user_model_trainer` made, for `imagination`.
        workers: The processes that train the model together; None is this one alone. Only the chief's result is one.
    """
    workers = workers or Workers()
    if workers.strategy is not None and config.xla:
        raise ConfigError("trainer.xla: steps of several workers are not compiled with XLA; train with xla: false")
    if workers.strategy is not None and (config.reward.source != "logged" or config.imagination is not None):
        raise ConfigError("trainer.reward, trainer.imagination: several workers learn from logged sessions and rewards alone")
    items = read_vocabulary(vocabulary)
    model_config = ModelConfig(algorithm=config.algorithm, network=config.network, max_steps=examples.properties["max_length"])
    with frameworks(config):
        # Nothing else stands in the scope, because what is made there is made on all workers.
        with nullcontext() if workers.is_sharded else workers.scope():
            algorithm = build_model(model_config, items, config.seed, neighbours)
        base = open_artifact(config.warm_start_from) if config.warm_start_from not in (None, "latest_blessed") else latest
        started_from = warm_start(algorithm, load_model(base), items) if config.warm_start_from and base is not None else None
        rewards = estimated_rewards(config.reward, algorithm, items, examples, config.seed, reward_model)
        imagination = imagination_of(config, algorithm, items, examples, user_model)
        twin = _twin_of(algorithm, config, model_config, items, workers)
        with workers.scope():
            trainable = Trainable(LoadedModel(algorithm, model_config, items), config, rewards, imagination, workers, twin)
        with workers.explained():
            state = TrainingLoop(trainable, config, examples, context, logs, relabelled, workers).run()
    if config.mixed_precision or (workers.strategy is not None and not workers.is_sharded):
        # Evaluated in the precision it is served in, and by one process.
        trained, algorithm = algorithm, build_model(model_config, items, config.seed)
        copy_variables(trained, algorithm)
    return Fitted(algorithm, model_config, trainable.num_parameters, state, started_from)


def _twin_of(algorithm: Algorithm, config: TrainerConfig, model_config: ModelConfig, items: pa.Table, workers: Workers) -> Algorithm | None:
    """The model on the parameter servers, if there are any."""
    if not workers.is_sharded:
        return None
    from components.trainer.parameter_servers import ParameterServers, check_fits

    assert isinstance(workers, ParameterServers)
    check_fits(config, algorithm)
    return workers.twin_of(algorithm, lambda: build_model(model_config, items, config.seed))
