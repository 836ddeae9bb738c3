"""A causal transformer over returns, states and actions."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf
from models.layers.cache import AttentionCache, Reach

_TOKENS = 3
"""Return, state, action."""


class DecisionLayer(keras.layers.Layer):
    """One sequence of tokens R_0, s_0, a_0, R_1, s_1, ..., read at the state tokens.

    The tokens of a step share an embedding of its number and are normalised before the first block. A token sees those of its
    own step that come before it and those of the last steps, so that s_t knows R_t and a_{t-1} and not a_t. What is out of reach
    of one block may come through another, so with L blocks something is known of L (`context_length` - 1) steps back.

    Masking: causal. Sequences are padded on the right, so no state sees padding unless it is padding itself.

    References:
        Chen et al. (2021), Decision Transformer, algorithm 1. There, windows of `context_length` steps are read on their own;
        here all steps of a session are read in one pass, and reach is limited instead.

    Args:
        max_steps: Most steps of a sequence.
        context_length: Steps within reach of a token, its own included.
        num_blocks: Transformer blocks.
        num_heads: Attention heads of each; they divide the width of the tokens.
        expansion: Width of the feed-forward networks as a multiple of the tokens'.
        dropout: Share of activations dropped in training.
        activation: Activation of the feed-forward networks.
    """

    def __init__(
        self,
        max_steps: int,
        context_length: int,
        num_blocks: int = 3,
        num_heads: int = 1,
        expansion: int = 4,
        dropout: float = 0.1,
        activation: str = "relu",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.max_steps = max_steps
        self.context_length = context_length
        self.num_blocks = num_blocks
        self.num_heads = num_heads
        self.expansion = expansion
        self.dropout_rate = dropout
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        from models.layers.transformer import TransformerBlock

        initial = keras.initializers.RandomNormal(stddev=0.02)
        self.times = self.add_weight("times", (self.max_steps, int(input_shape[-1])), initializer=initial)
        self.token_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="token_norm")
        self.dropout = keras.layers.Dropout(self.dropout_rate)
        reach = Reach(self.context_length, _TOKENS)
        self.blocks = [
            TransformerBlock(self.num_heads, self.expansion, self.dropout_rate, self.activation, reach, name=f"block_{number}")
            for number in range(self.num_blocks)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        super().build(input_shape)

    def call(self, returns: tf.Tensor, states: tf.Tensor, actions: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embedded returns, states and actions [B, T, D] -> what is known at the state tokens, [B, T, D]."""
        shape = tf.shape(states)
        times = tf.cast(self.times[: shape[1]], self.compute_dtype)[None, :, None]
        tokens = tf.stack([returns, states, actions], axis=2) + times
        tokens = tf.reshape(tokens, [shape[0], _TOKENS * shape[1], states.shape[-1]])
        tokens = self.dropout(self.token_norm(tokens), training=training)
        for block in self.blocks:
            tokens = block(tokens, training=training)
        at_states = tf.reshape(tokens, [shape[0], shape[1], _TOKENS, states.shape[-1]])[:, :, 1]
        return self.norm(at_states)

    def begin(self, batch_size: tf.Tensor) -> tuple[AttentionCache, ...]:
        """Caches of B sequences in which nothing has happened."""
        return tuple(block.begin(batch_size, _TOKENS * self.max_steps) for block in self.blocks)

    def extend(
        self, action: tf.Tensor, returns: tf.Tensor, state: tf.Tensor, step: tf.Tensor, caches: tuple[AttentionCache, ...]
    ) -> tuple[tf.Tensor, tuple[AttentionCache, ...]]:
        """The next state token of every sequence, from what is in the caches.

        Args:
            action: [B, D] embedded action that led here; it is not looked at in step 0.
            returns: [B, D] embedded return.
            state: [B, D] embedded state.
            step: [B] int32 number of the step.
            caches: Of the steps before.

        Returns:
            [B, D], equal to `call` at this step, and the caches with the step's tokens.
        """
        now, before = tf.gather(self.times, step), tf.gather(self.times, tf.maximum(step - 1, 0))
        tokens = self.token_norm(tf.stack([action + before, returns + now, state + now], axis=1))
        order = _TOKENS * step[:, None] + tf.constant([-1, 0, 1])[None, :]
        extended = []
        for block, cache in zip(self.blocks, caches, strict=True):
            tokens, longer = block.extend(tokens, order, cache)
            extended.append(longer)
        return self.norm(tokens[:, -1:])[:, 0], tuple(extended)

    def get_config(self) -> dict[str, Any]:
        names = ("max_steps", "context_length", "num_blocks", "num_heads", "expansion", "activation")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "dropout": self.dropout_rate}
