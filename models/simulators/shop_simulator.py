"""The simulated shop as a simulator: an action shows an item, the reward is that of a click or a purchase.

A policy sees what stands in logs: the items that were clicked and bought, not those that were passed. A purchase repeats the item
that was clicked, so the last two items tell the state of the shop.
"""

from typing import ClassVar, Literal

import numpy as np
import pydantic

from models.simulators.base import Array, Floats, Observation, Simulator, SimulatorConfig, Space, State, Step
from models.simulators.session_shop import IGNORED, SessionShop, SessionShopConfig
from schemas.reward import CLICK, PURCHASE
from schemas.trajectory import PAD_ITEM_ID

ITEM_HISTORY, LENGTH = "item_history", "length"


class ShopSimulatorConfig(SimulatorConfig):
    """The shop, and how much of a session a policy sees."""

    name: Literal["session_shop"] = "session_shop"
    shop: SessionShopConfig = SessionShopConfig()
    """The shop itself."""
    max_steps: int = pydantic.Field(default=20, ge=2)
    """T, most items of a history; the last ones are kept."""


class ShopSimulator(Simulator):
    """Visits to the shop.

    Action: number of the item that is shown, 0..num_items-1. Observation: `item_history` [B, T] int32, item i as id i + 1, oldest
    first, padded on the right with 0; `length` [B] int32.
    """

    config_class: ClassVar[type[SimulatorConfig]] = ShopSimulatorConfig
    num_step_draws: ClassVar[int] = 2

    def __init__(self, config: ShopSimulatorConfig):
        self.config = config
        self.shop = SessionShop(config.shop)

    @property
    def action_space(self) -> Space:
        return Space("item", (), np.int32, 0, self.shop.num_items - 1)

    @property
    def observation_space(self) -> dict[str, Space]:
        return {
            ITEM_HISTORY: Space(ITEM_HISTORY, (self.config.max_steps,), np.int32, PAD_ITEM_ID, self.shop.num_items),
            LENGTH: Space(LENGTH, (), np.int32, 0, self.config.max_steps),
        }

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return 0.0, max(CLICK.reward, PURCHASE.reward)

    def begin(self, chance: Floats) -> State:
        rows = len(chance)
        return {
            "shop": np.zeros(rows, np.int64),
            ITEM_HISTORY: np.full((rows, self.config.max_steps), PAD_ITEM_ID, np.int32),
            LENGTH: np.zeros(rows, np.int32),
        }

    def step(self, state: State, action: Array, chance: Floats) -> Step:
        item = action.astype(np.int64)
        outcome, shop, left = self.shop.react(state["shop"], item, chance[:, 0], chance[:, 1])
        reward = np.choose(outcome, [0.0, CLICK.reward, PURCHASE.reward])
        history, length = state[ITEM_HISTORY].copy(), state[LENGTH].copy()
        logged = np.flatnonzero(outcome != IGNORED)
        full = logged[length[logged] == self.config.max_steps]
        history[full, :-1] = history[full, 1:]
        length[logged] = np.minimum(length[logged] + 1, self.config.max_steps)
        history[logged, length[logged] - 1] = item[logged] + 1
        return Step(reward, left, {"shop": shop, ITEM_HISTORY: history, LENGTH: length})

    def observe(self, state: State) -> Observation:
        return {ITEM_HISTORY: state[ITEM_HISTORY].copy(), LENGTH: state[LENGTH].copy()}
