"""A simulator as a recommender meets it: items of a vocabulary are shown, and a log is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.simulators.base import Bools, Floats, Simulator
from models.simulators.shop_simulator import ShopSimulator

Ints = npt.NDArray[np.int64]


class ItemWorld:
    """Which action shows an item, and what a log would hold of it.

    In the shop an item that is passed is in no log, and so in no history that a policy sees when it serves. Elsewhere every action is
    an event: in `stitching` the actions so far are the state.

    Args:
        simulator: The world; its actions are numbers.
        items: Names of the vocabulary's items; the one at place i has id i + 1. Simulators whose items have no names (`item_names`)
            call them by their numbers.

    Raises:
        ValueError: Actions are no items, or an item of the vocabulary is not in the simulator.
    """

    def __init__(self, simulator: Simulator, items: Sequence[str]):
        space = simulator.action_space
        if space.dtype is not np.int32 or space.shape:
            raise ValueError(f"its actions are {space.name} of shape {list(space.shape)}, not items")
        self.simulator = simulator
        self.num_items = len(items)
        self._logs_passes = not isinstance(simulator, ShopSimulator)
        named = simulator.shop.item_names if isinstance(simulator, ShopSimulator) else getattr(simulator, "item_names", None)
        names = named or [str(n) for n in range(int(space.high) + 1)]
        number = {name: place for place, name in enumerate(names)}
        strange = [name for name in items if name not in number]
        if strange:
            raise ValueError(f"{len(strange):,} items of the vocabulary are not in it, such as {strange[0]!r}; it has {names[0]!r}")
        self._action = np.array([number[name] for name in items], np.int32)

    def actions(self, item_id: Ints) -> npt.NDArray[np.int32]:
        """[M] actions that show items, 1..N-1."""
        return self._action[item_id - 1]

    def is_event(self, reward: Floats) -> Bools:
        """[M] True where a log would hold an event with this reward."""
        return np.ones(len(reward), np.bool_) if self._logs_passes else reward > 0.0
