"""A model as files, and warm starts from another model."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from components.artifacts import ArtifactError
from components.model_io import (
    LoadedModel,
    ModelConfig,
    build_model,
    item_rows,
    load_model,
    read_weights,
    save_model,
    warm_start,
    write_weights,
)
from models.algorithms.base import Algorithm
from models.algorithms.registry import ALGORITHMS
from schemas.config import ConfigError

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")


def _config(name: str = "bc", max_steps: int = toy.MAX_STEPS, **network) -> ModelConfig:
    return ModelConfig(algorithm=toy.algorithm_config(name), network=toy.network(**network), max_steps=max_steps)


def _model(names: list[str], seed: int = 0, config: ModelConfig | None = None) -> LoadedModel:
    toy.seed_everything(seed)
    config = config or _config()
    table = toy.vocabulary(names)
    return LoadedModel(toy.shake(build_model(config, table, seed), seed), config, table)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model on disk; its artifact is in `folder`."""
    return _model(toy.item_names())


@pytest.fixture
def folder(saved: LoadedModel, tmp_path: Path) -> Path:
    toy.write_vocabulary(tmp_path / "vocabulary")
    save_model(tmp_path / "model", saved.algorithm, saved.config, tmp_path / "vocabulary" / "items.parquet")
    toy.artifact(tmp_path / "model", "Model")
    return tmp_path / "model"


def _load(folder: Path, seed: int = 0) -> LoadedModel:
    return load_model(toy.artifact(folder, "Model"), seed)


def _assert_same(one: Algorithm, other: Algorithm) -> None:
    for path, variable in one.named_variables().items():
        np.testing.assert_array_equal(other.named_variables()[path].numpy(), variable.numpy(), err_msg=path)


# === Saving and loading ===


def test_a_model_is_its_configuration_weights_and_vocabulary(saved: LoadedModel, folder: Path):
    loaded = _load(folder, seed=9)
    _assert_same(saved.algorithm, loaded.algorithm)
    assert loaded.config == saved.config
    assert loaded.vocabulary["item"].to_pylist() == toy.item_names()
    assert loaded.algorithm.catalogue.num_items == toy.NUM_ITEMS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_class_of_the_algorithm_comes_from_its_configuration(name: str):
    assert type(build_model(_config(name), toy.vocabulary(), 0)) is ALGORITHMS[name]


def test_the_folder_can_be_moved(saved: LoadedModel, folder: Path, tmp_path: Path):
    folder.rename(tmp_path / "elsewhere")
    _assert_same(saved.algorithm, _load(tmp_path / "elsewhere").algorithm)


def test_weights_are_found_by_name_and_not_by_order(saved: LoadedModel, folder: Path):
    # Another process may have made other layers first.
    for _ in range(3):
        build_model(_config("sqn"), toy.vocabulary(), 0)
    _assert_same(saved.algorithm, _load(folder).algorithm)


def test_a_folder_without_a_configuration_is_no_model(folder: Path):
    (folder / "model.json").unlink()
    with pytest.raises(ArtifactError, match=r"not a model, it has no model\.json"):
        _load(folder)


def test_an_unknown_algorithm_is_an_error_that_names_the_known_ones(folder: Path):
    plain = json.loads((folder / "model.json").read_text())
    plain["algorithm"] = {"name": "sqm"}
    (folder / "model.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"model\.json.*\n.*unknown name 'sqm' \(did you mean 'sqn'\?\)"):
        _load(folder)


def test_weights_of_another_size_are_an_error_that_names_the_folder(folder: Path):
    plain = json.loads((folder / "model.json").read_text())
    plain["network"]["width"] *= 2
    (folder / "model.json").write_text(json.dumps(plain))
    with pytest.raises(ArtifactError, match="weights: the weights do not fit the model"):
        _load(folder)


def test_weights_of_another_algorithm_are_an_error(folder: Path):
    # The file has no values head.
    plain = json.loads((folder / "model.json").read_text())
    plain["algorithm"] = {"name": "sqn"}
    (folder / "model.json").write_text(json.dumps(plain))
    with pytest.raises(ArtifactError, match="the weights do not fit the model"):
        _load(folder)


def test_a_vocabulary_of_another_size_is_an_error(folder: Path, tmp_path: Path):
    other = toy.write_vocabulary(tmp_path / "other", toy.item_names()[:-3])
    (other.path / "items.parquet").replace(folder / "items.parquet")
    with pytest.raises(ArtifactError, match="the weights do not fit the model"):
        _load(folder)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_missing_or_cut_weights_are_an_error(folder: Path, damage: str):
    for path in (folder / "weights").iterdir():
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="weights"):
        _load(folder)


