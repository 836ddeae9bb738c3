"""Work of schema_gen."""

from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.artifacts import SCHEMA_FILE, STATISTICS_FILE, Artifact
from components.base import ComponentError, Context, Properties
from components.schema_gen.config import SchemaGenConfig
from components.tfdv import tfdv
from schemas import trajectory
from schemas.feature_schema import trajectory_schema_text


def execute(
    config: SchemaGenConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    statistics = tfdv.load_stats_binary(str(inputs["statistics"].split("train") / STATISTICS_FILE))
    schema = merge(tfdv.infer_schema(statistics, infer_feature_shape=False), _curated(config))
    num_items = inputs["vocabulary"].properties["num_items"]
    for feature in schema.feature:
        if feature.name == trajectory.ITEM_ID and not feature.int_domain.max:
            feature.int_domain.max = trajectory.unknown_item_id(num_items)
    outputs["schema"].mkdir(parents=True)
    tfdv.write_schema_text(schema, str(outputs["schema"] / SCHEMA_FILE))
    return {"schema": {"features": [feature.name for feature in schema.feature]}}


def merge(inferred: schema_pb2.Schema, curated: schema_pb2.Schema) -> schema_pb2.Schema:
    """A schema whose features are the curated ones, and after them whatever else the data has, as inferred."""
    merged = schema_pb2.Schema()
    merged.CopyFrom(curated)
    known = {feature.name for feature in curated.feature}
    for feature in inferred.feature:
        if feature.name not in known:
            merged.feature.add().CopyFrom(feature)
    return merged


def _curated(config: SchemaGenConfig) -> schema_pb2.Schema:
    if config.curated_schema is None:
        text, source = trajectory_schema_text(), "schemas/trajectory.pbtxt"
    else:
        source = config.curated_schema
        try:
            text = Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise ComponentError(f"schema_gen.curated_schema: cannot read {source}: {error.strerror}") from None
    schema = schema_pb2.Schema()
    try:
        text_format.Parse(text, schema)
    except text_format.ParseError as error:
        raise ComponentError(f"{source}: not a TensorFlow Metadata schema: {error}") from None
    return schema
