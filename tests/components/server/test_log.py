"""What a real server logs of what it served, and what becomes of it."""

import json
import shutil
import sys
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from components.feedback.config import FeedbackConfig
from components.feedback.join import join
from components.server.main import StartError
from components.server.served_log import Served, rows_of
from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
helper = import_module("server_process")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(helper.export_toy(tmp_path / "exported"), tmp_path / "toy" / "1")
    return tmp_path / "toy"


def _post(server: Any, body: Any, headers: dict[str, str]) -> tuple[Any, str]:
    """The answer and the request's id."""
    request = urllib.request.Request(f"{server.model_url}:predict", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply), reply.headers["x-request-id"]


def _ask_grpc(server: Any) -> str:
    """The request's id."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        request.inputs["item_history"].CopyFrom(tf.make_tensor_proto([["item-9"]]))
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.with_call
        _, made = call(request, timeout=30, metadata=(("x-session-id", "s7"),))
        return str(dict(made.initial_metadata())["x-request-id"])


def test_what_is_served_is_logged_and_events_find_their_propensities(folder: Path, tmp_path: Path):
    histories = [["item-3", "item-4"], ["item-8", ""]]
    explore = {"item_history": histories, "request_id": ["first", "second"], "temperature": [3.0, 3.0]}
    with helper.ServerThread(folder, f"log_folder={tmp_path / 'log'}") as server:
        drawn, _ = _post(server, {"signature_name": "explore", "inputs": explore}, {})
        plain, name = _post(server, {"instances": [{"item_history": ["item-9"]}]}, {"X-Request-Id": "mine", "X-User-Id": "somebody"})
        assert name == "mine"
        made = _ask_grpc(server)
        status, refused = server.post({"inputs": {"item_history": [[3]]}})
        assert status == 400
        assert refused["error"]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            _post(server, {"instances": [{"item_history": ["item-9"]}]}, {"X-Request-Id": "x" * 201})
        server.end()
    (file,) = (tmp_path / "log").iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["request_id"] for row in rows] == ["first", "second", "mine", made]
    assert [row["signature"] for row in rows] == ["explore"] * 2 + ["serving_default"] * 2
    assert [row["item_history"] for row in rows] == [["item-3", "item-4"], ["item-8"], ["item-9"], ["item-9"]]
    assert (rows[2]["user_id"], rows[3]["session_id"], rows[0]["user_id"]) == ("somebody", "s7", None)
    for row, items, propensities in zip(rows, drawn["outputs"]["item_id"], drawn["outputs"]["propensity"], strict=False):
        assert row["item_id"] == items
        assert row["propensity"] == pytest.approx(propensities, rel=1e-5)
    assert rows[2]["item_id"] == plain["predictions"][0]["item_id"]
    assert rows[2]["propensity"] is None
    assert [row["row"] for row in rows] == [0] * 4
    # A click on the second item of the first answer.
    clicked = drawn["outputs"]["item_id"][0][1]
    (tmp_path / "clicks.jsonl").write_text(json.dumps({"request_id": "first", "item_id": clicked}) + "\n")
    counts = join(str(tmp_path / "clicks.jsonl"), str(tmp_path / "log"), tmp_path / "out", FeedbackConfig(), helper.toy.context(tmp_path))
    assert (counts["with_propensity"], counts["rows_served"]) == (1, 4)


def _served(inputs: dict[str, list[Any]], num_rows: int) -> list[tuple[str, int]]:
    """Ids and rows in the log of an answer to histories of one item."""
    arrays = {name: np.array(value, object) for name, value in inputs.items()} | {"item_history": np.full([num_rows, 1], b"item-3", object)}
    outputs = {
        "item_id": np.full([num_rows, 1], b"item-5", object),
        "score": np.zeros([num_rows, 1], np.float32),
        "propensity": np.linspace(0.2, 0.4, num_rows, dtype=np.float32)[:, None],
    }
    return [
        (row["request_id"], row["row"]) for row in rows_of(Served(0.0, "of the request", None, None, "toy", 1, "explore", arrays, outputs))
    ]


def test_rows_that_share_an_id_are_told_apart_by_their_number():
    assert _served({"request_id": [b"one"]}, 2) == [("one", 0), ("one", 1)]
    assert _served({"request_id": [b"one", b"two"]}, 2) == [("one", 0), ("two", 0)]
    assert _served({"request_id": [b"one"]}, 1) == [("one", 0)]
    assert _served({}, 2) == [("of the request", 0), ("of the request", 1)]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"log_folder .*file: "):
        helper.ServerThread(tmp_path / "toy", f"log_folder={tmp_path / 'file'}")
