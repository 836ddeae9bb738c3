"""What every simulator is: a world that moves many sessions, which never meet, one step at a time.

A simulator holds no session and draws nothing: states come and go as arrays with one row per session, and chance is handed in. So
the same step serves a batch in training, a whole evaluation, and one session beside its reference.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from models.simulators.chance import BEGIN, POLICY, STEP, Chance
from models.simulators.rollout import Rollout
from schemas.config import Config

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

State = dict[str, Array]
"""What a simulator knows of B sessions: arrays whose first axis is B."""
Observation = Array | dict[str, Array]
"""What a policy sees of B sessions: an array whose first axis is B, or several by name."""


@dataclass(frozen=True)
class Space:
    """The values that one session's action or a part of its observation may take.

    Attributes:
        name: What it is.
        shape: Without B.
        dtype: Type of a value.
        low: Least value, one for all or of that shape.
        high: Greatest value, likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: type[np.float32] | type[np.int32]
    low: float | Array
    high: float | Array


class SimulatorConfig(Config):
    """Base of the simulators' configurations; each has a literal `name`."""


class Step(NamedTuple):
    """What came of an action in each of B sessions.

    Attributes:
        reward: [B]
        is_last: [B] True where the session is over.
        state: The next state; of a session that is over, the last one to be observed.
    """

    reward: Floats
    is_last: Bools
    state: State


class Simulator(ABC):
    """A world of sessions."""

    config_class: ClassVar[type[SimulatorConfig]]
    num_begin_draws: ClassVar[int] = 0
    """Numbers in [0, 1) that decide how a session begins."""
    num_step_draws: ClassVar[int] = 0
    """Numbers in [0, 1) that decide what comes of an action."""

    @property
    @abstractmethod
    def action_space(self) -> Space:
        """The actions of one session."""

    @property
    @abstractmethod
    def observation_space(self) -> Space | dict[str, Space]:
        """What is seen of one session, in the structure of `observe`."""

    @property
    @abstractmethod
    def reward_bounds(self) -> tuple[float, float]:
        """Least and greatest reward of a step."""

    @abstractmethod
    def begin(self, chance: Floats) -> State:
        """States of B new sessions from chance [B, num_begin_draws]."""

    @abstractmethod
    def step(self, state: State, action: Array, chance: Floats) -> Step:
        """One step of B sessions; the state handed in stays as it is.

        A session that is over may be among them; what comes of it has no meaning.

        Args:
            state: States of the sessions.
            action: [B, ...] an action of the action space for each.
            chance: [B, num_step_draws]
        """

    @abstractmethod
    def observe(self, state: State) -> Observation:
        """What a policy sees of each session, in arrays of its own."""

    def check(self, action: Array, num_rows: int) -> None:
        """Refuses what is not one action of the action space for each row.

        Raises:
            ValueError: Shape or values are others.
        """
        space = self.action_space
        if action.shape != (num_rows, *space.shape):
            raise ValueError(f"{space.name}: expected shape {[num_rows, *space.shape]}, found {list(action.shape)}")
        inside = (action >= space.low) & (action <= space.high)
        if not inside.all():
            raise ValueError(f"{space.name}: expected values from {space.low} to {space.high}, found {action[~inside].flat[0]}")


class Progress(NamedTuple):
    """What one call moved in each of B rows.

    Attributes:
        reward: [B] 0 in a row that began a session.
        is_first: [B] True where a session began and the action was not used.
        is_last: [B] True where a session ended or was cut off.
        is_cut: [B] True where it was cut off although it might have gone on.
    """

    reward: Floats
    is_first: Bools
    is_last: Bools
    is_cut: Bools


