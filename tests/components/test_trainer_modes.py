"""Ways of training beside the usual one: on single transitions, and to the last epoch."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact
from components.model_io import load_model
from components.trainer.config import EarlyStoppingConfig
from models.algorithms.faithful import FaithfulSQN

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("shop")
    splits = {"train": toy.successor_sessions(120, 1), "eval": toy.successor_sessions(30, 2)}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary")


def _epochs(run: Any) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((run.folder / "model_run" / "history.json").read_text())["epochs"]
    return found


def test_faithful_mode_learns_from_transitions_and_its_model_is_loaded(shop: tuple[Artifact, Artifact], tmp_path: Path):
    network = toy.network(width=16, backbone=toy.backbone("gru4rec"), window=4, copy_head=False, tied=False, unknown_rate=0.0)
    config = toy.trainer_config(
        algorithm=toy.algorithm_config("sqn", mode="faithful"), network=network, batch_size=32, learning_rate=0.02, max_epochs=12
    )
    run = toy.train(tmp_path, config, *shop)
    epochs = _epochs(run)
    transitions = sum(len(record.items) for record in toy.successor_sessions(120, 1))
    assert epochs[0]["step"] == transitions // 32
    # Chance is about .1 with twenty items.
    assert epochs[-1]["mrr@5"] > 0.6
    loaded = load_model(run.model)
    assert isinstance(loaded.algorithm, FaithfulSQN)
    ranked = toy.rank_split(loaded, shop[0], "eval", tmp_path / "ranking")
    best = max(row["ndcg@10"] for row in epochs)
    assert np.where(ranked.rank < 10, 1.0 / np.log2(ranked.rank + 2.0), 0.0).mean() == pytest.approx(best, abs=1e-6)


@pytest.mark.slow
def test_the_last_weights_are_kept_where_that_is_asked_for(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # A rate of almost nothing: no epoch is better than the one before, and patience would end the run after the second.
    stopping = EarlyStoppingConfig(keep="last", patience=1)
    config = toy.trainer_config(learning_rate=1e-9, max_epochs=4, early_stopping=stopping)
    run = toy.train(tmp_path, config, *shop)
    assert [row["epoch"] for row in _epochs(run)] == [1, 2, 3, 4]
    assert run.properties["model_run"]["best_epoch"] == 4
    usual = toy.train(
        tmp_path / "usual", toy.trainer_config(learning_rate=1e-9, max_epochs=4, early_stopping=EarlyStoppingConfig(patience=1)), *shop
    )
    assert len(_epochs(usual)) < 4
