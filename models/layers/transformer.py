"""A causal transformer block."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf
from models.layers.cache import AttentionCache, Reach
from models.numerics import IMPOSSIBLE


class CausalSelfAttention(keras.layers.Layer):
    """Multi-head self-attention in which a token sees itself and earlier ones within reach only (Vaswani et al., 2017).

    Masking: causal. Sequences are padded on the right, so a step never sees padding unless it is padding itself.

    Args:
        num_heads: Heads; they divide the width of the input.
        dropout: Share of attention weights dropped in training.
        reach: How far back a token sees.
    """

    def __init__(self, num_heads: int, dropout: float = 0.0, reach: Reach = Reach(), **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout
        self.reach = Reach(*reach)

    def build(self, input_shape: Any) -> None:
        width = int(input_shape[-1])
        if width % self.num_heads:
            raise ValueError(f"`num_heads` must divide the width. Received: `num_heads` = {self.num_heads}, width = {width}.")
        # One matrix product for queries, keys and values.
        self.projection = keras.layers.Dense(3 * width, name="projection")
        self.output_projection = keras.layers.Dense(width, name="output_projection")
        self.dropout = keras.layers.Dropout(self.dropout_rate)
        super().build(input_shape)

    def call(self, states: tf.Tensor, training: bool = False) -> tf.Tensor:
        """states [B, T, D] -> [B, T, D]."""
        query, key, value = self._heads(states)
        return self._attend(query, key, value, causal_bias(tf.shape(states)[1], states.dtype, self.reach), training)

    def begin(self, batch_size: tf.Tensor, max_tokens: int) -> AttentionCache:
        """Nothing seen yet, in sequences of up to `max_tokens` tokens."""
        head_width = self.projection.units // (3 * self.num_heads)
        return AttentionCache.empty(batch_size, self.reach.tokens(max_tokens), self.num_heads, head_width)

    def extend(self, states: tf.Tensor, order: tf.Tensor, cache: AttentionCache) -> tuple[tf.Tensor, AttentionCache]:
        """What `call` gives for the next tokens of sequences whose earlier ones are in the cache, without dropout.

        Args:
            states: [B, S, D] the next tokens.
            order: [B, S] int32 number of each in its sequence, from 0; a token with a negative number is nobody's to see.
            cache: The earlier tokens.

        Returns:
            [B, S, D] and the cache with the new tokens.
        """
        query, key, value = self._heads(states)
        cache = cache.write(key, value, order)
        visible = self.reach.sees(order[:, :, None], cache.order[:, None, :])[:, None]
        bias = tf.where(visible, tf.zeros([], states.dtype), tf.constant(IMPOSSIBLE, states.dtype))
        return self._attend(query, cache.key, cache.value, bias, training=False), cache

    def _heads(self, states: tf.Tensor) -> list[tf.Tensor]:
        """Queries, keys and values [B, H, T, D/H] each."""
        shape, head_width = tf.shape(states), states.shape[-1] // self.num_heads
        heads = tf.reshape(self.projection(states), [shape[0], shape[1], 3, self.num_heads, head_width])
        return list(tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4])))

    def _attend(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor, training: bool) -> tf.Tensor:
        scores = tf.matmul(query, key, transpose_b=True) * (float(query.shape[-1]) ** -0.5)
        weights = self.dropout(tf.nn.softmax(scores + bias), training=training)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        shape = tf.shape(mixed)
        return self.output_projection(tf.reshape(mixed, [shape[0], shape[1], self.num_heads * int(query.shape[-1])]))

    def get_config(self) -> dict[str, Any]:
        mine = {"num_heads": self.num_heads, "dropout": self.dropout_rate, "reach": tuple(self.reach)}
        return {**super().get_config(), **mine}


class TransformerBlock(keras.layers.Layer):
    """Attention and a feed-forward network, each normalised before and added to its input.

    Masking: causal, see `CausalSelfAttention`.

    Args:
        num_heads: Attention heads.
        expansion: Width of the feed-forward network as a multiple of the input's.
        dropout: Share of activations dropped in training.
        activation: Activation of the feed-forward network.
        reach: How far back a token sees.
    """

    def __init__(
        self,
        num_heads: int = 1,
        expansion: int = 1,
        dropout: float = 0.0,
        activation: str = "relu",
        reach: Reach = Reach(),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.reach = Reach(*reach)
        self.num_heads = num_heads
        self.expansion = expansion
        self.dropout_rate = dropout
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        width = int(input_shape[-1])
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="attention_norm")
        self.attention = CausalSelfAttention(self.num_heads, self.dropout_rate, self.reach, name="attention")
        self.feed_forward_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="feed_forward_norm")
        self.expand = keras.layers.Dense(self.expansion * width, self.activation, name="expand")
        self.contract = keras.layers.Dense(width, name="contract")
        self.dropout = keras.layers.Dropout(self.dropout_rate)
        super().build(input_shape)

    def call(self, states: tf.Tensor, training: bool = False) -> tf.Tensor:
        """states [B, T, D] -> [B, T, D]."""
        attended = self.attention(self.attention_norm(states), training=training)
        return self._feed_forward(states + self.dropout(attended, training=training), training)

    def begin(self, batch_size: tf.Tensor, max_tokens: int) -> AttentionCache:
        """See `CausalSelfAttention.begin`."""
        return self.attention.begin(batch_size, max_tokens)

    def extend(self, states: tf.Tensor, order: tf.Tensor, cache: AttentionCache) -> tuple[tf.Tensor, AttentionCache]:
        """See `CausalSelfAttention.extend`."""
        attended, cache = self.attention.extend(self.attention_norm(states), order, cache)
        return self._feed_forward(states + attended, training=False), cache

    def _feed_forward(self, states: tf.Tensor, training: bool) -> tf.Tensor:
        transformed = self.contract(self.expand(self.feed_forward_norm(states)))
        return states + self.dropout(transformed, training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "expansion": self.expansion,
            "dropout": self.dropout_rate,
            "activation": self.activation,
            "reach": tuple(self.reach),
        }


class PublishedTransformerBlock(keras.layers.Layer):
    """The block of the published SASRec (Kang and McAuley, 2018), as Xin et al. (2020) use it.

    Queries are normalised and keys and values are not; what is added to attention and to the feed-forward network is their
    normalised input; nothing is projected after attention.

    Masking: causal, see `CausalSelfAttention`.

    Args:
        num_heads: Attention heads; they divide the width of the input.
        expansion: Width of the feed-forward network as a multiple of the input's.
        dropout: Share of activations dropped in training.
    """

    def __init__(self, num_heads: int = 1, expansion: int = 1, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.expansion = expansion
        self.dropout_rate = dropout

    def build(self, input_shape: Any) -> None:
        width = int(input_shape[-1])
        if width % self.num_heads:
            raise ValueError(f"`num_heads` must divide the width. Received: `num_heads` = {self.num_heads}, width = {width}.")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-8, name="attention_norm")
        self.query = keras.layers.Dense(width, name="query")
        # The published keys have a bias, to no effect: it moves all scores of a query alike.
        self.key = keras.layers.Dense(width, use_bias=False, name="key")
        self.value = keras.layers.Dense(width, name="value")
        self.feed_forward_norm = keras.layers.LayerNormalization(epsilon=1e-8, name="feed_forward_norm")
        self.expand = keras.layers.Dense(self.expansion * width, "relu", name="expand")
        self.contract = keras.layers.Dense(width, name="contract")
        self.dropout = keras.layers.Dropout(self.dropout_rate)
        super().build(input_shape)

    def call(self, states: tf.Tensor, training: bool = False) -> tf.Tensor:
        """states [B, T, D] -> [B, T, D]."""
        normalised = self.attention_norm(states)
        states = normalised + self._attend(normalised, states, training)
        normalised = self.feed_forward_norm(states)
        expanded = self.dropout(self.expand(normalised), training=training)
        return normalised + self.dropout(self.contract(expanded), training=training)

    def _attend(self, normalised: tf.Tensor, states: tf.Tensor, training: bool) -> tf.Tensor:
        width = states.shape[-1]
        steps = tf.shape(states)[1]
        query, key, value = self._heads(self.query(normalised)), self._heads(self.key(states)), self._heads(self.value(states))
        scores = tf.matmul(query, key, transpose_b=True) * (float(width // self.num_heads) ** -0.5)
        weights = self.dropout(tf.nn.softmax(scores + causal_bias(steps, scores.dtype)), training=training)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return tf.reshape(mixed, [-1, steps, width])

    def _heads(self, projected: tf.Tensor) -> tf.Tensor:
        width = projected.shape[-1]
        heads = tf.reshape(projected, [-1, tf.shape(projected)[1], self.num_heads, width // self.num_heads])
        return tf.transpose(heads, [0, 2, 1, 3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads, "expansion": self.expansion, "dropout": self.dropout_rate}


def causal_bias(steps: tf.Tensor, dtype: tf.DType, reach: Reach = Reach()) -> tf.Tensor:
    """[steps, steps] zero where the column is within reach of the row and not later, a large negative number elsewhere."""
    order = tf.range(steps)
    allowed = reach.sees(order[:, None], order[None, :])
    return tf.where(allowed, tf.zeros([], dtype), tf.constant(IMPOSSIBLE, dtype))
