"""Training on estimated rewards: which estimator, and how its step and the algorithm's go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from components.artifacts import Artifact
from components.base import ComponentError
from components.judged_model import load_judged
from components.reward_io import REWARD_MODEL
from components.trainer.config import RewardSourceConfig
from components.trainer.step import StepResult, TrainStep
from models.algorithms.base import Algorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.module import Module
from models.rewards.base import RewardEstimator
from models.rewards.registry import create_estimator
from models.rewards.source import stabilised
from schemas.config import ConfigError

REWARD_LOSS = "reward_"
"""In front of the names of the estimator's losses."""


class EstimatedRewards:
    """An estimator whose expectations an algorithm learns from.

    Args:
        config: Whether it learns, too, and what it shares.
        estimator: The estimator.
        discount: Factor of one step in the trajectories' returns.
    """

    def __init__(self, config: RewardSourceConfig, estimator: RewardEstimator, discount: float):
        self._config = config
        self.estimator = estimator
        self._discount = discount

    @property
    def learns(self) -> bool:
        """True for an estimator that is trained beside the algorithm."""
        return self._config.source == "co_trained"

    def replaced(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        """See `stabilised`."""
        return stabilised(batch, self.estimator, self._discount)

    def held(self, algorithm: Algorithm) -> Sequence[tf.Variable]:
        """Variables of the algorithm that its own loss must not move.

        Leaving a table out of the algorithm's gradient is the same as stopping the gradient where it is read, wherever that is.
        """
        return [algorithm.encoder.embedding.table] if self._config.shares_embedding else []

    def modules(self) -> Mapping[str, Module]:
        """What training changes beside the algorithm."""
        return {"reward": self.estimator} if self.learns else {}

    def adapt(self, algorithm: Algorithm, batches: Iterable[TrajectoryBatch]) -> None:
        """See `Learner.adapt`. An estimator that has learned nothing yet says nothing of returns, so these are the logged ones then."""
        if self.learns:
            self.estimator.adapt(batches)
            algorithm.adapt(batches)
        else:
            algorithm.adapt(map(self.replaced, batches))

    def around(self, step: Any, make_optimizer: Callable[[float | None], Any]) -> StabilisedStep:
        """The algorithm's step, a `TrainStep` or what is called like one, with this in front of it."""
        own = TrainStep(self.estimator, lambda _: make_optimizer(self._config.learning_rate), xla=False) if self.learns else None
        return StabilisedStep(self, step, own)


class StabilisedStep:
    """One step: expect rewards, learn to expect them from those that were logged, let the algorithm learn from what was expected.

    Args:
        rewards: The estimator.
        of_algorithm: Step of the algorithm.
        of_estimator: Step of the estimator; None leaves it as it is.

    References:
        Zhang et al. (2023), arXiv 2308.13246, for the order: the expectation is made before the estimator has seen the batch.
    """

    def __init__(self, rewards: EstimatedRewards, of_algorithm: Any, of_estimator: TrainStep | None):
        self._replace = tf.function(rewards.replaced, autograph=False, reduce_retracing=True)
        self._of_algorithm = of_algorithm
        self._of_estimator = of_estimator

    @property
    def optimizers(self) -> dict[str, Any]:
        """Of both."""
        own = {f"{REWARD_LOSS}{name}": each for name, each in self._of_estimator.optimizers.items()} if self._of_estimator else {}
        return {**self._of_algorithm.optimizers, **own}

    def __call__(self, batch: TrajectoryBatch, step: int) -> StepResult:
        """See `TrainStep`."""
        expected = TrajectoryBatch(*self._replace(batch))
        supervised = self._of_estimator(batch, step)[0] if self._of_estimator else {}
        losses, health, targets = self._of_algorithm(expected, step)
        return {**losses, **{f"{REWARD_LOSS}{name}": value for name, value in supervised.items()}}, health, targets


def estimated_rewards(
    config: RewardSourceConfig, algorithm: Algorithm, vocabulary: Any, examples: Artifact, seed: int, model: Artifact | None = None
) -> EstimatedRewards | None:
    """Where the rewards of a training come from.

    Args:
        config: Which.
        algorithm: What learns from them; its variables exist.
        vocabulary: Its items.
        examples: The trajectories.
        seed: Seed of a new estimator.
        model: What `reward_trainer` made.

    Returns:
        None for the logs.

    Raises:
        ComponentError: There is no model, it may not be used, or it knows other items.
        ConfigError: The algorithm cannot share its item vectors.
    """
    if config.source == "logged":
        return None
    discount = float(examples.properties["discount"])
    if config.source == "pretrained":
        if model is None:
            raise ComponentError("trainer.reward.source: pretrained needs the model of reward_trainer, and there is none here")
        return EstimatedRewards(config, load_judged(REWARD_MODEL, model, vocabulary=vocabulary).model, discount)
    embedding = None
    if config.shares_embedding:
        if algorithm.transitions:
            raise ConfigError("trainer.reward.shares_embedding: mode: faithful has two networks with item vectors of their own")
        embedding = algorithm.encoder.embedding
    return EstimatedRewards(config, create_estimator(config.estimator, algorithm.catalogue, seed, embedding), discount)
