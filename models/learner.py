"""What can be trained: weights, a loss for every step of a trajectory, and the parts in which training goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.module import Module
from models.sampling import Seed


class StepLosses(NamedTuple):
    """Losses of a batch, before they are averaged.

    Attributes:
        parts: Name to [B, T] loss of every step, already weighted against each other.
        mask: [B, T] float32, 1 for the steps that count.
        health: Name to a scalar that tells how learning goes, without a part in the loss; see `models.losses.health`.
    """

    parts: Mapping[str, tf.Tensor]
    mask: tf.Tensor
    health: Mapping[str, tf.Tensor] = MappingProxyType({})

    def mean(self, name: str) -> tf.Tensor:
        """Average of one part over the steps that count."""
        return tf.reduce_sum(self.parts[name] * self.mask) / tf.maximum(tf.reduce_sum(self.mask), 1.0)


class EventShare(Module):
    """What a batch's mean loss is multiplied by, so that every event counts alike.

    Batches hold sessions of like lengths, and their losses are means: an event of a short session counts as much as several of a long one.
    Where what is learned hangs on the length, as the end of a session and its rewards do, what is expected would be of short sessions.

    Attributes:
        usual: [1] mean number of targets in a batch of the train split; 0 until that is known.
    """

    def __init__(self) -> None:
        self.usual = tf.Variable([0.0], dtype=tf.float32, trainable=False)

    def counting(self, batches: Iterable[TrajectoryBatch]) -> Iterator[TrajectoryBatch]:
        """The batches of the train split, whose targets are counted as they pass."""
        num_targets = num_batches = 0
        for batch in batches:
            num_targets, num_batches = num_targets + int(tf.math.count_nonzero(batch.is_target())), num_batches + 1
            yield batch
        self.usual.assign([num_targets / max(num_batches, 1)])

    def of(self, mask: tf.Tensor) -> tf.Tensor:
        """[] targets of a batch over those of a usual one; 1 where that is not known."""
        usual = self.usual[0]
        return tf.where(usual > 0.0, tf.math.divide_no_nan(tf.reduce_sum(mask), usual), 1.0)


class Phase(NamedTuple):
    """A part of the training with a step of its own.

    Attributes:
        name: Passed to `losses`.
        optimizer: Phases with the same name here share moments.
        learning_rate: In place of the trainer's.
    """

    name: str
    optimizer: str = "main"
    learning_rate: float | None = None


_WHOLE = Phase("")


class Learner(Module, ABC):
    """Base of everything that is trained on trajectories: policies and estimators of rewards.

    Args:
        max_steps: T, most events of a record.
        seed: Seed of everything that is drawn; it is drawn with `self._seed`, so that `reseed` reaches compiled functions.
    """

    transitions: ClassVar[bool] = False
    """True for a learner that is trained on single transitions, drawn one by one, and not on whole sessions."""

    def __init__(self, max_steps: int, seed: int):
        self._max_steps = max_steps
        self._seed = Seed(seed)

    def reseed(self, seed: int) -> None:
        """Draws as if built with another seed from now on; weights stay as they are."""
        self._seed.assign(seed)

    @abstractmethod
    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        """Losses of every step.

        Args:
            batch: The trajectories.
            step: int64 number of the training step; seeds what is drawn.
            training: True applies dropout.

        A learner with several phases also takes `phase`, the name of one.
        """

    def losses_of(self, phase: Phase, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        """Losses of a phase, whether the learner has several or one."""
        return self.losses(batch, step, training, **({"phase": phase.name} if phase.name else {}))

    def build(self) -> None:
        """Creates all variables, by one pass over a batch of nothing."""
        steps = min(2, self._max_steps)
        nothing = tf.zeros([1, steps], tf.int32)
        real = tf.zeros([1, steps], tf.float32)
        nobody = tf.zeros([1], tf.int64)
        batch = TrajectoryBatch(nothing, nothing, real, real, nothing[:, 0], nothing[:, 0], real[:, 0], nobody, nobody)
        for phase in self.phases:
            self.losses_of(phase, batch, tf.constant(0, tf.int64), training=False)
        self.after_build()

    def after_build(self) -> None:
        """Called once when all variables exist; target networks are set here."""

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        """Called once before the first training step, for what depends on the logs and no gradient moves.

        Args:
            batches: Trajectories of the train split; nothing is read unless they are iterated over.
        """

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Parts of the training; each is compiled by itself."""
        return (_WHOLE,)

    def phase(self, step: int) -> Phase:
        """The phase that a training step belongs to, one of `phases`."""
        return self.phases[0]

    def variables_of(self, phase: Phase) -> list[tf.Variable]:
        """What a phase trains."""
        return self.trainable_variables

    def after_update(self, step: tf.Tensor) -> None:
        """Called after every update of the weights; target networks move here."""
