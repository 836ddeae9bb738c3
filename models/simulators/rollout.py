"""Rolls any policy out in the simulated shop, thousands of visitors at a time, with the same chance for every policy.

The number that decides what happens to a session at a turn depends on the seed, the session and the turn alone. So two policies
that show the same item get the same answer, and their returns can be compared session by session (common random numbers).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.simulators.session_shop import IGNORED, SessionShop
from schemas.reward import CLICK, PURCHASE
from schemas.trajectory import PAD_ITEM_ID

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_ITEM = -1


@dataclass(frozen=True)
class Visitors:
    """The B visitors who are still there, as a policy sees them.

    Attributes:
        session: [B] number of each one's session.
        state: [B] state of the shop; see `SessionShop`.
        history: [B, L] items clicked and bought so far, oldest first, `NO_ITEM` behind the last. Passed items are not in it, as
            they are in no log.
        length: [B] how many there are.
        uniform: [B] a number in [0, 1) for policies that draw.
    """

    session: Ints
    state: Ints
    history: Ints
    length: Ints
    uniform: Floats


Policy = Callable[[Visitors], Ints]
"""Chooses the item [B] that each visitor is shown."""


@dataclass(frozen=True)
class Rollout:
    """What became of S sessions.

    Attributes:
        returns: [S] discounted sum of rewards.
        turns: [S] items shown.
        is_cut: [S] True where the visitor was still there at the last turn that was played.
    """

    returns: Floats
    turns: Ints
    is_cut: npt.NDArray[np.bool_]


def roll_out(
    shop: SessionShop, policy: Policy, num_sessions: int, seed: int, discount: float = 1.0, max_turns: int | None = None
) -> Rollout:
    """Plays a policy until every visitor has left.

    Args:
        shop: The shop.
        policy: What is shown.
        num_sessions: S.
        seed: Seed of everything that chance decides.
        discount: Factor of one item shown.
        max_turns: Most items shown in a session; None plays on.

    Returns:
        Returns and lengths of the sessions.
    """
    returns, turns = np.zeros(num_sessions), np.zeros(num_sessions, np.int64)
    history, length = np.full((num_sessions, 8), NO_ITEM), np.zeros(num_sessions, np.int64)
    alive, state = np.arange(num_sessions), np.zeros(num_sessions, np.int64)
    turn, factor = 0, 1.0
    while len(alive) and (max_turns is None or turn < max_turns):
        # For all sessions, also those that are over: what is drawn for one must not depend on the others.
        chance = np.random.default_rng([seed, turn]).random((num_sessions, 3))[alive]
        longest = int(length[alive].max())
        item = policy(Visitors(alive, state, history[alive, :longest], length[alive], chance[:, 0]))
        outcome, state, left = shop.react(state, item, chance[:, 1], chance[:, 2])
        returns[alive] += factor * np.choose(outcome, [0.0, CLICK.reward, PURCHASE.reward])
        if longest == history.shape[1]:
            history = np.concatenate([history, np.full_like(history, NO_ITEM)], axis=1)
        logged = alive[outcome != IGNORED]
        history[logged, length[logged]] = item[outcome != IGNORED]
        length[logged] += 1
        turns[alive] += 1
        factor *= discount
        turn += 1
        alive, state = alive[~left], state[~left]
    return Rollout(returns, turns, np.isin(np.arange(num_sessions), alive))


def tabular(policy: Floats) -> Policy:
    """A policy on the shop's own states, [states, items] probabilities, that draws what it shows."""
    running = np.cumsum(policy, axis=1)

    def show(visitors: Visitors) -> Ints:
        rows = running[visitors.state]
        # A draw at the very top must not fall behind the last item.
        return np.minimum((rows <= visitors.uniform[:, None] * rows[:, -1:]).sum(axis=1), policy.shape[1] - 1)

    return show


class HistoryPolicy:
    """A recommender that knows nothing but a session's history, in ids of its own vocabulary.

    It is asked again only when a history has grown: a visitor who passes is shown the same item, as the recommender would say the
    same again.

    Args:
        shop: The shop.
        items: Name of the item with id i + 1, for all ids of the vocabulary.
        recommend: From histories [B, L] of ids, 0 behind the last, and their lengths [B] to the ids [B] to show. L is at least 1.
        num_sessions: S, of the roll-out.
        max_steps: Most items of a history that `recommend` takes; the last ones count.

    Raises:
        ValueError: An item of the vocabulary is not one of the shop's.
    """

    def __init__(self, shop: SessionShop, items: Sequence[str], recommend: Callable[[Ints, Ints], Ints], num_sessions: int, max_steps: int):
        number = {name: place for place, name in enumerate(shop.item_names)}
        strange = [name for name in items if name not in number]
        if strange:
            raise ValueError(f"{len(strange):,} items of the vocabulary are not in the shop, such as {strange[0]!r}")
        self._to_shop = np.array([NO_ITEM, *(number[name] for name in items)])
        # Items that were never logged are unknown to the recommender; the place behind the last item is that of NO_ITEM.
        self._to_id = np.full(shop.num_items + 1, len(items) + 1)
        self._to_id[self._to_shop[1:]] = np.arange(1, len(items) + 1)
        self._to_id[NO_ITEM] = PAD_ITEM_ID
        self._recommend = recommend
        self._max_steps = max_steps
        self._shown = np.full(num_sessions, NO_ITEM)
        self._length = np.full(num_sessions, -1)

    def __call__(self, visitors: Visitors) -> Ints:
        grown = visitors.length != self._length[visitors.session]
        if grown.any():
            history, length = self._latest(self._to_id[visitors.history[grown]], visitors.length[grown])
            session = visitors.session[grown]
            self._shown[session] = self._to_shop[self._recommend(history, length)]
            self._length[session] = visitors.length[grown]
        return self._shown[visitors.session]

    def _latest(self, history: Ints, length: Ints) -> tuple[Ints, Ints]:
        """The last items of each row, moved to the left, and how many there are."""
        kept = np.minimum(length, self._max_steps)
        width = max(1, int(kept.max()))
        if not history.shape[1]:
            return np.zeros((len(history), width), np.int64), kept
        place = np.arange(width)[None, :]
        column = np.minimum((length - kept)[:, None] + place, history.shape[1] - 1)
        return np.where(place < kept[:, None], np.take_along_axis(history, column, axis=1), PAD_ITEM_ID), kept


def exact_returns(shop: SessionShop, discount: float = 1.0) -> dict[str, float]:
    """Exact return of a session under the policy that made the logs, the greedy one and the best there is."""
    return {
        "logging": float(shop.value(shop.logging_policy(), discount)[0]),
        "greedy": float(shop.value(shop.optimal_policy(0.0), discount)[0]),
        "optimal": float(shop.value(shop.optimal_policy(discount), discount)[0]),
    }
