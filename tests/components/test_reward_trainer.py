"""The step that trains an estimate of rewards: what it learns, how it is judged, and that nothing is learned from a bad one."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact, ArtifactError
from components.base import ComponentError
from components.judged_model import judge, load_judged
from components.model_io import precision
from components.reward_io import REWARD_MODEL
from components.reward_trainer.component import REWARD_TRAINER
from components.reward_trainer.config import RewardConditionsConfig, RewardTrainerConfig
from components.reward_trainer.executor import execute
from components.reward_trainer.measuring import measure, part_of_eval
from components.trainer.loop import TrainingLoop
from models.frameworks import tf
from models.rewards.fm import FMConfig

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

SMALL = FMConfig(width=8, unknown_rate=0.0)

pytestmark = pytest.mark.usefixtures("eagerly")


def _records(count: int, seed: int) -> list[Any]:
    """Sessions of two events; items up to 10 are bought in four of five cases, the others in one."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        items = rng.integers(1, 21, 2)
        bought = rng.random(2) < np.where(items <= 10, 0.8, 0.2)
        records.append(toy.Record(items.tolist(), np.where(bought, 1.0, 0.2).tolist()))
    return records


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("shop")
    splits = {"train": _records(2000, 1), "eval": _records(500, 2), "test": _records(10, 3)}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary")


def _config(**changes: Any) -> RewardTrainerConfig:
    return RewardTrainerConfig(**{"estimator": SMALL, "batch_size": 128, "learning_rate": 0.02, "max_epochs": 4, **changes})


def _run(folder: Path, shop: tuple[Artifact, Artifact], config: RewardTrainerConfig, **others: Any) -> Artifact:
    inputs = {"examples": shop[0], "vocabulary": shop[1], "anomalies": toy.artifact(folder / "anomalies", "ExampleAnomalies")}
    properties = execute(config, inputs, {"reward_model": folder / "reward_model"}, toy.context(folder, **others))
    found: Artifact = toy.artifact(folder / "reward_model", "RewardModel", properties["reward_model"])
    return found


