"""The step that trains a model of users, and learning from what it imagines."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact, ArtifactError
from components.base import ComponentError
from components.judged_model import judge, load_judged
from components.trainer.imagination import ImaginedStep
from components.trainer.step import TrainStep
from components.user_model_io import USER_MODEL
from components.user_model_trainer.component import USER_MODEL_TRAINER
from components.user_model_trainer.config import UserModelConditionsConfig, UserModelTrainerConfig
from components.user_model_trainer.executor import execute
from components.user_model_trainer.trainable import measure_users
from models.frameworks import tf
from models.optimizers import LazyAdam
from models.user_model.imagination import Imagination, ImaginationConfig, beside
from models.user_model.planning import PlanningConfig
from schemas.config import ConfigError

sys.path.append(str(Path(__file__).parents[1] / "models" / "user_model"))
users = import_module("toy_users")
toy = users.toy

ANY = UserModelConditionsConfig(max_calibration_error=None, min_explained=None, max_leaving_calibration_error=None, min_events=1)

pytestmark = pytest.mark.usefixtures("eagerly")


def _records(count: int, seed: int) -> list[Any]:
    """Successors, of which every even item is bought; item 6 ends a session."""
    rng = np.random.default_rng(seed)
    firsts = rng.integers(1, 6, count)
    return [toy.Record(list(range(int(f), 7)), [1.0 if item % 2 == 0 else 0.2 for item in range(int(f), 7)]) for f in firsts]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("shop")
    splits = {"train": _records(500, 1), "eval": _records(80, 2), "test": _records(10, 3)}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary")


def _run(folder: Path, shop: tuple[Artifact, Artifact], config: UserModelTrainerConfig) -> Artifact:
    inputs = {
        "examples": shop[0],
        "vocabulary": shop[1],
        "neighbours": toy.write_neighbours(folder / "neighbours"),
        "anomalies": toy.artifact(folder / "anomalies", "ExampleAnomalies"),
    }
    properties = execute(config, inputs, {"user_model": folder / "user_model"}, toy.context(folder))
    found: Artifact = toy.artifact(folder / "user_model", "UserModel", properties["user_model"])
    return found


def _config(**changes: Any) -> UserModelTrainerConfig:
    plain = {"model": users.config(num_negatives=0), "batch_size": 64, "learning_rate": 0.03, "max_epochs": 4, "conditions": ANY}
    return UserModelTrainerConfig(**{**plain, **changes})


@pytest.fixture(scope="module")
def model(shop: tuple[Artifact, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    tf.config.run_functions_eagerly(True)
    return _run(tmp_path_factory.mktemp("model"), shop, _config())


def test_it_learns_what_there_is_to_know_and_says_how_well(model: Artifact, shop: tuple[Artifact, Artifact]) -> None:
    metrics = model.properties["metrics"]
    # Rewards and leaving follow from the item: nothing is left to chance.
    assert metrics["explained"] > 0.8
    assert metrics["leaving/auc"] > 0.95
    assert metrics["calibration_error"] < 0.3
    assert model.properties["blessed"]
    assert "debiasing none, explained" in USER_MODEL_TRAINER.describe({"user_model": model.properties})
    loaded = load_judged(USER_MODEL, model).model
    assert measure_users(loaded, shop[0]).metrics() == pytest.approx(dict(metrics), abs=1e-5)


def test_conditions_are_met_or_named(model: Artifact, tmp_path: Path) -> None:
    conditions = UserModelConditionsConfig(max_calibration_error=0.1, min_explained=0.5, max_leaving_calibration_error=0.01, min_events=50)
    metrics = {"calibration_error": 0.1, "explained": 0.4}
    checks = judge(conditions, metrics, 49)
    assert [check["passed"] for check in checks] == [False, True, False, False]
    assert [check["reason"] for check in checks] == [
        "49 events are judged, at least 50",
        "calibration_error 0.1000, at most 0.1",
        "explained 0.4000, at least 0.5",
        "leaving/calibration_error cannot be measured on these events, at most 0.01",
    ]
    (model.path / "BLESSED").rename(model.path / "NOT_BLESSED")
    try:
        with pytest.raises(ComponentError, match="the user model may not be used: it is not marked"):
            load_judged(USER_MODEL, model)
        assert load_judged(USER_MODEL, model, must_be_blessed=False).config.model == users.config(num_negatives=0)
    finally:
        (model.path / "NOT_BLESSED").rename(model.path / "BLESSED")


def test_off_costs_nothing_and_is_refused_by_whoever_wants_a_model(shop: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    off = _run(tmp_path, shop, UserModelTrainerConfig())
    assert dict(off.properties) == {"enabled": False}
    assert USER_MODEL_TRAINER.describe({"user_model": off.properties}) == "off: model is null"
    with pytest.raises(ComponentError, match=r"user_model_trainer\.model is null"):
        load_judged(USER_MODEL, off)
    with pytest.raises(ArtifactError, match="not a user model"):
        load_judged(USER_MODEL, shop[1])


# === Learning from what is imagined ===

IMAGINATION = ImaginationConfig(share=0.5, horizon=2, planning=PlanningConfig(variant="mopo"))


def test_the_trainer_learns_from_logs_and_roll_outs(model: Artifact, shop: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    config = toy.trainer_config(algorithm=toy.algorithm_config("sqn"), imagination=IMAGINATION, max_epochs=1, learning_rate=0.01)
    run = toy.train(tmp_path, config, *shop, user_model=model)
    assert np.isfinite(run.properties["model_run"]["best"])
    assert run.properties["model_run"]["steps"] == 16  # 500 sessions by 32, as without roll-outs.


def test_who_cannot_learn_from_roll_outs_is_told(model: Artifact, shop: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    cases: list[tuple[Any, Any, Any, str]] = [
        (toy.trainer_config(imagination=IMAGINATION), shop[1], {"user_model": model}, "bootstrap from values of whole sessions"),
        (_sqn(), shop[1], {}, "needs the model of user_model_trainer"),
        (_sqn(), toy.write_vocabulary(tmp_path / "vocabulary", toy.item_names()[::-1]), {"user_model": model}, "knows other items"),
        (_sqn(variant="ips"), shop[1], {"user_model": model}, "trainer.imagination.planning.variant: ips needs a user model that was"),
    ]
    for number, (config, vocabulary, others, message) in enumerate(cases):
        with pytest.raises((ComponentError, ConfigError), match=message):
            toy.train(tmp_path / str(number), config, shop[0], vocabulary, **others)


def _sqn(**planning: Any) -> Any:
    imagination = IMAGINATION.model_copy(update={"planning": PlanningConfig(**{"variant": "mbpo", **planning})})
    return toy.trainer_config(algorithm=toy.algorithm_config("sqn"), imagination=imagination)


def test_an_imagined_step_counts_what_its_weight_says() -> None:
    of = toy.batch([[1, 2, 3], [4, 5], [6, 7, 7, 8]] * 4)
    known = users.Known(leaving=0.0)
    imagination = Imagination(known, IMAGINATION, 1.0, 0)

    def updated(weigh: Any) -> tuple[dict[str, float], Any]:
        algorithm = toy.build("dqn", toy.network(backbone=toy.backbone(dropout=0.0)))
        step: Any = TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)
        losses, _, targets = weigh(algorithm, step)
        return {name: float(value) for name, value in losses.items()}, targets

    number = tf.constant(4, tf.int64)
    whole, weight = beside(of, imagination.imagine(of, known.behaviour, number))
    inside = whole.is_target().numpy()
    together, targets = updated(lambda algorithm, step: ImaginedStep(imagination, algorithm, step)(of, 4))
    by_hand, _ = updated(lambda algorithm, step: step(whole, 4, weight))
    assert together == pytest.approx(by_hand)
    # All that counts at all is a target: six roll-outs of two steps, and the logged events.
    assert int(targets) == inside.sum() == 36 + 12
    # Losses are means with these weights: with none for what is imagined they are those of the logs.
    logged, _ = updated(lambda algorithm, step: step(of, 4))
    without, _ = updated(lambda algorithm, step: step(whole, 4, tf.where(weight < 1.0, 0.0, 1.0)))
    assert without == pytest.approx(logged, rel=1e-4)
    assert together["td"] != pytest.approx(logged["td"], rel=1e-3)


def test_weights_of_one_change_nothing() -> None:
    of = toy.batch([[1, 2, 3], [4, 5]])
    found = []
    for weight in (None, tf.ones([2, 3])):
        algorithm = toy.build("sqn")
        TrainStep(algorithm, lambda _: LazyAdam(0.01), xla=False)(of, 0, weight)
        found.append({path: variable.numpy() for path, variable in algorithm.named_variables().items()})
    for path, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][path], err_msg=path)
