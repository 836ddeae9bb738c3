"""The protocol of TF Serving, asked of a real server: what is answered, and what is refused."""

import gzip
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from components.rollout import Rollout, write_rollout
from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
helper = import_module("server_process")
K, NAMES = helper.K, helper.NAMES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = helper.export_toy(tmp_path_factory.mktemp("exported"))
    return path


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("serving") / "toy"
    for version in ("4", "17"):
        shutil.copytree(model, folder / version)
    write_rollout(Rollout("toy", str(folder), (4, 17), labels={"stable": 4, "canary": 17}), folder / "models.config")
    with helper.ServerThread(folder, "max_request_rows=50", "max_request_values=5000", "max_request_bytes=100000") as process:
        yield process
        assert process.is_running, process.log


@pytest.fixture(scope="module")
def signature(model: Path) -> Any:
    loaded = tf.saved_model.load(str(model))
    found = loaded.signatures["serving_default"]
    found.owner = loaded
    return found


def _expected(signature: Any, history: list[list[str]], exclude: list[list[str]]) -> tuple[list[list[str]], np.ndarray]:
    answer = signature(item_history=tf.constant(history), exclude=tf.constant(exclude))
    return [[item.decode() for item in row] for row in answer["item_id"].numpy()], answer["score"].numpy()


HISTORY = [["item-3", "item-4", ""], ["item-18", "", ""], ["", "", ""]]


# === Answers ===


def test_rows_and_columns_get_what_the_model_says(server: Any, signature: Any):
    items, scores = _expected(signature, HISTORY, [[""]])
    status, columns = server.post({"inputs": {"item_history": HISTORY}})
    assert status == 200
    assert columns["outputs"]["item_id"] == items
    assert np.allclose(columns["outputs"]["score"], scores, atol=1e-5)
    status, rows = server.post({"signature_name": "serving_default", "instances": [{"item_history": row} for row in HISTORY]})
    assert status == 200
    assert [row["item_id"] for row in rows["predictions"]] == items
    assert np.allclose([row["score"] for row in rows["predictions"]], scores, atol=1e-5)


def test_optional_inputs_reach_the_model(server: Any, signature: Any):
    items, _ = _expected(signature, HISTORY, [["item-5"]] * 3)
    status, found = server.post({"instances": [{"item_history": row, "exclude": ["item-5"]} for row in HISTORY]})
    assert status == 200
    assert [row["item_id"] for row in found["predictions"]] == items
    # One row of exclusions for all.
    status, found = server.post({"inputs": {"item_history": HISTORY, "exclude": [["item-5"]]}})
    assert found["outputs"]["item_id"] == items


def test_text_may_come_in_base64(server: Any):
    plain = server.post({"inputs": {"item_history": [["item-3"]]}})
    assert server.post({"inputs": {"item_history": [[{"b64": "aXRlbS0z"}]]}}) == plain


def test_an_empty_list_is_a_history(server: Any, signature: Any):
    items, _ = _expected(signature, [[""]], [[""]])
    assert server.post({"instances": [{"item_history": []}]})[1]["predictions"][0]["item_id"] == items[0]


def test_versions_and_labels_choose(server: Any):
    body = {"inputs": {"item_history": [["item-3"]]}}
    for where in (":predict", "/versions/4:predict", "/versions/17:predict", "/labels/stable:predict", "/labels/canary:predict"):
        assert server.post(body, where)[0] == 200
    for where, message in {
        "/versions/5:predict": "version 5 of model 'toy' is not loaded; loaded: 4, 17, canary is 17, stable is 4",
        "/labels/best:predict": "has no label 'best'",
    }.items():
        status, found = server.post(body, where)
        assert status == 404
        assert message in found["error"]
    for version in ("x", "-1", "9" * 5000):
        assert server.post(body, f"/versions/{version}:predict")[0] == 400


