"""Values, targets and losses computed slowly: one event, one candidate and one head at a time.

What the tests of the algorithms share beside `toy_shop`; tests are no package, so they find it through `sys.path`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models.algorithms.base import Algorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf

sys.path.append(str(Path(__file__).parents[1]))
toy = import_module("toy_shop")

# An item that was there and one that was not, an unknown item first, one event only, the same item again and again; two sessions
# end, two go on elsewhere; the last has an event of context.
SESSIONS = [[3, 5, 3, 9, 1], [toy.UNKNOWN, 2, 2], [7], [4, 4, 4, 20]]
REWARD = [[0.2, 0.2, 1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [0.2], [0.2, 0.2, 0.2, 1.0]]
NUM_CONTEXT = [0, 0, 0, 1]
IS_TERMINAL = [1, 1, 0, 0]
STEP = 4
TARGETS = 11
"""Events of the batch that carry a loss."""

ITEMS = range(1, toy.NUM_ITEMS)


def batch() -> TrajectoryBatch:
    """The batch that losses are compared on."""
    made: TrajectoryBatch = toy.batch(SESSIONS, REWARD, NUM_CONTEXT, IS_TERMINAL)
    return made


def network(softmax: str = "full", **changes: Any) -> Any:
    """Networks without dropout."""
    return toy.network(softmax=softmax, backbone=toy.backbone(dropout=0.0), **changes)


def build(name: str, softmax: str = "full", **changes: Any) -> Algorithm:
    """An algorithm whose weights have all been moved, and for which padding and the unknown item would be the best of all."""
    algorithm: Algorithm = toy.shake(toy.build(name, network(softmax), **changes))
    for head in value_heads(algorithm):
        table = head.table.numpy()
        for row, value in ((0, 50.0), (toy.UNKNOWN, 60.0)):
            table[row, head.width :: head.width + 1] = value
        head.table.assign(table)
    return algorithm


def value_heads(algorithm: Any) -> list[Any]:
    """The value heads of the online and of the target network, where there are."""
    owners = [owner for owner in (algorithm, getattr(algorithm, "target", None)) if owner is not None]
    return [owner.values for owner in owners if hasattr(owner, "values")]


def say(head: Any, values: Any) -> None:
    """Makes a value head say the same of every state: `values` [I] or [H, I] of items 1..I."""
    biases = np.atleast_2d(values)
    table = np.zeros(head.table.shape, np.float32)
    table[1 : 1 + biases.shape[1], head.width :: head.width + 1] = biases.T
    head.table.assign(table)
    for variable in head.gain.variables if head.copy else ():
        variable.assign(tf.zeros_like(variable))


def few_items(name: str, num_items: int, **changes: Any) -> Algorithm:
    """An algorithm with this many items and sessions of two events, for worked examples."""
    algorithm: Algorithm = toy.build(name, network(), items=toy.catalogue(num_items + 1, 2), **changes)
    return algorithm


def parts(algorithm: Algorithm, of: TrajectoryBatch | None = None, step: int = STEP, **phase: str) -> dict[str, np.ndarray]:
    """[B, T] every part of the loss of a batch, 0 where nothing counts."""
    losses = algorithm.losses(batch() if of is None else of, tf.constant(step, tf.int64), training=False, **phase)
    return {name: (part * losses.mask).numpy() for name, part in losses.parts.items()}


def mask(algorithm: Algorithm) -> np.ndarray:
    """[B, T] 1 for events that carry a loss."""
    found: np.ndarray = algorithm.target_mask(batch()).numpy()
    return found


def log_prob(algorithm: Algorithm, of: TrajectoryBatch | None = None, step: int = STEP) -> np.ndarray:
    """[B, T] log-probability of every event under the policy."""
    item_id = (batch() if of is None else of).item_id
    found: np.ndarray = algorithm.log_prob(algorithm.encoder(item_id), item_id, algorithm.negatives(tf.constant(step, tf.int64))).numpy()
    return found


def gradients(algorithm: Algorithm, name: str, **phase: str) -> dict[str, np.ndarray | None]:
    """Gradient of one part of the loss into every variable by path, None where there is no way."""
    named = algorithm.named_variables()
    with tf.GradientTape() as tape:
        tape.watch(list(named.values()))
        total = algorithm.losses(batch(), tf.constant(STEP, tf.int64), training=False, **phase).mean(name)
    found = tape.gradient(total, list(named.values()))
    return {path: None if one is None else tf.convert_to_tensor(one).numpy() for path, one in zip(named, found, strict=True)}


def huber(error: np.ndarray) -> np.ndarray:
    """Half the square up to 1, linear beyond."""
    return np.where(np.abs(error) <= 1.0, 0.5 * error**2, np.abs(error) - 0.5)


def item_values(head: Any, states: np.ndarray, item_id: np.ndarray) -> np.ndarray:
    """[B, T+1, H, N+1] values of everything that has a row in a value head's table, from states [B, T+1, D]."""
    found = head(tf.constant(states), tf.constant(item_id))
    bonus, copied = found.bonus.numpy(), found.copy_weights.numpy()
    table = head.table.numpy().reshape(-1, head.heads, head.width + 1)
    values = np.einsum("btd,nhd->bthn", states, table[..., :-1]) + table[..., -1].T
    for row, session in enumerate(item_id):
        for state in range(states.shape[1]):
            for event, item in enumerate(session):
                values[row, state, :, item] += bonus[row, state] * copied[row, state, event]
    return values


