"""The report of a run from the cards of its steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, open_artifact, write_json, write_manifest
from pipeline import executor_output, run_report
from pipeline.card import Card, read_card, write_card
from pipeline.config import PipelineConfig
from schemas.config import canonical_json, decode

CONFIG = canonical_json(decode(PipelineConfig, {"name": "shop", "trajectory_gen": {"dataset": {"name": "session_shop"}}}, "test"))
METRICS = {
    "eval": {"candidate": {"ndcg@10": [0.9, 0.8, 1.0]}},
    "test": {
        "candidate": {
            "ndcg@10": [0.25, 0.2, 0.3],
            "hit_rate@5": [0.2, 0.1, 0.3],
            "hit_rate@20": [0.5, 0.4, 0.6],
            "hit_rate@10": [0.4, 0.3, 0.5],
        },
        "popularity": {"ndcg@10": [0.1, 0.1, 0.1]},
    },
}
SPLIT = {"events": 4, "trajectories": 2, "unknown_events": 0}
EXAMPLES = {"num_items": 102, "splits": {"train": SPLIT}, "ledger": {"rows_read": 9, "quarantined": 1, "events": 8}}


def artifact(folder: Path, kind: Any, producer: str, properties: dict[str, Any]) -> Artifact:
    folder.mkdir(parents=True)
    (folder / "large.gz").write_text("data")
    write_json(folder / "metrics.json", {"metrics": {}})
    provenance = {"config": {"splits": ["eval", "test"]}, "run_id": "now"}
    return write_manifest(folder, kind, producer, properties, provenance)


@pytest.fixture
def cards(tmp_path: Path) -> list[str]:
    """Cards of two steps: one was executed, the other comes from the cache."""
    examples = artifact(tmp_path / "examples", "Examples", "trajectory_gen.examples", EXAMPLES)
    evaluation = artifact(tmp_path / "evaluation", "ModelEvaluation", "evaluator.evaluation", {"metrics": METRICS, "counts": {}})
    write_card(tmp_path / "one", Card("trajectory_gen", "earlier", 100.0, 60.0, {"examples": examples}))
    write_card(tmp_path / "two", Card("evaluator", "now", 1000.0, 5.0, {"evaluation": evaluation}))
    # As a scheduler hands them over: in any order, and without what they were made from.
    return ["--card", str(tmp_path / "two"), "--card", str(tmp_path / "one")]


def test_a_card_holds_manifests_and_numbers_but_no_data(cards: list[str], tmp_path: Path) -> None:
    assert sorted(path.name for path in (tmp_path / "two" / "evaluation").iterdir()) == ["manifest.json", "metrics.json"]
    card = read_card(tmp_path / "two")
    assert (card.component, card.run_id, card.seconds) == ("evaluator", "now", 5.0)
    assert card.outputs["evaluation"].digest == open_artifact(tmp_path / "evaluation").digest


def test_the_report_says_what_ran_and_what_came_from_the_cache(cards: list[str], tmp_path: Path) -> None:
    out = ["--html", str(tmp_path / "page" / "report.html"), "--summary", str(tmp_path / "summary")]
    assert run_report.main(["--config", CONFIG, *cards, *out, "--run-id", "now"]) == 0
    summary = json.loads((tmp_path / "summary" / "summary.json").read_text())
    assert [(step["name"], step["status"], step["seconds"]) for step in summary["steps"]] == [
        ("trajectory_gen", "cached", 0.0),
        ("evaluator", "executed", 5.0),
    ]
    assert (summary["run_id"], summary["started"], summary["counts"]["rows_read"]) == ("now", 1000.0, 9)
    assert summary["metrics"]["test"]["candidate"]["ndcg@10"] == 0.25
    assert "cached" in (tmp_path / "page" / "report.html").read_text()


def test_kubeflow_is_told_the_curve(cards: list[str], tmp_path: Path) -> None:
    told = tmp_path / "kfp" / "output.json"
    roc = {"artifacts": [{"name": "roc", "uri": "s3://bucket/roc"}]}
    executor_input = json.dumps({"outputs": {"artifacts": {"roc": roc}, "outputFile": str(told)}})
    assert run_report.main(["--config", CONFIG, *cards, "--run-id", "now", "--executor-input", executor_input]) == 0
    (entry,) = json.loads(told.read_text())["artifacts"]["roc"]["artifacts"]
    curve = entry["metadata"]["confidenceMetrics"]
    # 101 items (102 ids with padding), one of them wanted: of the best 5, 0.2 are hits and 4.8 of the 100 others, and so on.
    assert [point["falsePositiveRate"] for point in curve] == pytest.approx([0.0, 0.048, 0.096, 0.195, 1.0])
    assert [point["recall"] for point in curve] == [0.0, 0.2, 0.4, 0.5, 1.0]


def test_kubeflow_shows_the_metrics_of_the_split_that_the_verdict_is_about(cards: list[str], tmp_path: Path) -> None:
    evaluation = open_artifact(tmp_path / "evaluation")
    assert executor_output.describe(evaluation) == {
        "test/hit_rate@10": 0.4,
        "test/hit_rate@20": 0.5,
        "test/hit_rate@5": 0.2,
        "test/ndcg@10": 0.25,
    }
    examples = open_artifact(tmp_path / "examples")
    assert executor_output.describe(examples) == {"digest": examples.digest, "kind": "Examples", "num_items": 102}


def test_what_is_no_card_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run_report.main(["--config", CONFIG, "--card", str(tmp_path / "empty")]) == 2
    assert "empty: not a step's card" in capsys.readouterr().err
    assert run_report.main(["--config", "{}"]) == 2
    assert "trajectory_gen: required, but not given" in capsys.readouterr().err
