"""A world of users learned from logs: every item shown is an event, and what it earns is what a plan is made for.

It looks like the simulated shop, so whatever acts there acts here. What a policy earns here is what the model promises, which may be
far from what it would earn: a policy that was trained here finds where the model is wrong. `predicted` beside a true return says how far.

References:
    Gao et al. (2023), EasyRL4Rec, for sessions in a learned user model, one item a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from models.frameworks import tf
from models.simulators.base import Array, Floats, Observation, Simulator, SimulatorConfig, Space, State, Step
from models.simulators.shop_simulator import ITEM_HISTORY, LENGTH
from models.user_model.imagination import check_variant
from models.user_model.model import Situation, UserModel
from models.user_model.planning import PlanningConfig, planned_reward_in
from schemas.trajectory import PAD_ITEM_ID

FEEDBACK = "feedback"
_CHUNK = 4096


class LearnedUserConfig(SimulatorConfig):
    """What is earned in the learned world."""

    name: Literal["learned_user"] = "learned_user"
    planning: PlanningConfig = PlanningConfig(variant="mbpo")
    """The reward."""
    top: int = pydantic.Field(default=100, ge=1)
    """Items that the behaviour's entropy is taken over."""


class LearnedUser(Simulator):
    """Sessions of a user model.

    Action: an item, id i + 1 as i. Observation: as of the simulated shop. A session begins with nothing, or as one of the starts does,
    and ends by the chance that the model gives it.

    Args:
        config: What is earned.
        model: The user model.
        starts: [S, T] item ids of logged sessions' beginnings, 0 behind the last; None begins with nothing.
        item_names: Names of the items 1..N-1, for worlds that are asked by name.

    Raises:
        ValueError: The variant `ips` is planned with a model that was not debiased.
    """

    config_class: ClassVar[type[SimulatorConfig]] = LearnedUserConfig
    num_begin_draws: ClassVar[int] = 1
    num_step_draws: ClassVar[int] = 1

    def __init__(
        self,
        config: LearnedUserConfig,
        model: UserModel,
        starts: npt.NDArray[np.int32] | None = None,
        item_names: Sequence[str] | None = None,
    ):
        check_variant(config.planning, model)
        self.config = config
        self.model = model
        self.item_names = item_names
        steps = model.catalogue.max_steps
        self._starts = np.zeros((1, steps), np.int32)
        if starts is not None and len(starts):
            self._starts = np.zeros((len(starts), steps), np.int32)
            self._starts[:, : starts.shape[1]] = starts[:, :steps]
        self._answer = tf.function(self._answered, autograph=False, reduce_retracing=True)

    @property
    def action_space(self) -> Space:
        return Space("item", (), np.int32, 0, self.model.catalogue.num_items - 2)

    @property
    def observation_space(self) -> dict[str, Space]:
        catalogue = self.model.catalogue
        return {
            ITEM_HISTORY: Space(ITEM_HISTORY, (catalogue.max_steps,), np.int32, PAD_ITEM_ID, catalogue.num_items),
            LENGTH: Space(LENGTH, (), np.int32, 0, catalogue.max_steps),
        }

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return -np.inf, np.inf

    def begin(self, chance: Floats) -> State:
        row = np.minimum((chance[:, 0] * len(self._starts)).astype(np.int64), len(self._starts) - 1)
        history = self._starts[row]
        length = (history != PAD_ITEM_ID).sum(axis=1).astype(np.int32)
        return {ITEM_HISTORY: history, FEEDBACK: np.zeros_like(history), LENGTH: length}

    def step(self, state: State, action: Array, chance: Floats) -> Step:
        history, feedback, length = state[ITEM_HISTORY], state[FEEDBACK], state[LENGTH]
        item = action.astype(np.int32) + 1
        reward, role, leaving = self._ask(history, feedback, length, item)
        history, feedback, length = history.copy(), feedback.copy(), length.copy()
        full = length == history.shape[1]
        for kept in (history, feedback):
            kept[full, :-1] = kept[full, 1:]
        length = np.minimum(length + 1, history.shape[1]).astype(np.int32)
        rows = np.arange(len(item))
        history[rows, length - 1], feedback[rows, length - 1] = item, role
        return Step(reward.astype(np.float64), chance[:, 0] < leaving, {ITEM_HISTORY: history, FEEDBACK: feedback, LENGTH: length})

    def observe(self, state: State) -> Observation:
        return {ITEM_HISTORY: state[ITEM_HISTORY].copy(), LENGTH: state[LENGTH].copy()}

    def _ask(self, history: Array, feedback: Array, length: Array, item: Array) -> tuple[Array, Array, Array]:
        found: list[Any] = []
        for start in range(0, len(item), _CHUNK):
            rows = slice(start, start + _CHUNK)
            found.append(
                [np.asarray(part) for part in self._answer(*(tf.constant(part[rows]) for part in (history, feedback, length, item)))]
            )
        reward, role, leaving = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return reward, role, leaving

    def _answered(self, history: tf.Tensor, feedback: tf.Tensor, length: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        situation = Situation(history, feedback, length)
        answer = self.model.answer(situation, item)
        reward = planned_reward_in(self.model, situation, answer.reward, self.config.planning, self.config.top)
        return reward, answer.feedback, answer.leaving
