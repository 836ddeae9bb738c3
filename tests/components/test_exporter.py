"""The SavedModel on disk: what is in it, and that it answers as the model does."""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.artifacts import Artifact
from components.base import ComponentError
from components.exporter.config import ExporterConfig
from components.exporter.executor import execute
from components.model_io import WEIGHTS, LoadedModel, load_model, write_weights
from models.frameworks import tf
from models.serving import ServedPolicy
from schemas.config import ConfigError, decode

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

K = 7
NAMES = toy.item_names()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    """The artifact's folder and what is stated about it."""
    run, folder = toy.trained(), tmp_path_factory.mktemp("exported")
    outputs = {"serving_model": folder / "serving_model"}
    config = ExporterConfig(k=K, warmup_batch_sizes=(1, 3), num_warmup_requests=4)
    found = execute(config, {"model": run.model, "examples": run.examples}, outputs, toy.context(folder))
    return outputs["serving_model"], found["serving_model"]


@pytest.fixture(scope="module")
def saved(exported: tuple[Path, Mapping[str, Any]]) -> Path:
    return exported[0] / "Format-Serving"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    found: LoadedModel = load_model(toy.trained().model)
    return found


@pytest.fixture(scope="module")
def signature(saved: Path) -> Any:
    loaded = tf.saved_model.load(str(saved))
    found = loaded.signatures["serving_default"]
    found.owner = loaded
    return found


def _ask(signature: Any, history: list[list[str]], exclude: list[list[str]]) -> tuple[list[list[str]], np.ndarray]:
    answer = signature(item_history=_strings(history), exclude=_strings(exclude))
    return [[item.decode() for item in row] for row in answer["item_id"].numpy()], answer["score"].numpy()


def _strings(rows: list[list[str]]) -> tf.Tensor:
    width = max((len(row) for row in rows), default=0)
    return tf.reshape(tf.constant([name for row in rows for name in [*row, *[""] * (width - len(row))]], tf.string), [len(rows), width])


# === The function ===

names = st.sampled_from([*NAMES, "", "never seen"])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories=st.lists(st.lists(names, max_size=12), min_size=1, max_size=3), exclude=st.lists(names, max_size=22))
def test_the_loaded_function_answers_as_the_one_in_memory(
    signature: Any, served: ServedPolicy, histories: list[list[str]], exclude: list[str]
):
    items, scores = _ask(signature, histories, [exclude])
    expected = served.serve(_strings(histories), _strings([exclude]))
    assert items == [[item.decode() for item in row] for row in expected["item_id"].numpy()]
    assert scores == pytest.approx(expected["score"].numpy(), abs=1e-4)


@pytest.fixture(scope="module")
def served(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> ServedPolicy:
    path = tmp_path_factory.mktemp("memory") / "items.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    return ServedPolicy(model.algorithm, str(path), K)


def test_a_trained_model_recommends_the_successor(signature: Any):
    items, scores = _ask(signature, [["item-3", "item-4"], ["item-18", "item-19", "item-20"]], [[""]])
    assert [row[0] for row in items] == ["item-5", "item-1"]
    assert (np.exp(scores[:, 0]) > 0.5).all()


def test_scores_are_log_probabilities(tmp_path: Path, model: LoadedModel):
    # Of the whole catalogue they sum to 1.
    path = tmp_path / "items.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    policy = ServedPolicy(model.algorithm, str(path), len(NAMES))
    answer = policy.serve(tf.constant([["item-3", "never seen", "item-3"]]))
    assert np.exp(answer["score"].numpy()).sum() == pytest.approx(1.0, abs=1e-4)


# === The signature ===


def test_the_signature_has_the_stated_names_types_and_shapes(saved: Path):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs[0]
    assert "serve" in graph.meta_info_def.tags
    signature = graph.signature_def["serving_default"]
    inputs, outputs = (
        {name: (t.dtype, len(t.tensor_shape.dim)) for name, t in side.items()} for side in (signature.inputs, signature.outputs)
    )
    assert inputs == {"item_history": (tf.string.as_datatype_enum, 2), "exclude": (tf.string.as_datatype_enum, 2)}
    assert outputs == {"item_id": (tf.string.as_datatype_enum, 2), "score": (tf.float32.as_datatype_enum, 2)}
    assert signature.method_name == "tensorflow/serving/predict"


def test_exclude_has_a_default_in_the_file(saved: Path):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs[0]
    defaults = graph.signature_def["serving_default"].defaults
    assert list(defaults) == ["exclude"]
    assert tf.make_ndarray(defaults["exclude"]).tolist() == [[b""]]


def test_a_session_of_the_graph_answers_with_the_default_of_the_file(saved: Path, signature: Any):
    # As a server does that knows nothing of Python: feed what the request has, and the default for the rest.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(saved))
        definition = graph.signature_def["serving_default"]
        feeds = {definition.inputs[name].name: tf.make_ndarray(value) for name, value in definition.defaults.items()}
        feeds[definition.inputs["item_history"].name] = [["item-3", "item-4"], ["", ""]]
        fetches = [definition.outputs["item_id"].name, definition.outputs["score"].name]
        items, scores = session.run(fetches, feeds)
        # A request of another rank is refused and does not take the server down.
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="hape"):
            session.run(fetches, {**feeds, definition.inputs["item_history"].name: ["item-3"]})
    expected_items, expected_scores = _ask(signature, [["item-3", "item-4"], []], [[""]])
    assert [[item.decode() for item in row] for row in items] == expected_items
    assert scores == pytest.approx(expected_scores, abs=1e-5)


