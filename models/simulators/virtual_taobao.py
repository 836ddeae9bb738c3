"""Virtual Taobao: customers who were learned from a real shop answer to a ranker's weights, thousands at a time.

A customer is 11 categories. At every page the ranker sets 27 attribute weights; the customer clicks 0 to 10 items. How many pages a
customer looks at is decided when the session begins. Neither depends on what was shown before, so what an action does to the
future is nothing: the best action of a page is the one with the most clicks.

Everything is computed in float64: click logits go into the thousands, where float32 would let the answer of a session depend on
which others are computed beside it.

Deviations from the published environment, both for studies of noisy rewards and off by default: a temperature of the click logits,
and clicks that are lost by chance with the reward scaled so that its mean stays. When a session is over the last observation is
still that of its own customer.

References:
    Shi, Yu, Da, Chen & Zeng (2019), Virtual-Taobao: virtualizing real-world online retail environment for reinforcement learning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import comb
from typing import ClassVar, Literal

import numpy as np
import pydantic

from models.simulators.base import Array, Floats, Ints, Observation, Simulator, SimulatorConfig, Space, State, Step

GROUPS = (8, 8, 11, 11, 11, 11, 2, 2, 3, 18, 3)
"""Categories of each of the customer's features."""
STARTS = (0, *np.cumsum(GROUPS)[:-1].tolist())
NUM_USER, NUM_NOISE, NUM_WEIGHTS = sum(GROUPS), 128, 27
NUM_CLICKS, NUM_BROWSE, NUM_LEAVE = 11, 10, 101
"""Classes of clicks on a page, of the browse index, and of the number of pages after which a customer leaves."""
ITEMS_PER_PAGE = 10
WIDTHS = {
    "generator_model": (NUM_NOISE, 128, NUM_USER),
    "action_model": (NUM_USER + 1 + NUM_WEIGHTS, 128, 256, NUM_CLICKS + NUM_BROWSE),
    "leave_model": (NUM_USER, 128, 256, NUM_LEAVE),
}
"""Inputs, hidden units and outputs of each network."""
SLOPE = 0.01
"""Of the leaky rectifier below zero."""


@dataclass(frozen=True)
class Dense:
    """One layer.

    Attributes:
        weight: [out, in]
        bias: [out]
    """

    weight: Floats
    bias: Floats


Network = tuple[Dense, ...]


def network(name: str, arrays: Mapping[str, Array]) -> Network:
    """A network from its published arrays: `0.weight`, `0.bias`, `2.weight` and so on.

    Args:
        name: One of `WIDTHS`.
        arrays: The arrays by layer.

    Raises:
        ValueError: Layers are missing or unknown, a shape is another, or a value is not finite.
    """
    widths = WIDTHS[name]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= {f"{2 * layer}.weight": (outputs, inputs), f"{2 * layer}.bias": (outputs,)}
    if set(arrays) != set(shapes):
        raise ValueError(f"{name}: expected the layers {', '.join(sorted(shapes))}; found {', '.join(sorted(arrays)) or 'none'}")
    for layer_name, shape in shapes.items():
        found = arrays[layer_name]
        if found.shape != shape or found.dtype.kind != "f":
            raise ValueError(f"{name}: {layer_name}: expected floats of shape {list(shape)}, found {found.dtype} of {list(found.shape)}")
        if not np.isfinite(found).all():
            raise ValueError(f"{name}: {layer_name}: {int((~np.isfinite(found)).sum())} values are not finite")
    converted = {layer_name: arrays[layer_name].astype(np.float64) for layer_name in shapes}
    return tuple(Dense(converted[f"{2 * i}.weight"], converted[f"{2 * i}.bias"]) for i in range(len(widths) - 1))


