"""Online tuning: what it learns, what it leaves alone, what stops it, and that a killed run goes on as if nothing had happened."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from components.artifacts import Artifact
from components.base import ComponentError
from components.model_io import load_model
from components.online_tuner import loop
from components.online_tuner.component import ONLINE_TUNER
from components.online_tuner.config import OnlineTunerConfig
from components.online_tuner.executor import execute
from components.online_tuner.offline import choose
from models.frameworks import tf
from models.simulators.session_shop import SessionShop, SessionShopConfig
from models.simulators.shop_simulator import ShopSimulatorConfig
from models.simulators.stitching import StitchingConfig

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

SHOP = SessionShopConfig(num_items=12, num_clusters=3, num_baits=1)
WORLD = ShopSimulatorConfig(shop=SHOP)
MAX_STEPS = 20


@contextmanager
def eagerly() -> Iterator[None]:
    """Functions op by op: a run of few steps takes less time than compiling them."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def shop_records(count: int) -> tuple[list[Any], list[str]]:
    """Sessions of the shop's logs as records, and its items by how often they occur."""
    shop = SessionShop(SHOP)
    events = next(shop.logs(count * 8, seed=1, users_per_chunk=count))
    session = np.cumsum(np.diff(events.user, prepend=-1) + (np.diff(events.time, prepend=0) > 3600) != 0) - 1
    counts = np.bincount(events.item, minlength=shop.num_items)
    order = np.argsort(-counts, kind="stable")
    ids = np.empty(shop.num_items, np.int64)
    ids[order] = np.arange(1, shop.num_items + 1)
    records = []
    for number in range(min(count, session[-1])):
        rows = np.flatnonzero(session == number)[:MAX_STEPS]
        records.append(toy.Record(ids[events.item[rows]].tolist(), np.where(events.bought[rows], 1.0, 0.2).tolist()))
    return records, [shop.item_names[item] for item in order]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("logs")
    records, names = shop_records(400)
    examples = toy.write_examples(folder / "examples", {"train": records, "eval": records[:20]}, max_length=MAX_STEPS)
    return examples, toy.write_vocabulary(folder / "vocabulary", names)