def test_only_operations_that_every_server_has_are_used(saved: Path):
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.framework import op_def_registry

    graph = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    functions = {function.signature.name for function in graph.library.function}
    used = {node.op for node in graph.node} | {node.op for function in graph.library.function for node in function.node_def}
    used -= functions
    assert len(used) > 20
    for name in used:
        assert isinstance(op_def_registry.get(name), op_def_pb2.OpDef), name
        assert ">" not in name, f"{name} comes from a library beside TensorFlow"
    assert not {"PyFunc", "PyFuncStateless", "EagerPyFunc"} & used


# === Files ===


def test_the_names_of_the_items_travel_with_the_model(saved: Path, tmp_path: Path, signature: Any):
    assert (saved / "assets" / "items.txt").read_text(encoding="utf-8").splitlines() == NAMES
    # Moved elsewhere, and with nothing but its own folder.
    shutil.copytree(saved, tmp_path / "elsewhere" / "1")
    loaded = tf.saved_model.load(str(tmp_path / "elsewhere" / "1"))
    history, exclude = [["item-3", "item-4"]], [["item-5"]]
    moved = _ask(loaded.signatures["serving_default"], history, exclude)
    assert moved[0] == _ask(signature, history, exclude)[0]


def test_the_artifact_states_what_it_holds(exported: tuple[Path, Mapping[str, Any]]):
    _, stated = exported
    assert stated["k"] == K
    assert stated["num_items"] == toy.NUM_ITEMS
    assert stated["max_steps"] == toy.MAX_STEPS
    assert stated["signatures"] == ["explore", "recommend", "score_candidates", "serving_default", "serving_examples"]
    assert stated["model"] == toy.trained().model.digest


def _requests(saved: Path, signature: str | None = "serving_default") -> list[dict[str, np.ndarray]]:
    """Inputs of the warm-up requests for a signature, or for all."""
    from tensorflow_serving.apis import prediction_log_pb2

    path = saved / "assets.extra" / "tf_serving_warmup_requests"
    requests = []
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        if signature in (None, request.model_spec.signature_name):
            requests.append({name: tf.make_ndarray(proto) for name, proto in request.inputs.items()})
    return requests


def test_warm_up_requests_have_every_size_an_empty_history_and_an_unknown_item(saved: Path, exported: tuple[Path, Mapping[str, Any]]):
    requests = _requests(saved)
    assert [len(request["item_history"]) for request in requests] == [1] * 4 + [3] * 4
    # Five more of each size are for the other signatures.
    assert exported[1]["warmup_requests"] == len(_requests(saved, None)) == 18
    for signature, count in {"recommend": 4, "explore": 2, "score_candidates": 2, "serving_examples": 2}.items():
        assert len(_requests(saved, signature)) == count
    known = {name.encode() for name in NAMES} | {b""}
    for size in (1, 3):
        of_size = [request["item_history"] for request in requests if len(request["item_history"]) == size]
        assert any((history == b"").all(axis=1).any() for history in of_size)
        assert any(set(history.ravel().tolist()) - known for history in of_size)
        assert any((history != b"").any() for history in of_size)
    assert any((request["exclude"] != b"").any() for request in requests)