@dataclass(frozen=True)
class VirtualTaobaoWeights:
    """What was learned.

    Attributes:
        generator: Noise [128] to the logits of a customer's categories [88].
        action: Customer, page index and ranker's weights [116] to the logits of clicks and browse index [21].
        leave: Customer [88] to the logits of the number of pages [101].
    """

    generator: Network
    action: Network
    leave: Network

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Mapping[str, Array]]) -> "VirtualTaobaoWeights":
        """The weights from the arrays of every network of `WIDTHS`; raises as `network` does."""
        return cls(*(network(name, arrays[name]) for name in WIDTHS))


class VirtualTaobaoConfig(SimulatorConfig):
    """The weights' folder and the noise of rewards."""

    name: Literal["virtual_taobao"] = "virtual_taobao"
    weights: str
    """Folder of `generator_model.npz`, `action_model.npz` and `leave_model.npz`; they are no part of longplay."""
    temperature: float = pydantic.Field(default=1.0, gt=0.0)
    """Divides the click logits. At 1 rewards are nearly deterministic, at 1,000 mostly noise."""
    kept_clicks: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Share of clicks that are counted, each by its own chance; the reward is divided by it, so that its mean stays."""


class VirtualTaobao(Simulator):
    """Customers of Virtual Taobao.

    Action: [B, 27] weights from -1 to 1. Observation: [B, 91] float32: the customer's 88 bits, clicks and browse index of the last
    page, pages so far. Reward: clicks on the page.
    """

    config_class: ClassVar[type[SimulatorConfig]] = VirtualTaobaoConfig
    num_begin_draws: ClassVar[int] = NUM_NOISE + len(GROUPS) + 1
    num_step_draws: ClassVar[int] = 3

    def __init__(self, config: VirtualTaobaoConfig, weights: VirtualTaobaoWeights):
        self.config = config
        self.weights = weights

    @property
    def action_space(self) -> Space:
        return Space("weights", (NUM_WEIGHTS,), np.float32, -1.0, 1.0)

    @property
    def observation_space(self) -> Space:
        high = np.concatenate([np.ones(NUM_USER), [NUM_CLICKS - 1, NUM_BROWSE - 1, NUM_LEAVE - 1]]).astype(np.float32)
        return Space("customer", (NUM_USER + 3,), np.float32, 0.0, high)

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return 0.0, (NUM_CLICKS - 1) / self.config.kept_clicks

    # === Probabilities ===

    def user_probabilities(self, noise: Floats) -> Floats:
        """[B, 88] probabilities of the categories, each group's sum to 1, from noise [B, 128]."""
        logits = _forward(self.weights.generator, noise)
        return np.concatenate([_softmax(logits[:, s : s + size]) for s, size in zip(STARTS, GROUPS, strict=True)], axis=1)

    def leave_probabilities(self, user: Ints) -> Floats:
        """[B, 101] probabilities of the number of pages; `user` [B, 11] holds the columns of the customers' bits."""
        first, *rest = self.weights.leave
        return _softmax(_forward(tuple(rest), _rectified(_sum_of_columns(first.weight, user) + first.bias)))

    def click_logits(self, user: Ints, page: Ints, action: Floats) -> Floats:
        """[B, 21] logits of clicks and browse index for customers [B, 11] at a page [B] under weights [B, 27]."""
        return self._logits(self.user_part(user), page, action)

    def click_probabilities(self, logits: Floats) -> Floats:
        """[B, 11] probabilities of clicks from `click_logits`."""
        return _softmax(logits[:, :NUM_CLICKS] / self.config.temperature)

    def expected_clicks(self, user: Ints, page: Ints, action: Floats) -> Floats:
        """[B] mean of the reward; arguments as in `click_logits`."""
        mean: Floats = self.click_probabilities(self.click_logits(user, page, action)) @ np.arange(NUM_CLICKS)
        return mean

    def user_part(self, user: Ints) -> Floats:
        """[B, 128] what a customer adds to the first layer; the same at every page."""
        first = self.weights.action[0]
        return _sum_of_columns(first.weight, user) + first.bias

    def _logits(self, user_part: Floats, page: Ints, action: Floats) -> Floats:
        first, *rest = self.weights.action
        hidden = np.concatenate([page[:, None], action], axis=1) @ first.weight[:, NUM_USER:].T
        hidden += user_part
        return _forward(tuple(rest), _rectified(hidden))

    # === Sessions ===

    def begin(self, chance: Floats) -> State:
        probabilities = self.user_probabilities(chance[:, :NUM_NOISE])
        user = np.stack(
            [
                start + _sample(probabilities[:, start : start + size], chance[:, NUM_NOISE + group])
                for group, (start, size) in enumerate(zip(STARTS, GROUPS, strict=True))
            ],
            axis=1,
        )
        nothing = np.zeros(len(chance), np.int64)
        return {
            "user": user,
            "user_part": self.user_part(user),
            "leave": _sample(self.leave_probabilities(user), chance[:, -1]),
            "page": nothing,
            "clicks": nothing.copy(),
            "browse": nothing.copy(),
        }

    def step(self, state: State, action: Array, chance: Floats) -> Step:
        logits = self._logits(state["user_part"], state["page"], action.astype(np.float64))
        clicked = _sample(self.click_probabilities(logits), chance[:, 0])
        browse = _sample(_softmax(logits[:, NUM_CLICKS:]), chance[:, 1])
        clicks = self._counted(clicked, chance[:, 2])
        page = state["page"] + 1
        following = {**state, "page": page, "clicks": clicks, "browse": browse}
        return Step(clicks / self.config.kept_clicks, page >= state["leave"], following)

    def observe(self, state: State) -> Observation:
        rows = len(state["page"])
        seen = np.zeros((rows, NUM_USER + 3), np.float32)
        seen[np.arange(rows)[:, None], state["user"]] = 1.0
        for place, name in enumerate(("clicks", "browse", "page")):
            seen[:, NUM_USER + place] = state[name]
        return seen

    def _counted(self, clicked: Ints, u: Floats) -> Ints:
        """How many of the clicks count, a binomial number from one draw."""
        if self.config.kept_clicks == 1.0:
            return clicked
        return np.minimum((u[:, None] >= self._counted_up_to[clicked]).sum(axis=1), clicked)

    @cached_property
    def _counted_up_to(self) -> Floats:
        """[11, 11] probability that of so many clicks at most so many count."""
        share = self.config.kept_clicks
        terms = [[comb(n, k) * share**k * (1.0 - share) ** (n - k) for k in range(NUM_CLICKS)] for n in range(NUM_CLICKS)]
        return np.cumsum(np.array(terms), axis=1)


