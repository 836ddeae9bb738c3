"""The TensorFlow Metadata schema of a trajectory, derived from `schemas.trajectory`.

`trajectory.pbtxt` beside this file is the same schema as text, kept as a golden: it is what a reader and TFDV's own tools
see, and `schema_gen` merges what it infers from data into it.
"""

from importlib import resources

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas import trajectory
from schemas.interaction import FEEDBACK_ROLES

_TYPES = {"bytes": schema_pb2.BYTES, "int64": schema_pb2.INT, "float32": schema_pb2.FLOAT}

# Skew compares train with eval, drift compares train with the previous run's train. Ids of users and sessions differ by
# construction; times move on by construction; the rest is compared by Jensen-Shannon divergence, 0 to 1. Items get a wide
# bound: in small shops most items of the eval split are new (0.56 to 0.74 was seen), a changed id format gives nearly 1.
_COMPARED = {
    trajectory.ITEM_ID: 0.8,
    trajectory.FEEDBACK: 0.2,
    trajectory.REWARD: 0.2,
    trajectory.RETURN_TO_GO: 0.3,
}


def trajectory_schema() -> schema_pb2.Schema:
    """Builds the curated schema: presence, types, one value or many, and bounds that hold for every dataset."""
    schema = schema_pb2.Schema()
    for feature in trajectory.FEATURES.values():
        proto = schema.feature.add(name=feature.name, type=_TYPES[feature.dtype])
        proto.annotation.comment.append(feature.description)
        proto.presence.min_count = 0 if feature.optional else 1
        if not feature.optional:
            proto.presence.min_fraction = 1.0
        proto.value_count.min = 1
        if not feature.per_step:
            proto.value_count.max = 1
        if feature.name in _COMPARED:
            proto.skew_comparator.jensen_shannon_divergence.threshold = _COMPARED[feature.name]
            # Ids are given anew by popularity in every run, so between runs they say nothing about items.
            if feature.name != trajectory.ITEM_ID:
                proto.drift_comparator.jensen_shannon_divergence.threshold = _COMPARED[feature.name]
        if feature.dtype == "float32":
            proto.float_domain.disallow_nan = True
            proto.float_domain.disallow_inf = True
    features = {proto.name: proto for proto in schema.feature}
    features[trajectory.ITEM_ID].int_domain.min = trajectory.PAD_ITEM_ID + 1
    features[trajectory.FEEDBACK].int_domain.min = 0
    features[trajectory.FEEDBACK].int_domain.max = len(FEEDBACK_ROLES) - 1
    features[trajectory.NUM_CONTEXT].int_domain.min = 0
    features[trajectory.IS_TERMINAL].int_domain.min = 0
    features[trajectory.IS_TERMINAL].int_domain.max = 1
    features[trajectory.TIMESTAMP].int_domain.min = 0
    features[trajectory.PROPENSITY].float_domain.min = 0.0
    features[trajectory.PROPENSITY].float_domain.max = 1.0
    return schema


def trajectory_schema_text() -> str:
    """The committed text of the schema, `schemas/trajectory.pbtxt`."""
    return resources.files("schemas").joinpath("trajectory.pbtxt").read_text(encoding="utf-8")


def to_text(schema: schema_pb2.Schema) -> str:
    """A schema as protobuf text."""
    return str(text_format.MessageToString(schema))
