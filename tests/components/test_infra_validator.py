"""The exported model in a second process: what passes, and what is noticed."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact
from components.exporter.config import ExporterConfig
from components.exporter.executor import execute as export
from components.infra_validator import executor
from components.infra_validator.answers import answer_problem
from components.infra_validator.config import InfraValidatorConfig
from models.frameworks import tf

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")


@pytest.fixture(scope="module")
def serving_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good export; tests copy it."""
    run, folder = toy.trained(), tmp_path_factory.mktemp("exported")
    config = ExporterConfig(k=5, warmup_batch_sizes=(1, 2), num_warmup_requests=2)
    export(config, {"model": run.model, "examples": run.examples}, {"serving_model": folder / "serving_model"}, toy.context(folder))
    return folder / "serving_model"


def _validate(folder: Path, model: Path, **config: Any) -> tuple[Mapping[str, Any], list[str]]:
    """What is stated, and the names of the files beside it."""
    artifact: Artifact = toy.artifact(model, "ServingModel")
    outputs = {"infra_blessing": folder / "infra_blessing"}
    found = executor.execute(InfraValidatorConfig(**config), {"serving_model": artifact}, outputs, toy.context(folder))
    assert found["infra_blessing"]["serving_model"] == artifact.digest
    return found["infra_blessing"], sorted(path.name for path in outputs["infra_blessing"].iterdir())


def _assert_refused(found: tuple[Mapping[str, Any], list[str]], reason: str) -> None:
    stated, files = found
    assert files == ["INFRA_NOT_BLESSED"]
    assert stated["blessed"] == 0
    assert len(stated["reasons"]) == 1
    assert reason in stated["reasons"][0]


# === In a second process ===


def test_a_good_export_is_blessed(serving_model: Path, tmp_path: Path):
    stated, files = _validate(tmp_path, serving_model)
    assert files == ["INFRA_BLESSED"]
    assert stated["blessed"] == 1
    assert "14 warm-up requests answered as at export" in stated["reasons"][0]
    assert stated["load_seconds"] > 0
    assert stated["request_milliseconds"]["first"] > 0
    assert "LookupTableFindV2" in stated["operations"]
    # Every signature was asked again and again, in the runtime of the wheel that is installed.
    assert stated["tensorflow"] == version("tensorflow")
    assert set(stated["latency_milliseconds"]) == {"serving_default", "recommend", "explore", "score_candidates", "serving_examples"}
    for found in stated["latency_milliseconds"].values():
        assert found["requests"] > 0
        assert 0 < found["p50"] <= found["p99"]
    assert 0 < stated["memory_megabytes"]["before"] < stated["memory_megabytes"]["most"]


def _corrupt_graph(model: Path) -> None:
    path = model / "Format-Serving" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _alter_weights(model: Path) -> None:
    """Other weights of the right shapes: those of a model that learned nothing."""
    toy.seed_everything(5)
    other = toy.shake(toy.build("bc", toy.trained().config.network))
    from models.serving import ServedPolicy

    items = model / "items.txt"
    items.write_text("".join(f"{name}\n" for name in toy.item_names()), encoding="utf-8")
    policy = ServedPolicy(other, str(items), 5)
    tf.saved_model.save(policy, str(model / "other"), signatures={"serving_default": policy.serve})
    shutil.rmtree(model / "Format-Serving" / "variables")
    shutil.move(model / "other" / "variables", model / "Format-Serving" / "variables")
    shutil.rmtree(model / "other")


def _lose_names(model: Path) -> None:
    (model / "Format-Serving" / "assets" / "items.txt").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut graph": (_corrupt_graph, "the process ended with code 1"),
    "other weights": (_alter_weights, "at export"),
    "no names": (_lose_names, "the process ended with code 1"),
}


@pytest.mark.parametrize("damage", ["cut graph", *(pytest.param(name, marks=pytest.mark.slow) for name in ("other weights", "no names"))])
def test_a_damaged_export_is_refused_with_a_reason(damage: str, serving_model: Path, tmp_path: Path):
    shutil.copytree(serving_model, tmp_path / "model")
    make, reason = DAMAGES[damage]
    make(tmp_path / "model")
    _assert_refused(_validate(tmp_path, tmp_path / "model"), reason)