def _rectified(values: Floats) -> Floats:
    """The leaky rectifier, in place."""
    return np.maximum(values, SLOPE * values, out=values)


def _forward(layers: Network, inputs: Floats) -> Floats:
    """A leaky rectifier after every layer but the last."""
    values = inputs
    for number, layer in enumerate(layers):
        values = values @ layer.weight.T
        values += layer.bias
        if number < len(layers) - 1:
            values = _rectified(values)
    return values


def _sum_of_columns(weight: Floats, columns: Ints) -> Floats:
    """[B, out] product of a weight [out, in] with inputs that are 1 at `columns` [B, n] and 0 elsewhere."""
    rows = np.ascontiguousarray(weight[:, :NUM_USER].T)
    total = rows[columns[:, 0]]
    for place in range(1, columns.shape[1]):
        total += rows[columns[:, place]]
    return total


def _softmax(logits: Floats) -> Floats:
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    values /= values.sum(axis=1, keepdims=True)
    return values


def _sample(probabilities: Floats, u: Floats) -> Ints:
    """[B] the first class whose running probability exceeds the draw."""
    running = np.cumsum(probabilities, axis=1)
    # A draw at the very top must not fall behind the last class.
    return np.minimum((u[:, None] >= running).sum(axis=1), probabilities.shape[1] - 1)
