"""The simulators once more, one session at a time and as plain as can be, to hold the fast ones against.

Each is written from the description of its world, not from the fast code, and shares nothing with it but the configuration and the
learned weights. Tests give both the same chance and want the same sessions.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from models.simulators.shop_simulator import ShopSimulatorConfig
from models.simulators.stitching import StitchingConfig
from models.simulators.virtual_taobao import Network, VirtualTaobaoConfig, VirtualTaobaoWeights


class ReferenceSession(Protocol):
    """One session of a world."""

    def begin(self, chance: Sequence[float]) -> None:
        """Forgets what was and begins anew."""

    def step(self, action: Any, chance: Sequence[float]) -> tuple[float, bool]:
        """Takes an action and returns its reward and whether the session is over."""

    def observe(self) -> Any:
        """What a policy sees, in the structure of the simulator's observation without B."""


class ReferenceShop:
    """A visit to the simulated shop."""

    def __init__(self, config: ShopSimulatorConfig):
        self._config = config.shop
        self._max_steps = config.max_steps
        self._history: list[int] = []
        self._last: int | None = None
        self._bought = False

    def begin(self, chance: Sequence[float]) -> None:
        self._history, self._last, self._bought = [], None, False

    def _is_bait(self, item: int) -> bool:
        return item >= self._config.num_items - self._config.num_baits

    def _appeal(self, item: int) -> float:
        rank = item // self._config.num_clusters
        return 0.4 + 0.6 / math.sqrt(1.0 + rank)

    def _click(self, item: int) -> float:
        c = self._config
        if item == self._last:
            return 0.0
        if self._is_bait(item):
            return c.click_bait
        if self._last is None or self._is_bait(self._last):
            return c.click_start * self._appeal(item)
        cluster, before = item % c.num_clusters, self._last % c.num_clusters
        if cluster == before:
            return c.click_same * self._appeal(item)
        if cluster == (before + 1) % c.num_clusters:
            return c.click_next * self._appeal(item)
        return c.click_other * self._appeal(item)

    def _buy(self, item: int) -> float:
        if item != self._last or self._bought or self._is_bait(item):
            return 0.0
        return self._config.buy_repeated * self._appeal(item)

    def step(self, action: Any, chance: Sequence[float]) -> tuple[float, bool]:
        item, c = int(action), self._config
        click, buy = self._click(item), self._buy(item)
        if chance[0] < click:
            reward, leave = 0.2, c.leave_after_bait if self._is_bait(item) else c.leave_after_click
            self._last, self._bought = item, False
            self._history.append(item + 1)
        elif chance[0] < click + buy:
            reward, leave = 1.0, c.leave_after_purchase
            self._last, self._bought = item, True
            self._history.append(item + 1)
        else:
            reward, leave = 0.0, c.leave_after_ignored
        return reward, chance[1] < leave

    def observe(self) -> dict[str, Any]:
        latest = self._history[-self._max_steps :]
        return {"item_history": latest + [0] * (self._max_steps - len(latest)), "length": len(latest)}


class ReferenceVirtualTaobao:
    """A customer of Virtual Taobao."""

    def __init__(self, config: VirtualTaobaoConfig, weights: VirtualTaobaoWeights):
        self._config = config
        self._weights = weights
        self._user = np.zeros(88)
        self._leave = self._page = self._clicks = self._browse = 0

    def begin(self, chance: Sequence[float]) -> None:
        logits = _network(self._weights.generator, np.array(chance[:128]))
        borders = [0, 8, 16, 27, 38, 49, 60, 62, 64, 67, 85, 88]
        self._user = np.zeros(88)
        for group in range(11):
            left, right = borders[group], borders[group + 1]
            self._user[left + _draw(_shares(logits[left:right]), chance[128 + group])] = 1.0
        self._leave = _draw(_shares(_network(self._weights.leave, self._user)), chance[139])
        self._page = self._clicks = self._browse = 0

    def step(self, action: Any, chance: Sequence[float]) -> tuple[float, bool]:
        logits = _network(self._weights.action, np.concatenate([self._user, [self._page], np.asarray(action, np.float64)]))
        clicks = _draw(_shares(logits[:11] / self._config.temperature), chance[0])
        self._browse = _draw(_shares(logits[11:]), chance[1])
        kept = self._config.kept_clicks
        binomial = [math.comb(clicks, k) * kept**k * (1.0 - kept) ** (clicks - k) for k in range(clicks + 1)]
        self._clicks = _draw(binomial, chance[2])
        self._page += 1
        return self._clicks / kept, self._page >= self._leave

    def observe(self) -> Any:
        return np.concatenate([self._user, [self._clicks, self._browse, self._page]])


def _network(layers: Network, inputs: Any) -> Any:
    values = inputs
    for layer in layers[:-1]:
        values = layer.weight @ values + layer.bias
        values = np.where(values > 0.0, values, 0.01 * values)
    return layers[-1].weight @ values + layers[-1].bias


def _shares(logits: Any) -> list[float]:
    greatest = max(logits)
    masses = [math.exp(logit - greatest) for logit in logits]
    return [mass / sum(masses) for mass in masses]


def _draw(shares: Sequence[float], u: float) -> int:
    running = 0.0
    for number, share in enumerate(shares):
        running += share
        if u < running:
            return number
    return len(shares) - 1


class ReferenceStitching:
    """A session of the two halves."""

    def __init__(self, config: StitchingConfig):
        self._config = config
        self._half, self._position, self._goes_well = 0, 0, True

    def begin(self, chance: Sequence[float]) -> None:
        self._half, self._position, self._goes_well = 0, 0, True

    def _state(self) -> int:
        steps = self._config.steps_per_half
        if self._half == 2:
            return 2 * (2 * steps - 1)
        place = self._position if self._goes_well else steps - 1 + self._position
        return self._half * (2 * steps - 1) + place

    def step(self, action: Any, chance: Sequence[float]) -> tuple[float, bool]:
        done = int(chance[1] * self._config.num_actions) if chance[0] < self._config.slip else int(action)
        self._goes_well = self._goes_well and done == self._state() % self._config.num_actions
        self._position += 1
        if self._position < self._config.steps_per_half:
            return 0.0, False
        earned = (self._config.first_reward, self._config.second_reward)[self._half] if self._goes_well else 0.0
        self._half, self._position, self._goes_well = self._half + 1, 0, True
        return earned, self._half == 2

    def observe(self) -> int:
        return self._state()


REFERENCES: dict[str, type[Any]] = {
    "session_shop": ReferenceShop,
    "virtual_taobao": ReferenceVirtualTaobao,
    "stitching": ReferenceStitching,
}
"""The reference of each simulator by its name; it is made of the same arguments."""
