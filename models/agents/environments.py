"""Simulators as TF-Agents environments: B sessions a step, in Python or inside a graph."""

from typing import Any

import numpy as np
import numpy.typing as npt
from tf_agents.environments import py_environment, tf_py_environment
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from models.simulators.base import Sessions, Simulator, Space


class SessionEnvironment(py_environment.PyEnvironment):
    """B sessions of a simulator, each followed by a new one when it is over.

    As TF-Agents wants it, the step after a row's last one ignores the action and returns the first step of the row's next session,
    with reward 0 and discount 1. The discount is 0 where a session has ended, and 1 where it was only cut off.

    Args:
        simulator: The world.
        batch_size: B.
        seed: Seed of all chance. The same seed and actions give the same sessions.
        max_turns: Steps after which a session is cut off; None lets every one end by itself.
    """

    def __init__(self, simulator: Simulator, batch_size: int, seed: int, max_turns: int | None = None):
        super().__init__(handle_auto_reset=False)
        self.simulator = simulator
        self._batch_size = batch_size
        self._max_turns = max_turns
        self._observation_spec = as_specs(simulator.observation_space)
        self._action_spec = as_specs(simulator.action_space)
        self.seed(seed)

    @property
    def batched(self) -> bool:
        return True

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def observation_spec(self) -> Any:
        return self._observation_spec

    def action_spec(self) -> Any:
        return self._action_spec

    @property
    def num_begun(self) -> int:
        """Sessions that have begun: those finished, those that `reset` broke off and those that are still going on."""
        return self._sessions.num_begun

    @property
    def num_finished(self) -> int:
        """Sessions that have ended or were cut off at the last turn."""
        return self._sessions.num_finished

    @property
    def num_abandoned(self) -> int:
        """Sessions that `reset` broke off."""
        return self._sessions.num_abandoned

    def seed(self, seed: int) -> None:
        """Starts all over with a seed; the next step is the first one of session 0 in row 0."""
        self._sessions = Sessions(self.simulator, self._batch_size, seed, self._max_turns)
        self._is_fresh = True
        self._current_time_step = None

    def get_state(self) -> dict[str, Any]:
        """All that changes, for `set_state` of an environment that was made alike."""
        return {"sessions": self._sessions.get_state(), "is_fresh": self._is_fresh, "time_step": self._current_time_step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._sessions.set_state(state["sessions"])
        self._is_fresh = state["is_fresh"]
        self._current_time_step = state["time_step"]

    def _reset(self) -> ts.TimeStep:
        # The sessions of a new environment have begun already.
        if not self._is_fresh:
            self._sessions.restart()
        self._is_fresh = False
        return ts.restart(self._sessions.observe(), batch_size=self._batch_size)

    def _step(self, action: npt.NDArray[Any]) -> ts.TimeStep:
        moved = self._sessions.step(np.asarray(action))
        step_type = np.where(moved.is_first, ts.StepType.FIRST, np.where(moved.is_last, ts.StepType.LAST, ts.StepType.MID))
        has_ended = moved.is_last & ~moved.is_cut
        return ts.TimeStep(
            step_type=step_type.astype(np.int32),
            reward=moved.reward.astype(np.float32),
            discount=np.where(has_ended, 0.0, 1.0).astype(np.float32),
            observation=self._sessions.observe(),
        )


def graph_environment(environment: SessionEnvironment) -> tf_py_environment.TFPyEnvironment:
    """The environment with tensors in and out, for drivers and agents."""
    return tf_py_environment.TFPyEnvironment(environment, check_dims=True)


def as_specs(space: Space | dict[str, Space]) -> Any:
    """The bounded array specs of a space, in its structure."""
    if isinstance(space, dict):
        return {name: as_specs(part) for name, part in space.items()}
    # Sampling from a spec, by which TF-Agents builds networks, fails where the bounds have two shapes.
    low, high = np.broadcast_arrays(space.low, space.high)
    return array_spec.BoundedArraySpec(space.shape, space.dtype, minimum=low, maximum=high, name=space.name)
