"""Configurations of comparisons: what a short one stands for, and what is wrong with a bad one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from models.algorithms.registry import ALGORITHMS
from models.backbones.registry import BACKBONES
from pipeline.compare.config import CompareConfig, Comparison, load_comparison, merged
from pipeline.reference import explain
from schemas.config import ConfigError, canonical_json

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "pipeline" / "configs" / "compare").glob("*.yaml"))

BASE: dict[str, Any] = {
    "name": "base",
    "trajectory_gen": {"dataset": {"name": "session_shop", "num_events": 3000}},
    "trainer": {
        "algorithm": {"name": "sqn", "discount": 0.7},
        "network": {"backbone": {"name": "sasrec", "dropout": 0.4}, "width": 32},
        "max_epochs": 7,
    },
    "evaluator": {"num_resamples": 50},
}


def load(folder: Path, *overrides: str, beneath: dict[str, Any] | None = None, **data: Any) -> Comparison:
    """Reads a comparison that lies in another folder than its base."""
    (folder / "compare").mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(beneath or BASE))
    path = folder / "compare" / "family.yaml"
    path.write_text(yaml.safe_dump({"name": "family", "base": "../base.yaml", "grids": [{"algorithms": ["bc"]}], **data}, sort_keys=False))
    return load_comparison(path, overrides)


def rows(comparison: Comparison) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(model.label, model.backbone, model.seeds) for model in comparison.models]


def test_a_grid_is_every_algorithm_on_every_backbone(tmp_path: Path) -> None:
    found = load(tmp_path, grids=[{"algorithms": ["bc", "cql"], "backbones": ["sasrec", "gru4rec"], "seeds": [3, 1]}])
    assert rows(found) == [("bc", "sasrec", (3, 1)), ("bc", "gru4rec", (3, 1)), ("cql", "sasrec", (3, 1)), ("cql", "gru4rec", (3, 1))]
    assert found.num_runs == 8
    assert [model.trainer_of(3).seed for model in found.models] == [3] * 4


def test_the_base_is_where_everything_begins(tmp_path: Path) -> None:
    found = load(tmp_path, grids=[{"algorithms": ["sqn", "bc"], "backbones": ["sasrec", "gru4rec"]}])
    for model in found.models:
        assert (model.trainer.max_epochs, model.trainer.network.width, model.seeds) == (7, 32, (0,))
        # By its name alone, what the base configures is as the base configures it; what it does not is at its defaults.
        if model.algorithm == "sqn":
            assert model.trainer.algorithm.discount == 0.7
        if model.backbone == "sasrec":
            assert model.trainer.network.backbone.dropout == 0.4
    assert found.pipeline.name == "family"
    assert found.pipeline.evaluator.num_resamples == 50


def test_a_mapping_says_all_of_an_algorithm(tmp_path: Path) -> None:
    (model,) = load(tmp_path, grids=[{"algorithms": [{"name": "sqn", "q_weight": 0.5}], "backbones": [{"name": "sasrec"}]}]).models
    assert (model.trainer.algorithm.q_weight, model.trainer.algorithm.discount) == (0.5, 0.5)
    assert model.trainer.network.backbone.dropout == 0.2


def test_without_algorithms_and_backbones_they_are_the_base_s(tmp_path: Path) -> None:
    (model,) = load(tmp_path, grids=[{"label": "as it is"}]).models
    assert (model.label, model.algorithm, model.backbone) == ("as it is", "sqn", "sasrec")
    assert model.trainer.algorithm.discount == 0.7


def test_a_base_without_a_trainer_section_has_its_defaults(tmp_path: Path) -> None:
    (model,) = load(tmp_path, beneath={"trajectory_gen": BASE["trajectory_gen"]}, grids=[{}]).models
    assert (model.algorithm, model.backbone) == ("sqn", "sasrec")


def test_all_is_everything_known(tmp_path: Path) -> None:
    found = load(tmp_path, grids=[{"algorithms": "all", "backbones": "all"}])
    assert {model.algorithm for model in found.models} == set(ALGORITHMS)
    assert len(found.models) == len(ALGORITHMS) * len(BACKBONES)


def test_a_grid_may_change_the_trainer_and_has_a_label_then(tmp_path: Path) -> None:
    plain, other = {"algorithms": ["bc", "sqn"]}, {"trainer": {"network": {"copy_head": False}, "max_epochs": 2}, "label": "without copy"}
    found = load(tmp_path, grids=[plain, {"algorithms": ["sqn"], **other}, {"algorithms": ["bc", "cql"], **other}])
    assert [model.label for model in found.models] == ["bc", "sqn", "without copy", "bc, without copy", "cql, without copy"]
    assert [model.trainer.network.copy_head for model in found.models] == [True, True, False, False, False]
    changed = found.models[2].trainer
    assert (changed.max_epochs, changed.network.width, changed.network.backbone.dropout, changed.algorithm.discount) == (2, 32, 0.4, 0.7)


def test_every_combination_of_varied_values_is_a_row(tmp_path: Path) -> None:
    vary = {"algorithm.entropy_share": [None, 0.1], "algorithm.context_length": [2, 20], "max_epochs": [3]}
    plain = {"algorithms": ["bc", "edt4rec"]}
    grid = {"algorithms": ["edt4rec"], "backbones": ["sasrec", "gru4rec"], "seeds": [0, 1], "vary": vary}
    found = load(tmp_path, grids=[plain, grid])
    labels = [f"edt4rec, entropy_share {share}, context_length {length}, max_epochs 3" for share in ("null", "0.1") for length in (2, 20)]
    assert [(model.label, model.backbone) for model in found.models[2:]] == [
        (label, backbone) for label in labels for backbone in ("sasrec", "gru4rec")
    ]
    for model in found.models[2:]:
        algorithm, settings = model.trainer.algorithm, model.settings
        assert (algorithm.entropy_share, algorithm.context_length) == tuple(settings.values())[:2]
        # The rest is as without it.
        assert (algorithm.num_blocks, model.trainer.max_epochs, model.trainer.network.width) == (3, 3, 32)
        assert model.seeds == (0, 1)
        assert model.family == "edt4rec"
    assert found.models[2].trainer.network.backbone.dropout == 0.4
    assert found.models[1].settings == {}
    assert found.num_runs == 2 + 4 * 2 * 2


def test_what_varies_goes_before_the_grid_s_own_values(tmp_path: Path) -> None:
    vary = {"network.width": [16, 64], "network.backbone.dropout": [0.1]}
    own = {"trainer": {"network": {"width": 8, "copy_head": False}, "max_epochs": 2}, "label": "small"}
    found = load(tmp_path, grids=[{"algorithms": ["sqn"], "vary": vary, **own}])
    assert [model.label for model in found.models] == ["small, width 16, dropout 0.1", "small, width 64, dropout 0.1"]
    for model, width in zip(found.models, (16, 64), strict=True):
        network = model.trainer.network
        assert (network.width, network.copy_head, network.backbone.dropout, model.trainer.max_epochs) == (width, False, 0.1, 2)
        # The algorithm is as the base has it.
        assert model.trainer.algorithm.discount == 0.7


def test_keys_that_end_alike_are_written_out(tmp_path: Path) -> None:
    vary = {"algorithm.dropout": [0.1], "network.backbone.dropout": [0.2], "xla": [True]}
    (model,) = load(tmp_path, grids=[{"algorithms": ["edt4rec"], "vary": vary}]).models
    assert model.label == "edt4rec, algorithm.dropout 0.1, network.backbone.dropout 0.2, xla true"
    assert (model.trainer.algorithm.dropout, model.trainer.network.backbone.dropout) == (0.1, 0.2)


def test_a_value_that_is_the_default_is_the_same_training(tmp_path: Path) -> None:
    grids = [{"algorithms": ["edt4rec"]}, {"algorithms": ["edt4rec"], "vary": {"algorithm.context_length": [20, 5]}}]
    plain, same, other = (canonical_json(model.trainer_of(0)) for model in load(tmp_path, grids=grids).models)
    assert plain == same != other


def test_changes_replace_values_of_the_base(tmp_path: Path) -> None:
    changes = {"trajectory_gen": {"dataset": {"num_events": 100}}, "trainer": {"max_epochs": 2, "algorithm": {"name": "cql"}}}
    found = load(tmp_path, "changes.trainer.batch_size=9", changes=changes, grids=[{}])
    assert found.pipeline.trajectory_gen.dataset.num_events == 100
    (model,) = found.models
    # Another algorithm does not inherit the settings of the base's.
    assert (model.algorithm, model.trainer.algorithm.discount) == ("cql", 0.5)
    assert (model.trainer.max_epochs, model.trainer.batch_size, model.trainer.network.width) == (2, 9, 32)


def test_merging_replaces_what_has_another_name() -> None:
    base = {"a": {"name": "x", "size": 1, "inner": {"p": 1}}, "b": 1}
    assert merged(base, {"a": {"size": 2}, "c": 3}) == {"a": {"name": "x", "size": 2, "inner": {"p": 1}}, "b": 1, "c": 3}
    assert merged(base, {"a": {"name": "x", "inner": {"q": 2}}})["a"] == {"name": "x", "size": 1, "inner": {"p": 1, "q": 2}}
    assert merged(base, {"a": {"name": "y"}, "b": {"d": 1}}) == {"a": {"name": "y"}, "b": {"d": 1}}
    assert base["a"] == {"name": "x", "size": 1, "inner": {"p": 1}}


@pytest.mark.parametrize(
    ("algorithms", "given", "expected"),
    [(["sqn", "bc"], None, "bc"), (["sqn", "cql"], None, "sqn"), (["sqn", "bc"], "sqn", "sqn"), (["sqn"], "repeat_last", "repeat_last")],
)
def test_the_reference_is_bc_or_the_first_row_unless_it_is_given(
    algorithms: list[str], given: str | None, expected: str, tmp_path: Path
) -> None:
    assert load(tmp_path, grids=[{"algorithms": algorithms}], reference=given).reference == expected


def test_policies_are_rolled_out_where_the_world_is_known(tmp_path: Path) -> None:
    assert load(tmp_path).config.simulate is not None
    assert load(tmp_path, simulate=None).config.simulate is None
    found = load(tmp_path, simulate={"num_sessions": 5, "max_turns": 3}).config.simulate
    assert found is not None
    assert (found.num_sessions, found.max_turns, found.discount) == (5, 3, 1.0)
    logs = {"trajectory_gen": {"dataset": {"name": "retailrocket", "path": "events.csv"}}}
    assert load(tmp_path, beneath=logs).config.simulate is None
    with pytest.raises(ConfigError, match=r"simulate: the true return is known where the data set is session_shop; found retailrocket"):
        load(tmp_path, beneath=logs, simulate={})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"grids": [{"algorithms": ["sqm"]}]}, r"grids\.0\.algorithms\.0\.name: unknown name 'sqm' \(did you mean 'sqn'\?\); known: .*bc"),
        ({"grids": [{"algorithms": [{"name": "sqn", "discont": 1}]}]}, r"grids\.0\.algorithms\.0\.discont: unknown key.*discount"),
        ({"grids": [{"backbones": ["gru"]}]}, r"grids\.0\.backbones\.0\.name: unknown name 'gru'"),
        ({"grids": [{"algorithms": ["bc", "bc"]}]}, r"grids\.0: there is a row 'bc' on sasrec already, from grids\.0"),
        ({"grids": [{"algorithms": ["bc"]}, {"algorithms": ["bc"], "seeds": [1]}]}, r"grids\.1: there is a row 'bc' on sasrec already"),
        ({"grids": [{"algorithms": ["bc"], "seeds": [1, 1]}]}, r"grids\.0\.seeds: seeds must differ from each other, found 1, 1"),
        ({"grids": [{"algorithms": ["bc"], "seeds": []}]}, r"grids\.0\.seeds: .*at least 1"),
        ({"grids": [{"algorithms": []}]}, r"grids\.0: expected at least one algorithm and one backbone"),
        ({"grids": []}, r"grids: expected at least one"),
        ({"grids": [{"trainer": {"seed": 1}}]}, r"grids\.0\.trainer: seed does not belong here; it is given by `seeds`"),
        ({"grids": [{"trainer": {"network": {"backbone": {}}}}]}, r"network\.backbone does not belong here; it is given by `backbones`"),
        ({"grids": [{"trainer": {"max_epoch": 1}}]}, r"grids\.0\.trainer: .*\n  max_epoch: unknown key \(did you mean 'max_epochs'\?\)"),
        (
            {"grids": [{"vary": {"algorithm.discont": [1]}}]},
            r"grids\.0\.trainer with algorithm\.discont=1: algorithm.*\n  discont: unknown key",
        ),
        ({"grids": [{"vary": {"network.widht": [1]}}]}, r"with network\.widht=1.*\n  network\.widht: unknown key \(did you mean 'width'"),
        ({"grids": [{"vary": {"network.width": [0]}}]}, r"with network\.width=0.*\n  network\.width: .*greater than or equal to 1"),
        ({"grids": [{"vary": {"network.width": []}}]}, r"grids\.0\.vary: network\.width: expected at least one value"),
        ({"grids": [{"vary": {"network.width": 3}}]}, r"grids\.0\.vary\.network\.width: .*found 3"),
        ({"grids": [{"vary": {"network.width": [8, 8]}}]}, r"there is a row 'sqn, width 8' on sasrec already"),
        ({"grids": [{"vary": {"seed": [1, 2]}}]}, r"vary: seed does not belong here; it is given by `seeds`"),
        ({"grids": [{"vary": {"algorithm": ["bc"]}}]}, r"vary: algorithm does not belong here; it is given by `algorithms`"),
        ({"grids": [{"vary": {"network.backbone.name": ["caser"]}}]}, r"network\.backbone\.name does not belong here.*`backbones`"),
        ({"grids": [{"vary": {"network": [{"width": 8}]}}]}, r"vary: network: expected single values, found a mapping; .*network\.KEY"),
        ({"grids": [{"vary": {"network": [1], "network.width": [8]}}]}, r"vary: network holds network\.width; vary one of them"),
        ({"grids": [{"label": "popularity"}]}, r"a row cannot have the name of a baseline, 'popularity'"),
        ({"reference": "cq"}, r"reference: no row 'cq'.*known: bc, popularity, "),
        ({"baselines": ["popular"]}, r"baselines: unknown baseline 'popular' \(did you mean 'popularity'\?\); known: "),
        ({"baselines": ["item_knn", "item_knn"]}, r"baselines must differ from each other"),
        ({"metric": "ndgc@10"}, r"metric: unknown metric \(did you mean 'ndcg@10'\?\); known: .*purchase/ndcg@10"),
        ({"simulate": {"target_returns": [2.0, 1, 2]}}, r"simulate\.target_returns: target returns must differ .*, found 2, 1, 2"),
        ({"simulate": {"target_returns": [1.0, 1e400]}}, r"simulate\.target_returns\.1: .*valid number"),
        ({"metrc": "ndcg@10"}, r"metrc: unknown key \(did you mean 'metric'\?\)"),
        ({"base": "nowhere.yaml"}, r"base: no such file: .*nowhere\.yaml; it is looked for relative to .*compare"),
        ({"base": 3}, r"base: .*string.*found 3"),
        ({"changes": {"trainer": {"batch": 1}}}, r"base\.yaml with the changes of .*family\.yaml: .*\n  trainer\.batch: unknown key"),
        ({"changes": {"trainer": {"warm_start_from": "latest_blessed"}}}, r"begins with fresh weights; set it to null in `changes`"),
        ({"changes": 3}, r"changes: .*found 3"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **data)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_committed_comparisons_are_valid(path: Path) -> None:
    found = load_comparison(path)
    assert found.config.name == path.stem
    assert found.reference in {model.label for model in found.models}


def test_the_committed_comparisons_cover_the_registries() -> None:
    by_name = {path.stem: path for path in CONFIGS}
    wanted = {"context_entropy", "edt4rec", "expected_rewards", "online", "retailrocket", "session_shop", "taobao", "tiny", "user_model"}
    assert set(by_name) == wanted
    whole = load_comparison(by_name["session_shop"])
    assert {(model.algorithm, model.backbone, len(model.seeds)) for model in whole.models} == {(name, "sasrec", 5) for name in ALGORITHMS}
    assert whole.config.simulate is not None
    real = load_comparison(by_name["retailrocket"])
    assert {model.algorithm for model in real.models if model.backbone == "sasrec"} == set(ALGORITHMS)
    parts = load_comparison(by_name["edt4rec"])
    assert {(model.relabeller.enabled, model.online_tuner.enabled) for model in parts.models} == {
        (False, True),
        (True, True),
        (True, False),
    }
    for name in set(BACKBONES) - {"sasrec"}:
        assert {model.algorithm for model in real.models if model.backbone == name} == {"bc", "sqn", "sa2c"}


def test_rows_are_relabelled_and_tuned_as_the_grid_says(tmp_path: Path) -> None:
    beneath = {**BASE, "online_tuner": {"num_rounds": 7, "simulator": {"name": "session_shop", "max_steps": 9}}}
    vary = {"relabeller.enabled": [False, True], "online_tuner.num_rounds": [2, 3], "learning_rate": [0.1]}
    tuned = {"enabled": True, "sessions_per_round": 5}
    grids = [{"algorithms": ["edt4rec"]}, {"algorithms": ["dt4rec"], "label": "x", "online_tuner": tuned, "vary": vary}]
    plain, *found = load(tmp_path, beneath=beneath, grids=grids).models
    assert (plain.relabeller.enabled, plain.online_tuner.enabled, plain.online_tuner.num_rounds) == (False, False, 7)
    assert [model.label for model in found] == [
        f"x, relabeller {switch}, num_rounds {rounds}, learning_rate 0.1" for switch in ("off", "on") for rounds in (2, 3)
    ]
    assert [model.relabeller.enabled for model in found] == [False, False, True, True]
    assert [model.online_tuner.num_rounds for model in found] == [2, 3, 2, 3]
    for model in found:
        assert (model.online_tuner.enabled, model.online_tuner.sessions_per_round, model.trainer.learning_rate) == (True, 5, 0.1)
        assert model.online_tuner.simulator.max_steps == 9
        assert model.tuner_of(4).seed == 4


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"algorithms": ["bc"], "relabeller": {"enabled": True}}, r"row 'bc': (.|\n)*relabeller.enabled: bc is not trained on returns"),
        (
            {"algorithms": [{"name": "edt4rec", "return_discount": 0.9}], "relabeller": {"enabled": True}},
            r"row 'edt4rec': (.|\n)*relabelling needs one discount: trajectory_gen.discount is 1",
        ),
        (
            {"algorithms": ["dqn"], "trainer": {"imagination": {}}},
            r"row 'dqn': (.|\n)*trainer.imagination needs user_model_trainer.model",
        ),
        ({"trainer": {"online_tuner": {}}}, "online_tuner does not belong here; it stands beside `trainer` in the grid"),
        ({"online_tuner": {"num_round": 3}}, "grids.0.online_tuner"),
    ],
)
def test_what_does_not_fit_is_said_with_its_row(tmp_path: Path, grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, grids=[grid])


def test_every_key_is_explained() -> None:
    text = explain(CompareConfig, None)
    for key in ("grids[].algorithms", "grids[].seeds", "grids[].trainer", "simulate.num_sessions", "metric", "changes"):
        assert f"\n{key}" in text
    assert "shared_negatives" not in text  # what an algorithm has is explained with the trainer
    assert explain(CompareConfig, "grids.seeds").startswith("grids[].seeds = [0]")


def test_steps_are_run_for_the_rows_that_need_what_they_make(tmp_path: Path) -> None:
    sources = {"reward.source": ["logged", "pretrained", "co_trained"]}
    users = {"max_epochs": 7, "model": {}}
    grids = [
        {"algorithms": ["dqn"], "vary": sources, "reward_trainer": {"estimator": {"name": "din"}}},
        {"algorithms": ["dqn"], "label": "imagined", "trainer": {"imagination": {"horizon": 2}}, "user_model_trainer": users},
        {"algorithms": ["edt4rec"], "label": "raised", "relabeller": {"enabled": True}, "user_model_trainer": users},
    ]
    found = {model.label: model for model in load(tmp_path, grids=grids).models}
    assert {label: list(model.preparations()) for label, model in found.items()} == {
        "dqn, source logged": [],
        "dqn, source pretrained": ["reward_trainer"],
        "dqn, source co_trained": [],
        "imagined": ["user_model_trainer"],
        "raised": ["relabeller"],
    }
    assert found["imagined"].user_model_trainer.max_epochs == 7
