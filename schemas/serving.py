"""Tensors of the served request and response, and the names of signatures and files around them."""

import math
from collections.abc import Mapping
from types import MappingProxyType

SERVING_DEFAULT = "serving_default"
RECOMMEND = "recommend"
"""Signature with everything that a request may say."""
EXPLORE = "explore"
"""Signature that recommends with chance, and says with which probability it did."""
SCORE_CANDIDATES = "score_candidates"
"""Signature that scores items instead of choosing them."""
SERVING_EXAMPLES = "serving_examples"
"""Signature that takes the inputs of `recommend` as serialized tf.Examples."""
SERVING_RETURN = "serving_return"
"""Signature of a policy that is conditioned on a return: the inputs of the default one, and what is wanted."""

ITEM_HISTORY = "item_history"
"""string [B, T]: items of the session so far, oldest first; "" pads on the right. Only the last T of the model count."""
EXCLUDE = "exclude"
"""string [B, E], optional: items that must not be recommended; "" pads."""
TARGET_RETURN = "target_return"
"""float [B], optional: sum of rewards that is wanted from the first item of the history on; NaN leaves it to the model."""
REWARD_HISTORY = "reward_history"
"""float [B, T], optional: rewards of the items of the history; NaN where they are not known. What is wanted goes down by them."""
ITEM_ID = "item_id"
"""string [B, K]: recommended items, best first, all different."""
CANDIDATES = "candidates"
"""string [B, C], optional: only these may be recommended, or these are scored; "" pads, a row of "" alone means the catalogue."""
ALLOW_TAGS = "allow_tags"
"""string [B, G], optional: only items with one of these tags may be recommended; "" pads, a row of "" alone allows everything."""
NUM_WANTED = "k"
"""int32 [B], optional: how many items a row wants, at most the K of the model; the places after them stay empty."""
REQUEST_ID = "request_id"
"""string [B]: a text for each row that no other request has; it decides the chance of `explore`, and logs are joined by it."""
TEMPERATURE = "temperature"
"""float [B], optional: what scores are divided by before `explore` draws; 1 where nothing is said."""
EPSILON = "epsilon"
"""float [B], optional: share of the draws of `explore` that are uniform over the K best; 0 where nothing is said."""
PROPENSITY = "propensity"
"""float [B, K]: probability of each item to stand where it does, given those before it; 0 in empty places."""
EXAMPLES = "examples"
"""string [B]: serialized tf.Examples with the inputs of `recommend` as features."""
NUM_VALID = "num_valid"
"""int32 [B]: items of a row; the places after them are empty."""
SCORE = "score"
"""float [B, K]: logarithm of each item's probability under the policy, or its value, falling along K."""

PADDING: Mapping[str, bytes | float] = MappingProxyType(
    {ITEM_HISTORY: b"", EXCLUDE: b"", CANDIDATES: b"", ALLOW_TAGS: b"", REWARD_HISTORY: math.nan}
)
"""What rows of an input are filled up with on the right; it says nothing, wherever it stands."""

MAX_VALUES = 1 << 20
"""Values that an input may have over all rows of a request, padding and what one row says for all others included. More would let
a request of a few kilobytes take all memory there is."""

MODELS_FILE = "models.config"
"""Beside the versions: which of them are served and their labels, as TF Serving reads it."""
EXAMPLES_FOLDER = "examples"
"""Beside the versions: requests to try, one of each kind."""
TF_SERVING_VERSION = "2.16.1"
"""The release of TF Serving that has the operations of the exported models."""
TENSORFLOW_MODEL_SERVER = "tensorflow_model_server"
"""TF Serving's program."""
STABLE, CANARY = "stable", "canary"
"""Labels of the version that is meant for all, and of one that is tried on some."""

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
SAVED_MODEL_FILE = "saved_model.pb"
MAX_WARMUP_RECORDS = 1000