def test_a_model_that_takes_too_long_is_refused(serving_model: Path, tmp_path: Path):
    found = _validate(tmp_path, serving_model, max_loading_seconds=0.2)
    _assert_refused(found, "not loaded and warmed up within infra_validator.max_loading_seconds = 0.2")


def test_a_model_whose_warm_up_requests_are_gone_is_refused(serving_model: Path, tmp_path: Path):
    shutil.copytree(serving_model, tmp_path / "model")
    (tmp_path / "model" / "Format-Serving" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"")
    _assert_refused(_validate(tmp_path, tmp_path / "model"), "0 answers to 14 warm-up requests")


# === Graphs that no server can run ===


def _save(folder: Path, serve: Callable[[Any], Any]) -> Path:
    """A model whose default signature is some function of histories, with one warm-up request."""
    from components.exporter.warmup import Request, write_warmup

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, None], tf.string, name="item_history")])
    path = folder / "model" / "Format-Serving"
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    write_warmup(path / "assets.extra" / "tf_serving_warmup_requests", [Request("serving_default", {"item_history": HISTORY})])
    (folder / "model" / "expected.json").write_text(json.dumps([{"item_id": [["a"]], "score": [[1.0]]}]))
    return folder / "model"


HISTORY = np.array([["a"]], object)


def _answer(history: Any) -> dict[str, Any]:
    return {"item_id": history, "score": tf.strings.to_number(tf.where(tf.equal(history, ""), "0", "1"))}


def test_a_graph_of_core_operations_is_blessed(tmp_path: Path):
    assert _validate(tmp_path, _save(tmp_path, _answer))[1] == ["INFRA_BLESSED"]


def test_a_graph_that_calls_back_into_python_is_refused(tmp_path: Path):
    def serve(history: Any) -> dict[str, Any]:
        score = tf.py_function(lambda names: tf.ones(tf.shape(names)), [history], tf.float32)
        return {"item_id": history, "score": tf.ensure_shape(score, [None, None])}

    # The runtime without Python cannot run it, which is what its process ends with.
    _assert_refused(_validate(tmp_path, _save(tmp_path, serve)), "EagerPyFunc")


def test_an_operation_that_is_not_tensorflows_own_is_refused_by_its_name(tmp_path: Path):
    from tensorflow.core.protobuf import saved_model_pb2

    file = _save(tmp_path, _answer) / "Format-Serving" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    nodes = [node for function in saved.meta_graphs[0].graph_def.library.function for node in function.node_def]
    next(node for node in nodes if node.op == "StringToNumber").op = "SomebodysOwnOperation"
    file.write_bytes(saved.SerializeToString())
    reason = f"the graph has operations that are not TensorFlow {version('tensorflow')}'s own: SomebodysOwnOperation"
    _assert_refused(_validate(tmp_path, tmp_path / "model"), reason)


def test_damaged_warm_up_requests_are_refused(serving_model: Path, tmp_path: Path):
    shutil.copytree(serving_model, tmp_path / "model")
    file = tmp_path / "model" / "Format-Serving" / "assets.extra" / "tf_serving_warmup_requests"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    _assert_refused(_validate(tmp_path, tmp_path / "model"), "a record is damaged at byte 0")


# === TF Serving, where it is installed ===

SERVER = """#!{python}
import os, sys
given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
settings = ["grpc_port=" + given["port"], "rest_port=0"]
arguments = [given["model_base_path"], "--embedded", "--name", given["model_name"]]
os.chdir({repository!r})
os.execv({python!r}, [{python!r}, "-m", "pipeline.cli", "serve", *arguments, *[part for one in settings for part in ("--set", one)]])
"""
"""Takes the arguments of TF Serving and is the embedded server, which speaks the same protocol."""


