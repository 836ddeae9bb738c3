"""What is known of an item in a state, as vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from models.algorithms.base import Catalogue
from models.frameworks import keras, tf
from models.module import Module
from schemas.interaction import FEEDBACK_ROLES

if TYPE_CHECKING:
    from models.rewards.base import EstimatorConfig

_MOST_REPEATS = 3
_POSITIONS = 8
_STDDEV = 0.1


class Query(NamedTuple):
    """P items in states of each of B rows.

    Attributes:
        history: [B, T] int32 events, 0 for padding.
        feedback: [B, T] int32 their roles.
        item_id: [B, P] int32.
        step: [B, P] int32 events that the state knows, from 0 to T.
        user: [B] int64 keys of the users; None where nobody is known.
    """

    history: tf.Tensor
    feedback: tf.Tensor
    item_id: tf.Tensor
    step: tf.Tensor
    user: tf.Tensor | None

    def is_earlier(self) -> tf.Tensor:
        """[B, P, T] True for the events that an item's state knows."""
        place = tf.range(tf.shape(self.history)[1])
        return (place[None, None, :] < self.step[:, :, None]) & (self.history != 0)[:, None, :]


class Known(NamedTuple):
    """The vectors of a query.

    Attributes:
        item: [B, P, D] the item.
        events: [B, T, D] the history's events: item and role.
        earlier: [B, P, T] 1 for the events that the item's state knows.
        fields: [B, P, F, D] all fields, the item first.
    """

    item: tf.Tensor
    events: tf.Tensor
    earlier: tf.Tensor
    fields: tf.Tensor


class Numbers(Module):
    """What is known of items and users beside their events, once for all networks of an estimator.

    Args:
        config: The estimator's configuration.
        catalogue: The items.
    """

    def __init__(self, config: EstimatorConfig, catalogue: Catalogue):
        self.has_items, self.has_users = config.num_item_features > 0, config.num_user_features > 0
        if self.has_items:
            self.item = tf.Variable(tf.zeros([catalogue.num_items + 1, config.num_item_features]), trainable=False)
        if self.has_users:
            # In ascending order; the last row of numbers is of everybody else.
            self.user_keys = tf.Variable(tf.zeros([config.num_users], tf.int64), trainable=False)
            self.user = tf.Variable(tf.zeros([config.num_users + 1, config.num_user_features]), trainable=False)

    def of_items(self, item_id: tf.Tensor) -> tf.Tensor:
        """[..., G] by ids [...]."""
        return tf.gather(self.item, item_id)

    def of_users(self, user: tf.Tensor) -> tf.Tensor:
        """[B, U] by keys [B]."""
        keys = tf.convert_to_tensor(self.user_keys)
        place = tf.minimum(tf.searchsorted(keys, user), tf.shape(keys)[0] - 1)
        return tf.gather(self.user, tf.where(tf.equal(tf.gather(keys, place), user), place, tf.shape(keys)[0]))


