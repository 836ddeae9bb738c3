"""A simulated shop whose long-term optimum differs from the greedy choice, with exact values.

A visitor is shown one item at a time and clicks it, buys it or passes; then stays or leaves. Items lie in clusters on a
ring. What a visitor does depends on the last item and on whether it was bought, so the shop is a Markov decision process
with 2 * items + 1 states and every policy on them has an exact value (a linear system).

What it plants:
* clusters: items of the last item's cluster are clicked most, those of the next cluster less, others hardly;
* repeat purchases: an item that was just clicked is bought when it is shown again;
* popularity skew: within a cluster, appeal and exposure fall as a power of the rank;
* bait: items that anybody clicks, that nobody buys, and after which most visitors leave. A greedy policy shows them, the
  optimal one does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pydantic

from schemas.config import Config
from schemas.reward import CLICK, PURCHASE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IGNORED, CLICKED, BOUGHT = 0, 1, 2
"""Outcomes of showing an item."""


class SessionShopConfig(Config):
    """The shop and its visitors; probabilities are per item shown."""

    num_items: int = pydantic.Field(default=1000, ge=4)
    num_clusters: int = pydantic.Field(default=20, ge=2)
    num_baits: int = pydantic.Field(default=2, ge=0)
    """How many of the items are bait; they belong to no cluster."""
    popularity_exponent: float = pydantic.Field(default=0.8, ge=0.0)
    """Exposure of the k-th item of a cluster under the logging policy falls as k to the minus this."""
    click_same: float = pydantic.Field(default=0.55, ge=0.0, le=1.0)
    """Click on the most appealing item of the last item's cluster."""
    click_next: float = pydantic.Field(default=0.30, ge=0.0, le=1.0)
    """Click on the most appealing item of the next cluster on the ring."""
    click_other: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    """Click on the most appealing item of any other cluster."""
    click_start: float = pydantic.Field(default=0.35, ge=0.0, le=1.0)
    """Click on the most appealing item when the session begins."""
    click_bait: float = pydantic.Field(default=0.80, ge=0.0, le=1.0)
    """Click on a bait item, whatever came before."""
    buy_repeated: float = pydantic.Field(default=0.40, ge=0.0, le=1.0)
    """Purchase of an item that was just clicked and is shown again."""
    leave_after_ignored: float = pydantic.Field(default=0.06, gt=0.0, le=1.0)
    leave_after_click: float = pydantic.Field(default=0.04, gt=0.0, le=1.0)
    leave_after_purchase: float = pydantic.Field(default=0.10, gt=0.0, le=1.0)
    leave_after_bait: float = pydantic.Field(default=0.85, gt=0.0, le=1.0)
    """Leaving after the click on a bait item."""
    first_day: str = "2025-01-01"
    """Day of the first session."""
    num_days: int = pydantic.Field(default=60, ge=1)
    """Days over which sessions spread, evenly."""

    @pydantic.model_validator(mode="after")
    def _clusters_hold_items(self) -> "SessionShopConfig":
        if self.num_items - self.num_baits < self.num_clusters:
            raise ValueError(
                f"{self.num_clusters} clusters need at least as many items beside the {self.num_baits} baits, "
                f"found num_items = {self.num_items}"
            )
        return self


@dataclass(frozen=True)
class LoggedEvents:
    """Clicks and purchases of some sessions, session by session, in order of time.

    Attributes:
        user: [E] user number.
        item: [E] item number, 0..num_items-1.
        time: [E] seconds since 1970-01-01 UTC.
        bought: [E] True for a purchase, False for a click.
        propensity: [E] probability of the logging policy to show this item.
    """

    user: Ints
    item: Ints
    time: Ints
    bought: npt.NDArray[np.bool_]
    propensity: Floats


