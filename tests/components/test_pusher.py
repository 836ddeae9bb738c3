"""Pushing: only what is blessed, whole or not at all, and never twice."""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact
from components.base import ComponentError
from components.pusher import executor
from components.pusher.component import PUSHER
from components.pusher.config import PusherConfig
from components.pusher.executor import execute, push

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")


def _saved_model(folder: Path, content: str = "graph") -> Path:
    """A folder like a SavedModel; the pusher does not look into the files."""
    for name, text in {
        "saved_model.pb": content,
        "variables/variables.index": "index",
        "variables/variables.data-00000-of-00001": "data",
        "assets/items.txt": "a\nb\n",
        "assets.extra/tf_serving_warmup_requests": "requests",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def _files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def _versions(destination: Path) -> list[str]:
    """Folders that a server would look at."""
    return sorted(path.name for path in destination.iterdir() if path.name.isdigit())


# === Verdicts ===


def _inputs(folder: Path, blessed: bool = True, infra_blessed: bool = True, **changes: Any) -> dict[str, Artifact]:
    model = folder / "serving_model"
    _saved_model(model / "Format-Serving")
    serving_model = toy.artifact(model, "ServingModel", {"model": changes.get("model", "digest of the model")})
    quality = {"reasons": ["ndcg@10 0.2 is below 0.3"], "blessed": int(blessed), "current_model": "digest of the model"}
    infra = {"reasons": ["score 1 at place 0, 2 at export"], "blessed": int(infra_blessed), "serving_model": serving_model.digest}
    for name, passed, marker in (("blessing", blessed, "BLESSED"), ("infra_blessing", infra_blessed, "INFRA_BLESSED")):
        (folder / name).mkdir()
        (folder / name / (marker if passed else marker.replace("BLESSED", "NOT_BLESSED"))).touch()
    return {
        "serving_model": serving_model,
        "blessing": toy.artifact(folder / "blessing", "ModelBlessing", {**quality, **changes.get("blessing", {})}),
        "infra_blessing": toy.artifact(folder / "infra_blessing", "InfraBlessing", {**infra, **changes.get("infra_blessing", {})}),
    }


def _execute(folder: Path, inputs: Mapping[str, Artifact], number: int = 0, **config: Any) -> Mapping[str, Any]:
    outputs = {"pushed_model": folder / f"pushed_model_{number}"}
    found = execute(PusherConfig(**config), inputs, outputs, toy.context(folder))["pushed_model"]
    assert json.loads((outputs["pushed_model"] / "pushed.json").read_text()) == found
    return found


def test_a_blessed_model_is_pushed_whole(tmp_path: Path):
    inputs = _inputs(tmp_path)
    before = int(time.time())
    found = _execute(tmp_path, inputs)
    assert found["pushed"] == 1
    assert found["reasons"] == []
    # A relative destination is below the root.
    assert Path(found["path"]) == (tmp_path / "serving" / "longplay" / str(found["version"])).resolve()
    pushed = _files(Path(found["path"]))
    cards = {name for name in pushed if "model_card." in name}
    assert cards == {f"assets.extra/model_card.{kind}" for kind in ("html", "json", "md")}
    assert {name: content for name, content in pushed.items() if name not in cards} == _files(
        inputs["serving_model"].path / "Format-Serving"
    )
    assert before <= found["version"] <= time.time() + 1


def test_an_absolute_destination_is_taken_as_it_is(tmp_path: Path):
    found = _execute(tmp_path, _inputs(tmp_path), destination=str(tmp_path / "elsewhere"))
    assert Path(found["path"]).parent == (tmp_path / "elsewhere").resolve()


@pytest.mark.parametrize(
    ("blessed", "infra_blessed", "reasons"),
    [
        (False, True, ["ndcg@10 0.2 is below 0.3"]),
        (True, False, ["score 1 at place 0, 2 at export"]),
        (False, False, ["ndcg@10 0.2 is below 0.3", "score 1 at place 0, 2 at export"]),
    ],
    ids=["not_blessed", "does_not_load", "neither"],
)
def test_what_is_not_blessed_is_not_pushed_and_says_why(blessed: bool, infra_blessed: bool, reasons: list[str], tmp_path: Path):
    found = _execute(tmp_path, _inputs(tmp_path, blessed, infra_blessed))
    assert (found["pushed"], found["version"], found["path"]) == (0, None, None)
    assert len(found["reasons"]) == len(reasons)
    for reason, expected in zip(found["reasons"], reasons, strict=True):
        assert expected in reason
    assert not (tmp_path / "serving").exists()


@pytest.mark.parametrize("which", ["blessing", "infra_blessing"])
def test_the_file_decides_and_not_what_is_stated(which: str, tmp_path: Path):
    # Somebody took the blessing back by hand.
    inputs = _inputs(tmp_path)
    for path in inputs[which].path.glob("*BLESSED"):
        path.rename(path.with_name(path.name.replace("BLESSED", "NOT_BLESSED")))
    assert _execute(tmp_path, inputs)["pushed"] == 0


@pytest.mark.parametrize("which", ["blessing", "infra_blessing"])
def test_what_is_not_blessed_is_not_pushed_even_where_no_reason_is_stated(which: str, tmp_path: Path):
    # A blessing without any condition states no reason; it was taken back by hand.
    inputs = _inputs(tmp_path, which != "blessing", which != "infra_blessing", **{which: {"reasons": []}})
    found = _execute(tmp_path, inputs)
    assert found["pushed"] == 0
    assert found["reasons"]


@pytest.mark.parametrize("which", ["blessing", "infra_blessing"])
def test_the_blessing_of_another_model_does_not_count(which: str, tmp_path: Path):
    # `--to trainer`, then `--from exporter`: the verdict that is reused is that of the model before.
    other = {"current_model" if which == "blessing" else "serving_model": "digest of another model"}
    found = _execute(tmp_path, _inputs(tmp_path, **{which: other}))
    assert found["pushed"] == 0


# === Versions ===


def test_a_version_is_greater_than_all_there_are(tmp_path: Path):
    model, destination = _saved_model(tmp_path / "model"), tmp_path / "serving"
    future = int(time.time()) + 10_000
    for version in (3, future, 17):
        _saved_model(destination / str(version), f"version {version}")
    version, path = push(model, destination)
    assert version == future + 1
    assert path == destination / str(future + 1)
    assert _files(destination / str(future)) == _files(_saved_model(tmp_path / "same", f"version {future}"))


def test_versions_of_one_second_are_different(tmp_path: Path):
    destination = tmp_path / "serving"
    versions = [push(_saved_model(tmp_path / str(number), f"model {number}"), destination)[0] for number in range(3)]
    assert versions == sorted(set(versions))
    assert len(_versions(destination)) == 3


def test_the_same_model_is_not_pushed_twice(tmp_path: Path):
    inputs = _inputs(tmp_path)
    first = _execute(tmp_path, inputs)
    again = _execute(tmp_path, inputs, number=1)
    assert again == first
    assert _versions(Path(first["path"]).parent) == [str(first["version"])]


def test_a_model_that_came_back_is_pushed_again(tmp_path: Path):
    # Rolled back to the first model: it must be the greatest version again, or the server keeps the second.
    first, second, destination = _saved_model(tmp_path / "1", "first"), _saved_model(tmp_path / "2", "second"), tmp_path / "serving"
    versions = [push(model, destination)[0] for model in (first, second, first)]
    assert versions == sorted(set(versions))
    assert _files(destination / str(versions[-1])) == _files(first)


@pytest.mark.parametrize("change", ["content", "file more", "file less"])
def test_a_model_that_differs_in_any_file_is_pushed(change: str, tmp_path: Path):
    model, destination = _saved_model(tmp_path / "model"), tmp_path / "serving"
    first, _ = push(model, destination)
    if change == "content":
        (model / "variables" / "variables.data-00000-of-00001").write_text("atad")
    elif change == "file more":
        (model / "assets" / "more.txt").touch()
    else:
        (model / "assets.extra" / "tf_serving_warmup_requests").unlink()
    second, path = push(model, destination)
    assert second > first
    assert _files(path) == _files(model)


def test_a_version_that_was_damaged_is_replaced_by_a_new_one(tmp_path: Path):
    model, destination = _saved_model(tmp_path / "model"), tmp_path / "serving"
    first, path = push(model, destination)
    (path / "saved_model.pb").unlink()
    second, again = push(model, destination)
    assert second > first
    assert _files(again) == _files(model)


def test_other_files_of_the_destination_are_left_alone(tmp_path: Path):
    model, destination = _saved_model(tmp_path / "model"), tmp_path / "serving"
    _saved_model(destination / "experiment")
    (destination / "README.txt").write_text("ours")
    push(model, destination)
    assert (destination / "README.txt").read_text() == "ours"
    assert _files(destination / "experiment") == _files(model)


# === Whole or not at all ===


def _crash_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes one function of shutil copy a part and then fail."""
    original = getattr(shutil, name)

    def crash(source: Any, target: Any, *arguments: Any, **keywords: Any) -> Any:
        original(source, target, *arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(executor.shutil, name, crash)


@pytest.mark.parametrize("where", ["copytree", "copy2"])
def test_a_crash_while_copying_leaves_nothing_that_a_server_loads(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, destination = _saved_model(tmp_path / "model"), tmp_path / "serving"
    with monkeypatch.context() as patch:
        _crash_in(patch, where)
        with pytest.raises(KeyboardInterrupt):
            push(model, destination)
    assert _versions(destination) == []
    assert list(destination.iterdir()), "the case says nothing unless something was copied"
    # The next push takes the leftovers away.
    version, path = push(model, destination)
    assert [entry.name for entry in destination.iterdir()] == [str(version)]
    assert _files(path) == _files(model)


def test_the_graph_is_there_only_when_everything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Whoever looks for saved_model.pb while the folder fills finds none until all other files are there.
    model, destination = _saved_model(tmp_path / "model"), tmp_path / "serving"
    seen = []
    original = executor.shutil.copy2

    def look(source: Any, target: Any, *arguments: Any, **keywords: Any) -> Any:
        if Path(target).name == "saved_model.pb":
            folder = Path(target).parent
            seen.append({path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()})
        return original(source, target, *arguments, **keywords)

    monkeypatch.setattr(executor.shutil, "copy2", look)
    push(model, destination)
    assert seen == [set(_files(model)) - {"saved_model.pb"}]


def test_a_destination_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "serving").write_text("a file")
    with pytest.raises(ComponentError, match=r"pusher\.destination: cannot push to .*/serving"):
        push(_saved_model(tmp_path / "model"), tmp_path / "serving")


# === What the runner asks ===


def test_a_push_that_is_gone_does_not_hold(tmp_path: Path):
    found = _execute(tmp_path, _inputs(tmp_path))
    pushed: Artifact = toy.artifact(tmp_path / "pushed_model_0", "PushedModel", found)
    assert PUSHER.outputs_hold is not None
    assert PUSHER.outputs_hold({"pushed_model": pushed})
    shutil.rmtree(found["path"])
    assert not PUSHER.outputs_hold({"pushed_model": pushed})


def test_a_model_that_was_not_pushed_holds(tmp_path: Path):
    found = _execute(tmp_path, _inputs(tmp_path, blessed=False))
    assert PUSHER.outputs_hold is not None
    assert PUSHER.outputs_hold({"pushed_model": toy.artifact(tmp_path / "pushed_model_0", "PushedModel", found)})


def test_a_canary_is_not_published_where_what_is_stable_cannot_be_told(tmp_path: Path):
    inputs = _inputs(tmp_path)
    first = Path(_execute(tmp_path, inputs)["path"])
    (first.parent / "models.config").write_text("model_config_list { config { nam: 1 } }")
    (inputs["serving_model"].path / "Format-Serving" / "saved_model.pb").write_text("another graph")
    with pytest.raises(ComponentError, match=r"pusher\.label is canary, and what is stable cannot be told"):
        _execute(tmp_path, inputs, number=1, label="canary")
    assert _versions(first.parent) == [first.name]
