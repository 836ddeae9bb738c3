"""A value for every item in a state."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.candidates import Candidates
from models.frameworks import keras, tf
from models.heads.vectors import vectors_with_bias, with_one
from models.sharding import rows_of


class ValueState(NamedTuple):
    """What the value head knows at every step, before it looks at the catalogue.

    Attributes:
        states: [..., D+1] vectors that are multiplied with the items'; the last entry is 1.
        bonus: [..., H] float32 what an item gains by having been in the session.
        copy_weights: [..., T] float32 weights of the session's events, which sum to at most 1.
    """

    states: tf.Tensor
    bonus: tf.Tensor
    copy_weights: tf.Tensor


class ItemValueHead(keras.layers.Layer):
    """H values of every item: Q_h(s, item) = state . vector_h[item] + bias_h[item] + bonus_h(s) * repetition(s, item).

    The vectors are the head's own. `repetition` is the share of an attention over the session's events that falls on the item,
    times its mass against 1, as in the policy's copy head: values of thousands of items cannot each learn that what was just
    looked at is likely to be bought.

    Masking: padding and the unknown item have no candidate; see `Candidates`.

    Args:
        num_items: N, padding included.
        width: D, of the states.
        max_steps: T, most events of a session.
        copy: True has the bonus.
        heads: H.
    """

    item_weights = ("table",)

    def __init__(self, num_items: int, width: int, max_steps: int, copy: bool = True, heads: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_items = num_items
        self.width = width
        self.max_steps = max_steps
        self.copy = copy
        self.heads = heads

    def build(self, input_shape: Any) -> None:
        from models.layers.copying import CopyAttention

        self.table = self.add_weight(
            "table",
            (self.num_items + 1, self.heads * (self.width + 1)),
            tf.float32,
            vectors_with_bias(self.width, self.heads),
            experimental_autocast=False,
        )
        if self.copy:
            self.copying = CopyAttention(self.num_items, self.max_steps, name="copying", dtype="float32")
            self.gain = keras.layers.Dense(self.heads, kernel_initializer="zeros", name="gain", dtype="float32")
        super().build(input_shape)

    def call(self, states: tf.Tensor, item_id: tf.Tensor) -> ValueState:
        """states [B, T+1, D], item_id [B, T] -> the head's state at every step, [B, T+1, ...]."""
        multiplied, shape = with_one(states), tf.shape(states)
        if not self.copy:
            nothing = tf.zeros([shape[0], shape[1], tf.shape(item_id)[1]])
            return ValueState(multiplied, tf.zeros([shape[0], shape[1], self.heads]), nothing)
        weights, log_mass = self.copying(states, item_id)
        # What is not worth repeating adds little, although the weights sum to 1.
        return ValueState(multiplied, self.gain(tf.cast(states, tf.float32)), weights * tf.sigmoid(log_mass)[..., None])

    def vectors(self, item_id: tf.Tensor | None, mix: tf.Tensor | None = None) -> tf.Tensor:
        """Vectors [..., H, D+1] of items [...], or of items 1..N-1 for None; with `mix` [H] their weighted sum, [..., 1, D+1]."""
        # Rows are taken before anything is made of them, so that gradients stay as sparse as the batch.
        rows = self.table[1 : self.num_items] if item_id is None else rows_of(self.table, item_id)
        by_head = tf.reshape(rows, tf.concat([tf.shape(rows)[:-1], [self.heads, self.width + 1]], axis=0))
        return by_head if mix is None else tf.einsum("...hd,h->...d", by_head, mix)[..., None, :]

    def among(self, state: ValueState, candidates: Candidates, mix: tf.Tensor | None = None) -> tf.Tensor:
        """Values of every candidate in every state, [B, T+1, H, A] float32; `IMPOSSIBLE` where there is none.

        With `mix` [H] the one value of the weighted sum of the heads, [B, T+1, 1, A].
        """
        bonus = self._bonus(state, mix) if self.copy else None
        values = candidates.logits(state.states, lambda item_id: self.vectors(item_id, mix), bonus, state.copy_weights)
        return candidates.usable(values)

    def of_one(self, state: ValueState, item_id: tf.Tensor, chosen: tf.Tensor, mix: tf.Tensor | None = None) -> tf.Tensor:
        """Values of one item of every state, [B, T+1, H] float32, or [B, T+1, 1] with `mix`.

        Args:
            state: The head's state.
            item_id: [B, T] the session's events.
            chosen: [B, T+1] int32 items.
            mix: As in `among`.
        """
        vectors = tf.cast(self.vectors(chosen, mix), state.states.dtype)
        values = tf.cast(tf.einsum("btd,bthd->bth", state.states, vectors), tf.float32)
        if self.copy:
            is_chosen = tf.cast(tf.equal(item_id[:, None, :], chosen[:, :, None]), tf.float32)
            values += self._bonus(state, mix) * tf.reduce_sum(state.copy_weights * is_chosen, axis=-1, keepdims=True)
        return values

    def logged(self, state: ValueState, candidates: Candidates, mix: tf.Tensor | None = None) -> tf.Tensor:
        """Values of the logged items, [B, T, H] float32, or [B, T, 1] with `mix`; to be masked where there is no item."""
        values = candidates.logged_logits(state.states, lambda item_id: self.vectors(item_id, mix))
        if self.copy:
            values += self._bonus(state, mix)[:, :-1] * candidates.spread_logged(state.copy_weights)[..., None]
        return values

    def of_items(self, state: ValueState, item_id: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Values of the same S items [S] in every state, [B, T+1, H, S] float32; `item_id` [B, T] are the session's events."""
        vectors = tf.cast(self.vectors(items), state.states.dtype)
        values = tf.cast(tf.einsum("btd,shd->bths", state.states, vectors), tf.float32)
        if self.copy:
            match = tf.cast(tf.equal(item_id[:, :, None], items[None, None, :]), tf.float32)
            values += state.bonus[..., None] * tf.matmul(state.copy_weights, match)[:, :, None]
        return values

    def _bonus(self, state: ValueState, mix: tf.Tensor | None) -> tf.Tensor:
        return state.bonus if mix is None else tf.einsum("bth,h->bt", state.bonus, mix)[..., None]

    def get_config(self) -> dict[str, Any]:
        mine = {"num_items": self.num_items, "width": self.width, "max_steps": self.max_steps, "copy": self.copy, "heads": self.heads}
        return {**super().get_config(), **mine}