class Values:
    """Values of a batch under both networks of a value algorithm.

    Attributes:
        online: [B, T+1, H, N+1] by item id.
        target: The same of the target network.
    """

    def __init__(self, algorithm: Any, of: TrajectoryBatch | None = None, step: int = STEP):
        self._batch = batch() if of is None else of
        self._items = self._batch.item_id.numpy()
        self.online, self.target = (
            item_values(owner.values, owner.encoder(self._batch.item_id).numpy(), self._items) for owner in (algorithm, algorithm.target)
        )
        negatives = algorithm.negatives(tf.constant(step, tf.int64))
        self._negatives = None if negatives is None else negatives.numpy().tolist()
        weights = np.sqrt(algorithm.catalogue.counts)
        self._expected = np.concatenate([[0.0], weights / weights.sum() * len(self._negatives or [])])

    def events(self) -> list[tuple[int, int]]:
        """(row, step) of every event, targets or not."""
        return [(row, step) for row, count in enumerate(self._batch.length.numpy()) for step in range(count)]

    def logged(self) -> np.ndarray:
        """[B, T, H] online values of the logged items."""
        steps = self._items.shape[1]
        return np.take_along_axis(self.online[:, :steps], self._items[:, :, None, None], axis=3)[..., 0]

    def known(self, row: int, state: int) -> set[int]:
        """Items of the session so far, and the one that is logged in the state."""
        return {int(item) for item in self._items[row, : state + 1] if item in ITEMS}

    def candidates(self, row: int, state: int) -> list[int]:
        """What is compared in a state."""
        return list(ITEMS) if self._negatives is None else sorted({*self._negatives, *self.known(row, state)})

    def log_sum_exp(self, values: np.ndarray, row: int, state: int) -> float:
        """Logarithm of the sum over the catalogue of exp(value) of values [N+1], or its estimate from the sample."""
        if self._negatives is None:
            return float(np.log(np.exp(values[1 : toy.NUM_ITEMS]).sum()))
        known = self.known(row, state)
        drawn = sum(np.exp(values[item]) / self._expected[item] for item in self._negatives if item not in known)
        return float(np.log(drawn + sum(np.exp(values[item]) for item in known)))

    def double_q(self, row: int, state: int, head: int = 0, among: list[int] | None = None) -> float:
        """The target network's value of the item that the online network likes best."""
        chosen = max(among or self.candidates(row, state), key=lambda item: self.online[row, state, head, item])
        return float(self.target[row, state, head, chosen])

    def bootstrapped(self, discount: float, value: Any) -> np.ndarray:
        """[B, T] reward plus the discounted `value(row, state)` of the next state, which is nothing where a session ends."""
        done, reward = self._batch.done().numpy(), self._batch.reward.numpy()
        found = np.zeros(reward.shape)
        for row, step in self.events():
            found[row, step] = reward[row, step] + (0.0 if done[row, step] else discount * value(row, step + 1))
        return found

    def negatives_of(self, drawn: np.ndarray, row: int, step: int) -> list[int]:
        """Those of the drawn items that are not the logged one."""
        return [int(item) for item in drawn if item != self._items[row, step]]


def policy_log_prob(algorithm: Any, values: Values, of: TrajectoryBatch | None = None) -> np.ndarray:
    """[B, T+1, N+1] log-probability of every item in every state under the policy head."""
    made = batch() if of is None else of
    states = algorithm.encoder(made.item_id)
    head = algorithm.policy(states, made.item_id)
    logits = head.states.numpy() @ algorithm.policy.vectors(algorithm.encoder.embedding.table).numpy().T
    gates, copied, items = np.exp(head.log_gates.numpy()), head.copy_weights.numpy(), made.item_id.numpy()
    found = np.zeros(logits.shape)
    for row, state in np.ndindex(logits.shape[:2]):
        # What was there is copied, and has no part in the catalogue.
        seen = sorted(values.known(row, state - 1)) if state and algorithm.policy.copy else []
        left = logits[row, state].copy()
        left[seen] = -np.inf
        share = np.exp(left - values.log_sum_exp(left, row, state)) * gates[row, state, 0]
        for item in seen:
            share[item] = gates[row, state, 1] * copied[row, state][items[row] == item].sum()
        found[row, state] = np.log(share)
    return found