class Fields(Module):
    """The fields of an item in a state, a vector each.

    The item; the mean of the events before; the last of them; how many there were, in powers of two; how often the item was
    among them, for each role; whether it was the last one; numbers of the item and of the user, if there are any.

    Args:
        config: The estimator's configuration.
        catalogue: The items.
        numbers: Numbers of items and users, which belong to the estimator.
        embedding: Item vectors to share; None for own ones.
    """

    def __init__(self, config: EstimatorConfig, catalogue: Catalogue, numbers: Numbers, embedding: Any = None):
        from models.layers.embedding import CategoryEmbedding, HideItems, ItemEmbedding

        self._num_items = catalogue.num_items
        self._numbers = numbers
        width = config.width if embedding is None else embedding.width
        self.items = ItemEmbedding(catalogue.num_items, width, _STDDEV, name="items") if embedding is None else embedding
        self.hide = HideItems(catalogue.num_items, config.unknown_rate, name="hide")
        self.roles = CategoryEmbedding(len(FEEDBACK_ROLES), width, _STDDEV, name="roles")
        self.positions = CategoryEmbedding(_POSITIONS, width, _STDDEV, name="positions")
        self.is_last = CategoryEmbedding(2, width, _STDDEV, name="is_last")
        self.repeats = [CategoryEmbedding(_MOST_REPEATS + 1, width, _STDDEV, name=f"repeats_{role}") for role in FEEDBACK_ROLES]
        self.num_fields = 5 + len(FEEDBACK_ROLES)
        if numbers.has_items:
            self.item_numbers = keras.layers.Dense(width, name="item_numbers")
            self.num_fields += 1
        if numbers.has_users:
            self.user_numbers = keras.layers.Dense(width, name="user_numbers")
            self.num_fields += 1

    @property
    def num_items(self) -> int:
        """N."""
        return self._num_items

    @property
    def width(self) -> int:
        """D."""
        return int(self.items.width)

    def __call__(self, query: Query, training: bool = False) -> Known:
        """The vectors of a query."""
        # The roles of padding, and what an item of its own state would tell, must not count: masks come before sums.
        item = self.items(self.hide(query.item_id, training=training))
        events = self.items(self.hide(query.history, training=training)) + self.roles(query.feedback)
        earlier = tf.cast(query.is_earlier(), events.dtype)
        count = tf.reduce_sum(tf.cast(earlier, tf.float32), axis=-1)
        mean = tf.matmul(earlier, events) / tf.cast(tf.maximum(count, 1.0), events.dtype)[..., None]
        fields = [item, mean, self._before(query, events), self.positions(_power_of_two(query.step)), *self._repeats(query)]
        fields.append(self.is_last(tf.cast(self._is_last(query), tf.int32)))
        if self._numbers.has_items:
            fields.append(self.item_numbers(self._numbers.of_items(query.item_id)))
        if self._numbers.has_users:
            user = tf.zeros(tf.shape(query.item_id)[:1], tf.int64) if query.user is None else query.user
            fields.append(tf.broadcast_to(self.user_numbers(self._numbers.of_users(user))[:, None], tf.shape(item)))
        return Known(item, events, earlier, tf.stack(fields, axis=2))

    @staticmethod
    def _before(query: Query, values: tf.Tensor) -> tf.Tensor:
        """[B, P, ...] of the event before each state from values [B, T, ...]; 0 where there is none."""
        shifted = tf.pad(values, [[0, 0], [1, 0], *([[0, 0]] * (values.shape.rank - 2))])
        return tf.gather(shifted, query.step, batch_dims=1)

    def _is_item(self, item_id: tf.Tensor) -> tf.Tensor:
        """True for items of the catalogue: two events of unknown items may be of different ones."""
        return (item_id > 0) & (item_id < self._num_items)

    def _is_last(self, query: Query) -> tf.Tensor:
        return self._is_item(query.item_id) & tf.equal(self._before(query, query.history), query.item_id)

    def _repeats(self, query: Query) -> list[tf.Tensor]:
        same = tf.equal(query.item_id[:, :, None], query.history[:, None, :]) & self._is_item(query.item_id)[..., None] & query.is_earlier()
        found = []
        for role, layer in enumerate(self.repeats):
            count = tf.reduce_sum(tf.cast(same & tf.equal(query.feedback, role)[:, None, :], tf.int32), axis=-1)
            found.append(layer(tf.minimum(count, _MOST_REPEATS)))
        return found


def _power_of_two(step: tf.Tensor) -> tf.Tensor:
    """0, 1, 2, 3-4, 5-8, ... as classes from 0."""
    borders = tf.constant([0] + [2**power for power in range(_POSITIONS - 2)], step.dtype)
    return tf.reduce_sum(tf.cast(step[..., None] > borders, tf.int32), axis=-1)


def flattened(fields: tf.Tensor) -> tf.Tensor:
    """[B, P, F, D] -> [B, P, F * D]."""
    shape = tf.shape(fields)
    return tf.reshape(fields, [shape[0], shape[1], fields.shape[2] * fields.shape[3]])