def test_a_folder_without_a_vocabulary_is_no_model(folder: Path):
    (folder / "items.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"items\.parquet"):
        _load(folder)


def test_written_weights_come_back_over_others(saved: LoadedModel, tmp_path: Path):
    write_weights(saved.algorithm, tmp_path / "weights")
    other = _model(toy.item_names(), seed=4).algorithm
    read_weights(other, tmp_path / "weights")
    _assert_same(saved.algorithm, other)


def test_weights_can_be_written_over_older_ones(saved: LoadedModel, tmp_path: Path):
    write_weights(_model(toy.item_names(), seed=4).algorithm, tmp_path / "weights")
    write_weights(saved.algorithm, tmp_path / "weights")
    other = _model(toy.item_names(), seed=5).algorithm
    read_weights(other, tmp_path / "weights")
    _assert_same(saved.algorithm, other)


# === Ids between vocabularies ===


def test_rows_are_matched_by_name():
    old, new = toy.vocabulary(["a", "b", "c"]), toy.vocabulary(["c", "x", "a", "y"])
    # Padding to padding, the unknown item (old 4) to the unknown item.
    assert item_rows(old, new) == [0, 3, -1, 1, -1, 4]
    assert item_rows(new, old) == [0, 3, -1, 1, 5]


# === Warm starts ===


@pytest.fixture(scope="module")
def earlier() -> LoadedModel:
    return _model(["a", "b", "c", "d", "e"], seed=1)


def _warm(earlier: LoadedModel, names: list[str], config: ModelConfig | None = None) -> tuple[Algorithm, Algorithm, dict[str, int]]:
    """A model after a warm start, the same before it, and what was reported."""
    fresh, started = _model(names, 2, config), _model(names, 2, config)
    report = warm_start(started.algorithm, earlier, started.vocabulary)
    return fresh.algorithm, started.algorithm, report


def test_rows_of_items_are_copied_by_name(earlier: LoadedModel):
    fresh, started, report = _warm(earlier, ["e", "new", "a", "c"])
    table = started.encoder.embedding.table.numpy()
    old, untouched = earlier.algorithm.encoder.embedding.table.numpy(), fresh.encoder.embedding.table.numpy()
    # Ids: e was 5, a was 1, c was 3; padding is 0 in both, the unknown item was 6 and is 5.
    for new_id, old_id in {0: 0, 1: 5, 3: 1, 4: 3, 5: 6}.items():
        assert table[new_id].tolist() == old[old_id].tolist(), f"row {new_id}"
    assert table[2].tolist() == untouched[2].tolist()
    assert (report["items_known"], report["items_new"]) == (3, 1)


def test_everything_that_is_not_by_item_is_copied_as_it_is(earlier: LoadedModel):
    _, started, report = _warm(earlier, ["e", "new", "a", "c"])
    old = earlier.algorithm.named_variables()
    for path, variable in started.named_variables().items():
        if path != "encoder/embedding/0":
            np.testing.assert_array_equal(variable.numpy(), old[path].numpy(), err_msg=path)
    assert report["variables_copied"] == len(old)
    assert report["variables_fresh"] == 0


def test_the_same_vocabulary_gives_the_same_model(earlier: LoadedModel):
    _, started, report = _warm(earlier, ["a", "b", "c", "d", "e"])
    _assert_same(earlier.algorithm, started)
    assert report["items_new"] == 0


def test_a_recommendation_survives_a_new_order_of_the_items(earlier: LoadedModel):
    names = ["d", "b", "e", "a", "c"]
    _, started, _ = _warm(earlier, names)
    history = ["b", "d", "b"]

    def ranked(algorithm: Algorithm, order: list[str]) -> list[str]:
        ids = np.array([[order.index(name) + 1 for name in history]], np.int32)
        ranking = algorithm.rank(algorithm.final_states(ids, np.array([3])), ids, 5)
        return [order[item - 1] for item in ranking.item_id.numpy()[0]]

    assert ranked(started, names) == ranked(earlier.algorithm, ["a", "b", "c", "d", "e"])


def test_what_does_not_fit_stays_fresh(earlier: LoadedModel):
    # Sessions may be longer now: the positions and the copy head's distances have other shapes.
    fresh, started, report = _warm(earlier, ["a", "b"], _config(max_steps=12))
    before, after, old = fresh.named_variables(), started.named_variables(), earlier.algorithm.named_variables()
    changed = [path for path in after if after[path].shape != old[path].shape and path != "encoder/embedding/0"]
    assert len(changed) >= 1
    for path in changed:
        np.testing.assert_array_equal(after[path].numpy(), before[path].numpy(), err_msg=path)
    assert report["variables_fresh"] == len(changed)


def test_an_algorithm_can_start_from_another(earlier: LoadedModel):
    _, started, report = _warm(earlier, ["a", "b", "c", "d", "e"], _config("sqn"))
    np.testing.assert_array_equal(started.encoder.embedding.table.numpy(), earlier.algorithm.encoder.embedding.table.numpy())
    assert report["variables_copied"] == len(earlier.algorithm.named_variables())
    assert report["variables_fresh"] > 0


def test_a_target_network_that_the_earlier_model_did_not_have_starts_as_a_copy(earlier: LoadedModel):
    toy.seed_everything(2)
    table = toy.vocabulary(["a", "b", "c", "d", "e"])
    started = build_model(_config("sqn"), table, 0)
    warm_start(started, earlier, table)
    named = started.named_variables()
    for path, variable in named.items():
        if path.startswith("target/"):
            np.testing.assert_array_equal(variable.numpy(), named[path.removeprefix("target/")].numpy(), err_msg=path)


@pytest.mark.parametrize(("names", "max_steps"), [("abcdef", 8), ("abcdefg", 8)], ids=["width", "positions"])
def test_a_weight_with_as_many_rows_as_there_are_items_is_not_taken_for_a_table_of_items(names: str, max_steps: int):
    # Width 8 and 6 items: a Dense layer's kernel has as many rows as there are ids (6 + padding + unknown), and its rows would
    # be put into the order of the items. The same happens to positions (T + 1 = 9) with 7 items.
    config = _config(max_steps=max_steps)
    earlier = _model(list(names), 1, config)
    started = _model(list(reversed(names)), 2, config)
    warm_start(started.algorithm, earlier, started.vocabulary)
    old = earlier.algorithm.named_variables()
    for path, variable in started.algorithm.named_variables().items():
        if path != "encoder/embedding/0":
            np.testing.assert_array_equal(variable.numpy(), old[path].numpy(), err_msg=path)
