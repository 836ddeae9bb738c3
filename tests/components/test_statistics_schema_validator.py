"""Statistics, schema and validation of trajectories with TFDV: counts that agree, anomalies that are caught by name."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, write_manifest
from components.base import ComponentError, Context
from components.example_validator.config import ExampleValidatorConfig
from components.schema_gen.config import SchemaGenConfig
from components.statistics_gen.config import StatisticsGenConfig

NUM_ITEMS = 8
"""N: items 1..7, and 8 for the unknown one."""
SIZES = {"train": 200, "eval": 80, "test": 40}

Features = dict[str, list[Any]]


def trajectory(draw: random.Random, number: int) -> Features:
    length = draw.randint(2, 6)
    feedback = [int(draw.random() < 0.3) for _ in range(length)]
    reward = [1.0 if role else 0.2 for role in feedback]
    return {
        "user_id": [b"u%d" % number],
        "session_id": [b"u%d@%d" % (number, number)],
        "item_id": [draw.randint(1, NUM_ITEMS) for _ in range(length)],
        "feedback": feedback,
        "timestamp": [1000 + number + step for step in range(length)],
        "reward": reward,
        "return_to_go": [sum(reward[step:]) for step in range(length)],
        "num_context": [0],
        "is_terminal": [1],
    }


def write_examples(folder: Path, plant: Callable[[str, int, Features], None] | None = None, states: int = 0) -> Artifact:
    """Writes random trajectories; `plant` may change a record of a split; `states` is added to what the manifest says."""
    import tensorflow as tf

    def feature(values: list[Any]) -> Any:
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    draw = random.Random(5)
    for split, size in SIZES.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        paths = [folder / f"Split-{split}" / f"data_tfrecord-0000{shard}-of-00002.gz" for shard in range(2)]
        writers = [tf.io.TFRecordWriter(str(path), "GZIP") for path in paths]
        for number in range(size):
            record = trajectory(draw, number)
            if plant:
                plant(split, number, record)
            features = tf.train.Features(feature={name: feature(values) for name, values in record.items()})
            writers[number % 2].write(tf.train.Example(features=features).SerializeToString())
        for writer in writers:
            writer.close()
    splits = {split: {"trajectories": size + states} for split, size in SIZES.items()}
    return write_manifest(folder, "Examples", "trajectory_gen.examples", {"splits": splits}, {})


class Steps:
    """Runs the three steps below one folder and keeps what each made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._count = 0

    def _run(self, module: str, output: str, config: Any, inputs: Mapping[str, Artifact]) -> Artifact:
        from importlib import import_module

        self._count += 1
        folder = self.folder / f"{output}{self._count}"
        executor = import_module(f"components.{module}.executor")
        properties = executor.execute(config, inputs, {output: folder}, Context(self.folder / "scratch"))
        return write_manifest(folder, "Examples", module, properties[output], {})

    def statistics(self, examples: Artifact, **changes: Any) -> Artifact:
        return self._run("statistics_gen", "statistics", StatisticsGenConfig(**changes), {"examples": examples})

    def schema(self, statistics: Artifact, **changes: Any) -> Artifact:
        vocabulary = Artifact(self.folder, {"properties": {"num_items": NUM_ITEMS}})
        return self._run("schema_gen", "schema", SchemaGenConfig(**changes), {"statistics": statistics, "vocabulary": vocabulary})

    def validate(self, inputs: Mapping[str, Artifact], **changes: Any) -> Artifact:
        return self._run("example_validator", "anomalies", ExampleValidatorConfig(**changes), inputs)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def sound(steps: Steps) -> Artifact:
    return steps.statistics(write_examples(steps.folder / "sound"))


@pytest.fixture(scope="module")
def schema(steps: Steps, sound: Artifact) -> Artifact:
    return steps.schema(sound)


def broken(split: str, number: int, record: Features) -> None:
    """One record with a wrong item, one with a wrong role, and one feature with a wrong type."""
    if split == "train" and number == 3:
        record["item_id"][0] = NUM_ITEMS + 1
    if split == "train" and number == 4:
        record["item_id"][0] = 0
    if split == "test":
        record["feedback"] = [float(role) for role in record["feedback"]]
    if split == "eval" and number == 5:
        del record["reward"]


