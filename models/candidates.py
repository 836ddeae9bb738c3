"""The items that are compared in every state: all of the catalogue, or a sample that holds what matters.

A sample is three parts side by side: negatives drawn once for the batch, the items of the session so far, and the logged item.
Sums over the catalogue are estimated without bias: a negative counts as often as it stands for items that were not drawn (one
over its expected draws), the others count once, and whatever occurs in two parts counts in the last of them only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from models.frameworks import tf
from models.numerics import IMPOSSIBLE, TINY
from models.sampling import NegativeSampler
from schemas.trajectory import PAD_ITEM_ID

if TYPE_CHECKING:
    from models.layers.neighbours import NeighbourAttention

Vectors = Callable[["tf.Tensor | None"], "tf.Tensor"]
"""From item ids [...] to the vectors [..., H, D] of H heads; from None to those of all items, [N-1, H, D]."""


class Candidates:
    """Candidates in the T+1 states of each of B sessions; A of them, the same for every network that is asked.

    Args:
        item_id: [B, T] int32 events, padded on the right.
        num_items: N, padding included.
        sampler: Where negatives come from; None compares the whole catalogue, A = N - 1.
        negatives: [S] int32 negatives of this step, A = S + T + 1.
    """

    def __init__(self, item_id: tf.Tensor, num_items: int, sampler: NegativeSampler | None = None, negatives: tf.Tensor | None = None):
        self._num_items = num_items
        self._item_id = item_id
        self._is_item = (item_id != PAD_ITEM_ID) & (item_id < num_items)
        self._steps = tf.shape(item_id)[1]
        self._negatives = negatives if sampler is not None else None
        # In the last state nothing is logged.
        self._next = tf.pad(tf.where(self._is_item, item_id, PAD_ITEM_ID), [[0, 0], [0, 1]])
        event, state = tf.range(self._steps)[None, :], tf.range(self._steps + 1)[:, None]
        self._earlier, self._now = event < state, tf.equal(event, state)
        self._is_candidate: tf.Tensor | None = None
        self._log_weights: tf.Tensor | None = None
        if sampler is not None and negatives is not None:
            parts = self._parts_of_sample(negatives)
            counts = [-tf.math.log(tf.maximum(sampler.expected(negatives), TINY)), 0.0, 0.0]
            self._is_candidate = tf.concat(parts, axis=-1)
            self._log_weights = tf.concat([tf.where(part, count, IMPOSSIBLE) for part, count in zip(parts, counts, strict=True)], axis=-1)

    def log_weights(self, values: tf.Tensor) -> tf.Tensor:
        """Logarithm of how often each candidate counts in a sum over the catalogue, broadcast to [B, T+1, A]; `IMPOSSIBLE` for none.

        Args:
            values: [B, T+1, A] anything of that shape.
        """
        return tf.zeros_like(values) if self._log_weights is None else self._log_weights

    def usable(self, values: tf.Tensor) -> tf.Tensor:
        """[B, T+1, H, A] values with `IMPOSSIBLE` where there is no candidate."""
        return values if self._is_candidate is None else tf.where(self._is_candidate[:, :, None], values, IMPOSSIBLE)

    def log_sum_exp(self, values: tf.Tensor) -> tf.Tensor:
        """[B, T+1, H] logarithm of the sum of exp(value) over the catalogue, of values [B, T+1, H, A]."""
        if self._log_weights is not None:
            values += self._log_weights[:, :, None]
        return tf.reduce_logsumexp(values, axis=-1)

    def logits(self, states: tf.Tensor, vectors: Vectors, bonus: tf.Tensor | None = None, weights: tf.Tensor | None = None) -> tf.Tensor:
        """state . vector of every candidate, and a bonus for what the session holds.

        Args:
            states: [B, T+1, D].
            vectors: Of items; see `Vectors`.
            bonus: [B, T+1, H] what an item gains for weight 1, or None.
            weights: [B, T+1, T] of the session's events; see `spread`.

        Returns:
            [B, T+1, H, A] float32; what is no candidate has a number without meaning.
        """
        if self._negatives is None:
            logits = _multiply("btd,nhd->bthn", states, vectors(None))
            return logits if bonus is None else logits + bonus[..., None] * self.spread(weights)[:, :, None]
        of_negatives = _multiply("btd,nhd->bthn", states, vectors(self._negatives))
        of_session = _multiply("btd,behd->bthe", states, vectors(self._item_id))
        of_logged = _multiply("btd,bthd->bth", states, vectors(self._next))[..., None]
        if bonus is not None:
            # Negatives that the session holds are no candidates, so nobody misses their bonus.
            of_session += bonus[..., None] * self._spread_over_session(weights)[:, :, None]
            of_logged += bonus[..., None] * self._spread_over_logged(weights)[:, :, None]
        return tf.concat([of_negatives, of_session, of_logged], axis=-1)

    def items(self, place: tf.Tensor) -> tf.Tensor:
        """[B, T+1] int32 items of one candidate of every state, by its place among the A, [B, T+1] int32."""
        if self._negatives is None:
            return place + 1
        drawn = tf.shape(self._negatives)[0]
        of_session = tf.gather(self._next, tf.clip_by_value(place - drawn, 0, self._steps), batch_dims=1)
        rest = tf.where(place < drawn + self._steps, of_session, self._next)
        return tf.where(place < drawn, tf.gather(self._negatives, tf.minimum(place, drawn - 1)), rest)

    def spread(self, weights: tf.Tensor) -> tf.Tensor:
        """Sum of the weights of each candidate's events.

        Args:
            weights: [B, T+1, T] float32 weights of the session's events; 0 for events that are not earlier.

        Returns:
            [B, T+1, A] float32.
        """
        if self._negatives is None:
            shape = tf.shape(weights)
            rows, states, _ = tf.meshgrid(*(tf.range(shape[axis]) for axis in range(3)), indexing="ij")
            # Whatever is no item goes to the place of padding, which is cut off.
            item = tf.broadcast_to(tf.where(self._is_item, self._item_id, PAD_ITEM_ID)[:, None, :], shape)
            places = tf.stack([rows, states, item], axis=-1)
            return tf.scatter_nd(places, weights, [shape[0], shape[1], self._num_items])[:, :, 1:]
        match = tf.cast(tf.equal(self._item_id[:, :, None], self._negatives[None, None, :]), tf.float32)
        return tf.concat([tf.matmul(weights, match), self._spread_over_session(weights), self._spread_over_logged(weights)], axis=-1)

    def _spread_over_session(self, weights: tf.Tensor) -> tf.Tensor:
        return tf.matmul(weights, tf.cast(tf.equal(self._item_id[:, :, None], self._item_id[:, None, :]), tf.float32))

    def _spread_over_logged(self, weights: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(weights * tf.cast(self._is_logged(), tf.float32), axis=-1, keepdims=True)

    def reach(self, weights: tf.Tensor, neighbours: NeighbourAttention, training: bool) -> tf.Tensor:
        """[B, T+1, A] sum over the session's events of weight [B, T+1, T] * similarity of each candidate as a neighbour of the event."""
        if self._negatives is None:
            return tf.matmul(weights, neighbours.toward(self._item_id, tf.range(1, self._num_items)))
        between = neighbours.between(self._item_id, training)
        logged = tf.einsum("btj,bjt->bt", weights[:, :-1], between)[..., None]
        of_negatives = tf.matmul(weights, neighbours.toward(self._item_id, self._negatives))
        return tf.concat([of_negatives, tf.matmul(weights, between), tf.pad(logged, [[0, 0], [0, 1], [0, 0]])], axis=-1)

    def spread_logged(self, weights: tf.Tensor) -> tf.Tensor:
        """[B, T] sum of the weights [B, T+1, T] of the events of the logged item."""
        return self._spread_over_logged(weights)[:, :-1, 0]

    def in_session(self, values: tf.Tensor) -> tf.Tensor:
        """[B, T+1, A] True for candidates that an earlier event holds; `values` is anything of that shape."""
        earlier = tf.broadcast_to(tf.cast(self._earlier, tf.float32), [tf.shape(self._item_id)[0], self._steps + 1, self._steps])
        if self._negatives is None:
            return self.spread(earlier) > 0
        # Negatives that are in the session are not usable; its items stand there themselves.
        shape = tf.shape(values)
        of_negatives = tf.zeros([shape[0], shape[1], tf.shape(self._negatives)[0]], tf.bool)
        of_session = tf.ones([shape[0], shape[1], self._steps], tf.bool)
        of_logged = tf.reduce_any(self._is_logged() & self._earlier[None], axis=-1, keepdims=True)
        return tf.concat([of_negatives, of_session, of_logged], axis=-1)

    def logged_logits(self, states: tf.Tensor, vectors: Vectors) -> tf.Tensor:
        """[B, T, H] state . vector of the logged items, of states [B, T+1, D]."""
        return _multiply("btd,bthd->bth", states[:, :-1], vectors(self._next[:, :-1]))

    def _is_logged(self) -> tf.Tensor:
        """[B, T+1, T] True where an event's item is the one logged in the state."""
        return tf.equal(self._item_id[:, None, :], self._next[:, :, None]) & self._is_item[:, None, :]

    def _parts_of_sample(self, negatives: tf.Tensor) -> list[tf.Tensor]:
        """[B, T+1, S], [B, T+1, T] and [B, T+1, 1] True for negatives, events and logged items that count."""
        is_other = ~occurred(self._item_id, negatives, self._earlier | self._now)

        same = tf.cast(tf.equal(self._item_id[:, :, None], self._item_id[:, None, :]), tf.int32)
        first = tf.equal(tf.reduce_sum(tf.linalg.band_part(same, -1, 0), axis=-1), 1) & self._is_item
        own = self._earlier[None] & first[:, None, :] & ~self._is_logged()
        return [is_other, own, (self._next != PAD_ITEM_ID)[..., None]]


def occurred(item_id: tf.Tensor, items: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Which items are among some of a session's events, for every state.

    Args:
        item_id: [B, T] int32 events.
        items: [S] int32 items, the same in every state; neither padding nor the unknown item.
        counted: [.., T] bool, the events that count in each state.

    Returns:
        [B, .., S] bool.
    """
    match = tf.cast(tf.equal(item_id[:, :, None], items[None, None, :]), tf.float32)
    # A product counts forty times faster than TensorFlow's running sum, which is slow along any axis but the last.
    return tf.matmul(tf.cast(counted, tf.float32)[None], match) > 0


def _multiply(equation: str, states: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.einsum(equation, states, tf.cast(vectors, states.dtype)), tf.float32)
