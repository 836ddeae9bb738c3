"""What the training loop asks of whatever is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from components.artifacts import Artifact
from components.base import Context
from components.trajectory_io import Window
from models.batch import TrajectoryBatch
from models.learner import Learner
from models.module import Module


class Trainee(Protocol):
    """A learner with all that is needed to train it: a policy or an estimator of rewards."""

    section: str
    """Section of the configuration, for messages."""

    @property
    def learner(self) -> Learner:
        """What is trained, whose best weights are kept."""

    @property
    def step(self) -> Any:
        """Called with a batch and the number of the step, as `TrainStep` is; has `optimizers`, too."""

    @property
    def context_steps(self) -> int:
        """Most events before a transition, for learners of single transitions."""

    def modules(self) -> Mapping[str, Module]:
        """Everything whose variables training changes, by name."""

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        """See `Learner.adapt`."""

    def window(self, relabelled: Artifact) -> Window | None:
        """How sessions with relabelled returns are cut; None leaves them whole."""

    def validate(self, examples: Artifact, context: Context) -> dict[str, float]:
        """Metrics after an epoch."""