class Sessions:
    """B sessions side by side, each followed by a new one when it is over.

    Row b plays sessions b, B + b, 2 B + b and so on, whatever happens in other rows.

    Args:
        simulator: The world.
        num_rows: B.
        seed: Seed of all chance.
        max_turns: Steps after which a session is cut off; None lets every one end by itself.

    Attributes:
        session: [B] number of each row's session.
        turn: [B] steps of that session so far.
        is_over: [B] True where it has ended; the next call begins another.
        num_begun: Sessions that have begun.
        num_finished: Sessions that have ended or were cut off at the last turn.
        num_abandoned: Sessions that `restart` broke off.
    """

    def __init__(self, simulator: Simulator, num_rows: int, seed: int, max_turns: int | None = None):
        if num_rows < 1 or (max_turns is not None and max_turns < 1):
            raise ValueError(f"expected at least one row and one turn, found num_rows = {num_rows}, max_turns = {max_turns}")
        self.simulator = simulator
        self.max_turns = max_turns
        self.num_begun = self.num_finished = self.num_abandoned = 0
        self._chance = Chance(seed)
        self.session = np.arange(num_rows) - num_rows
        self.turn = np.zeros(num_rows, np.int64)
        self.is_over = np.ones(num_rows, np.bool_)
        self._state: State = {}
        self._begin(np.arange(num_rows))

    def restart(self) -> None:
        """Begins a new session in every row."""
        self.num_abandoned += int((~self.is_over).sum())
        self._begin(np.arange(len(self.session)))

    def observe(self) -> Observation:
        """What a policy sees of each row."""
        return self.simulator.observe(self._state)

    def step(self, action: Array) -> Progress:
        """Moves every row on: a session that was over gives way to the next one, the others take their action.

        Args:
            action: [B, ...]; ignored where a session was over, but it must be an action.

        Raises:
            ValueError: An action is not one of the simulator's.
        """
        self.simulator.check(action, len(self.session))
        began = self.is_over
        chance = self._chance.uniform(STEP, self.session, self.turn, self.simulator.num_step_draws)
        # All rows, also those that are over: to leave them out would copy the state of the others.
        reward, ended, self._state = self.simulator.step(self._state, action, chance)
        self.turn = self.turn + 1
        cut = np.zeros_like(ended) if self.max_turns is None else ~ended & (self.turn >= self.max_turns)
        self.is_over = (ended | cut) & ~began
        self.num_finished += int(self.is_over.sum())
        if began.any():
            self._begin(np.flatnonzero(began))
        return Progress(np.where(began, 0.0, reward), began, self.is_over.copy(), cut & ~began)

    def _begin(self, rows: Ints) -> None:
        self.num_begun += len(rows)
        self.session = self.session.copy()
        self.session[rows] += len(self.session)
        self.turn[rows] = 0
        self.is_over[rows] = False
        chance = self._chance.uniform(BEGIN, self.session[rows], 0, self.simulator.num_begin_draws)
        fresh = self.simulator.begin(chance)
        if len(rows) == len(self.session):
            self._state = fresh
            return
        for name, values in fresh.items():
            self._state[name][rows] = values

    def get_state(self) -> dict[str, Any]:
        """All that changes, for `set_state` of the same simulator, number of rows, seed and turns."""
        names = ("num_begun", "num_finished", "num_abandoned")
        arrays = {name: getattr(self, name).copy() for name in ("session", "turn", "is_over")}
        return {
            **{name: getattr(self, name) for name in names},
            **arrays,
            "state": {name: rows.copy() for name, rows in self._state.items()},
        }

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        for name, value in saved.items():
            if name == "state":
                self._state = {part: rows.copy() for part, rows in value.items()}
            else:
                setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)


class Seen(NamedTuple):
    """The B sessions that are still there, as a policy sees them.

    Attributes:
        session: [B] number of each.
        turn: Steps so far, the same for all.
        observation: What the simulator shows.
        draw: Numbers in [0, 1) for policies that draw: from how many, to [B, how many].
    """

    session: Ints
    turn: int
    observation: Observation
    draw: Callable[[int], Floats]


def play(
    simulator: Simulator,
    policy: Callable[[Seen], Array],
    num_sessions: int,
    seed: int,
    discount: float = 1.0,
    max_turns: int | None = None,
) -> Rollout:
    """Plays a policy until every session has ended.

    Args:
        simulator: The world.
        policy: Chooses an action for each session.
        num_sessions: S.
        seed: Seed of everything that chance decides.
        discount: Factor of one step.
        max_turns: Most steps of a session; None plays on.

    Returns:
        Returns and lengths of the sessions.
    """
    chance = Chance(seed)
    returns, turns = np.zeros(num_sessions), np.zeros(num_sessions, np.int64)
    alive = np.arange(num_sessions)
    state = simulator.begin(chance.uniform(BEGIN, alive, 0, simulator.num_begin_draws))
    turn, factor = 0, 1.0
    while len(alive) and (max_turns is None or turn < max_turns):
        seen = Seen(alive, turn, simulator.observe(state), lambda count: chance.uniform(POLICY, alive, turn, count))
        action = policy(seen)
        simulator.check(action, len(alive))
        reward, ended, state = simulator.step(state, action, chance.uniform(STEP, alive, turn, simulator.num_step_draws))
        returns[alive] += factor * reward
        turns[alive] += 1
        turn += 1
        factor *= discount
        if ended.any():
            alive, state = alive[~ended], {name: values[~ended] for name, values in state.items()}
    return Rollout(returns, turns, np.isin(np.arange(num_sessions), alive))
