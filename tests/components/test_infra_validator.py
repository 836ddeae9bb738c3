"""The exported model in a second process: what passes, and what is noticed."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact
from components.exporter.config import ExporterConfig
from components.exporter.executor import execute as export
from components.infra_validator import executor
from components.infra_validator.config import InfraValidatorConfig

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
    assert "4 warm-up requests answered as at export" in stated["reasons"][0]
    assert stated["load_seconds"] > 0
    assert stated["request_milliseconds"]["first"] > 0
    assert "LookupTableFindV2" in stated["operations"]


def _corrupt_graph(model: Path) -> None:
    path = model / "Format-Serving" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _alter_weights(model: Path) -> None:
    """Other weights of the right shapes: those of a model that learned nothing."""
    toy.seed_everything(5)
    other = toy.shake(toy.build("bc", toy.trained().config.network))
    from models.frameworks import tf
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
    _assert_refused(_validate(tmp_path, tmp_path / "model"), "0 answers to 4 warm-up requests")


# === Replies, without a process ===

ITEMS, SCORES = [["a", "b", "c"]], [[-1.0, -2.0, -3.0]]


def _reply(folder: Path, monkeypatch: pytest.MonkeyPatch, items: list, scores: list, **changes: Any) -> tuple[Mapping[str, Any], list[str]]:
    """Validates a model whose second process would reply this; at export it said ITEMS and SCORES, if nothing else is given."""
    (folder / "model").mkdir()
    expected = {"item_id": ITEMS, "score": changes.pop("at_export", SCORES)}
    (folder / "model" / "expected.json").write_text(json.dumps([expected]))
    answers = changes.pop("answers", 1)
    reply = {
        "answers": [{"item_id": items, "score": scores}] * answers,
        "operations": ["MatMul"],
        "load_seconds": 1.0,
        "request_seconds": [0.1] * answers,
        **changes,
    }

    class _Done:
        returncode, stdout, stderr = 0, "warnings of a library\n" + json.dumps(reply) + "\n", ""

    monkeypatch.setattr(executor.subprocess, "run", lambda *_, **__: _Done())
    return _validate(folder, folder / "model")


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


def test_items_whose_scores_are_far_apart_may_not_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, [["c", "b", "a"]], SCORES), "at export")


def test_a_graph_that_calls_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = _reply(tmp_path, monkeypatch, ITEMS, SCORES, operations=["MatMul", "EagerPyFunc"])
    _assert_refused(found, "the graph calls Python (EagerPyFunc)")


def test_fewer_answers_than_requests_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, ITEMS, SCORES, answers=2), "2 answers to 1 warm-up requests")


def test_fewer_rows_than_were_asked_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, [], []), "row")


def test_fewer_items_than_at_export_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _assert_refused(_reply(tmp_path, monkeypatch, [["a", "b"]], [[-1.0, -2.0]]), "at export")
