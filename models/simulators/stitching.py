"""A small world in which only pieces of different trajectories, put together, give the best return.

A session has two halves that meet at a junction. In each half one action per step is right; who takes it all through a half earns
that half's reward at its end, and one other action is enough to lose it. The junction forgets how it was reached. Logs come from
two policies: one does the first half well and the second badly, the other the reverse. No logged session earns both rewards, yet
every step of the best session is in the logs. Values that are passed on from step to step find it; imitating sessions of a high
return does not, the less so as the second half earns more: the highest return in the logs begins with the wrong action.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import pydantic

from models.simulators.base import Array, Bools, Floats, Ints, Observation, Simulator, SimulatorConfig, Space, State, Step
from models.simulators.chance import BEGIN, POLICY, STEP, Chance

FIRST, SECOND = 0, 1
"""Halves of a session, and the logging policies that do them well."""


class StitchingConfig(SimulatorConfig):
    """The world and what it pays."""

    name: Literal["stitching"] = "stitching"
    steps_per_half: int = pydantic.Field(default=3, ge=1)
    num_actions: int = pydantic.Field(default=4, ge=2)
    first_reward: float = pydantic.Field(default=1.0, ge=0.0)
    """At the end of a first half that was done well."""
    second_reward: float = pydantic.Field(default=2.0, ge=0.0)
    """At the end of a second half that was done well."""
    slip: float = pydantic.Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that the action gives way to one drawn evenly from all. Above 0 a few logged sessions may earn both rewards."""


@dataclass(frozen=True)
class LoggedSteps:
    """Whole sessions, one after the other, all of twice `steps_per_half` steps.

    Attributes:
        session: [E]
        policy: [E] the half that the session's policy does well.
        state: [E] before the action.
        action: [E]
        reward: [E]
        is_last: [E]
    """

    session: Ints
    policy: Ints
    state: Ints
    action: Ints
    reward: Floats
    is_last: Bools