def _install(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    program = folder / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


@pytest.mark.slow
def test_a_server_that_is_installed_is_asked_too(serving_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("aiohttp")
    _install(monkeypatch, tmp_path, SERVER.format(python=sys.executable, repository=str(REPOSITORY)))
    stated, files = _validate(tmp_path, serving_model, measure_seconds=0.0)
    assert files == ["INFRA_BLESSED"], stated["reasons"]
    assert "and by TF Serving" in stated["reasons"][0]
    # What it answers is compared.
    (tmp_path / "infra_blessing" / "INFRA_BLESSED").unlink()
    (tmp_path / "infra_blessing").rmdir()
    monkeypatch.setattr(executor, "_problems", lambda *_: [])
    shutil.copytree(serving_model, tmp_path / "model")
    expected = json.loads((tmp_path / "model" / "expected.json").read_text())
    expected[0]["score"][0][0] += 1.0
    (tmp_path / "model" / "expected.json").write_text(json.dumps(expected))
    _assert_refused(_validate(tmp_path, tmp_path / "model", measure_seconds=0.0), "TF Serving: request 0, row 0: score")


def test_a_server_that_does_not_start_is_a_reason(serving_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _install(monkeypatch, tmp_path, "#!/bin/sh\necho no such flag >&2\nexit 3\n")
    found = _validate(tmp_path, serving_model, measure_seconds=0.0)
    _assert_refused(found, "TF Serving: the process ended with code 3: no such flag")
    (tmp_path / "second").mkdir()
    assert _validate(tmp_path / "second", serving_model, measure_seconds=0.0, model_server="off")[1] == ["INFRA_BLESSED"]


# === Replies, without a process ===

LIMITS = ("max_p50_milliseconds", "max_p99_milliseconds", "max_memory_megabytes")
ITEMS, SCORES = [["a", "b", "c"]], [[-1.0, -2.0, -3.0]]


def _reply(folder: Path, monkeypatch: pytest.MonkeyPatch, items: list, scores: list, **changes: Any) -> tuple[Mapping[str, Any], list[str]]:
    """Validates a model whose second process would reply this; at export it said ITEMS and SCORES, if nothing else is given."""
    (folder / "model").mkdir()
    expected = {"item_id": ITEMS, "score": changes.pop("at_export", SCORES)}
    (folder / "model" / "expected.json").write_text(json.dumps([expected]))
    answers = changes.pop("answers", 1)
    reply = {
        "tensorflow": "2.16.2",
        "answers": [{"item_id": items, "score": scores}] * answers,
        "operations": ["MatMul"],
        "unknown_operations": [],
        "load_seconds": 1.0,
        "request_seconds": [0.1] * answers,
        "measured_seconds": {"serving_default": [0.001 * number for number in range(1, 101)]},
        "smallest_batch": 1,
        "memory_megabytes": {"before": 250.0, "most": 400.0},
        **changes,
    }
    limits = {name: reply.pop(name) for name in LIMITS if name in reply}

    class _Done:
        returncode, stdout, stderr = 0, "warnings of a library\n" + json.dumps(reply) + "\n", ""

    monkeypatch.setattr(executor.subprocess, "run", lambda *_, **__: _Done())
    return _validate(folder, folder / "model", **limits)


REFUSED = {
    "another score": (ITEMS, [[-1.0, -2.1, -3.0]], "score -2.1 at place 1, -2.0 at export"),
    "another item": ([["a", "b", "d"]], SCORES, "items ['a', 'b', 'd'], ['a', 'b', 'c'] at export"),
    "an item twice": ([["a", "a", "c"]], SCORES, "items repeat"),
    "a score that is no number": (ITEMS, [[-1.0, float("nan"), -3.0]], "scores are not finite"),
    "an infinite score": (ITEMS, [[float("inf"), -2.0, -3.0]], "scores are not finite"),
}


@pytest.mark.parametrize("scores", [SCORES, [[-1.0005, -2.0, -3.002]]], ids=["the_same", "within_the_tolerance"])
def test_an_answer_as_at_export_is_blessed(scores: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, files = _reply(tmp_path, monkeypatch, ITEMS, scores)
    assert files == ["INFRA_BLESSED"]


def test_near_ties_may_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    near = [[-1.0, -1.0001, -3.0]]
    _, files = _reply(tmp_path, monkeypatch, [["b", "a", "c"]], near, at_export=near)
    assert files == ["INFRA_BLESSED"]


@pytest.mark.parametrize("name", REFUSED)
def test_another_answer_than_at_export_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    items, scores, reason = REFUSED[name]
    _assert_refused(_reply(tmp_path, monkeypatch, items, scores), reason)


CHANCES = [[0.5, 0.625, 1.0]]
REFUSED_CHANCES: dict[str, tuple[list, str]] = {
    "another propensity": ([[0.5, 0.75, 1.0]], "row 0: propensity 0.75 at place 1, 0.625 at export"),
    "a propensity that is no number": ([[0.5, 0.625, float("nan")]], "row 0: propensities are not finite"),
    "too few propensities": ([[0.5, 0.625]], "row 0: 2 propensities, 3 at export"),
    "no row of propensities": ([], "row 0: 0 propensities, 3 at export"),
}


def _explored(chances: list, items: list = ITEMS) -> list[dict[str, Any]]:
    return [{"item_id": items, "score": [[-1.0, -1.0001, -3.0]], "propensity": chances}]


@pytest.mark.parametrize("name", REFUSED_CHANCES)
def test_another_propensity_than_at_export_is_refused(name: str):
    chances, reason = REFUSED_CHANCES[name]
    problem = answer_problem(_explored(chances), _explored(CHANCES), 1e-3)
    assert problem is not None
    assert reason in problem


def test_propensities_are_compared_within_the_tolerance_and_on_the_same_items():
    assert answer_problem(_explored([[0.5005, 0.6245, 1.0]]), _explored(CHANCES), 1e-3) is None
    # Of b and a, which are as good, each has the chance of its own draw.
    swapped = [["b", "a", "c"]]
    assert answer_problem(_explored([[0.25, 0.5, 1.0]], swapped), _explored(CHANCES), 1e-3) is None
    assert "not finite" in str(answer_problem(_explored([[0.25, float("inf"), 1.0]], swapped), _explored(CHANCES), 1e-3))


def test_items_whose_scores_are_far_apart_may_not_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, [["c", "b", "a"]], SCORES), "at export")


def test_a_graph_that_calls_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = _reply(tmp_path, monkeypatch, ITEMS, SCORES, operations=["MatMul", "EagerPyFunc"])
    _assert_refused(found, "the graph calls Python (EagerPyFunc)")


BUDGETS = {
    "p50": (
        {"max_p50_milliseconds": 49.0},
        "serving_default: p50 of 100 requests of 1 is 50 ms, infra_validator.max_p50_milliseconds is 49",
    ),
    "p99": ({"max_p99_milliseconds": 98.0}, "p99 of 100 requests of 1 is 99 ms, infra_validator.max_p99_milliseconds is 98"),
    "memory": ({"max_memory_megabytes": 399.0}, "the process held 400 MB, infra_validator.max_memory_megabytes is 399"),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_model_beyond_its_budget_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # 1 to 100 ms: half are within 50 and 99 within 99.
    limits, reason = BUDGETS[name]
    _assert_refused(_reply(tmp_path, monkeypatch, ITEMS, SCORES, **limits), reason)


def test_a_model_within_its_budget_is_blessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limits = {"max_p50_milliseconds": 50.0, "max_p99_milliseconds": 99.0, "max_memory_megabytes": 400.0}
    stated, files = _reply(tmp_path, monkeypatch, ITEMS, SCORES, **limits)
    assert files == ["INFRA_BLESSED"]
    assert stated["latency_milliseconds"] == {"serving_default": {"p50": 50.0, "p99": 99.0, "requests": 100}}


def test_fewer_answers_than_requests_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, ITEMS, SCORES, answers=2), "2 answers to 1 warm-up requests")


def test_fewer_rows_than_were_asked_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, [], []), "row")


def test_fewer_items_than_at_export_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, [["a", "b"]], [[-1.0, -2.0]]), "at export")