@pytest.fixture(scope="module")
def model(shop: tuple[Artifact, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    tf.config.run_functions_eagerly(True)
    return _run(tmp_path_factory.mktemp("model"), shop, _config())


def test_a_noisy_reward_is_foreseen_as_well_as_it_can_be(model: Artifact):
    metrics = model.properties["metrics"]
    # A purchase has probability .8 or .2: P(p of a positive > p of a negative) = .64 + half of .32.
    assert metrics["auc"] == pytest.approx(0.8, abs=0.05)
    # log 2 less the entropy of .8, over log 2.
    assert metrics["explained"] == pytest.approx(0.278, abs=0.08)
    # Of a perfect model about .06, with so few events in a bin.
    assert metrics["calibration_error"] < 0.15
    assert abs(metrics["reward_bias"]) < 0.05
    assert {"popular/auc", "rare/brier", "purchase/auc", "click/log_loss"} <= set(metrics)
    assert metrics["click/auc"] == pytest.approx(metrics["purchase/auc"], abs=1e-3)
    estimator = load_judged(REWARD_MODEL, model, must_be_blessed=False).model
    found = estimator.events(toy.batch([[item] for item in range(1, 21)])).mean.numpy()[:, 0]
    # .2 + .8 p; of one item the logs know only some two hundred events, so the mean of the ten alike is looked at.
    assert [found[:10].mean(), found[10:].mean()] == pytest.approx([0.84, 0.36], abs=0.08)


def test_what_is_judged_was_not_fitted(shop: tuple[Artifact, Artifact], model: Artifact):
    parts = {part: list(part_of_eval(shop[0], part)) for part in ("fitting", "judging")}
    sessions = {
        part: {
            int(s)
            for batch in batches
            for s, inside in zip(batch.session, np.asarray(batch.is_target()).any(axis=1), strict=True)
            if inside
        }
        for part, batches in parts.items()
    }
    assert not sessions["fitting"] & sessions["judging"]
    assert len(sessions["fitting"] | sessions["judging"]) == 500
    assert min(map(len, sessions.values())) > 180
    # The measures of the artifact are those of the loaded model on the part that is judged.
    found = measure(load_judged(REWARD_MODEL, model, must_be_blessed=False).model, part_of_eval(shop[0], "judging")).metrics()
    assert found == pytest.approx(dict(model.properties["metrics"]), abs=1e-5)
    assert model.properties["events"] == 2 * len(sessions["judging"])


def test_the_page_has_curves_before_and_after_calibration(model: Artifact):
    measured = json.loads((model.path / "metrics.json").read_text())
    assert set(measured["curves"]) == set(measured["raw"]) >= {"reward", "all", "popular"}
    assert sum(row[2] for row in measured["curves"]["all"]) == model.properties["events"]
    assert json.loads((model.path / "history.json").read_text())["epochs"]
    assert "fm, auc" in REWARD_TRAINER.describe({"reward_model": model.properties})


# === Judgement ===


def test_conditions_are_met_or_named():
    conditions = RewardConditionsConfig(max_calibration_error=0.05, min_explained=0.1, min_auc=0.7, min_events=10)
    good = {"calibration_error": 0.05, "explained": 0.1, "auc": 0.7}
    assert all(check["passed"] for check in judge(conditions, good, 10))
    failed = [check["reason"] for check in judge(conditions, {"calibration_error": 0.06, "explained": 0.05}, 9) if not check["passed"]]
    assert failed == [
        "9 events are judged, at least 10",
        "calibration_error 0.0600, at most 0.05",
        "explained 0.0500, at least 0.1",
        "auc cannot be measured on these events, at least 0.7",
    ]
    assert [check["passed"] for check in judge(conditions, {}, 0)] == [False]


def test_nothing_is_learned_from_a_model_that_missed_a_condition(shop: tuple[Artifact, Artifact], tmp_path: Path):
    bad = _run(
        tmp_path / "bad",
        shop,
        _config(max_steps=1, conditions=RewardConditionsConfig(max_calibration_error=None, min_auc=0.99, min_events=10)),
    )
    assert not bad.properties["blessed"]
    assert (bad.path / "NOT_BLESSED").is_file()
    assert "may not be used: auc" in REWARD_TRAINER.describe({"reward_model": bad.properties})
    with pytest.raises(ComponentError, match=r"the reward model may not be used: auc 0\.\d+, at least 0.99"):
        load_judged(REWARD_MODEL, bad)
    with pytest.raises(ComponentError, match="may not be used"):
        toy.train(tmp_path / "policy", toy.trainer_config(reward={"source": "pretrained"}), *shop, reward_model=bad)
    assert load_judged(REWARD_MODEL, bad, must_be_blessed=False).config.estimator == SMALL


def test_what_is_known_of_items_tells_apart_those_that_were_hidden(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Items are almost always hidden in training, so that only the column can say which are bought.
    hidden = SMALL.model_copy(update={"unknown_rate": 0.97})
    path = tmp_path / "items.csv"
    path.write_text("item,price\n" + "".join(f"item-{number},{number <= 10:d}\n" for number in range(1, 20)))
    found = _run(tmp_path / "told", shop, _config(estimator=hidden, item_features=str(path)))
    assert found.properties["item_features"] == {"names": ["price"], "items": 19}
    assert found.properties["estimator"]["num_item_features"] == 1
    mean = (
        load_judged(REWARD_MODEL, found, must_be_blessed=False).model.events(toy.batch([[toy.UNKNOWN] * 2, [1, 19], [3, 20]])).mean.numpy()
    )
    # .2 + .8 p with p = .8 or .2; the file does not have item 20.
    assert [mean[1, 0], mean[1, 1]] == pytest.approx([0.84, 0.36], abs=0.1)
    assert mean[2, 0] == pytest.approx(0.84, abs=0.1)
    assert 0.4 < mean[2, 1] < 0.8


def test_what_is_known_of_users_tells_apart_what_their_events_earn(tmp_path: Path):
    # The same item, bought in four of five cases by half of the users and in one by the others.
    rng = np.random.default_rng(4)

    def records(count: int, of: str) -> list[Any]:
        rich = rng.random(count) < 0.5
        bought = rng.random((count, 2)) < np.where(rich, 0.8, 0.2)[:, None]
        users = [f"{'rich' if is_rich else 'poor'}{row % 40}" for row, is_rich in enumerate(rich)]
        reward = np.where(bought, 1.0, 0.2).tolist()
        return [toy.Record([3, 4], reward[row], session=f"{of}{row}", user=users[row]) for row in range(count)]

    splits = {"train": records(1000, "a"), "eval": records(400, "b"), "test": records(10, "c")}
    shop = toy.write_examples(tmp_path / "examples", splits), toy.write_vocabulary(tmp_path / "vocabulary")
    path = tmp_path / "users.csv"
    rows = [f"{kind}{number},{income}" for kind, income in (("rich", 9), ("poor", 1)) for number in range(40)]
    path.write_text("user,income\nnobody,5\n" + "\n".join(rows) + "\n")
    found = _run(tmp_path / "told", shop, _config(max_epochs=8, user_features=str(path)))
    assert found.properties["user_features"] == {"names": ["income"], "users": 80}
    # P(p of a positive > p of a negative) = .64 + half of .32 at best; without users nothing tells the events apart.
    assert found.properties["metrics"]["auc"] == pytest.approx(0.8, abs=0.05)
    blind = _run(tmp_path / "blind", shop, _config(max_epochs=2))
    assert blind.properties["metrics"]["auc"] == pytest.approx(0.55, abs=0.06)
    path.write_text("user,income\nRICH1,9\n")
    with pytest.raises(ComponentError, match=r"reward_trainer.user_features: .*users.csv: none of its 1 rows is about a user"):
        _run(tmp_path / "others", shop, _config(max_epochs=1, user_features=str(path)))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_item_features": 2}, "num_item_features: expected 0, found 2"),
        ({"num_user_features": 2, "num_users": 3}, "num_user_features: expected 0, found 2"),
        ({"num_user_features": 2}, "num_user_features and num_users go together, found 2 and 0"),
    ],
    ids=["items", "users", "nobody"],
)
def test_numbers_that_nothing_could_give_are_refused(numbers: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        RewardTrainerConfig(estimator={"name": "fm", **numbers})  # type: ignore[arg-type]


def test_a_training_in_lower_precision_learns_from_rewards_as_they_were_judged(model: Artifact):
    batch = toy.batch([[item] for item in range(1, 21)])
    expected = load_judged(REWARD_MODEL, model, must_be_blessed=False).model.events(batch).mean
    with precision(is_mixed=True):
        loaded = load_judged(REWARD_MODEL, model, must_be_blessed=False).model
        assert np.array_equal(loaded.events(batch).mean, expected)


def test_off_costs_nothing_and_is_refused_by_whoever_wants_a_model(shop: tuple[Artifact, Artifact], tmp_path: Path):
    off = _run(tmp_path, shop, RewardTrainerConfig())
    assert dict(off.properties) == {"enabled": False}
    assert [path.name for path in off.path.iterdir()] == ["manifest.json"]
    assert REWARD_TRAINER.describe({"reward_model": off.properties}) == "off: estimator is null"
    with pytest.raises(ComponentError, match="estimator is null"):
        load_judged(REWARD_MODEL, off)
    with pytest.raises(ArtifactError, match="not a reward model"):
        load_judged(REWARD_MODEL, shop[1])


def test_other_items_are_refused(model: Artifact, shop: tuple[Artifact, Artifact], tmp_path: Path):
    (model.path / "BLESSED").touch()
    other = toy.write_vocabulary(tmp_path / "vocabulary", toy.item_names()[::-1])
    with pytest.raises(ComponentError, match="knows other items"):
        toy.train(tmp_path, toy.trainer_config(reward={"source": "pretrained"}), shop[0], other, reward_model=model)


# === Going on ===


def test_a_killed_training_goes_on_to_the_same_weights(shop: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = _config(max_epochs=2, estimator=SMALL.model_copy(update={"unknown_rate": 0.3}))
    whole = _run(tmp_path / "whole", shop, config)
    save, count = TrainingLoop._save, [0]

    def killed(self: TrainingLoop) -> None:
        save(self)
        count[0] += 1
        if count[0] == 1:
            raise RuntimeError("killed")

    monkeypatch.setattr(TrainingLoop, "_save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        _run(tmp_path / "parts", shop, config)
    parts = _run(tmp_path / "parts", shop, config)
    one, other = (load_judged(REWARD_MODEL, found, must_be_blessed=False).model.named_variables() for found in (whole, parts))
    for path in one:
        np.testing.assert_allclose(other[path].numpy(), one[path].numpy(), atol=1e-6, err_msg=path)