def test_status_and_metadata(server: Any):
    assert server.versions() == {4: "AVAILABLE", 17: "AVAILABLE"}
    status, text = server.get("/v1/models/toy/labels/stable")
    assert (status, [entry["version"] for entry in json.loads(text)["model_version_status"]]) == (200, ["4"])
    status, text = server.get("/v1/models/toy/versions/4/metadata")
    assert status == 200
    content = json.loads(text)
    assert content["model_spec"] == {"name": "toy", "signature_name": "", "version": "4"}
    default = content["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["inputs"]["item_history"]["dtype"] == "DT_STRING"
    assert set(default["outputs"]) == {"item_id", "score"}
    assert server.get("/v1/models/other")[0] == 404


# === gRPC ===


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


def _request(**inputs: Any) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_grpc_answers_as_the_model_does(channel: grpc.Channel, signature: Any):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    items, scores = _expected(signature, HISTORY, [[""]])
    answer = stub.Predict(_request(item_history=HISTORY), timeout=30)
    assert [[item.decode() for item in row] for row in tf.make_ndarray(answer.outputs["item_id"])] == items
    assert np.allclose(tf.make_ndarray(answer.outputs["score"]), scores, atol=1e-5)
    assert (answer.model_spec.name, answer.model_spec.version.value, answer.model_spec.signature_name) == ("toy", 17, "serving_default")


def test_grpc_chooses_versions_and_outputs(channel: grpc.Channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = _request(item_history=HISTORY)
    request.model_spec.version_label = "stable"
    request.output_filter.append("score")
    answer = stub.Predict(request, timeout=30)
    assert answer.model_spec.version.value == 4
    assert list(answer.outputs) == ["score"]
    request.model_spec.version.value = 5
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_grpc_tells_status_and_metadata(channel: grpc.Channel):
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "toy"
    found = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=30)
    assert [(entry.version, entry.state) for entry in found.model_version_status] == [(17, 30), (4, 30)]
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "toy"
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(metadata, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert "item_history" in signatures.signature_def["serving_default"].inputs


def test_a_tensor_of_a_few_bytes_does_not_become_gigabytes(channel: grpc.Channel):
    # One value stands for as many as the shape says.
    request = _request()
    proto = request.inputs["item_history"]
    proto.dtype = tf.string.as_datatype_enum
    proto.string_val.append(b"x")
    for size in (2_000_000, 2_000_000):
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4,000,000,000,000 values" in caught.value.details()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"item_history": [[1.0]]}, "input 'item_history': found float32, expected string"),
        ({"item_history": ["x"]}, r"found shape \[1\], expected \[any, any\]"),
        ({"exclude": [["x"]]}, r"missing inputs \['item_history'\]"),
        ({"item_history": [["x"]], "wish": [1]}, r"unknown inputs \['wish'\]"),
        ({"item_history": [["x"]] * 51}, "51 rows, the server takes 50"),
        ({"item_history": [["x"]] * 3, "exclude": [["y"]] * 2}, "ncompatible shapes"),
    ],
)
def test_wrong_tensors_are_refused(channel: grpc.Channel, inputs: dict[str, Any], message: str):
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(_request(**inputs), timeout=30)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert re.search(message, caught.value.details()), caught.value.details()


EVERY_METHOD = ("PredictionService/Predict", "PredictionService/GetModelMetadata", "ModelService/GetModelStatus")


@pytest.mark.parametrize(
    ("raw", "methods"),
    [
        (b"\xff\xff\xff", EVERY_METHOD),
        # Names of a model and of an input that are no UTF-8.
        (b"\x0a\x04\x0a\x02\xff\xfe", EVERY_METHOD),
        (b"\x12\x04\x0a\x02\xff\xfe", EVERY_METHOD[:1]),
    ],
)
def test_bytes_that_are_no_request_are_refused(channel: grpc.Channel, raw: bytes, methods: tuple[str, ...]):
    for method in methods:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/tensorflow.serving.{method}")(raw, timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert method in caught.value.details()
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    assert stub.Predict(_request(item_history=HISTORY), timeout=30).model_spec.version.value == 17


def test_names_of_items_need_not_be_text(channel: grpc.Channel, signature: Any):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    answer = stub.Predict(_request(item_history=[[b"\xff\xfe", b"\x00"]]), timeout=30)
    items, _ = _expected(signature, [["never seen", "never seen"]], [[""]])
    assert [[item.decode() for item in row] for row in tf.make_ndarray(answer.outputs["item_id"])] == items