class Stitching(Simulator):
    """The two halves as a Markov decision process.

    Action: 0..num_actions-1. Observation: [B] int32 number of the state. With L steps per half, states 0..L-1 are the steps of the
    first half while it goes well, L..2L-2 its later steps when it does not; the second half follows likewise, so its first state is
    the junction, 2L-1. The last state is the end. In state s the right action is s modulo num_actions.
    """

    config_class: ClassVar[type[SimulatorConfig]] = StitchingConfig
    num_step_draws: ClassVar[int] = 2

    def __init__(self, config: StitchingConfig):
        self.config = config
        steps = config.steps_per_half
        self.junction = 2 * steps - 1
        self.end = 2 * self.junction
        self.num_states = self.end + 1
        self._next, self._reward = self._tables()

    def _tables(self) -> tuple[Ints, Floats]:
        """[states, actions] next state and reward of the action that is carried out."""
        steps, shape = self.config.steps_per_half, (self.num_states, self.config.num_actions)
        following, reward = np.full(shape, self.end), np.zeros(shape)
        for half, earned in ((FIRST, self.config.first_reward), (SECOND, self.config.second_reward)):
            start, after = half * self.junction, (half + 1) * self.junction
            for step in range(steps):
                well, badly, is_end = start + step, start + steps + step - 1, step == steps - 1
                following[well] = after if is_end else badly + 1
                following[well, self.right_action(well)] = after if is_end else well + 1
                reward[well, self.right_action(well)] = earned if is_end else 0.0
                if step:
                    following[badly] = after if is_end else badly + 1
        return following, reward

    def right_action(self, state: int) -> int:
        """The action that keeps a half going well."""
        return state % self.config.num_actions

    @property
    def action_space(self) -> Space:
        return Space("action", (), np.int32, 0, self.config.num_actions - 1)

    @property
    def observation_space(self) -> Space:
        return Space("state", (), np.int32, 0, self.end)

    @property
    def reward_bounds(self) -> tuple[float, float]:
        return 0.0, max(self.config.first_reward, self.config.second_reward)

    def begin(self, chance: Floats) -> State:
        return {"state": np.zeros(len(chance), np.int64)}

    def step(self, state: State, action: Array, chance: Floats) -> Step:
        slipped = (chance[:, 1] * self.config.num_actions).astype(np.int64)
        done = np.where(chance[:, 0] < self.config.slip, slipped, action)
        following = self._next[state["state"], done]
        return Step(self._reward[state["state"], done], following == self.end, {"state": following})

    def observe(self, state: State) -> Observation:
        seen: Array = state["state"].astype(np.int32)
        return seen

    # === Exact values ===

    def value(self, policy: Floats, discount: float = 1.0) -> Floats:
        """Exact value of a policy [states, actions] in every state; entry 0 is the value of a session."""
        carried_out = self._carried_out(policy)
        transition = np.zeros((self.num_states, self.num_states))
        np.add.at(transition, (np.arange(self.num_states)[:, None], self._next), carried_out)
        # The end earns nothing and leads nowhere.
        transition[self.end] = 0.0
        solution: Floats = np.linalg.solve(np.eye(self.num_states) - discount * transition, (carried_out * self._reward).sum(axis=1))
        return solution

    def action_values(self, value: Floats, discount: float = 1.0) -> Floats:
        """[states, actions] value of an action that is followed by what `value` says."""
        each = self._reward + discount * np.where(self._next == self.end, 0.0, value[self._next])
        slip = self.config.slip
        values: Floats = (1.0 - slip) * each + slip * each.mean(axis=1, keepdims=True)
        return values

    def optimal_policy(self, discount: float = 1.0) -> Floats:
        """[states, actions] deterministic policy of greatest value, by going back from the end; the first of equal actions."""
        value, best = np.zeros(self.num_states), np.zeros(self.num_states, np.int64)
        # A session has so many steps, so that after as many sweeps nothing changes any more.
        for _ in range(2 * self.config.steps_per_half):
            values = self.action_values(value, discount)
            best, value = values.argmax(axis=1), values.max(axis=1)
        return np.eye(self.config.num_actions)[best]

    def _carried_out(self, policy: Floats) -> Floats:
        return (1.0 - self.config.slip) * policy + self.config.slip / self.config.num_actions

    # === Logs ===

    def logging_policy(self, good_half: int) -> Floats:
        """[states, actions] of a policy that does one half well: in the other it begins with a wrong action and goes on evenly."""
        num_actions = self.config.num_actions
        policy = np.full((self.num_states, num_actions), 1.0 / num_actions)
        for half in (FIRST, SECOND):
            start = half * self.junction
            for state in range(start, start + self.config.steps_per_half):
                right = np.eye(num_actions)[self.right_action(state)]
                if half == good_half:
                    policy[state] = right
                elif state == start:
                    policy[state] = (1.0 - right) / (num_actions - 1)
        return policy

    @cached_property
    def _running(self) -> Floats:
        """[2, states, actions] running probabilities of both logging policies."""
        return np.cumsum(np.stack([self.logging_policy(FIRST), self.logging_policy(SECOND)]), axis=2)

    def logs(self, num_sessions: int, seed: int, share_first: float = 0.5) -> LoggedSteps:
        """Sessions of both logging policies, in random order.

        Args:
            num_sessions: S.
            seed: Seed of all draws.
            share_first: Share of the policy that does the first half well.
        """
        chance, session = Chance(seed), np.arange(num_sessions)
        length = 2 * self.config.steps_per_half
        # Exactly that share, so that even a small log holds both halves.
        order = np.argsort(chance.uniform(BEGIN, session, 0, 1)[:, 0], kind="stable")
        policy = np.full(num_sessions, SECOND)
        policy[order[: round(share_first * num_sessions)]] = FIRST
        state = self.begin(np.zeros((num_sessions, 0)))
        states, actions = (np.zeros((num_sessions, length), np.int64) for _ in range(2))
        rewards, last = np.zeros((num_sessions, length)), np.zeros((num_sessions, length), np.bool_)
        for turn in range(length):
            running = self._running[policy, state["state"]]
            drawn = chance.uniform(POLICY, session, turn, 1)
            action = np.minimum((drawn >= running).sum(axis=1), self.config.num_actions - 1)
            states[:, turn], actions[:, turn] = state["state"], action
            rewards[:, turn], last[:, turn], state = self.step(state, action, chance.uniform(STEP, session, turn, self.num_step_draws))
        each = np.repeat(session, length)
        return LoggedSteps(each, policy[each], states.ravel(), actions.ravel(), rewards.ravel(), last.ravel())
