"""What the parts of a configuration must agree on."""

from typing import Any

import pytest

from pipeline.config import PipelineConfig
from schemas.config import ConfigError, decode


def _config(**changes: Any) -> PipelineConfig:
    """A run in which returns are relabelled, all with the discount 1."""
    plain = {
        "trajectory_gen": {"dataset": {"name": "session_shop"}},
        "relabeller": {"enabled": True},
        "trainer": {"algorithm": {"name": "decision_transformer"}},
    }
    return decode(PipelineConfig, {**plain, **changes}, "run.yaml")


def test_relabelling_is_off_unless_asked_for_and_then_agrees_by_default():
    assert not _config(relabeller={}).relabeller.enabled
    config = _config()
    assert config.relabeller.enabled
    assert config.relabeller.q_function.algorithm.name == "cql"


@pytest.mark.parametrize(
    "changes",
    [
        {"trajectory_gen": {"dataset": {"name": "session_shop"}, "discount": 0.9}},
        {"relabeller": {"enabled": True, "q_function": {"algorithm": {"name": "cql", "discount": 0.9}}}},
        {"trainer": {"algorithm": {"name": "edt4rec", "return_discount": 0.9}}},
    ],
)
def test_different_discounts_are_refused_and_all_named(changes: dict[str, Any]):
    names = r"trajectory_gen\.discount is .*, relabeller\.q_function\.algorithm\.discount is .*, trainer\.algorithm\.return_discount is"
    with pytest.raises(ConfigError, match=names):
        _config(**changes)
    # Nobody compares returns with values when relabelling is off.
    _config(**{**changes, "relabeller": {**changes.get("relabeller", {}), "enabled": False}})


def test_the_discount_of_values_that_are_there_already_is_not_configured():
    trajectories = {"dataset": {"name": "session_shop"}, "discount": 0.9}
    policy = {"algorithm": {"name": "decision_transformer", "return_discount": 0.9}}
    _config(trajectory_gen=trajectories, trainer=policy, relabeller={"enabled": True, "q_model": "models/q"})


def test_relabelling_for_an_algorithm_without_returns_is_refused():
    with pytest.raises(ConfigError, match="sqn is not trained on returns; relabelling is for decision_transformer"):
        _config(trainer={"algorithm": {"name": "sqn"}})


@pytest.mark.parametrize(
    ("trainer", "others", "message"),
    [
        ({"reward": {"source": "pretrained"}}, {}, r"source: pretrained needs reward_trainer\.estimator"),
        ({"imagination": {}}, {}, r"imagination needs user_model_trainer\.model"),
        (
            {"imagination": {"planning": {"variant": "ips"}}},
            {"user_model_trainer": {"model": {}}},
            r"variant: ips needs user_model_trainer\.model\.debiasing",
        ),
    ],
)
def test_models_that_are_learned_from_must_be_made(trainer: dict[str, Any], others: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        _config(relabeller={}, trainer=trainer, **others)


def test_models_that_are_made_may_be_learned_from():
    made = {"reward_trainer": {"estimator": {"name": "fm"}}, "user_model_trainer": {"model": {"debiasing": "dr"}}}
    trainer = {"reward": {"source": "pretrained"}, "imagination": {"planning": {"variant": "ips"}}}
    assert _config(relabeller={}, trainer=trainer, **made).trainer.imagination is not None
