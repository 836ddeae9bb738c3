"""Recommendations from a SavedModel on disk."""

import io
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.serving import _rewards
from pipeline.predict import PredictError, find_model, predict_lines, predict_one

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

K = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that learned the successor."""
    from components.exporter.executor import export
    from components.model_io import load_model

    folder: Path = tmp_path_factory.mktemp("served") / "1700000000"
    export(load_model(toy.trained().model), folder, K)
    return folder


# === Finding a model ===


def _fake(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    return folder


def test_a_saved_model_is_found_by_its_folder(tmp_path: Path):
    assert find_model(_fake(tmp_path / "model")) == tmp_path / "model"


def test_the_latest_version_is_found_below_a_folder(tmp_path: Path):
    # By number, not by text; folders without a graph and names that are no number do not count.
    for name in ("9", "10", "2", "99x", "\N{SUPERSCRIPT TWO}", "0011", ".pushing-500-1"):
        _fake(tmp_path / name)
    (tmp_path / "1000").mkdir()
    assert find_model(tmp_path) == tmp_path / "10"


def test_a_directory_that_is_not_there_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(PredictError, match=r"--model: no such directory: .*/nowhere"):
        find_model(tmp_path / "nowhere")


def test_a_directory_without_versions_is_an_error_that_says_what_was_looked_for(tmp_path: Path):
    (tmp_path / "7").mkdir()
    with pytest.raises(PredictError, match=r"holds neither saved_model\.pb nor numbered versions that do"):
        find_model(tmp_path)


def test_a_file_is_no_model(tmp_path: Path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(PredictError, match="no such directory"):
        find_model(tmp_path / "saved_model.pb")


# === One history ===


def test_items_come_with_their_scores_best_first(model: Path):
    found = predict_one(model, ["item-3", "item-4"], [], 3)
    assert found[0][0] == "item-5"
    assert len(found) == len({item for item, _ in found}) == 3
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)


def test_the_model_is_found_below_its_folder(model: Path):
    assert predict_one(model.parent, ["item-3"], [], 2) == predict_one(model, ["item-3"], [], 2)


def test_excluded_items_are_left_out(model: Path):
    everything = [item for item, _ in predict_one(model, ["item-3"], [], K)]
    found = [item for item, _ in predict_one(model, ["item-3"], everything[:2], K)]
    assert found[: K - 2] == everything[2:]
    assert not set(found) & set(everything[:2])


def test_places_without_an_item_are_not_shown(model: Path):
    exclude = toy.item_names()[:-2]
    assert sorted(item for item, _ in predict_one(model, ["item-3"], exclude, K)) == ["item-19", "item-20"]


def test_an_empty_and_an_unknown_history_are_answered(model: Path):
    assert len(predict_one(model, [], [], K)) == K
    assert len(predict_one(model, ["never seen"], [], K)) == K


def test_more_items_than_the_model_was_exported_for_are_an_error_that_says_how_many(model: Path):
    with pytest.raises(PredictError, match=rf"-k {K + 1}: the model was exported for at most {K} items"):
        predict_one(model, ["item-3"], [], K + 1)


def test_a_model_without_the_signature_is_an_error_that_names_those_it_has(tmp_path: Path):
    from models.frameworks import tf

    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def other(self, value: Any) -> Any:
            return {"value": value}

    module = Other()
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"other": module.other})
    with pytest.raises(PredictError, match=r"has no signature 'serving_default'; found other"):
        predict_one(tmp_path / "other", ["item-3"], [], 2)


# === JSON lines ===


def _lines(model: Path, requests: list[Any], k: int = 3, batch: int = 256) -> list[dict[str, Any]]:
    text = "".join((request if isinstance(request, str) else json.dumps(request)) + "\n" for request in requests)
    answers = io.StringIO()
    predict_lines(model, io.StringIO(text), answers, k, batch)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


REQUESTS = [
    {"item_history": ["item-3", "item-4"]},
    {"item_history": []},
    {"item_history": ["item-7"] * 12, "exclude": ["item-8", "never seen"]},
    {"item_history": ["item-19", "item-20"], "exclude": []},
    {"item_history": ["商品"], "exclude": ["item-1"]},
]


@pytest.fixture(scope="module")
def answers(model: Path) -> list[list[tuple[str, float]]]:
    """The answer to every request by itself."""
    return [predict_one(model, request["item_history"], request.get("exclude", []), 3) for request in REQUESTS]


@pytest.mark.parametrize("batch", [1, 2, 5, 256])
def test_every_request_has_its_answer_in_order(batch: int, model: Path, answers: list[list[tuple[str, float]]]):
    found = _lines(model, REQUESTS, batch=batch)
    assert len(found) == 5
    for answer, expected in zip(found, answers, strict=True):
        assert set(answer) == {"item_id", "score"}
        assert answer["item_id"] == [item for item, _ in expected]
        assert answer["score"] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_blank_lines_are_passed_over_and_counted(model: Path):
    assert len(_lines(model, ["", {"item_history": ["item-3"]}, "   ", {"item_history": []}])) == 2
    with pytest.raises(PredictError, match=r"^line 3: "):
        _lines(model, ["", {"item_history": ["item-3"]}, "nonsense"])


def test_no_requests_get_no_answers(model: Path):
    assert _lines(model, []) == []


BAD = {
    "not json": ("{item_history: [1]}", "line 1: not JSON"),
    "a list": ('["item-3"]', "line 1: found"),
    "a number": ("3", "line 1: found 3; expected"),
    "nothing": ("null", "line 1: found null"),
    "no history": ('{"exclude": ["a"]}', r'line 1: found \{"exclude"'),
    "a misspelt key": ('{"item_history": [], "exlude": ["a"]}', "line 1: found"),
    "numbers as items": ('{"item_history": [1, 2]}', "line 1: items must be text in a list"),
    "text as history": ('{"item_history": "item-3"}', "line 1: items must be text in a list"),
    "text as exclusion": ('{"item_history": [], "exclude": "item-3"}', "line 1: items must be text in a list"),
    "no exclusion": ('{"item_history": [], "exclude": null}', "line 1: items must be text in a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_is_no_request_is_an_error_that_names_it_and_says_what_was_expected(name: str, model: Path):
    line, message = BAD[name]
    with pytest.raises(PredictError, match=message) as failure:
        _lines(model, [line])
    assert 'expected {"item_history": ["item", ...]}' in str(failure.value)


def test_a_first_line_that_is_no_request_is_told_before_the_model_is_loaded(tmp_path: Path):
    # An empty graph, on which loading fails.
    with pytest.raises(PredictError, match="line 1: not JSON"):
        _lines(_fake(tmp_path / "model"), ["nonsense"])
    with pytest.raises(ValueError, match="0 MetaGraphs"):
        _lines(_fake(tmp_path / "other"), [{"item_history": []}])


def test_half_a_character_is_an_error_that_names_the_line(model: Path):
    with pytest.raises(PredictError, match=r"line 2"):
        _lines(model, [{"item_history": ["item-3"]}, '{"item_history": ["\\ud800"]}'])


@pytest.mark.parametrize("k", [K + 1, 100])
def test_too_many_items_are_an_error_before_anything_is_answered(k: int, model: Path):
    answers = io.StringIO()
    with pytest.raises(PredictError, match=f"-k {k}"):
        predict_lines(model, io.StringIO('{"item_history": []}\n'), answers, k)
    assert answers.getvalue() == ""


def test_answers_do_not_depend_on_where_the_model_lies(model: Path, tmp_path: Path):
    shutil.copytree(model, tmp_path / "copy" / "5")
    assert predict_one(tmp_path / "copy", ["item-3"], [], K) == predict_one(model, ["item-3"], [], K)


# === Returns ===


def test_a_model_that_is_not_conditioned_on_a_return_says_so(model: Path):
    for target, reward, what in ((3.0, None, "--target-return"), (None, [0.2], "--reward-history")):
        with pytest.raises(
            PredictError, match=rf"^{what}: the model in .* is not conditioned on a return, .* 'serving_return' \(found serv"
        ):
            predict_one(model, ["item-3"], [], 3, target, reward)
    with pytest.raises(PredictError, match=r"^line 2: target_return: the model in .* is not conditioned on a return"):
        _lines(model, [{"item_history": ["item-3"]}, {"item_history": ["item-3"], "target_return": 1}])
    # Nothing is asked for.
    (found,) = _lines(model, [{"item_history": ["item-3"], "target_return": None, "reward_history": None}])
    assert found["item_id"] == [item for item, _ in predict_one(model, ["item-3"], [], 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target-return", "3"], "--target-return: goes with --history"),
        (["--reward-history", "3"], "--reward-history: goes with --history"),
        (["--history", "item-3", "--reward-history", "much"], "--reward-history: expected numbers separated by commas, found 'much'"),
        (["--history", "item-3", "--reward-history", "1,1"], "--reward-history: 2 rewards for 1 items; expected one for each"),
        (["--history", "item-3,item-4", "--reward-history", "1,inf"], "--reward-history: expected a finite number, found inf"),
        (["--history", "item-3", "--target-return", "nan"], "--target-return: expected a finite number, found nan"),
        (["--history", "item-3", "--target-return", "3"], "is not conditioned on a return"),
    ],
)
def test_bad_options_are_told_with_their_names(arguments: list[str], message: str, model: Path):
    done = CliRunner().invoke(app, ["predict", "--model", str(model), *arguments])
    assert done.exit_code == 2
    assert message in done.output


def test_places_between_commas_may_be_empty():
    assert _rewards("0.2,, 1") == [0.2, None, 1.0]
    assert _rewards(" ") == []
