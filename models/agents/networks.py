"""Networks of TF-Agents' agents that read what our simulators show.

An observation becomes a state by vectors of items or of the observation's numbers. Where these vectors come from is handed in as a
function: a layer of the network's own, which the agent's loss moves, or the vectors of a reward estimator without their gradient (SRS2).
A function is not tracked, so in the second case the agent does not even know the shared weights, and neither do its target networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.frameworks import keras, tf
from models.layers.embedding import ItemEmbedding
from models.simulators.base import Space
from models.simulators.shop_simulator import ITEM_HISTORY, LENGTH

# TF-Agents imports TensorFlow by itself; the package has chosen Keras 2 by now.
import tensorflow_probability as tfp  # isort: skip
from tf_agents.networks import network  # isort: skip
from tf_agents.networks import normal_projection_network  # isort: skip
from tf_agents.agents.sac import tanh_normal_projection_network  # isort: skip
from tf_agents.specs import tensor_spec  # isort: skip
from tf_agents.utils import common, nest_utils  # isort: skip

STDDEV = 0.1
"""Of the initial item vectors."""


class Vectors:
    """Vectors that states are made of.

    Args:
        layer: `ItemEmbedding`, or a `Dense` layer on an observation's numbers.
        is_held: True reads them without gradient and hides the layer, which somebody else trains.
    """

    def __init__(self, layer: Any, is_held: bool):
        self._layer: Callable[[], Any] = lambda: layer
        self.is_held = is_held
        self.own = None if is_held else layer

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        found = self._layer()(inputs)
        return tf.stop_gradient(found) if self.is_held else found

    def of_actions(self) -> tf.Tensor:
        """[N, D] vectors of the items 1..N, which are the actions 0..N-1."""
        found = self._layer().table[1:-1]
        return tf.stop_gradient(found) if self.is_held else found


class ItemStates(keras.layers.Layer):
    """The last item, the mean of all items, whether the last two are the same, and how many there are: -> [..., 2 D + 2].

    A shop's purchase repeats the item that was clicked, so in the simulated shop this tells the state.

    Masking: places behind the last item count nowhere; a state without items has vectors of zeros.

    Args:
        vectors: Of the items.
    """

    def __init__(self, vectors: Vectors, **kwargs: Any):
        super().__init__(**kwargs)
        self.vectors = vectors
        # Tracked only where it belongs to this network.
        self.own = vectors.own

    def call(self, observation: dict[str, tf.Tensor]) -> tf.Tensor:
        history, length = observation[ITEM_HISTORY], observation[LENGTH]
        place = tf.range(tf.shape(history)[-1])
        known = tf.cast(place < length[..., None], tf.float32)
        last = tf.cast(tf.equal(place, length[..., None] - 1), tf.float32)
        before = tf.equal(place, length[..., None] - 2)
        vectors = self.vectors(history)
        count = tf.cast(length, tf.float32)
        mean = tf.einsum("...t,...td->...d", known, vectors) / tf.maximum(count, 1.0)[..., None]
        items = [tf.reduce_sum(history * tf.cast(mask, history.dtype), axis=-1) for mask in (last, before)]
        repeats = tf.cast(tf.equal(*items) & (length > 1), tf.float32)
        numbers = tf.stack([repeats, tf.math.log1p(count)], axis=-1)
        return tf.concat([tf.einsum("...t,...td->...d", last, vectors), mean, numbers], axis=-1)


class NumberStates(keras.layers.Layer):
    """Vectors of an observation's numbers, each divided by its greatest value: [..., O] -> [..., D].

    Masking: none.

    Args:
        vectors: Of the numbers.
        space: The observation.
    """

    def __init__(self, vectors: Vectors, space: Space, **kwargs: Any):
        super().__init__(**kwargs)
        self.vectors = vectors
        self.own = vectors.own
        self._scale = np.broadcast_to(np.asarray(space.high, np.float32), space.shape)

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        return self.vectors(observation / self._scale)


class Pairs(keras.layers.Layer):
    """States beside actions: ([..., ...], [..., A]) -> [..., D + A].

    Masking: none.
    """

    def __init__(self, states: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.states = states

    def call(self, inputs: tuple[Any, tf.Tensor]) -> tf.Tensor:
        observation, action = inputs
        return tf.concat([self.states(observation), tf.cast(action, tf.float32)], axis=-1)


class ItemScores(keras.layers.Layer):
    """Scores of all items, products with their vectors, and a number for each: [..., H] -> [..., N, K], or [..., N] for one score.

    Masking: none.

    Args:
        vectors: Of the items.
        num_actions: N.
        width: D.
        num_scores: K; None is one without an axis.
    """

    def __init__(self, vectors: Vectors, num_actions: int, width: int, num_scores: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.vectors = vectors
        self.num_actions, self.width, self.num_scores = num_actions, width, num_scores
        self.project = keras.layers.Dense(width * (num_scores or 1), name="project")

    def build(self, input_shape: Any) -> None:
        self.bias = self.add_weight("bias", (self.num_actions, self.num_scores or 1), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        wanted = self.project(inputs)
        shape = tf.concat([tf.shape(wanted)[:-1], [self.num_scores or 1, self.width]], axis=0)
        scores = tf.einsum("...kd,nd->...nk", tf.reshape(wanted, shape), self.vectors.of_actions()) + self.bias
        return scores if self.num_scores else scores[..., 0]


class StateNetwork(network.Network):
    """head(hidden layers(states(observation))).

    TF-Agents copies networks by making them anew from their arguments, so layers are made by functions.

    Args:
        input_tensor_spec: Of an observation, or of an observation and an action.
        make_states: Makes the layer from an observation to a state [..., D].
        hidden: Hidden layers with rectifiers.
        make_head: Makes the head from the layer of the states: a function of hidden units [..., H], outer dimensions and training.
        num_atoms: Of a distribution of values; None for others.
        name: Of the network.
    """

    def __init__(
        self,
        input_tensor_spec: Any,
        make_states: Callable[[], Any],
        hidden: tuple[int, ...],
        make_head: Callable[[Any], Any],
        num_atoms: int | None = None,
        name: str = "StateNetwork",
    ):
        super().__init__(input_tensor_spec=input_tensor_spec, state_spec=(), name=name)
        self._states = make_states()
        self._hidden = [keras.layers.Dense(width, activation="relu", kernel_initializer="he_uniform") for width in hidden]
        self._head = make_head(self._states)
        self._num_atoms = num_atoms

    @property
    def num_atoms(self) -> int | None:
        """Of a distribution of values."""
        return self._num_atoms

    def call(self, observation: Any, step_type: Any = (), network_state: Any = (), training: bool = False) -> tuple[Any, Any]:
        outer_rank = nest_utils.get_outer_rank(observation, self.input_tensor_spec)
        hidden = self._states(observation)
        for layer in self._hidden:
            hidden = layer(hidden)
        return self._head(hidden, outer_rank, training), network_state


# === Heads ===


class Scores(keras.layers.Layer):
    """`ItemScores` as a head."""

    def __init__(self, states: Any, num_actions: int, width: int, num_scores: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.scores = ItemScores(states.vectors, num_actions, width, num_scores)

    def call(self, hidden: tf.Tensor, outer_rank: int, training: bool) -> tf.Tensor:
        return self.scores(hidden)


class Choice(Scores):
    """A distribution over the items."""

    def __call__(self, hidden: tf.Tensor, outer_rank: int, training: bool) -> Any:
        # Keras would take the distribution for a tensor on the way out.
        return tfp.distributions.Categorical(logits=self.scores(hidden))


class Value(keras.layers.Layer):
    """One number: [..., H] -> [...]."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.RandomUniform(-0.003, 0.003))

    def call(self, hidden: tf.Tensor, outer_rank: int, training: bool) -> tf.Tensor:
        return self.dense(hidden)[..., 0]


