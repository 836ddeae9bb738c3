"""Rolls any policy out in the simulated shop, thousands of visitors at a time, with the same chance for every policy.

The number that decides what happens to a session at a turn depends on the seed, the session and the turn alone. So two policies
that show the same item get the same answer, and their returns can be compared session by session (common random numbers).
"""

from __future__ import annotations

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
        reward: [B, L] what each item of the history brought, 0 behind the last.
    """

    session: Ints
    state: Ints
    history: Ints
    length: Ints
    uniform: Floats
    reward: Floats


Policy = Callable[[Visitors], Ints]
"""Chooses the item [B] that each visitor is shown."""


@dataclass(frozen=True)
class Histories:
    """The histories of B visitors as a recommender sees them, in ids of its own vocabulary.

    Attributes:
        item_id: [B, L] last items that were clicked and bought, oldest first, 0 behind the last; L is at least 1.
        length: [B] how many there are.
        reward: [B, L] what each of them brought, 0 behind the last.
        earlier_reward: [B] what the items before them brought that did not fit.
        uniform: [B] a number in [0, 1) for recommenders that draw.
    """

    item_id: Ints
    length: Ints
    reward: Floats
    earlier_reward: Floats
    uniform: Floats

    def __len__(self) -> int:
        return len(self.length)

    def rows(self, rows: slice) -> Histories:
        """Some of the visitors."""
        return Histories(self.item_id[rows], self.length[rows], self.reward[rows], self.earlier_reward[rows], self.uniform[rows])


Recommend = Callable[[Histories], Ints]
"""Chooses the id [B] that each visitor is shown."""


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
    earned = np.zeros((num_sessions, 8))
    alive, state = np.arange(num_sessions), np.zeros(num_sessions, np.int64)
    turn, factor = 0, 1.0
    while len(alive) and (max_turns is None or turn < max_turns):
        # For all sessions, also those that are over: what is drawn for one must not depend on the others.
        chance = np.random.default_rng([seed, turn]).random((num_sessions, 3))[alive]
        longest = int(length[alive].max())
        item = policy(Visitors(alive, state, history[alive, :longest], length[alive], chance[:, 0], earned[alive, :longest]))
        outcome, state, left = shop.react(state, item, chance[:, 1], chance[:, 2])
        reward = np.choose(outcome, [0.0, CLICK.reward, PURCHASE.reward])
        returns[alive] += factor * reward
        if longest == history.shape[1]:
            history = np.concatenate([history, np.full_like(history, NO_ITEM)], axis=1)
            earned = np.concatenate([earned, np.zeros_like(earned)], axis=1)
        is_logged = outcome != IGNORED
        logged = alive[is_logged]
        history[logged, length[logged]] = item[is_logged]
        earned[logged, length[logged]] = reward[is_logged]
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
    same again. One that draws may say something else, so it is asked every time.

    Args:
        shop: The shop.
        items: Name of the item with id i + 1, for all ids of the vocabulary.
        recommend: From histories to the ids to show.
        num_sessions: S, of the roll-out.
        max_steps: Most items of a history that `recommend` takes; the last ones count.
        draws: True where `recommend` looks at `uniform`.

    Raises:
        ValueError: An item of the vocabulary is not one of the shop's.
    """

    def __init__(
        self, shop: SessionShop, items: Sequence[str], recommend: Recommend, num_sessions: int, max_steps: int, draws: bool = False
    ):
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
        self._draws = draws
        self._shown = np.full(num_sessions, NO_ITEM)
        self._length = np.full(num_sessions, -1)

    def __call__(self, visitors: Visitors) -> Ints:
        asked = self._draws | (visitors.length != self._length[visitors.session])
        if asked.any():
            session = visitors.session[asked]
            self._shown[session] = self._to_shop[self._recommend(self._latest(visitors, asked))]
            self._length[session] = visitors.length[asked]
        return self._shown[visitors.session]

    def _latest(self, visitors: Visitors, rows: npt.NDArray[np.bool_]) -> Histories:
        """The last items of some visitors, moved to the left."""
        history, length, reward = self._to_id[visitors.history[rows]], visitors.length[rows], visitors.reward[rows]
        kept = np.minimum(length, self._max_steps)
        width = max(1, int(kept.max()))
        if not history.shape[1]:
            nothing = np.zeros((len(kept), width))
            return Histories(nothing.astype(np.int64), kept, nothing, nothing[:, 0], visitors.uniform[rows])
        place = np.arange(width)[None, :]
        column = np.minimum((length - kept)[:, None] + place, history.shape[1] - 1)
        inside = place < kept[:, None]
        latest = np.where(inside, np.take_along_axis(reward, column, axis=1), 0.0)
        is_earlier = np.arange(history.shape[1])[None, :] < (length - kept)[:, None]
        return Histories(
            item_id=np.where(inside, np.take_along_axis(history, column, axis=1), PAD_ITEM_ID),
            length=kept,
            reward=latest,
            earlier_reward=np.where(is_earlier, reward, 0.0).sum(axis=1),
            uniform=visitors.uniform[rows],
        )


def exact_returns(shop: SessionShop, discount: float = 1.0) -> dict[str, float]:
    """Exact return of a session under the policy that made the logs, the greedy one and the best there is."""
    return {
        "logging": float(shop.value(shop.logging_policy(), discount)[0]),
        "greedy": float(shop.value(shop.optimal_policy(0.0), discount)[0]),
        "optimal": float(shop.value(shop.optimal_policy(discount), discount)[0]),
    }
