"""`longplay compare` from logs to a leaderboard: what is trained, what is found again, and what a killed one leaves."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from components.base import SilentProgress
from pipeline.cli import app
from pipeline.compare import command
from pipeline.compare.config import Comparison, load_comparison
from pipeline.compare.results import Leaderboard
from pipeline.compare.runs import Run
from pipeline.compare.training import ModelBench, run_baselines

TINY = Path(__file__).resolve().parents[2] / "pipeline" / "configs" / "compare" / "tiny.yaml"
SMALLER = (
    *("changes.trajectory_gen.dataset.num_events=1500", "changes.trainer.max_steps=1"),
    *("simulate.num_sessions=30", "simulate.max_turns=5"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that all tests share, so that the data are made once."""
    return tmp_path_factory.mktemp("root")


pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Algorithm and seed of every training that begins."""
    seen: list[tuple[str, int]] = []
    original = ModelBench.run

    def watched(bench: ModelBench, seed: int, scratch: Path) -> Any:
        seen.append((bench._config.algorithm.name, seed))  # type: ignore[attr-defined]
        return original(bench, seed, scratch)

    monkeypatch.setattr(ModelBench, "run", watched)
    return seen


def asked(name: str, *overrides: str) -> Comparison:
    return load_comparison(TINY, [*SMALLER, f"name={name}", *overrides])


def compare(comparison: Comparison, root: Path) -> tuple[Leaderboard, str]:
    out = io.StringIO()
    board = command.compare(comparison, root, Console(file=out, width=200))
    assert board is not None
    return board, out.getvalue()


def test_a_comparison_trains_everything_once_and_writes_a_leaderboard(root: Path, trained: list[tuple[str, int]]) -> None:
    board, text = compare(asked("whole"), root)
    assert trained == [("bc", 0), ("bc", 1), ("sqn", 0), ("sqn", 1)]
    models = [row for row in board.rows if row.kind != "exact"]
    assert {row.name for row in models} == {"bc", "sqn", "sqn [values]", "popularity", "repeat_last", "item_knn", "repeat_item_knn"}
    assert {row.name for row in board.rows if row.kind == "exact"} == {"logging", "greedy", "optimal"}
    for row in models:
        assert {"ndcg@10", "purchase/ndcg@10", "click/ndcg@10", "reward_ndcg@10", "coverage@10", "popularity_share@10", "return"} <= set(
            row.metrics
        )
        assert row.paired.keys() >= {"ndcg@10", "return"} or row.name == "bc"
        if row.kind == "model":
            assert row.training["epochs"] == 1
            assert set(row.by_seed) == {0, 1}
    folder = root / "compare" / "whole"
    found = json.loads((folder / "leaderboard.json").read_text())
    assert [row["title"] for row in found["rows"]] == [row.title for row in board.rows]
    assert (folder / "leaderboard.csv").read_text().count("\n") == len(board.rows) + 1
    assert "<svg" in (folder / "leaderboard.html").read_text()
    assert "4/4  sqn, sasrec, seed 1" in text
    assert "ndcg@10" in text
    # One for each training, for each baseline, and for the exact values; nothing else is left.
    assert len(list((folder / "runs").glob("*.json"))) == 4 + 4 + 1
    assert not any((folder / "scratch").glob("*"))

    # Started again, it reads what it wrote.
    trained.clear()
    again, text = compare(asked("whole"), root)
    assert trained == []
    assert again == board
    assert "4 of them finished before" in text
    # What is judged otherwise is not trained for it; what is trained otherwise is.
    compare(asked("whole", "metric=click/mrr@5", "reference=sqn"), root)
    assert trained == []
    grids = "[{algorithms: [sqn], seeds: [0, 1], label: other name}, {algorithms: [bc], trainer: {learning_rate: 0.5}}]"
    board, _ = compare(asked("whole", f"grids={grids}"), root)
    assert trained == [("bc", 0)]
    assert "other name" in {row.name for row in board.rows}


@pytest.mark.slow
def test_rows_are_trained_on_raised_returns_and_go_on_online(root: Path, trained: list[tuple[str, int]]) -> None:
    rounds = {
        "num_rounds": 1,
        "sessions_per_round": 8,
        "updates_per_round": 1,
        "evaluation_sessions": 8,
        "batch_size": 8,
        "evaluate_every": 1,
    }
    tuner = {**rounds, "buffer_sessions": 32, "drop": {"baseline_sessions": 8}, "max_turns": 5, "simulator": {"name": "session_shop"}}
    tuner["simulator"]["shop"] = {"num_items": 100, "num_clusters": 5}  # type: ignore[index]
    values = {"max_steps": 2, "network": {"width": 8, "backbone": {"name": "sasrec", "num_blocks": 1}}}
    # Values that hardly learned anything: what is raised is no matter here.
    gate = {"min_replaced_share": 0.0, "max_replaced_share": 1.0, "max_mean_raise": 100.0, "max_excess": 100.0}
    grid = {"algorithms": [{"name": "edt4rec", "num_blocks": 1}], "relabeller": {"q_function": values, "gate": gate}, "online_tuner": tuner}
    grid["vary"] = {"relabeller.enabled": [False, True], "online_tuner.enabled": [True]}
    board, text = compare(asked("raised", f"grids={json.dumps([grid])}"), root)
    found = [row for row in board.rows if row.kind == "model"]
    assert {row.name for row in found} == {f"edt4rec, relabeller {switch}, online_tuner on" for switch in ("off", "on")}
    assert text.count("returns raised") == 1
    for row in found:
        assert [entry["round"] for entry in row.tuning] == [0, 1]
        assert row.tuning[1]["step"] >= 8
        # The return of the tuned model, not of the one that was tuned.
        assert "return" in row.metrics
    runs = [json.loads(path.read_text()) for path in (root / "compare" / "raised" / "runs").glob("*.json")]
    losses = {run["history"]["steps"][0]["cross_entropy"] for run in runs if run["kind"] == "model"}
    assert len(losses) == 2  # with raised returns the first step is another one
    assert trained == [("edt4rec", 0)] * 2
    compare(asked("raised", f"grids={json.dumps([grid])}"), root)
    assert len(trained) == 2
    # What its gate refuses is no reason not to compare the others.
    grid["relabeller"]["gate"]["min_replaced_share"] = 1.0  # type: ignore[index]
    grid["relabeller"]["gate"]["max_replaced_share"] = 1.0  # type: ignore[index]
    board, _ = compare(asked("raised", f"grids={json.dumps([grid])}"), root)
    errors = {row.name: list(row.errors.values()) for row in board.rows if row.kind == "model"}
    assert errors["edt4rec, relabeller off, online_tuner on"] == []
    (error,) = errors["edt4rec, relabeller on, online_tuner on"]
    assert error.startswith("relabeller failed: the relabelled returns are not plausible")


@pytest.mark.slow
def test_rows_learn_from_reward_models_and_user_models_made_for_them(root: Path, trained: list[tuple[str, int]]) -> None:
    small: dict[str, object] = {"max_steps": 2, "batch_size": 64}
    anything = {"max_calibration_error": None, "min_explained": None, "min_events": 1}
    rewards = {**small, "estimator": {"name": "fm", "width": 4}, "conditions": anything}
    network = {"width": 8, "backbone": {"name": "sasrec", "num_blocks": 1}}
    model = {"rewards": {"name": "deepfm", "width": 4, "hidden": [4], "outcome": "continuous", "members": 2}, "behaviour": network}
    users = {**small, "model": model, "conditions": {**anything, "max_leaving_calibration_error": None}}
    imagination = {"share": 0.2, "horizon": 2, "planning": {"variant": "mopo"}}
    grids = [
        {"algorithms": ["dqn"], "label": "expected", "trainer": {"reward": {"source": "pretrained"}}, "reward_trainer": rewards},
        {"algorithms": ["dqn"], "label": "imagined", "trainer": {"imagination": imagination}, "user_model_trainer": users, "seeds": [0, 1]},
        {"algorithms": ["dqn"]},
    ]
    board, text = compare(asked("learned", f"grids={json.dumps(grids)}"), root)
    rows = {row.name: row for row in board.rows if row.kind == "model"}
    assert {name: row.errors for name, row in rows.items()} == {"expected": {}, "imagined": {}, "dqn": {}}
    assert text.count("debiasing none, explained") == 1
    assert text.count("fm, auc") == 1
    # What is promised of a policy stands beside what it brings, and beside what is promised of the logs.
    assert rows["dqn"].promised is None
    promised = rows["imagined"].promised
    assert promised is not None
    assert all(value != 0.0 for value in promised)
    page = (root / "compare" / "learned" / "leaderboard.html").read_text(encoding="utf-8")
    assert "Promised and true" in page
    runs = [json.loads(path.read_text()) for path in (root / "compare" / "learned" / "runs").glob("*.json")]
    first = {run["history"]["steps"][0]["td"] for run in runs if run["kind"] == "model" and run["seed"] == 0}
    assert len(first) == 3  # three kinds of batches
    assert len(trained) == 4
    compare(asked("learned", f"grids={json.dumps(grids)}"), root)
    assert len(trained) == 4


# What is kept and what is tried again is not a matter of what is trained: here nothing is.


def pretend(bench: ModelBench, seed: int, scratch: Path) -> Run:
    """A training whose model recommends as a baseline does."""
    (found,) = run_baselines(("repeat_last",), bench._judgement, SilentProgress()).values()
    took = {"seconds": 1.0, "transitions_per_second": 1.0, "parameters": 1, "epochs": 1, "best": 0.1, "metric": "ndcg@10", "health": {}}
    return Run({**found.facts, "training": took}, found.sums, found.returns)


def test_a_killed_comparison_trains_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def run(bench: ModelBench, seed: int, scratch: Path) -> Run:
        begun.append(seed)
        if begun == [0, 1]:
            (scratch / "half of a checkpoint").touch()
            raise KeyboardInterrupt
        assert list(scratch.iterdir()) == []
        return pretend(bench, seed, scratch)

    monkeypatch.setattr(ModelBench, "run", run)
    wanted = asked("killed", "baselines=[repeat_last]", "grids=[{algorithms: [bc], seeds: [0, 1, 2]}]")
    with pytest.raises(KeyboardInterrupt):
        compare(wanted, root)
    board, text = compare(wanted, root)
    assert begun == [0, 1, 1, 2]
    assert "3 trainings of 1 models, 1 of them finished before" in text
    assert next(row for row in board.rows if row.name == "bc").seeds == [0, 1, 2]


def test_what_fails_is_a_row_and_the_others_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def run(bench: ModelBench, seed: int, scratch: Path) -> Run:
        name: str = bench._config.algorithm.name  # type: ignore[attr-defined]
        begun.append(name)
        if name == "dqn":
            (scratch / "nan_batch_1.npz").touch()
            return Run({"error": "values diverge: lower the rate\nsecond line", "heads": {}, "training": {}})
        if name == "cql" and begun.count("cql") == 1:
            raise RuntimeError("no memory")
        return pretend(bench, seed, scratch)

    monkeypatch.setattr(ModelBench, "run", run)
    wanted = asked("failing", "baselines=[repeat_last]", "grids=[{algorithms: [dqn, cql, bc]}]")
    board, text = compare(wanted, root)
    assert begun == ["dqn", "cql", "bc"]
    errors = {row.name: row.errors.get(0, "") for row in board.rows if row.kind == "model"}
    assert errors == {"bc": "", "dqn": "values diverge: lower the rate\nsecond line", "cql": "RuntimeError: no memory"}
    assert next(row.name for row in board.rows if row.kind == "model") == "bc"
    assert "dqn, sasrec, seed 0" in text
    # What explains the failure is kept; what is left of the others is not.
    assert [path.name for path in (root / "compare" / "failing" / "scratch").glob("*/*")] == ["nan_batch_1.npz"]
    # A training that diverged would do so again; what was broken from outside is tried again.
    board, _ = compare(wanted, root)
    assert begun[3:] == ["cql"]
    assert {row.name: bool(row.errors) for row in board.rows if row.kind == "model"} == {"bc": False, "dqn": True, "cql": False}


def test_another_target_is_no_reason_to_train_what_has_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def run(bench: ModelBench, seed: int, scratch: Path) -> Run:
        name: str = bench._config.algorithm.name  # type: ignore[attr-defined]
        begun.append(name)
        return pretend(bench, seed, scratch)

    monkeypatch.setattr(ModelBench, "run", run)
    wanted = ["targets", "baselines=[repeat_last]", "grids=[{algorithms: [bc, edt4rec]}]"]
    compare(asked(*wanted), root)
    compare(asked(*wanted, "simulate.target_returns=[1.0, 2.0]", "simulate.draw=true"), root)
    assert begun == ["bc", "edt4rec", "edt4rec"]


# === The command line ===


def test_bad_usage_is_told_from_a_failure(tmp_path: Path) -> None:
    runner = CliRunner()
    missing = runner.invoke(app, ["compare", str(tmp_path / "none.yaml")])
    assert missing.exit_code == 2
    wrong = runner.invoke(app, ["compare", str(TINY), "--set", "reference=nobody", "--root", str(tmp_path)])
    assert wrong.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_made_fail_the_comparison(tmp_path: Path) -> None:
    # Each session of the shop is rare: none has a thousand events.
    done = CliRunner().invoke(
        app, ["compare", str(TINY), "--set", "changes.trajectory_gen.min_session_events=1000", "--root", str(tmp_path)]
    )
    assert done.exit_code == 1
    assert not (tmp_path / "compare").exists()


def test_help_teaches_and_imports_nothing_heavy() -> None:
    shown = CliRunner().invoke(app, ["compare", "--help"]).output
    for word in ("base:", "grids:", "longplay schema --compare", "--set", "--root", "leaderboard.html"):
        assert word in shown
    explained = CliRunner().invoke(app, ["schema", "--compare"]).output
    assert "grids[].algorithms" in explained