def test_a_message_beyond_the_limit_is_refused(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(_request(item_history=[["x" * 200_000]]), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_short_deadline_is_kept(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(_request(item_history=[["x"]]), timeout=1e-5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# === What is refused ===

REFUSED: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "not JSON"),
    "NaN": (b'{"inputs": {"item_history": [[NaN]]}}', 400, "NaN and Infinity are no JSON"),
    "invalid UTF-8": (b'{"inputs": {"item_history": [["\xff\xfe"]]}}', 400, "not JSON"),
    "half a character": (b'{"inputs": {"item_history": [["\\ud800"]]}}', 400, "surrogate"),
    "deep": (b"[" * 50_000, 400, "not JSON"),
    "a list": ([], 400, "found list"),
    "both forms": ({"inputs": {}, "instances": []}, 400, "instances"),
    "another key": ({"inputs": {}, "k": 3}, 400, "found keys inputs, k"),
    "no rows": ({"instances": []}, 400, "at least one row"),
    "bare row": ({"instances": [["item-3"]]}, 400, "expected an object"),
    "rows that differ": ({"instances": [{"item_history": ["a"]}, {"item_history": ["a"], "exclude": ["b"]}]}, 400, "row 1 has inputs"),
    "ragged": ({"inputs": {"item_history": [["a", "b"], ["c"]]}}, 400, 'fill rows up with ""'),
    "a number": ({"inputs": {"item_history": [[3]]}}, 400, "expected text, found 3"),
    "null": ({"inputs": {"item_history": [[None]]}}, 400, "expected text, found None"),
    "a level missing": ({"inputs": {"item_history": ["a"]}}, 400, "found shape [1]"),
    "a level more": ({"inputs": {"item_history": [[["a"]]]}}, 400, "found shape [1, 1, 1]"),
    "unknown input": ({"inputs": {"item_history": [["a"]], "itm": [["a"]]}}, 400, "unknown inputs ['itm']"),
    "missing input": ({"inputs": {"exclude": [["a"]]}}, 400, "missing inputs ['item_history']"),
    "unknown signature": ({"signature_name": "x", "inputs": {}}, 400, "has no signature 'x'"),
    "a number beyond int32": (
        {"signature_name": "recommend", "inputs": {"item_history": [["a"]], "k": [2**32 + 5]}},
        400,
        "4294967301 does not fit into int32",
    ),
    "a fraction": ({"signature_name": "recommend", "inputs": {"item_history": [["a"]], "k": [1.5]}}, 400, "expected int32, found 1.5"),
    "true": ({"signature_name": "recommend", "inputs": {"item_history": [["a"]], "k": [True]}}, 400, "expected int32, found True"),
    "a number beyond float32": (
        {"signature_name": "explore", "inputs": {"item_history": [["a"]], "request_id": ["r"], "temperature": [1e39]}},
        400,
        "too large for float32",
    ),
    "no example": ({"signature_name": "serving_examples", "inputs": {"examples": ["x"]}}, 400, "signature 'serving_examples': "),
    "deep where text belongs": (b'{"inputs": {"item_history": [[{"b64": %b}]]}}' % (b"[" * 900 + b"]" * 900), 400, "expected text, found"),
    "no base64": ({"inputs": {"item_history": [[{"b64": "*"}]]}}, 400, "no base64"),
    "many values": ({"inputs": {"item_history": [["a"] * 5001]}}, 413, "5,001 values, the server takes 5,000"),
    "many values of one row for all": (
        {"inputs": {"item_history": [["a"]] * 50, "exclude": [["b"] * 200]}},
        413,
        "input 'exclude': 10,000 values for 50 rows, the server takes 5,000",
    ),
    "many rows": ({"inputs": {"item_history": [["a"]] * 51}}, 413, "51 rows, the server takes 50"),
    "many bytes": (b" " * 100_001, 413, "100,000 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_with_a_reason(server: Any, case: str):
    body, expected, message = REFUSED[case]
    status, found = server.post(body)
    assert status == expected
    assert message in found["error"]
    assert server.post({"inputs": {"item_history": [["item-3"]]}})[0] == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"not gzip", 400), (gzip.compress(b'{"inputs": {"item_history": [["item-3"]]}}'), 200), (gzip.compress(b" " * 50_000_000), 413)],
    # What is compressed holds the time.
    ids=["not gzip", "a request", "too much"],
)
def test_compressed_requests_are_read_within_the_limits(server: Any, body: bytes, expected: int):
    request = urllib.request.Request(server.model_url + ":predict", body, {"Content-Encoding": "gzip"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            status, content = reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        status, content = error.code, json.load(error)
    assert (status, "error" in content) == (expected, expected != 200)


def test_a_client_that_leaves_in_the_middle_of_a_request_harms_nobody(server: Any):
    address = server.url.removeprefix("http://").split(":")
    for part in (b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"\x00\xff\r\n\r\n", b"GET"):
        with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
            connection.sendall(part)
    assert server.post({"inputs": {"item_history": [["item-3"]]}})[0] == 200


def test_other_paths_and_methods_are_refused(server: Any):
    assert server.get("/nothing")[0] == 404
    assert server.get("/v1/models/toy:predict")[0] == 405
    assert server.post({}, ":classify")[0] == 501
    assert "no model 'other'" in json.loads(server.get("/v1/models/other/metadata")[1])["error"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["item_history", "exclude", "b64", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(content=st.fixed_dictionaries({}, optional={"inputs": json_values, "instances": json_values, "signature_name": json_values}))
def test_any_json_gets_an_answer_or_a_reason(server: Any, content: Any):
    status, found = server.post(content)
    assert status in (200, 400, 413), found
    assert status == 200 or found["error"]


# === Clients that are not ours ===


def _examples(model: Path, ending: str) -> list[Path]:
    found = sorted((model.parent / "examples").glob(f"*{ending}"))
    assert len(found) == 5
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_curl_gets_answers_to_the_examples_in_rows_and_in_columns(server: Any, model: Path):
    for rows, columns in zip(_examples(model, ".rows.json"), _examples(model, ".columns.json"), strict=True):
        found = []
        for file in (rows, columns):
            command = ["curl", "-s", "--fail-with-body", "-d", f"@{file}", f"{server.model_url}/labels/stable:predict"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout
            found.append(json.loads(done.stdout))
        predictions, outputs = found[0]["predictions"], found[1]["outputs"]
        # An only output has no name.
        by_column = outputs if isinstance(outputs, dict) else {"score": outputs}
        by_row = [row if isinstance(row, dict) else {"score": row} for row in predictions]
        assert by_row == [dict(zip(by_column, row, strict=True)) for row in zip(*by_column.values(), strict=True)]


def test_the_published_stubs_get_answers_to_the_examples(channel: grpc.Channel, model: Path):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    for file in _examples(model, ".predict_request.pb"):
        request = predict_pb2.PredictRequest.FromString(file.read_bytes())
        request.model_spec.name = "toy"
        answer = stub.Predict(request, timeout=30)
        assert answer.model_spec.signature_name == file.name.split(".")[0]
        assert np.isfinite(tf.make_ndarray(answer.outputs["score"])).all()


@pytest.mark.slow
def test_saved_model_cli_runs_the_default_signature(model: Path):
    command = [str(Path(sys.executable).with_name("saved_model_cli")), "run", "--dir", str(model), "--tag_set", "serve"]
    inputs = ["--signature_def", "serving_default", "--input_exprs", 'item_history=[["item-3","item-4"]];exclude=[[""]]']
    done = subprocess.run([*command, *inputs], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "item-5" in done.stdout


# === What it tells about itself ===


def test_metrics_count_requests_by_status(server: Any):
    def count(status: str) -> float:
        name = f':tensorflow:serving:request_count{{model_name="toy",status="{status}"}} '
        return float(next((line.removeprefix(name) for line in server.get(path)[1].splitlines() if line.startswith(name)), 0))

    path = "/monitoring/prometheus/metrics"
    before = count("OK"), count("INVALID_ARGUMENT")
    server.post({"inputs": {"item_history": [["item-3"]]}})
    server.post({"inputs": {"item_history": [[3]]}})
    assert (count("OK"), count("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)
    text = server.get(path)[1]
    assert ':tensorflow:serving:request_latency_bucket{model_name="toy",API="predict",entrypoint="REST",le="+Inf"}' in text
    assert 'longplay_version_available{model_name="toy",version="17"} 1' in text


def test_the_page_asks_nobody_but_this_server(server: Any):
    with urllib.request.urlopen(server.url + "/") as reply:
        policy, text = reply.headers["Content-Security-Policy"], reply.read().decode()
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http://" not in text
    assert "https://" not in text


def test_the_page_finds_items_by_a_part_of_their_name(server: Any):
    content = json.loads(server.get("/items?contains=TEM-1")[1])
    assert content["items"] == [name for name in NAMES if "item-1" in name]
    assert (content["model"], content["versions"], content["labels"]) == ("toy", [4, 17], {"canary": 17, "stable": 4})