class SessionShop:
    """The shop as a Markov decision process.

    States: 0 is the beginning of a session; 1 + 2 i is "item i was clicked last"; 2 + 2 i is "item i was bought last".
    """

    def __init__(self, config: SessionShopConfig):
        self.config = config
        regular = config.num_items - config.num_baits
        self.num_items = config.num_items
        self.num_states = 2 * config.num_items + 1
        self.is_bait = np.arange(self.num_items) >= regular
        # Items go round the clusters, so that clusters differ by at most one in size; baits get a cluster of their own.
        self.cluster = np.where(self.is_bait, config.num_clusters, np.arange(self.num_items) % config.num_clusters)
        rank = np.where(self.is_bait, 0, np.arange(self.num_items) // config.num_clusters)
        self.appeal = 0.4 + 0.6 / np.sqrt(1.0 + rank)
        self._exposure = (1.0 + rank) ** -config.popularity_exponent

    @cached_property
    def item_names(self) -> list[str]:
        """Names as they stand in logs: cluster and rank, or bait."""
        clusters = self.config.num_clusters
        return [
            f"bait-{i - (self.num_items - self.config.num_baits)}" if self.is_bait[i] else f"c{i % clusters:02d}-{i // clusters:04d}"
            for i in range(self.num_items)
        ]

    def response(self, state: Ints, item: Ints) -> tuple[Floats, Floats]:
        """Probabilities of a click and of a purchase when `item` is shown in `state`; the arguments broadcast."""
        c = self.config
        begins = state == 0
        last = np.maximum(state - 1, 0) // 2
        just_clicked = (state - 1) % 2 == 0
        same_item = ~begins & (last == item)
        step = (self.cluster[item] - self.cluster[last]) % c.num_clusters
        affinity = np.where(step == 0, c.click_same, np.where(step == 1, c.click_next, c.click_other))
        # After a bait nobody has a cluster in mind, as at the beginning.
        affinity = np.where(begins | self.is_bait[last], c.click_start, affinity)
        click = np.where(self.is_bait[item], c.click_bait, affinity * self.appeal[item])
        click = np.where(same_item, 0.0, click)
        buy = np.where(same_item & just_clicked & ~self.is_bait[item], c.buy_repeated * self.appeal[item], 0.0)
        return click, buy

    def expected_rewards(self) -> Floats:
        """[states, items] mean reward of showing an item."""
        click, buy = self._responses
        mean: Floats = CLICK.reward * click + PURCHASE.reward * buy
        return mean

    def leave_after_click(self, item: Ints) -> Floats:
        """Probability to leave after a click on `item`."""
        return np.where(self.is_bait[item], self.config.leave_after_bait, self.config.leave_after_click)

    def logging_policy(self) -> Floats:
        """[states, items] probabilities of the policy that made the logs: a shop that shows what is related and popular."""
        states, items = np.arange(self.num_states)[:, None], np.arange(self.num_items)[None, :]
        return self._logging_density(states, items)

    _SAME, _REPEAT, _NEXT, _POPULAR, _UNIFORM = 0.40, 0.15, 0.15, 0.20, 0.10

    def _logging_density(self, state: Ints, item: Ints) -> Floats:
        begins = (state == 0) | self.is_bait[np.maximum(state - 1, 0) // 2]
        last = np.maximum(state - 1, 0) // 2
        step = (self.cluster[item] - self.cluster[last]) % self.config.num_clusters
        within = np.where(self.is_bait[item], 0.0, self._exposure[item] / self._cluster_mass[self.cluster[item]])
        popular = self._exposure[item] / self._exposure.sum()
        related = self._SAME * (step == 0) * within + self._NEXT * (step == 1) * within + self._REPEAT * (last == item)
        rest = self._POPULAR * popular + self._UNIFORM / self.num_items
        # Where there is nothing to relate to, the related share goes to popular items.
        return np.where(begins, (1.0 - self._UNIFORM) * popular + self._UNIFORM / self.num_items, related + rest)

    @cached_property
    def _cluster_mass(self) -> Floats:
        mass: Floats = np.bincount(self.cluster, weights=self._exposure, minlength=self.config.num_clusters + 1).astype(np.float64)
        return mass

    @cached_property
    def _sampling_tables(self) -> tuple[Ints, Floats, Floats]:
        """Items by cluster, running exposure in that order, and the running exposure at each cluster's start."""
        order = np.argsort(self.cluster, kind="stable")
        running = np.cumsum(self._exposure[order])
        starts = np.concatenate([[0.0], np.cumsum(self._cluster_mass)])
        return order, running, starts

    def _show_logged(self, state: Ints, rng: np.random.Generator) -> Ints:
        """Draws what the logging policy shows, by composition: first which part of the mixture, then the item."""
        order, running, starts = self._sampling_tables
        last = np.maximum(state - 1, 0) // 2
        begins = (state == 0) | self.is_bait[last]
        part, u = rng.random(len(state)), rng.random(len(state))
        bounds = np.cumsum([self._SAME, self._REPEAT, self._NEXT])
        same, repeat, following = (part < bounds[0]), (part < bounds[1]) & (part >= bounds[0]), (part < bounds[2]) & (part >= bounds[1])
        cluster = np.where(following, (self.cluster[last] + 1) % self.config.num_clusters, self.cluster[last] % self.config.num_clusters)
        related = (same | following) & ~begins
        low = np.where(related, starts[cluster], 0.0)
        high = np.where(related, starts[cluster + 1], running[-1])
        # A draw at the very top of a range must not fall into the next one.
        weighted = order[np.minimum(np.searchsorted(running, low + u * (high - low), side="right"), self.num_items - 1)]
        item = np.where(part >= 1.0 - self._UNIFORM, (u * self.num_items).astype(np.int64), weighted)
        return np.where(repeat & ~begins, last, item)

    def step(self, state: Ints, item: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
        """Shows an item to each of many visitors.

        Args:
            state: [B] states.
            item: [B] items shown.
            rng: Source of randomness.

        Returns:
            Outcome [B], next state [B] and whether the visitor leaves [B].
        """
        u, v = rng.random(len(state)), rng.random(len(state))
        return self.react(state, item, u, v)

    def react(self, state: Ints, item: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
        """What visitors do, given the chance that decides it: `u` [B] over the outcome, `v` [B] over leaving, both in [0, 1).

        Arguments and results otherwise as in `step`.
        """
        click, buy = self.response(state, item)
        outcome = np.where(u < click, CLICKED, np.where(u < click + buy, BOUGHT, IGNORED))
        c = self.config
        leave = np.choose(outcome, [c.leave_after_ignored, self.leave_after_click(item), c.leave_after_purchase])
        next_state = np.where(outcome == IGNORED, state, 2 * item + outcome)
        return outcome, next_state, v < leave

    def rollout(self, policy: Floats, num_sessions: int, seed: int, discount: float = 1.0) -> Floats:
        """Plays a policy and returns the discounted return of every session.

        Args:
            policy: [states, items] probabilities.
            num_sessions: How many visitors.
            seed: Seed of all draws.
            discount: Factor of one item shown.

        Returns:
            [num_sessions] returns.
        """
        rng = np.random.default_rng(seed)
        running = np.cumsum(policy, axis=1)
        returns = np.zeros(num_sessions)
        alive, state, factor = np.arange(num_sessions), np.zeros(num_sessions, np.int64), 1.0
        while len(alive):
            u = rng.random(len(alive))[:, None] * running[state, -1:]
            item = np.minimum((running[state] <= u).sum(axis=1), self.num_items - 1)
            outcome, state, left = self.step(state, item, rng)
            returns[alive] += factor * np.choose(outcome, [0.0, CLICK.reward, PURCHASE.reward])
            factor *= discount
            alive, state = alive[~left], state[~left]
        return returns

    def value(self, policy: Floats, discount: float = 1.0) -> Floats:
        """Exact value of a policy in every state; entry 0 is the value of a session.

        Args:
            policy: [states, items] probabilities.
            discount: Factor of one item shown.

        Returns:
            [states] expected discounted rewards.
        """
        click, buy = self._responses
        c = self.config
        stay_click, stay_buy = 1.0 - self.leave_after_click(np.arange(self.num_items)), 1.0 - c.leave_after_purchase
        reward = (policy * self.expected_rewards()).sum(axis=1)
        transition = np.zeros((self.num_states, self.num_states))
        transition[:, 1::2] = policy * click * stay_click
        transition[:, 2::2] = policy * buy * stay_buy
        diagonal = np.arange(self.num_states)
        transition[diagonal, diagonal] += (policy * (1.0 - click - buy)).sum(axis=1) * (1.0 - c.leave_after_ignored)
        solution: Floats = np.linalg.solve(np.eye(self.num_states) - discount * transition, reward)
        return solution

    def action_values(self, value: Floats, discount: float = 1.0) -> Floats:
        """[states, items] value of showing an item and then going on as `value` says."""
        click, buy = self._responses
        c = self.config
        stay_click, stay_buy = 1.0 - self.leave_after_click(np.arange(self.num_items)), 1.0 - c.leave_after_purchase
        after_click = CLICK.reward + discount * stay_click * value[1::2]
        after_purchase = PURCHASE.reward + discount * stay_buy * value[2::2]
        after_ignored = discount * (1.0 - c.leave_after_ignored) * value[:, None]
        values: Floats = click * after_click
        values += buy * after_purchase
        values += (1.0 - click - buy) * after_ignored
        return values

    def optimal_policy(self, discount: float = 1.0) -> Floats:
        """[states, items] deterministic policy of greatest value, by policy iteration (Howard, 1960).

        A discount of 0 gives the greedy policy, which looks at the next reward only.
        """
        policy = self._deterministic(self.action_values(np.zeros(self.num_states), 0.0))
        if discount == 0.0:
            return policy
        while True:
            value = self.value(policy, discount)
            better = self.action_values(value, discount)
            improved = self._deterministic(better)
            if (better.max(axis=1) <= value + 1e-9).all():
                return policy
            policy = improved

    def _deterministic(self, action_values: Floats) -> Floats:
        policy = np.zeros_like(action_values)
        policy[np.arange(self.num_states), action_values.argmax(axis=1)] = 1.0
        return policy

    @cached_property
    def _responses(self) -> tuple[Floats, Floats]:
        return self.response(np.arange(self.num_states)[:, None], np.arange(self.num_items)[None, :])

    def logs(self, num_events: int, seed: int, users_per_chunk: int = 20_000) -> Iterator[LoggedEvents]:
        """Simulates logs under the logging policy, a chunk of users at a time, so that memory does not grow.

        Passed items are not logged, as in real logs. Sessions of a user lie on different days.

        Args:
            num_events: Least number of events in all; whole chunks are cut after the session that reaches it.
            seed: Seed; chunk k draws from its own stream (seed, k).
            users_per_chunk: Users simulated at a time.

        Yields:
            Events of each chunk.
        """
        made, chunk = 0, 0
        while made < num_events:
            events, ends = self._simulate_chunk(chunk, seed, users_per_chunk)
            if not len(ends):
                raise ValueError(f"none of {users_per_chunk} simulated users clicks anything; raise click_start or click_bait")
            wanted = num_events - made
            cut = int(ends[min(int(np.searchsorted(ends, wanted)), len(ends) - 1)]) if len(ends) else 0
            if cut:
                yield LoggedEvents(events.user[:cut], events.item[:cut], events.time[:cut], events.bought[:cut], events.propensity[:cut])
            made += cut
            chunk += 1

    def _simulate_chunk(self, chunk: int, seed: int, num_users: int) -> tuple[LoggedEvents, Ints]:
        """Events of one chunk of users, session by session, and the running number of events at each session's end."""
        rng = np.random.default_rng([seed, chunk])
        day_of, user_of = self._schedule(rng, num_users)
        clock = day_of * 86_400 + rng.integers(0, 80_000, len(day_of))
        state, alive = np.zeros(len(day_of), np.int64), np.arange(len(day_of))
        recorded: list[tuple[Ints, Ints, Ints, npt.NDArray[np.bool_], Floats]] = []
        while len(alive):
            item = self._show_logged(state, rng)
            density = self._logging_density(state, item)
            outcome, next_state, left = self.step(state, item, rng)
            clock[alive] += 1 + rng.exponential(25.0, len(alive)).astype(np.int64)
            kept = outcome != IGNORED
            recorded.append((alive[kept], item[kept], clock[alive[kept]], outcome[kept] == BOUGHT, density[kept]))
            alive, state = alive[~left], next_state[~left]
        session = np.concatenate([r[0] for r in recorded]) if recorded else alive
        order = np.argsort(session, kind="stable")
        session = session[order]
        ends = np.flatnonzero(np.diff(session, append=-1)) + 1
        return (
            LoggedEvents(
                user=chunk * num_users + user_of[session],
                item=np.concatenate([r[1] for r in recorded])[order],
                time=np.concatenate([r[2] for r in recorded])[order] + int(np.datetime64(self.config.first_day, "s").astype(np.int64)),
                bought=np.concatenate([r[3] for r in recorded])[order],
                propensity=np.concatenate([r[4] for r in recorded])[order],
            ),
            ends,
        )

    def _schedule(self, rng: np.random.Generator, num_users: int) -> tuple[Ints, Ints]:
        """Day and user of every session: 1 to 4 sessions a user, on different days, in random order."""
        most = min(4, self.config.num_days)
        days = np.argsort(rng.random((num_users, self.config.num_days)), axis=1)[:, :most]
        wanted = rng.integers(1, most + 1, num_users)
        user, slot = np.nonzero(np.arange(most)[None, :] < wanted[:, None])
        order = rng.permutation(len(user))
        return days[user, slot][order].astype(np.int64), user[order].astype(np.int64)
