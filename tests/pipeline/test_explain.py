"""A pushed version is explained by the lineage, and its card says what it was judged by."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, ArtifactType, write_manifest
from components.pusher.executor import push
from components.pusher.model_card import as_html, as_markdown, model_card
from pipeline.explain import as_text, explain
from pipeline.lineage import Execution, Lineage, facts_of, reference
from schemas.config import ConfigError

FORCED = {"by": "Ada", "reason": "the log of last week is broken", "against": ["value/support"]}


def made(folder: Path, kind: ArtifactType, properties: dict[str, Any], provenance: dict[str, Any] | None = None) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    return write_manifest(
        folder, kind, "test", properties, provenance or {"run_id": "run-1", "code": f"code-of-{folder.name}", "pipeline": "shop"}
    )


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    split = {"events": 10, "sessions": 3, "first_time": 0, "last_time": 86_400}
    checks = [{"name": "value/support", "passed": False, "reason": "no | support <b>"}]
    audit = {"checks": [{"name": "time_order", "status": "passed", "reason": "every split ends before the next begins"}]}
    given = {"interval": {"value": 0.04, "low": 0.01, "high": 0.07}, "deployed_value": 1.5, "reasons": []}
    refused = {"interval": None, "deployed_value": None, "reasons": [{"code": "low_effective_size"}]}
    value = {
        "key": "top10_logged@0.5",
        "decided_by": "return/sndr",
        "deployed": "last_blessed",
        "propensities": "logged",
        "rounds": 4321,
        "sessions": 765,
        "difference": given,
        "differences": {"return/sndr": given, "session/snpdis": refused},
        "slices": {"user/new": {"events": 77, "sessions": 50, **given}},
    }
    trained = {"algorithm": {"name": "sqn"}, "network": {"backbone": {"name": "sasrec"}}, "parameters": 98765}
    metrics = {
        "metrics": {"test": {"candidate": {"ndcg@10": [0.5, 0.4, 0.6]}}},
        "value": value,
        "slices": {"item/tail": {"events": 31, "sessions": 30, "models": {"candidate": [0.25, 0.2, 0.3]}}},
        "model": trained,
        "data": {"ledger": {"rows_read": 12}, "splits": {"test": split}, "split": {"by": "time"}},
    }
    infra = {"load_seconds": 0.7, "request_milliseconds": {"first": 300.0, "median": 4.5}}
    return {
        "examples": made(tmp_path / "examples", "Examples", {"ledger": {"rows_read": 12}, "splits": {"test": split}, "split": {}}),
        "model": made(tmp_path / "model", "Model", {}),
        "evaluation": made(tmp_path / "evaluation", "ModelEvaluation", metrics),
        "audit": made(tmp_path / "audit", "LeakageAudit", audit),
        "blessing": made(tmp_path / "blessing", "ModelBlessing", {"blessed": 1, "forced": FORCED, "checks": checks, "reasons": []}),
        "infra_blessing": made(tmp_path / "infra", "InfraBlessing", infra),
        "serving_model": made(tmp_path / "serving", "ServingModel", {"model": "abc", "num_items": 1234}),
        "pushed_model": made(tmp_path / "pushed", "PushedModel", {"pushed": 1, "version": 17, "path": "/somewhere/17", "reasons": []}),
    }


def record(root: Path, artifacts: dict[str, Artifact]) -> None:
    lineage = Lineage(root / "lineage.jsonl")
    steps = {
        "trajectory_gen": ([], ["examples"]),
        "leakage_audit": (["examples"], ["audit"]),
        "trainer": (["examples"], ["model"]),
        "evaluator": (["examples", "model"], ["evaluation", "blessing"]),
        "exporter": (["model", "examples"], ["serving_model"]),
        "pusher": (["serving_model", "blessing", "evaluation", "audit"], ["pushed_model"]),
    }
    for place, (step, (inputs, outputs)) in enumerate(steps.items()):
        names = [{name: reference(artifacts[name]) for name in part} for part in (inputs, outputs)]
        facts = facts_of({name: artifacts[name] for name in outputs})
        lineage.record(Execution("run-1", "shop", step, "executed", "key", *names, time=100.0 + place, facts=facts))


def test_a_version_tells_data_code_metrics_and_who_forced_it(artifacts: dict[str, Artifact], tmp_path: Path):
    record(tmp_path, artifacts)
    found = explain(tmp_path, "17")
    assert json.loads(json.dumps(found)) == found
    assert set(found["steps"]) == {"trajectory_gen", "leakage_audit", "trainer", "evaluator", "exporter", "pusher"}
    assert found["steps"]["trainer"]["code"] == "code-of-model"
    assert found["blessing"]["forced"] == FORCED
    text = as_text(found)
    decided = "top10_logged@0.5 return/sndr +0.0400 (+0.0100 to +0.0700) above the last blessed's 1.5000, propensities logged"
    assert decided in text
    for part in ("version 17 of shop", "rows_read 12", "10 events of 3 sessions", "ndcg@10 0.5000", "time_order passed", "forced by Ada"):
        assert part in text
    # The folder of a version names it as well.
    assert explain(tmp_path, "/somewhere/17/") == found


def test_what_is_gone_is_left_out(artifacts: dict[str, Artifact], tmp_path: Path):
    record(tmp_path, artifacts)
    (artifacts["evaluation"].path / "manifest.json").unlink()
    found = explain(tmp_path, "17")
    assert found["metrics"] is None
    assert found["audit"] is not None
    assert "version 17" in as_text(found)


def test_who_forced_a_blessing_is_known_when_its_folder_is_gone(artifacts: dict[str, Artifact], tmp_path: Path):
    record(tmp_path, artifacts)
    for name in ("blessing", "pushed_model"):
        (artifacts[name].path / "manifest.json").unlink()
    found = explain(tmp_path, "17")
    assert found["blessing"]["forced"] == FORCED
    assert found["path"] == "/somewhere/17"
    assert "blessing forced by Ada: the log of last week is broken" in as_text(found)


def test_a_lineage_without_facts_is_read_as_before(artifacts: dict[str, Artifact], tmp_path: Path):
    record(tmp_path, artifacts)
    path = tmp_path / "lineage.jsonl"
    lines = [{key: value for key, value in json.loads(line).items() if key != "facts"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert explain(tmp_path, "17")["blessing"]["forced"] == FORCED


def test_a_version_that_was_never_pushed_is_an_error(artifacts: dict[str, Artifact], tmp_path: Path):
    record(tmp_path, artifacts)
    with pytest.raises(ConfigError, match=r"no version '18' was pushed from .*; known: 17"):
        explain(tmp_path, "18")


def test_the_card_says_what_the_model_was_judged_by(artifacts: dict[str, Artifact]):
    card = model_card(artifacts)
    assert json.loads(json.dumps(card)) == card
    markdown, page = as_markdown(card), as_html(card)
    for text in (markdown, page):
        for part in (
            "Model card of shop",
            *("sqn", "sasrec", "98,765", "1,234"),
            *("forced by Ada", "the log of last week is broken", "time_order"),
            *("ndcg@10", "0.5000", "item/tail", "0.2500"),
            *("Divided by time: rows read 12.", "1970-01-02"),
            "top10_logged@0.5, against the last blessed, propensities logged, 4,321 events of 765 sessions; return/sndr decides.",
            *("+0.0400", "not given: low_effective_size", "user/new", "1.5000"),
            "the median request took 4.5 ms",
        ):
            assert part in text, part
    # What came from outside is escaped: as cells of a table, and as markup.
    assert "<b>" not in page
    assert "FAILED: no | support &lt;b&gt;" in page


def test_the_card_travels_with_the_version_and_is_no_reason_for_another(tmp_path: Path):
    model = tmp_path / "model"
    (model / "assets.extra").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"requests")
    version, path = push(model, tmp_path / "serving", {"model_card.md": "# one"})
    assert (path / "assets.extra" / "model_card.md").read_text() == "# one"
    assert (path / "assets.extra" / "tf_serving_warmup_requests").read_bytes() == b"requests"
    assert push(model, tmp_path / "serving", {"model_card.md": "# two"}) == (version, path)
    assert (path / "assets.extra" / "model_card.md").read_text() == "# one"
