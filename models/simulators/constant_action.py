"""The best constant action of Virtual Taobao: the control beside which every result on it is to be shown.

One vector of weights for all customers and pages gets nearly all the clicks there are, more than published policies do, because the
click logits are so steep a function of the action. The search knows the simulator, which no learner does; but a learner below it
has not shown that it learned what customers differ in.
"""

from dataclasses import dataclass

import numpy as np

from models.simulators.base import Floats, Ints
from models.simulators.chance import BEGIN, POLICY, Chance
from models.simulators.virtual_taobao import ITEMS_PER_PAGE, NUM_CLICKS, NUM_USER, NUM_WEIGHTS, SLOPE, VirtualTaobao

PAGES_PER_STEP = 256
"""Of which a gradient is the mean."""


@dataclass(frozen=True)
class ConstantAction:
    """What the search found.

    Attributes:
        action: [27]
        click_rate: Exact mean of clicks over items shown, pooled over the pages of customers that the search did not see.
    """

    action: Floats
    click_rate: float


def best_constant_action(
    simulator: VirtualTaobao, seed: int = 0, num_sessions: int = 500, num_starts: int = 4, num_steps: int = 200
) -> ConstantAction:
    """Ascends the mean of clicks by the sign of its gradient, from several starts.

    The temperature of the clicks falls from thousands to the simulator's own, because the gradient of saturated probabilities says
    nothing, and the size of a step falls with it.

    Args:
        simulator: The customers.
        seed: Seed of customers and starts.
        num_sessions: Customers of the search, and as many others of the final figure.
        num_starts: The first starts at zero, the others anywhere.
        num_steps: Steps from each start.
    """
    seen, unseen = (_pages(simulator, np.arange(half * num_sessions, (half + 1) * num_sessions), seed) for half in (0, 1))
    starts = 2.0 * Chance(seed).uniform(POLICY, np.arange(num_starts), 0, NUM_WEIGHTS) - 1.0
    starts[0] = 0.0
    found = [_ascend(simulator, start, seen, num_steps, np.random.default_rng([seed, number])) for number, start in enumerate(starts)]
    best = max(found, key=lambda action: click_rate(simulator, action, seen))
    return ConstantAction(best, click_rate(simulator, best, unseen))


def click_rate(simulator: VirtualTaobao, action: Floats, pages: tuple[Ints, Ints]) -> float:
    """Exact mean of clicks over items shown, for customers [M, 11] at pages [M]."""
    user, page = pages
    return float(simulator.expected_clicks(user, page, np.broadcast_to(action, (len(page), NUM_WEIGHTS))).mean() / ITEMS_PER_PAGE)


def _pages(simulator: VirtualTaobao, session: Ints, seed: int) -> tuple[Ints, Ints]:
    """Every page of some sessions, which no action makes longer or shorter: customers [M, 11] and page indices [M]."""
    state = simulator.begin(Chance(seed).uniform(BEGIN, session, 0, simulator.num_begin_draws))
    count = np.maximum(state["leave"], 1)
    row = np.repeat(np.arange(len(session)), count)
    return state["user"][row], np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)


def _ascend(simulator: VirtualTaobao, start: Floats, pages: tuple[Ints, Ints], num_steps: int, rng: np.random.Generator) -> Floats:
    action, own = start.copy(), simulator.config.temperature
    hottest = max(3000.0, own)
    for step in range(num_steps):
        progress = step / num_steps
        some = rng.integers(0, len(pages[1]), PAGES_PER_STEP)
        gradient = _gradient(simulator, action, (pages[0][some], pages[1][some]), hottest ** (1.0 - progress) * own**progress)
        action = np.clip(action + 0.2 * (1.0 - progress) * np.sign(gradient), -1.0, 1.0)
    return action


def _gradient(simulator: VirtualTaobao, action: Floats, pages: tuple[Ints, Ints], temperature: float) -> Floats:
    """[27] gradient of the mean of clicks at a temperature by a constant action."""
    user, page = pages
    first, second, third = simulator.weights.action
    inputs = simulator.user_part(user) + page[:, None] * first.weight[:, NUM_USER] + first.weight[:, NUM_USER + 1 :] @ action
    hidden = np.maximum(inputs, SLOPE * inputs) @ second.weight.T + second.bias
    logits = np.maximum(hidden, SLOPE * hidden) @ third.weight[:NUM_CLICKS].T + third.bias[:NUM_CLICKS]
    shares = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    clicks = np.arange(NUM_CLICKS)
    # Of sum_k k p_k by the logits: p_k (k - mean) / temperature.
    by_logits = shares * (clicks - (shares @ clicks)[:, None]) / temperature
    by_hidden = (by_logits @ third.weight[:NUM_CLICKS]) * np.where(hidden > 0.0, 1.0, SLOPE)
    by_inputs = (by_hidden @ second.weight) * np.where(inputs > 0.0, 1.0, SLOPE)
    gradient: Floats = by_inputs.mean(axis=0) @ first.weight[:, NUM_USER + 1 :]
    return gradient
