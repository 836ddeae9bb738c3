"""A small network on a state and an item."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf


class ItemConditionedHead(keras.layers.Layer):
    """output = contract(relu(from_state . state + from_item . item)): a network with one hidden layer on [state; item].

    The first layer is split in two, so that many items in one state cost no second product with the state.

    Masking: none.

    Args:
        hidden: Width of the hidden layer.
        outputs: Width of the output.
    """

    def __init__(self, hidden: int, outputs: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.outputs = outputs
        self.from_state = keras.layers.Dense(hidden, name="from_state")
        self.from_item = keras.layers.Dense(hidden, use_bias=False, name="from_item")
        self.contract = keras.layers.Dense(outputs, name="contract", dtype="float32")

    def call(self, states: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """One item a state: states [B, T, D], item vectors [B, T, E] -> [B, T, outputs] float32."""
        return self.contract(tf.nn.relu(self.from_state(states) + self.from_item(items)))

    def among(self, states: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """The same S items in every state: states [B, T, D], item vectors [S, E] -> [B, T, S, outputs] float32."""
        return self.contract(tf.nn.relu(self.from_state(states)[:, :, None] + self.from_item(items)[None, None]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden": self.hidden, "outputs": self.outputs}
