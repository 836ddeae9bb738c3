"""What a policy would show in thousands of sessions at once, asked again only where something has happened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.algorithms.base import Algorithm
from models.algorithms.sequence_model import SequenceModel
from models.frameworks import tf
from models.incremental import IncrementalPolicy
from models.ranking import Ranking, draw

Floats = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class Recommender(ABC):
    """A policy in sessions side by side: the best K items of each, as they were when it was last asked."""

    def __init__(self, k: int):
        self._k = k
        self._item_id = np.zeros((0, k), np.int32)
        self._score = np.zeros((0, k), np.float32)

    def begin(self, count: int) -> None:
        """Begins sessions in which nothing has happened."""
        self._item_id, self._score = (np.array(part) for part in self._first(count))

    def ranking(self, place: Ints) -> Ranking:
        """The ranking of the sessions at some places."""
        return Ranking(tf.constant(self._item_id[place]), tf.constant(self._score[place]))

    def advance(self, place: Ints, item_id: Ints, reward: Floats) -> None:
        """One more event in each of the sessions at some places."""
        if len(place):
            found = self._next(tf.constant(place, tf.int32), tf.constant(item_id, tf.int32), tf.constant(reward, tf.float32))
            self._item_id[place], self._score[place] = (part.numpy() for part in found)

    def keep(self, place: Ints) -> None:
        """Forgets all other sessions; these get the places 0, 1, ..."""
        self._item_id, self._score = self._item_id[place], self._score[place]
        self._only(place)

    @abstractmethod
    def _first(self, count: int) -> Ranking: ...

    @abstractmethod
    def _next(self, place: tf.Tensor, item_id: tf.Tensor, reward: tf.Tensor) -> Ranking: ...

    @abstractmethod
    def _only(self, place: Ints) -> None: ...


class SequenceRecommender(Recommender):
    """A decision transformer, from what it keeps of each session.

    Args:
        model: The policy; its weights are read when it is asked.
        k: K.
        explores: True asks for the return of exploration where the policy has one, else for its usual target.
    """

    def __init__(self, model: SequenceModel, k: int, explores: bool = False):
        super().__init__(k)
        self._model, self._explores = model, explores
        self._policy = IncrementalPolicy(model)
        self._progress: Any = None
        self._begun = tf.function(self._begin_all, autograph=False, reduce_retracing=True)
        self._advanced = tf.function(self._advance_some, autograph=False, reduce_retracing=True)

    def _target(self) -> tf.Tensor:
        wanted = getattr(self._model, "exploration_target", None) if self._explores else None
        return self._model.returns.target if wanted is None else wanted

    def _begin_all(self, count: tf.Tensor) -> tuple[Any, Ranking]:
        progress = self._policy.begin(tf.repeat(self._target(), count))
        return progress, self._policy.rank(progress, self._k)

    def _advance_some(self, progress: Any, place: tf.Tensor, item_id: tf.Tensor, reward: tf.Tensor) -> tuple[Any, Ranking]:
        some = self._policy.advance(progress.take(place), item_id, reward)
        return progress.put(place, some), self._policy.rank(some, self._k)

    def _first(self, count: int) -> Ranking:
        self._progress, found = self._begun(tf.constant(count, tf.int32))
        return found

    def _next(self, place: tf.Tensor, item_id: tf.Tensor, reward: tf.Tensor) -> Ranking:
        self._progress, found = self._advanced(self._progress, place, item_id, reward)
        return found

    def _only(self, place: Ints) -> None:
        self._progress = self._progress.take(tf.constant(place, tf.int32))


class HistoryRecommender(Recommender):
    """Any algorithm, from whole histories.

    Args:
        algorithm: The policy or the values; weights are read when it is asked.
        k: K.
    """

    def __init__(self, algorithm: Algorithm, k: int):
        super().__init__(k)
        self._algorithm = algorithm
        self._history = np.zeros((0, algorithm.catalogue.max_steps), np.int32)
        self._length = np.zeros(0, np.int32)
        self._asked = tf.function(self._ask, autograph=False, reduce_retracing=True)

    def _ask(self, history: tf.Tensor, length: tf.Tensor) -> Ranking:
        return self._algorithm.rank(self._algorithm.final_states(history, length), history, self._k)

    def _first(self, count: int) -> Ranking:
        self._history = np.zeros((count, self._history.shape[1]), np.int32)
        self._length = np.zeros(count, np.int32)
        # Sessions in which nothing has happened are all alike.
        one = self._asked(tf.constant(self._history[:1]), tf.constant(self._length[:1]))
        return Ranking(*(tf.repeat(part, count, axis=0) for part in one))

    def _next(self, place: tf.Tensor, item_id: tf.Tensor, reward: tf.Tensor) -> Ranking:
        rows = place.numpy()
        self._history[rows, self._length[rows]] = item_id.numpy()
        self._length[rows] += 1
        longest = int(self._length[rows].max())
        return self._asked(tf.constant(self._history[rows, :longest]), tf.constant(self._length[rows]))

    def _only(self, place: Ints) -> None:
        self._history, self._length = self._history[place], self._length[place]


def recommender_of(algorithm: Algorithm, k: int, explores: bool = False) -> Recommender:
    """The fitting one."""
    if isinstance(algorithm, SequenceModel):
        return SequenceRecommender(algorithm, k, explores)
    return HistoryRecommender(algorithm, k)


class Exploration:
    """How an item is chosen from a ranking.

    Args:
        draw: `policy` draws by log-probability, `softmax` by score over `temperature`, `greedy` takes the best.
        floor: Share of choices that are any item, evenly; with `greedy` that is epsilon-greedy.
        temperature: Of `softmax`.
    """

    NUM_DRAWS = 3
    """Numbers in [0, 1) for each choice."""

    def __init__(self, draw: Literal["policy", "softmax", "greedy"], floor: float = 0.0, temperature: float = 1.0):
        self._draw = draw
        self._floor = floor
        self._temperature = temperature if draw == "softmax" else 1.0

    def choose(self, ranking: Ranking, uniform: Floats, num_items: int) -> Ints:
        """Items of M sessions.

        Args:
            ranking: Of M states, [M, K].
            uniform: [M, NUM_DRAWS]
            num_items: Items that any choice is among, with ids 1..num_items.

        Returns:
            [M] ids.
        """
        if self._draw == "greedy":
            item = ranking.item_id[:, 0].numpy().astype(np.int64)
        else:
            tempered = ranking._replace(score=ranking.score / self._temperature)
            item = draw(tempered, tf.constant(uniform[:, 0], tf.float32)).numpy().astype(np.int64)
        anything = 1 + np.minimum((uniform[:, 1] * num_items).astype(np.int64), num_items - 1)
        return np.where((uniform[:, 2] < self._floor) | (item < 1), anything, item)