def test_expected_answers_are_those_to_the_warm_up_requests(saved: Path, exported: tuple[Path, Mapping[str, Any]], signature: Any):
    expected = [answer for answer in json.loads((exported[0] / "expected.json").read_text()) if set(answer) == {"item_id", "score"}]
    requests = _requests(saved)
    assert len(expected) == len(requests)
    for request, answer in zip(requests, expected, strict=True):
        found = signature(**{name: tf.constant(value) for name, value in request.items()})
        assert [[item.decode() for item in row] for row in found["item_id"].numpy()] == answer["item_id"]
        assert found["score"].numpy() == pytest.approx(np.array(answer["score"]), abs=1e-4)


def test_no_more_requests_than_a_server_takes():
    with pytest.raises(ConfigError, match=r"1 to 1000 requests.*found 2019"):
        decode(ExporterConfig, {"warmup_batch_sizes": [1, 2, 3], "num_warmup_requests": 334}, "test")
    with pytest.raises(ConfigError, match="1 to 1000 requests"):
        decode(ExporterConfig, {"warmup_batch_sizes": []}, "test")
    with pytest.raises(ConfigError, match="at least one history"):
        decode(ExporterConfig, {"warmup_batch_sizes": [0, 1]}, "test")


@pytest.mark.slow
def test_a_model_without_a_test_split_of_records_is_exported(tmp_path: Path):
    examples = toy.write_examples(tmp_path / "examples", {"test": []})
    outputs = {"serving_model": tmp_path / "serving_model"}
    config = ExporterConfig(k=2, warmup_batch_sizes=(1,), num_warmup_requests=1)
    execute(config, {"model": toy.trained().model, "examples": examples}, outputs, toy.context(tmp_path))
    assert (tmp_path / "serving_model" / "Format-Serving" / "saved_model.pb").is_file()


# === Large catalogues ===


def _searched(folder: Path, model: Artifact | None = None, **retrieval: Any) -> Mapping[str, Any]:
    config = ExporterConfig(k=3, warmup_batch_sizes=(1,), num_warmup_requests=1, retrieval={"block_size": 2, **retrieval})
    run, outputs = toy.trained(), {"serving_model": folder / "serving_model"}
    inputs = {"model": model or run.model, "examples": run.examples}
    return execute(config, inputs, outputs, toy.context(folder))["serving_model"]


def _shaken(folder: Path) -> Artifact:
    """The trained model with random weights, whose best items are anywhere."""
    artifact = toy.trained().model
    shutil.copytree(artifact.path, folder)
    write_weights(toy.shake(load_model(artifact).algorithm), folder / WEIGHTS)
    return replace(artifact, path=folder)


@pytest.mark.slow
def test_a_search_looks_into_as_few_blocks_as_find_enough_and_says_what_it_found(tmp_path: Path):
    stated = _searched(tmp_path, method="clustered", min_recall=0.3)
    found = stated["retrieval"]
    # 20 items in blocks of two, of which a quarter may be looked into; the session's own items are found anyway.
    assert (found["method"], found["blocks"], found["block_size"]) == ("clustered", 10, 2)
    assert found["probes"] in (1, 2)
    assert 0.3 <= found["recall@3"] <= 1.0
    assert found["histories"] == 30
    assert found["score_difference"] >= 0.0
    loaded = tf.saved_model.load(str(tmp_path / "serving_model" / "Format-Serving"))
    answer = loaded.signatures["serving_default"](item_history=tf.constant([["item-3", "item-4"]]), exclude=tf.constant([NAMES[:15]]))
    items = {item.decode() for item in answer["item_id"].numpy()[0]}
    assert len(items) == 3
    assert items < set(NAMES[15:])


@pytest.mark.slow
def test_a_search_that_finds_too_little_is_not_used(tmp_path: Path):
    # One of five blocks may be looked into: four items of twenty, and those of the session.
    model = _shaken(tmp_path / "shaken")
    with pytest.raises(ComponentError, match=r"retrieval.method is clustered, but looking into a quarter of the blocks finds 0\.\d+ of"):
        _searched(tmp_path, model, method="clustered", block_size=4, min_recall=1.0)
    found = _searched(tmp_path / "auto", model, method="auto", block_size=4, clustered_from=1, min_recall=1.0)["retrieval"]
    assert found["method"] == "exact"
    assert "finds 0." in found["reason"]
    assert _searched(tmp_path / "small")["retrieval"] == {"method": "exact"}
