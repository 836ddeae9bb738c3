"""Layers that several estimators have."""

from __future__ import annotations

from typing import Any

from models.frameworks import keras, tf
from models.rewards.fields import flattened


class HiddenLayers(keras.layers.Layer):
    """Hidden layers with rectifiers and dropout, and a linear output: [..., D] -> [..., outputs] float32.

    Masking: none.

    Args:
        hidden: Width of each hidden layer.
        outputs: Width of the output.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(self, hidden: tuple[int, ...], outputs: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.outputs = outputs
        self.rate = dropout
        self.denses = [keras.layers.Dense(width, activation="relu", name=f"hidden_{number}") for number, width in enumerate(hidden)]
        self.dropouts = [keras.layers.Dropout(dropout, name=f"dropout_{number}") for number in range(len(hidden))]
        self.output_layer = keras.layers.Dense(outputs, name="output", dtype="float32")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        for dense, dropout in zip(self.denses, self.dropouts, strict=True):
            inputs = dropout(dense(inputs), training=training)
        return self.output_layer(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden": self.hidden, "outputs": self.outputs, "dropout": self.rate}


class TargetAttention(keras.layers.Layer):
    """interest = sum over events j of w_j h_j, w_j = MLP([h_j, a, h_j - a, h_j * a]), without a softmax.

    The first layer is split by its inputs, the difference falls to both sides, so that no tensor [B, P, T, 4 D] is made.

    Masking: events that a state does not know have weight 0.

    References:
        Zhou et al. (2018), Deep Interest Network for Click-Through Rate Prediction, eq. 3 and figure 2; PReLU instead of Dice.

    Args:
        hidden: Hidden units of the activation unit.
    """

    def __init__(self, hidden: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.from_event = keras.layers.Dense(hidden, name="from_event")
        self.from_item = keras.layers.Dense(hidden, use_bias=False, name="from_item")
        self.rectifier = keras.layers.PReLU(shared_axes=[1, 2, 3], name="rectifier")
        self.weigh = keras.layers.Dense(1, name="weigh")

    def build(self, input_shape: Any) -> None:
        self.product = self.add_weight("product", (int(input_shape[-1]), self.hidden), initializer="glorot_uniform")
        super().build(input_shape)

    def call(self, events: tf.Tensor, item: tf.Tensor, earlier: tf.Tensor) -> tf.Tensor:
        """events [B, T, D], item [B, P, D], earlier [B, P, T] -> [B, P, D]."""
        product = tf.einsum("btd,bpd,dh->bpth", events, item, self.product, optimize="optimal")
        hidden = self.rectifier(product + self.from_event(events)[:, None] + self.from_item(item)[:, :, None])
        return tf.matmul(self.weigh(hidden)[..., 0] * earlier, events)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden": self.hidden}


class FactorizationMachine(keras.layers.Layer):
    """y_c = w_0 + w_item + sum of w_f . v_f + h_c . 1/2 [(sum of v_f)^2 - sum of v_f^2], over the fields f.

    The second-order term is the sum of v_f . v_g over all pairs of fields, at the cost of one pass over them (Rendle, 2010, lemma 3.1).

    Ours: the first-order weight of a field is a linear function of its vector, but for the item's, which has one of its own; with
    several outputs each weights the products of its own, h_c, which is all ones for a single one.

    Masking: none.

    References:
        Rendle (2010), Factorization Machines, eq. 1. He and Chua (2017), Neural Factorization Machines, for the weights h.

    Args:
        num_items: N, padding included.
        outputs: C.
    """

    item_weights = ("item_bias",)

    def __init__(self, num_items: int, outputs: int, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.num_items = num_items
        self.outputs = outputs
        self.linear = keras.layers.Dense(outputs, name="linear", dtype="float32")

    def build(self, input_shape: Any) -> None:
        self.item_bias = self.add_weight("item_bias", (self.num_items + 1, self.outputs), initializer="zeros")
        self.products = None
        if self.outputs > 1:
            self.products = keras.layers.Dense(self.outputs, use_bias=False, kernel_initializer="ones", name="products", dtype="float32")
        super().build(input_shape)

    def call(self, fields: tf.Tensor, item_id: tf.Tensor) -> tf.Tensor:
        """fields [B, P, F, D], item_id [B, P] -> [B, P, C]."""
        pairs = 0.5 * (tf.square(tf.reduce_sum(fields, axis=2)) - tf.reduce_sum(tf.square(fields), axis=2))
        second = tf.reduce_sum(pairs, axis=-1, keepdims=True) if self.products is None else self.products(pairs)
        return tf.gather(self.item_bias, item_id) + self.linear(flattened(fields)) + second

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_items": self.num_items, "outputs": self.outputs}
