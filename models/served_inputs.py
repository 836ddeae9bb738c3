"""What served functions take: inputs of the signatures, what they are where they are left out, and what may be too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from models.frameworks import tf
from schemas import serving

_ALL = 2**31 - 1
"""Items wanted where nothing is said."""

# Inputs of the signatures in their order, shared by both kinds of policy.
_ITEM_HISTORY = tf.TensorSpec([None, None], tf.string, name=serving.ITEM_HISTORY)
_EXCLUDE = tf.TensorSpec([None, None], tf.string, name=serving.EXCLUDE)
_CANDIDATES = tf.TensorSpec([None, None], tf.string, name=serving.CANDIDATES)
_WISH = (
    _EXCLUDE,
    _CANDIDATES,
    tf.TensorSpec([None, None], tf.string, name=serving.ALLOW_TAGS),
    tf.TensorSpec([None], tf.int32, name=serving.NUM_WANTED),
)
SERVE = (_ITEM_HISTORY, _EXCLUDE)
RECOMMEND = (_ITEM_HISTORY, *_WISH)
EXPLORE = (
    _ITEM_HISTORY,
    tf.TensorSpec([None], tf.string, name=serving.REQUEST_ID),
    *_WISH,
    tf.TensorSpec([None], tf.float32, name=serving.TEMPERATURE),
    tf.TensorSpec([None], tf.float32, name=serving.EPSILON),
)
SCORE = (_ITEM_HISTORY, _CANDIDATES)
EXAMPLES = (tf.TensorSpec([None], tf.string, name=serving.EXAMPLES),)
RETURN = (
    tf.TensorSpec([None], tf.float32, name=serving.TARGET_RETURN),
    tf.TensorSpec([None, None], tf.float32, name=serving.REWARD_HISTORY),
)
"""What a policy that is conditioned on a return takes after all others."""

# What the inputs that may be left out are then.
NO_TEXT = tf.constant([[""]])
EVERY = tf.constant([_ALL], tf.int32)
NO_TARGET = tf.constant([math.nan])
NO_REWARD = tf.constant([[math.nan]])


class Wish(NamedTuple):
    """What a request may say beside the history; see `ServedPolicy.recommend`."""

    exclude: tf.Tensor
    candidates: tf.Tensor
    allow_tags: tf.Tensor
    k: tf.Tensor


class Chance(NamedTuple):
    """What decides the chance of an answer; see `ServedPolicy.explore`."""

    request_id: tf.Tensor
    temperature: tf.Tensor
    epsilon: tf.Tensor


def parsed_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Features of serialized examples by input name; what an example leaves out says nothing."""
    lists = (serving.ITEM_HISTORY, serving.EXCLUDE, serving.CANDIDATES, serving.ALLOW_TAGS)
    features: dict[str, Any] = {name: tf.io.VarLenFeature(tf.string) for name in lists}
    features[serving.NUM_WANTED] = tf.io.FixedLenFeature([], tf.int64, _ALL)
    features[serving.TARGET_RETURN] = tf.io.FixedLenFeature([], tf.float32, math.nan)
    features[serving.REWARD_HISTORY] = tf.io.VarLenFeature(tf.float32)
    parsed = tf.io.parse_example(tf.ensure_shape(examples, [None]), features)
    for name in lists:
        parsed[name] = _dense(name, parsed[name], "")
    reward = _dense(serving.REWARD_HISTORY, parsed[serving.REWARD_HISTORY], math.nan)
    width = tf.shape(parsed[serving.ITEM_HISTORY])[1]
    # As wide as the longest history, whoever gave more or fewer rewards.
    missing = tf.maximum(width - tf.shape(reward)[1], 0)
    parsed[serving.REWARD_HISTORY] = tf.pad(reward, [[0, 0], [0, missing]], constant_values=math.nan)[:, :width]
    return parsed


def wish_of(parsed: Mapping[str, tf.Tensor]) -> Wish:
    """What examples say beside their histories, from what `parsed_examples` found."""
    wanted = tf.cast(tf.clip_by_value(parsed[serving.NUM_WANTED], 0, _ALL), tf.int32)
    return Wish(parsed[serving.EXCLUDE], parsed[serving.CANDIDATES], parsed[serving.ALLOW_TAGS], wanted)


def for_rows(name: str, values: tf.Tensor, history: tf.Tensor) -> tf.Tensor:
    """Values [B, E], or [1, E] for all rows, as [B, E]."""
    shape = tf.stack([tf.shape(history)[0], tf.shape(values)[1]])
    with tf.control_dependencies([_few(name, shape)]):
        return tf.broadcast_to(values, shape)


def _dense(name: str, values: tf.SparseTensor, padding: str | float) -> tf.Tensor:
    """Rows of their own lengths as wide as the longest; padding fills up."""
    with tf.control_dependencies([_few(name, values.dense_shape)]):
        return tf.sparse.to_dense(values, padding)


def _few(name: str, shape: tf.Tensor) -> tf.Operation:
    """Fails, before memory is taken for it, where an input has more values than a request may have."""
    count = tf.reduce_prod(tf.cast(shape, tf.int64))
    return tf.debugging.Assert(count <= serving.MAX_VALUES, [f"{name}: at most {serving.MAX_VALUES:,} values over all rows, found", count])