class Action(keras.layers.Layer):
    """One action within its bounds: [..., H] -> [..., A]."""

    def __init__(self, action_spec: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.action_spec = action_spec
        self.dense = keras.layers.Dense(action_spec.shape[0], "tanh", kernel_initializer=keras.initializers.RandomUniform(-0.003, 0.003))

    def call(self, hidden: tf.Tensor, outer_rank: int, training: bool) -> tf.Tensor:
        return common.scale_to_spec(self.dense(hidden), self.action_spec)


class Projection(keras.layers.Layer):
    """A distribution of continuous actions by one of TF-Agents' projections.

    Args:
        action_spec: The action.
        is_squashed: True for a normal distribution that is squashed into the bounds, as soft actor-critic has it.
        stddev: Initial standard deviation of the other one, whose mean is squashed.
    """

    def __init__(self, action_spec: Any, is_squashed: bool, stddev: float = 0.3, **kwargs: Any):
        super().__init__(**kwargs)
        if is_squashed:
            self.projection = tanh_normal_projection_network.TanhNormalProjectionNetwork(action_spec)
        else:
            self.projection = normal_projection_network.NormalProjectionNetwork(
                action_spec,
                init_means_output_factor=0.1,
                std_bias_initializer_value=float(np.log(np.expm1(stddev))),
                std_transform=tf.nn.softplus,
                scale_distribution=False,
            )

    def __call__(self, hidden: tf.Tensor, outer_rank: int, training: bool) -> Any:
        return self.projection(hidden, outer_rank=outer_rank, training=training)[0]


def item_vectors(num_actions: int, width: int, shared: Any = None) -> Vectors:
    """Vectors of the items of a simulator with N actions: own ones, or those of a shared `ItemEmbedding`."""
    if shared is not None:
        return Vectors(shared, is_held=True)
    return Vectors(ItemEmbedding(num_actions + 1, width, STDDEV, name="items"), is_held=False)


def number_vectors(width: int, shared: Any = None) -> Vectors:
    """Vectors of an observation's numbers: by an own linear layer, or by a shared one."""
    if shared is not None:
        return Vectors(shared, is_held=True)
    return Vectors(keras.layers.Dense(width, name="numbers"), is_held=False)


def specs_of(environment: Any) -> tuple[Any, Any]:
    """Tensor specs of a simulator environment's time step and action."""
    return tensor_spec.from_spec(environment.time_step_spec()), tensor_spec.from_spec(environment.action_spec())
