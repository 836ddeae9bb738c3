"""What attention keeps of the tokens it has seen, so that the next one costs one row and not the whole sequence."""

from __future__ import annotations

from typing import NamedTuple

from models.frameworks import tf


class Reach(NamedTuple):
    """How far back a token sees.

    Attributes:
        steps: It sees the tokens of its own step and of as many less one before it; None sees all.
        tokens_per_step: Tokens that make a step.
    """

    steps: int | None = None
    tokens_per_step: int = 1

    def sees(self, order: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """True where the token with a number sees the one with the other number; numbers below 0 are of no token."""
        seen = (other >= 0) & (other <= order)
        if self.steps is None:
            return seen
        return seen & (other // self.tokens_per_step > order // self.tokens_per_step - self.steps)

    def tokens(self, most: int) -> int:
        """Tokens that must be kept of sequences of up to `most`, while up to those of one step are added at once."""
        return most if self.steps is None else min(most, (self.steps + 1) * self.tokens_per_step)


class AttentionCache(NamedTuple):
    """Keys and values of C tokens of each of B sequences; every sequence goes at its own pace.

    Rows are independent, so those of some sequences are taken and put back with gather and scatter.

    Attributes:
        key: [B, H, C, W].
        value: [B, H, C, W].
        order: [B, C] int32 number of the token in each place, -1 where there is none.
    """

    key: tf.Tensor
    value: tf.Tensor
    order: tf.Tensor

    @classmethod
    def empty(cls, batch_size: tf.Tensor, places: int, num_heads: int, head_width: int) -> AttentionCache:
        """Room for `places` tokens."""
        nothing = tf.zeros([batch_size, num_heads, places, head_width])
        return cls(nothing, nothing, tf.fill([batch_size, places], -1))

    def write(self, key: tf.Tensor, value: tf.Tensor, order: tf.Tensor) -> AttentionCache:
        """With S more tokens, which take the places of the oldest.

        Args:
            key: [B, H, S, W].
            value: [B, H, S, W].
            order: [B, S] int32; a token with a negative number is left out.
        """
        places = self.order.shape[1]
        here = tf.one_hot(tf.where(order >= 0, order % places, -1), places, dtype=self.key.dtype)  # [B, S, C]
        taken = tf.reduce_sum(here, axis=1)
        kept = (1.0 - taken)[:, None, :, None]
        return AttentionCache(
            self.key * kept + tf.einsum("bsc,bhsw->bhcw", here, tf.cast(key, self.key.dtype)),
            self.value * kept + tf.einsum("bsc,bhsw->bhcw", here, tf.cast(value, self.value.dtype)),
            tf.where(taken > 0, tf.reduce_sum(tf.cast(here, tf.int32) * order[:, :, None], axis=1), self.order),
        )
