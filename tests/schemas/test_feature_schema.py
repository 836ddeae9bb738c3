"""The TensorFlow Metadata schema of a trajectory and its committed text."""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas import trajectory
from schemas.feature_schema import to_text, trajectory_schema, trajectory_schema_text


def test_the_committed_golden_is_the_derived_schema(repository: Path, update_golden: bool) -> None:
    golden = repository / "schemas" / "trajectory.pbtxt"
    if update_golden:
        golden.write_text(to_text(trajectory_schema()), encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == to_text(trajectory_schema()), "run `make golden` and look at the difference"


def test_the_packaged_text_parses_to_the_derived_schema() -> None:
    parsed = text_format.Parse(trajectory_schema_text(), schema_pb2.Schema())
    assert parsed == trajectory_schema()


def test_every_feature_of_a_trajectory_is_in_the_schema_with_its_type() -> None:
    types = {feature.name: feature.type for feature in trajectory_schema().feature}
    assert types == {
        "user_id": schema_pb2.BYTES,
        "session_id": schema_pb2.BYTES,
        "item_id": schema_pb2.INT,
        "feedback": schema_pb2.INT,
        "timestamp": schema_pb2.INT,
        "reward": schema_pb2.FLOAT,
        "return_to_go": schema_pb2.FLOAT,
        "propensity": schema_pb2.FLOAT,
        "num_context": schema_pb2.INT,
        "is_terminal": schema_pb2.INT,
    }


def test_only_propensity_may_be_missing_and_only_step_features_hold_many_values() -> None:
    features = {feature.name: feature for feature in trajectory_schema().feature}
    assert [name for name, feature in features.items() if feature.presence.min_fraction < 1.0] == ["propensity"]
    single = {name for name, feature in features.items() if feature.value_count.max == 1}
    assert single == {"user_id", "session_id", "num_context", "is_terminal"}


def test_padding_is_out_of_the_domain_of_items() -> None:
    features = {feature.name: feature for feature in trajectory_schema().feature}
    assert features["item_id"].int_domain.min == trajectory.PAD_ITEM_ID + 1 == 1
    assert (features["feedback"].int_domain.min, features["feedback"].int_domain.max) == (0, 1)


def test_the_unknown_item_is_one_past_the_last_real_item() -> None:
    # Three real items: ids 1, 2, 3, so N = 4 with padding, and the unknown bucket is 4.
    assert trajectory.unknown_item_id(4) == 4