@pytest.fixture(scope="module")
def offline(logs: tuple[Artifact, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Models trained on the logs for a moment, by algorithm."""
    kept: dict[str, Any] = {}

    def train(name: str) -> Any:
        if name not in kept:
            config = toy.trainer_config(
                algorithm=toy.algorithm_config(name, context_length=4, dropout=0.1),
                network=toy.network(backbone=toy.backbone(dropout=0.1)),
                learning_rate=0.01,
                max_steps=4,
            )
            with eagerly(), mock.patch.object(tf.saved_model, "save"):
                kept[name] = toy.train(tmp_path_factory.mktemp(name), config, *logs)
        return kept[name]

    return train


def tuner_config(**changes: Any) -> OnlineTunerConfig:
    small = {
        "enabled": True,
        "simulator": WORLD,
        "num_rounds": 3,
        "sessions_per_round": 64,
        "updates_per_round": 3,
        "batch_size": 16,
        "buffer_sessions": 150,
        "drop": {"baseline_sessions": 64},
        "evaluation_sessions": 64,
        "evaluate_every": 2,
        "learning_rate": 0.003,
        "keep": "last",
        "max_turns": 6,
    }
    return OnlineTunerConfig.model_validate({**small, **changes})


def tune(folder: Path, offline: Any, config: OnlineTunerConfig, compiled: bool = False, **changes: Any) -> dict[str, Any]:
    """Runs the step; the SavedModel, which takes longer than all the rest, is the trainer's business."""
    outputs = {"model": folder / "tuned" / "model", "tuning_run": folder / "tuned" / "run"}
    inputs = {"offline_model": offline.model, "examples": offline.examples}
    with nullcontext() if compiled else eagerly(), mock.patch.object(tf.saved_model, "save"):
        return dict(execute(config, inputs, outputs, toy.context(folder, **changes)))


def weights(artifact: Artifact) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in load_model(artifact).algorithm.named_variables().items()}


def tuned(folder: Path) -> Artifact:
    return toy.artifact(folder / "tuned" / "model", "Model")


def history(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tuned" / "run" / "history.json").read_text())
    return found


# === Off ===


def test_off_it_passes_the_very_same_model_on(offline: Callable[[str], Any], tmp_path: Path) -> None:
    model = offline("edt4rec").model
    stated = tune(tmp_path, offline("edt4rec"), OnlineTunerConfig())
    folder = tmp_path / "tuned" / "model"
    assert toy.artifact(folder, "Model", stated["model"]).digest == model.digest
    assert (folder / "model.json").stat().st_ino == (model.path / "model.json").stat().st_ino
    assert ONLINE_TUNER.describe is not None
    assert ONLINE_TUNER.describe(stated) == "off: the trainer's model as it is"


# === Learning ===


def test_rounds_are_written_down_and_the_model_moves(offline: Callable[[str], Any], tmp_path: Path) -> None:
    stated = tune(tmp_path, offline("edt4rec"), tuner_config())
    rounds, evaluations = history(tmp_path)["rounds"], history(tmp_path)["evaluations"]
    assert [row["round"] for row in rounds] == [1, 2, 3]
    # Before the first round, after every second one, and after the last.
    assert [row["round"] for row in evaluations] == [0, 2, 3]
    assert evaluations[0]["gain"] == [0.0, 0.0, 0.0]
    assert stated["tuning_run"]["stopped"] == "num_rounds = 3 reached"
    assert (stated["tuning_run"]["sessions"], stated["tuning_run"]["updates"]) == (192, 9)
    for row in rounds:
        assert row["return_low"] < row["return"] < row["return_high"]
        assert 0.0 < row["click_rate_low"] < row["click_rate"] < row["click_rate_high"] < 1.0
        assert {"cross_entropy", "entropy", "temperature", "health/policy_entropy", "health/temperature"} <= set(row)
    # 150 of the best at first; those who took anything push them out, the first in first.
    shares = [row["buffer_offline_share"] for row in rounds]
    assert 1.0 > shares[0] > shares[1] > shares[2] == 0.0
    before, after = weights(offline("edt4rec").model), weights(tuned(tmp_path))
    assert before.keys() == after.keys()
    assert np.abs(before["log_temperature/0"] - after["log_temperature/0"]).max() > 0


@pytest.mark.parametrize("name", ["cql", pytest.param("sqn", marks=pytest.mark.slow)])
def test_values_are_tuned_on_logs_and_on_what_they_try(name: str, offline: Callable[[str], Any], tmp_path: Path) -> None:
    stated = tune(tmp_path, offline(name), tuner_config(exploration={"draw": "greedy", "floor": 0.3}))
    assert stated["tuning_run"]["rounds"] == 3
    rows = history(tmp_path)["rounds"]
    assert all(np.isfinite(row["td"]) for row in rows)
    if name == "cql":
        # The conservative weight falls to nothing in the last round.
        assert rows[0]["conservative"] > 0 == rows[2]["conservative"]
        assert rows[1]["conservative"] == pytest.approx(0.5 * rows[1]["health/conservative_gap"], rel=1e-4)


@pytest.fixture
def parts(offline: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Batches of one round."""

    def draw(name: str, **changes: Any) -> list[Any]:
        found: list[Any] = []
        real = loop.as_batch
        monkeypatch.setattr(loop, "as_batch", lambda *sessions: (found.append(sessions), real(*sessions))[1])
        tune(tmp_path, offline(name), tuner_config(num_rounds=1, updates_per_round=1, **changes))
        return found

    return draw


def test_half_of_what_values_learn_from_is_of_the_logs(parts: Callable[..., list[Any]]) -> None:
    ((logged, online, failures),) = parts("cql", exploration={"draw": "greedy", "floor": 1.0}, buffer_sessions=64)
    assert (len(logged.length), len(online.length)) == (8, 8)
    # What was passed is a record of its own: nothing was earned, and there it ends.
    rows = np.arange(len(failures.length))
    assert len(rows) == (online.facts["passed_item"] > 0).sum() > 0
    assert (failures.steps["reward"][rows, failures.length - 1] == 0).all()
    assert (failures.steps["item_id"][rows, failures.length - 1] > 0).all()
    assert (failures.facts["num_context"] == failures.length - 1).all()


def test_a_decision_transformer_learns_from_the_buffer_alone(parts: Callable[..., list[Any]]) -> None:
    ((drawn,),) = parts("decision_transformer")
    assert len(drawn.length) == 16


def test_the_buffer_begins_with_the_best_of_the_logs() -> None:
    rewards = [[0.2], [1.0, 1.0], [1.0], [1.0, 0.2], [0.2, 0.2]]
    batch = toy.batch([[n + 1] * len(r) for n, r in enumerate(rewards)], rewards, num_context=[0, 1, 0, 0, 0], is_terminal=[1, 1, 1, 1, 0])
    found = choose([batch, batch], num_best=3, num_some=4, max_steps=3, seed=0)
    # Returns .2, 1.0, 1.2 of the whole ones, each twice; the second begins in its middle and the last is cut off. The best goes last.
    assert found.best.steps["item_id"][:, 0].tolist() == [3, 4, 4]
    assert found.best.steps["reward"].sum(axis=1) == pytest.approx([1.0, 1.2, 1.2])
    assert len(found.some.length) == 4


@pytest.mark.slow
def test_tuning_raises_the_return(offline: Callable[[str], Any], tmp_path: Path) -> None:
    config = tuner_config(
        num_rounds=8,
        sessions_per_round=256,
        updates_per_round=16,
        batch_size=64,
        buffer_sessions=600,
        evaluation_sessions=512,
        evaluate_every=8,
        learning_rate=0.01,
        drop={"baseline_sessions": 256},
        max_turns=60,
    )
    stated = tune(tmp_path, offline("edt4rec"), config, compiled=True)["tuning_run"]
    gain, low, _ = stated["kept"]["gain"]
    assert low > 0.0
    assert stated["kept"]["return"][0] == pytest.approx(stated["offline"]["return"][0] + gain)


# === Stopped ===


def test_a_drop_ends_it_and_brings_the_best_weights_back(
    offline: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sessions = loop.roll_out, 64

    def dropping(world: Any, recommender: Any, exploration: Any, number: Any, *others: Any) -> Any:
        played = real(world, recommender, exploration, number, *others)
        # From the third round on everybody brings a fifth.
        return played._replace(returns=played.returns * (0.2 if number[0] >= 2 * sessions else 1.0))

    monkeypatch.setattr(loop, "roll_out", dropping)
    config = tuner_config(num_rounds=12, sessions_per_round=sessions, updates_per_round=1, evaluate_every=100, keep="last")
    stated = tune(tmp_path, offline("decision_transformer"), config)["tuning_run"]
    assert stated["dropped"] == 1
    assert "the reward dropped" in stated["stopped"]
    assert 3 <= stated["rounds"] <= 6
    # The offline policy's are the only weights that were measured; they come back although the last ones were asked for.
    assert stated["kept"]["round"] == 0
    before, after = weights(offline("decision_transformer").model), weights(tuned(tmp_path))
    assert all((before[name] == after[name]).all() for name in before)


def test_a_loss_that_is_no_number_ends_it(offline: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.as_batch

    def broken(*parts: Any) -> Any:
        batch = real(*parts)
        return batch._replace(return_to_go=batch.return_to_go * np.nan)

    monkeypatch.setattr(loop, "as_batch", broken)
    stated = tune(tmp_path, offline("decision_transformer"), tuner_config())["tuning_run"]
    assert "loss is not finite: cross_entropy = nan at update 1" in stated["stopped"]
    before, after = weights(offline("decision_transformer").model), weights(tuned(tmp_path))
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize(
    ("simulator", "message"),
    [
        (StitchingConfig(), "stitching cannot try this model: 12 items of the vocabulary are not in it, such as 'c"),
        (ShopSimulatorConfig(shop=SessionShopConfig(num_items=8, num_clusters=3)), "items of the vocabulary are not in it"),
    ],
)
def test_a_world_of_other_items_is_refused(simulator: Any, message: str, offline: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=message):
        tune(tmp_path, offline("edt4rec"), tuner_config(simulator=simulator))


# === Killed and resumed ===


class Killer:
    """Progress that ends the run after some rounds."""

    def __init__(self, after: int):
        self._left = after
        self.messages: list[str] = []

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
        yield self

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        if note is not None:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

    def log(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.parametrize("name", [pytest.param("edt4rec", marks=pytest.mark.slow), "cql"])
def test_a_killed_run_ends_like_one_that_was_not(name: str, offline: Callable[[str], Any], tmp_path: Path) -> None:
    # A checkpoint after every round.
    config = tuner_config(updates_per_round=2, evaluation_sessions=32, drop={"baseline_sessions": 32}, checkpoint_every_seconds=0.0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = tune(whole, offline(name), config)
    with pytest.raises(KeyboardInterrupt):
        tune(broken, offline(name), config, progress=Killer(2))
    again = Killer(0)
    assert tune(broken, offline(name), config, progress=again) == expected
    # The second round was over and not saved yet.
    assert again.messages[0].startswith("resumed at round 1, update 2")
    assert history(broken) == history(whole)
    first, second = weights(tuned(whole)), weights(tuned(broken))
    assert all((first[part] == second[part]).all() for part in first)
    assert [path.name for path in (broken / "scratch" / "checkpoints").iterdir()] == ["round-000003"]


def test_generators_are_part_of_a_checkpoint(offline: Callable[[str], Any]) -> None:
    # Without dropout the resumed run would be the same even if they were not.
    assert len(load_model(offline("edt4rec").model).algorithm.random_generators()) > 0
    assert tf.executing_eagerly()