@pytest.fixture(scope="module")
def broken_statistics(steps: Steps) -> Artifact:
    return steps.statistics(write_examples(steps.folder / "broken", broken))


def skewed(split: str, number: int, record: Features) -> None:
    """Nearly all of eval are purchases of one item; train stays as it was."""
    if split == "eval":
        record["feedback"] = [1] * len(record["feedback"])
        record["reward"] = [1.0] * len(record["reward"])


@pytest.fixture(scope="module")
def skewed_statistics(steps: Steps) -> Artifact:
    return steps.statistics(write_examples(steps.folder / "skewed", skewed))


def shifted(split: str, number: int, record: Features) -> None:
    """All splits alike, but all purchases: nothing is skewed, everything has drifted."""
    record["feedback"] = [1] * len(record["feedback"])
    record["reward"] = [1.0] * len(record["reward"])


@pytest.fixture(scope="module")
def shifted_statistics(steps: Steps) -> Artifact:
    return steps.statistics(write_examples(steps.folder / "shifted", shifted))


# === Statistics ===


def test_statistics_count_every_record_of_every_shard(sound: Artifact) -> None:
    assert {split: entry["num_examples"] for split, entry in sound.properties["splits"].items()} == SIZES


def test_statistics_describe_what_is_in_the_records(sound: Artifact) -> None:
    features = {entry["name"]: entry for entry in sound.properties["splits"]["train"]["features"]}
    draw = random.Random(5)
    records = [trajectory(draw, number) for number in range(SIZES["train"])]
    items = [item for record in records for item in record["item_id"]]
    assert (features["item_id"]["values"], features["item_id"]["min"], features["item_id"]["max"]) == (len(items), min(items), max(items))
    assert features["item_id"]["mean"] == pytest.approx(sum(items) / len(items), abs=1e-6)
    assert features["item_id"]["values_per_record"] == pytest.approx(len(items) / 200, abs=1e-4)
    roles = [role for record in records for role in record["feedback"]]
    assert features["feedback"]["zeros"] == roles.count(0)
    # Distinct users are counted by a sketch, which is exact for this few.
    assert features["user_id"]["unique"] == 200
    assert "propensity" not in features


def test_statistics_are_files_that_tfdv_reads(sound: Artifact) -> None:
    import tensorflow_data_validation as tfdv

    for split, size in SIZES.items():
        loaded = tfdv.load_stats_binary(str(sound.path / f"Split-{split}" / "FeatureStats.pb"))
        assert loaded.datasets[0].num_examples == size


def test_records_that_the_ledger_does_not_know_are_an_error(steps: Steps) -> None:
    examples = write_examples(steps.folder / "lost", states=1)
    with pytest.raises(ComponentError, match=r"Split-train: statistics saw 200 records, the ledger says 201 were written"):
        steps.statistics(examples)


