"""Thousands of sessions of a recommender in a simulator, kept as a log would keep them.

TF-Agents' drivers are not used here: they ask a policy at every step of every row, and begin a row's next session at once. A decision
transformer is asked only where something has happened, from what it keeps of the session, and the policy must not change while a
session goes on. Drivers and environments (`models.agents.environments`) are for TF-Agents' own agents.

What happens in a session depends on the seed, the number of the session and what it is shown. So the number of the next session is all
that a simulator has to remember, and two policies that play the same numbers meet the same chance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.online.buffer import Sessions, hindsight_returns
from models.online.recommenders import Exploration, Recommender
from models.online.world import ItemWorld
from models.simulators.chance import BEGIN, POLICY, STEP, Chance
from schemas.reward import PURCHASE
from schemas.trajectory import FEEDBACK, IS_TERMINAL, ITEM_ID, NUM_CONTEXT, RETURN_TO_GO, REWARD, SESSION_ID

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PASSED_ITEM, PASSED_AT = "passed_item", "passed_at"
"""Facts of a session: the items [S, P] that were shown and are no events, 0 for none, and how many events [S, P] came before each."""

MAX_PASSED = 32
"""P: later ones are not kept."""


class Played(NamedTuple):
    """What came of S sessions.

    Attributes:
        sessions: Their events, with the returns that really came.
        returns: [S] undiscounted sum of rewards.
        num_shown: [S] items shown.
        num_earning: [S] items with a reward.
        is_cut: [S] True where the session might have gone on.
        shown: [N] how often each item was shown, by id.
    """

    sessions: Sessions
    returns: Floats
    num_shown: Ints
    num_earning: Ints
    is_cut: npt.NDArray[np.bool_]
    shown: Ints

    def mean_return(self) -> tuple[float, float]:
        """Mean return of a session and its standard error."""
        return float(self.returns.mean()), float(self.returns.std(ddof=1)) / len(self.returns) ** 0.5

    def click_rate(self) -> tuple[float, float]:
        """Share of the items shown that earned something, and its standard error over sessions (delta method)."""
        rate = float(self.num_earning.sum() / max(1, self.num_shown.sum()))
        rest = self.num_earning - rate * self.num_shown
        return rate, float(rest.std(ddof=1)) / len(rest) ** 0.5 / max(1e-12, float(self.num_shown.mean()))

    def entropy_shown(self) -> float:
        """Entropy in nats of what was shown to anybody."""
        share = self.shown[self.shown > 0] / max(1, self.shown.sum())
        return float(-(share * np.log(share)).sum())


class _Log:
    """What is written down of S sessions of at most T events."""

    def __init__(self, num_sessions: int, max_steps: int):
        self.item_id = np.zeros((num_sessions, max_steps), np.int32)
        self.reward = np.zeros((num_sessions, max_steps), np.float32)
        self.length = np.zeros(num_sessions, np.int64)
        self.passed_item = np.zeros((num_sessions, MAX_PASSED), np.int32)
        self.passed_at = np.zeros((num_sessions, MAX_PASSED), np.int32)
        self.num_passed = np.zeros(num_sessions, np.int64)

    def add_events(self, rows: Ints, item: Ints, reward: Floats) -> None:
        self.item_id[rows, self.length[rows]] = item
        self.reward[rows, self.length[rows]] = reward
        self.length[rows] += 1

    def add_passed(self, rows: Ints, item: Ints) -> None:
        room = self.num_passed[rows] < MAX_PASSED
        rows, item = rows[room], item[room]
        self.passed_item[rows, self.num_passed[rows]] = item
        self.passed_at[rows, self.num_passed[rows]] = self.length[rows]
        self.num_passed[rows] += 1

    def sessions(self, number: Ints, is_cut: npt.NDArray[np.bool_], discount: float) -> Sessions:
        steps = {
            ITEM_ID: self.item_id,
            REWARD: self.reward,
            RETURN_TO_GO: hindsight_returns(self.reward, self.length, discount),
            FEEDBACK: (self.reward >= PURCHASE.reward).astype(np.int32),
        }
        facts: dict[str, npt.NDArray[Any]] = {
            NUM_CONTEXT: np.zeros(len(number), np.int32),
            IS_TERMINAL: (~is_cut).astype(np.float32),
            SESSION_ID: number,
            PASSED_ITEM: self.passed_item,
            PASSED_AT: self.passed_at,
        }
        return Sessions(steps, self.length, facts)


def roll_out(
    world: ItemWorld,
    recommender: Recommender,
    exploration: Exploration,
    number: Ints,
    seed: int,
    max_events: int,
    max_turns: int,
    discount: float = 1.0,
) -> Played:
    """Plays sessions to their ends.

    Args:
        world: The simulator.
        recommender: What is best in each session.
        exploration: What is shown of that.
        number: [S] numbers of the sessions.
        seed: Seed of all chance.
        max_events: T; a session with so many events is cut off, because the policy has no place for more.
        max_turns: Items shown after which a session is cut off.
        discount: Factor of one step in the returns-to-go.
    """
    simulator, chance, count = world.simulator, Chance(seed), len(number)
    log, returns = _Log(count, max_events), np.zeros(count)
    num_shown, num_earning, is_cut = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    shown = np.zeros(world.num_items + 1, np.int64)
    state = simulator.begin(chance.uniform(BEGIN, number, 0, simulator.num_begin_draws))
    recommender.begin(count)
    alive, place, held, turn = np.arange(count), np.arange(count), count, 0
    while len(alive):
        uniform = chance.uniform(POLICY, number[alive], turn, Exploration.NUM_DRAWS)
        item = exploration.choose(recommender.ranking(place), uniform, world.num_items)
        drawn = chance.uniform(STEP, number[alive], turn, simulator.num_step_draws)
        reward, ended, state = simulator.step(state, world.actions(item), drawn)
        turn += 1
        returns[alive] += reward
        num_shown[alive] += 1
        num_earning[alive] += reward > 0.0
        shown += np.bincount(item, minlength=len(shown))
        is_event = world.is_event(reward)
        log.add_passed(alive[~is_event], item[~is_event])
        log.add_events(alive[is_event], item[is_event], reward[is_event])
        cut = ~ended & ((log.length[alive] >= max_events) | (turn >= max_turns))
        is_cut[alive] = cut
        goes_on = ~ended & ~cut
        grown = goes_on & is_event
        recommender.advance(place[grown], item[grown], reward[grown])
        alive, place = alive[goes_on], place[goes_on]
        state = {name: values[goes_on] for name, values in state.items()}
        if 0 < len(alive) <= held // 2:
            # Every event copies what is kept of all sessions that are held.
            recommender.keep(place)
            place, held = np.arange(len(alive)), len(alive)
    return Played(log.sessions(number, is_cut, discount), returns, num_shown, num_earning, is_cut, shown)
