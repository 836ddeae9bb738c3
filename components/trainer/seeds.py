"""The start of a training: what its seed and its precision set, and trainings from several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from components.artifacts import Artifact
from components.model_io import LoadedModel, ModelConfig, build_model, precision
from components.trainer.config import TrainerConfig, TrainingConfig
from components.trainer.imagination import imagination_of
from components.trainer.rewards import EstimatedRewards, estimated_rewards
from components.trainer.trainable import Trainable
from models.algorithms.base import Algorithm
from models.co_visitation import Neighbours
from models.frameworks import keras, tf
from models.learner import Learner


@contextmanager
def frameworks(config: TrainingConfig) -> Iterator[None]:
    """Seeds and precision for the time of the training; both are global in Keras."""
    keras.utils.set_random_seed(config.seed)
    # Generators whose state is a variable, so that checkpoints hold it and a resumed run draws the same dropout.
    keras.backend.experimental.enable_tf_random_generator()
    with precision(config.mixed_precision):
        yield


@dataclass(frozen=True)
class _Start:
    """Where the training from a seed begins: values of all variables, states of the generators."""

    variables: list[Any]
    generators: list[Any]


class SeedSeries:
    """One configuration trained from several seeds, one after the other, in the same compiled functions.

    Each training starts as it would in a process of its own: weights, moments and generators are those of its seed. Setting a
    seed makes TensorFlow forget every function it has compiled, so the starts of all seeds are made before the first training.

    Args:
        config: What is trained and how; its seed does not count.
        vocabulary: The items.
        examples: The trajectories.
        seeds: What is trained from; at least one.
        neighbours: Those of the items, for models that mix them in.
        reward_model: What `reward_trainer` made, for `reward.source: pretrained`.
        user_model: What `user_model_trainer` made, for `imagination`.
    """

    def __init__(
        self,
        config: TrainerConfig,
        vocabulary: pa.Table,
        examples: Artifact,
        seeds: Sequence[int],
        neighbours: Neighbours | None = None,
        reward_model: Artifact | None = None,
        user_model: Artifact | None = None,
    ):
        self._config = config
        self._neighbours = neighbours
        self._reward_model = reward_model
        self._vocabulary = vocabulary
        self._examples = examples
        max_steps = int(examples.properties["max_length"])
        self._model_config = ModelConfig(algorithm=config.algorithm, network=config.network, max_steps=max_steps)
        algorithm, rewards = self._build(seeds[0])
        self._starts = {seeds[0]: _start_of(algorithm, rewards)}
        for seed in seeds[1:]:
            self._starts[seed] = _start_of(*self._build(seed))
        self._imagination = imagination_of(config, algorithm, vocabulary, examples, user_model)
        model = LoadedModel(algorithm, self._model_config, self._vocabulary)
        self._trainable = Trainable(model, self._config, rewards, self._imagination)

    @contextmanager
    def training(self, seed: int) -> Iterator[Trainable]:
        """The model as it begins from one of the seeds, and the precision to train it in; what was yielded earlier is spent."""
        with precision(self._config.mixed_precision):
            for module, start in zip(self._trainable.modules().values(), self._starts[seed], strict=True):
                if isinstance(module, Learner):
                    module.reseed(seed)
                for variable, value in zip(module.variables, start.variables, strict=True):
                    variable.assign(value)
                for generator, state in zip(module.random_generators(), start.generators, strict=True):
                    generator.reset(state)
            if self._imagination is not None:
                self._imagination.reseed(seed)
            for optimizer in self._trainable.step.optimizers.values():
                for variable in optimizer.variables:
                    variable.assign(tf.zeros_like(variable))
            yield self._trainable

    def _build(self, seed: int) -> tuple[Algorithm, EstimatedRewards | None]:
        with frameworks(self._config.model_copy(update={"seed": seed})):
            algorithm = build_model(self._model_config, self._vocabulary, seed, self._neighbours)
            rewards = estimated_rewards(self._config.reward, algorithm, self._vocabulary, self._examples, seed, self._reward_model)
            return algorithm, rewards


def _start_of(algorithm: Algorithm, rewards: EstimatedRewards | None) -> list[_Start]:
    """Of the algorithm and of all that is trained beside it."""
    return [
        _Start(
            variables=[variable.numpy() for variable in module.variables],
            generators=[generator.state.numpy() for generator in module.random_generators()],
        )
        for module in (algorithm, *(rewards.modules().values() if rewards else ()))
    ]