def test_a_sample_is_a_share_of_the_records_and_the_same_each_time(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = write_examples(steps.folder / "sampled")
    seen = []
    for drawn in (0.01, 0.99):
        monkeypatch.setattr(random, "random", lambda drawn=drawn: drawn)
        statistics = steps.statistics(examples, sample_rate=0.5)
        seen.append({split: entry["num_examples"] for split, entry in statistics.properties["splits"].items()})
    assert seen[0] == seen[1]
    assert 60 <= seen[0]["train"] <= 140


# === Schema ===


def test_the_schema_is_the_curated_one_with_the_vocabulary_as_bound(schema: Artifact) -> None:
    import tensorflow_data_validation as tfdv

    features = {feature.name: feature for feature in tfdv.load_schema_text(str(schema.path / "schema.pbtxt")).feature}
    assert list(features) == schema.properties["features"]
    assert (features["item_id"].int_domain.min, features["item_id"].int_domain.max) == (1, NUM_ITEMS)
    assert features["propensity"].presence.min_fraction == 0.0


def test_a_feature_that_only_the_data_has_is_added_as_inferred(steps: Steps) -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.schema_gen.executor import merge

    curated = text_format.Parse('feature { name: "a" type: INT } feature { name: "b" type: FLOAT }', schema_pb2.Schema())
    inferred = text_format.Parse('feature { name: "c" type: BYTES } feature { name: "a" type: FLOAT }', schema_pb2.Schema())
    merged = merge(inferred, curated)
    assert [(feature.name, feature.type) for feature in merged.feature] == [
        ("a", schema_pb2.INT),
        ("b", schema_pb2.FLOAT),
        ("c", schema_pb2.BYTES),
    ]
    assert [feature.name for feature in curated.feature] == ["a", "b"]


def test_a_schema_of_ones_own_takes_the_place_of_the_curated_one(steps: Steps, sound: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "own.pbtxt"
    path.write_text('feature { name: "item_id" type: INT int_domain { min: 1 max: 5 } }')
    import tensorflow_data_validation as tfdv

    own = steps.schema(sound, curated_schema=str(path))
    features = {feature.name: feature for feature in tfdv.load_schema_text(str(own.path / "schema.pbtxt")).feature}
    assert next(iter(features)) == "item_id"
    # The bound that was asked for stays, although the vocabulary is larger.
    assert features["item_id"].int_domain.max == 5
    assert "reward" in features


def test_a_schema_that_cannot_be_read_is_an_error_that_names_the_key_or_the_file(steps: Steps, sound: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"schema_gen\.curated_schema: cannot read .*nowhere\.pbtxt: No such file"):
        steps.schema(sound, curated_schema=str(tmp_path / "nowhere.pbtxt"))
    (tmp_path / "bad.pbtxt").write_text("feature { nam: 1 }")
    with pytest.raises(ComponentError, match=r"bad\.pbtxt: not a TensorFlow Metadata schema: "):
        steps.schema(sound, curated_schema=str(tmp_path / "bad.pbtxt"))


# === Validation ===


def found(anomalies: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    return {(entry["split"], entry["feature"], entry["kind"]) for entry in anomalies["anomalies"]}


def test_sound_trajectories_have_no_anomalies(steps: Steps, sound: Artifact, schema: Artifact) -> None:
    for inputs in ({}, {"previous_statistics": sound}):
        result = steps.validate({"statistics": sound, "schema": schema, **inputs})
        assert result.properties["anomalies"] == []
        assert result.properties["blessed"] == 1
        assert result.properties["compared_with_previous"] is bool(inputs)


def test_distances_are_reported_also_within_bounds(steps: Steps, sound: Artifact, schema: Artifact) -> None:
    result = steps.validate({"statistics": sound, "schema": schema, "previous_statistics": sound})
    distances = {(entry["feature"], entry["kind"]): entry for entry in result.properties["distances"]}
    # Ids are given anew in every run, so that items are compared within a run only.
    skewed, drifted = {"feedback", "item_id", "return_to_go", "reward"}, {"feedback", "return_to_go", "reward"}
    assert set(distances) == {(name, "skew") for name in skewed} | {(name, "drift") for name in drifted}
    # Nothing has drifted from itself; two random halves differ a little.
    assert all(distances[name, "drift"]["value"] == 0.0 for name in drifted)
    assert all(0.0 < distances[name, "skew"]["value"] < distances[name, "skew"]["threshold"] for name in skewed)
    assert distances["item_id", "skew"]["threshold"] == 0.8


def test_records_that_break_the_schema_are_caught_by_name(steps: Steps, broken_statistics: Artifact, schema: Artifact) -> None:
    with pytest.raises(ComponentError) as caught:
        steps.validate({"statistics": broken_statistics, "schema": schema})
    assert caught.value.outputs is not None
    anomalies = caught.value.outputs["anomalies"]
    planted = {("train", "item_id", "schema"), ("test", "feedback", "schema"), ("eval", "reward", "schema")}
    assert planted <= found(anomalies)
    assert {entry for entry in found(anomalies) if entry[2] == "schema"} == planted
    of_items = [entry["description"] for entry in anomalies["anomalies"] if entry["feature"] == "item_id"]
    # Both the pad id and the id past the vocabulary.
    assert any("0" in text for text in of_items)
    assert any(str(NUM_ITEMS + 1) in text for text in of_items)
    message = str(caught.value)
    assert "schema: train/item_id: " in message
    assert "example_validator.on_schema_anomaly" in message
    assert anomalies["blessed"] == 0


def test_a_skewed_eval_split_is_caught_as_skew(steps: Steps, skewed_statistics: Artifact, schema: Artifact) -> None:
    with pytest.raises(ComponentError, match=r"skew: train/feedback: .*\n(.*\n)*.*example_validator\.on_skew set to warn") as caught:
        steps.validate({"statistics": skewed_statistics, "schema": schema})
    assert caught.value.outputs is not None
    assert found(caught.value.outputs["anomalies"]) == {("train", "feedback", "skew"), ("train", "reward", "skew")}


def test_data_that_moved_on_since_the_last_run_is_caught_as_drift(
    steps: Steps, sound: Artifact, shifted_statistics: Artifact, schema: Artifact
) -> None:
    alone = steps.validate({"statistics": shifted_statistics, "schema": schema})
    assert alone.properties["anomalies"] == []
    with pytest.raises(ComponentError, match=r"example_validator\.on_drift set to warn") as caught:
        steps.validate({"statistics": shifted_statistics, "schema": schema, "previous_statistics": sound})
    assert caught.value.outputs is not None
    drifted = found(caught.value.outputs["anomalies"])
    assert {("train", "feedback", "drift"), ("train", "reward", "drift")} <= drifted
    assert {kind for _, _, kind in drifted} == {"drift"}


def test_skew_and_drift_of_one_feature_are_two_anomalies(
    steps: Steps, skewed_statistics: Artifact, shifted_statistics: Artifact, schema: Artifact
) -> None:
    inputs = {"statistics": skewed_statistics, "schema": schema, "previous_statistics": shifted_statistics}
    result = steps.validate(inputs, on_skew="warn", on_drift="warn")
    assert {("train", "feedback", "skew"), ("train", "feedback", "drift")} <= found(result.properties)


@pytest.mark.parametrize("kind", ["skew", "drift"])
def test_an_anomaly_that_is_to_be_warned_of_does_not_stop_the_run(
    steps: Steps, skewed_statistics: Artifact, shifted_statistics: Artifact, schema: Artifact, kind: str
) -> None:
    inputs = {"statistics": skewed_statistics, "schema": schema, "previous_statistics": shifted_statistics}
    other = {"skew": "drift", "drift": "skew"}[kind]
    with pytest.raises(ComponentError) as caught:
        steps.validate(inputs, **{f"on_{kind}": "warn"})
    assert f"example_validator.on_{other} set to warn" in str(caught.value)
    assert f"on_{kind}" not in str(caught.value)
    assert caught.value.outputs is not None
    actions = {entry["kind"]: entry["action"] for entry in caught.value.outputs["anomalies"]["anomalies"]}
    assert actions == {kind: "warn", other: "fail"}


def test_broken_records_pass_when_they_are_to_be_warned_of(steps: Steps, broken_statistics: Artifact, schema: Artifact) -> None:
    settings = {"on_schema_anomaly": "warn", "on_skew": "warn"}
    result = steps.validate({"statistics": broken_statistics, "schema": schema}, **settings)
    assert ("train", "item_id", "schema") in found(result.properties)
    assert {entry["action"] for entry in result.properties["anomalies"]} == {"warn"}
    assert result.properties["blessed"] == 1


def test_anomalies_are_written_whether_or_not_they_stop_the_run(
    steps: Steps, sound: Artifact, broken_statistics: Artifact, schema: Artifact, tmp_path: Path
) -> None:
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    from components.example_validator.executor import execute

    for name, statistics in (("sound", sound), ("broken", broken_statistics)):
        folder = tmp_path / name
        try:
            execute(ExampleValidatorConfig(), {"statistics": statistics, "schema": schema}, {"anomalies": folder}, Context(tmp_path))
        except ComponentError:
            assert name == "broken"
        protos = {split: anomalies_pb2.Anomalies.FromString((folder / f"Split-{split}" / "SchemaDiff.pb").read_bytes()) for split in SIZES}
        assert ("item_id" in protos["train"].anomaly_info) == (name == "broken")
        assert ("feedback" in protos["test"].anomaly_info) == (name == "broken")
