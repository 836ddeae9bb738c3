"""`longplay analyze`: what it reads from a plain log, what it counts, and the page that answers."""

import csv
import json
import random
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from components.base import SilentProgress
from models.suitability import Analysis, analyse
from pipeline.analysis import analyse_run, as_text, make_trajectories, settings_of, write
from pipeline.config import PipelineConfig
from schemas.config import ConfigError, decode

for folder in ("models", "pipeline"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
shops, pages = import_module("test_suitability"), import_module("test_report")


# === What a log is ===


def log_file(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "log.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_columns_of_usual_names_need_no_configuration(tmp_path: Path):
    path = log_file(tmp_path, "timestamp,VisitorID,event,itemid,pscore", "1,a,view,x,0.5")
    dataset = settings_of(path, []).trajectory_gen.dataset.model_dump()
    assert {role: name for role, name in dataset["columns"].items() if name} == {
        "user": "VisitorID",
        "item": "itemid",
        "timestamp": "timestamp",
        "feedback": "event",
        "propensity": "pscore",
    }
    assert dataset["feedback"]["view"] == {"role": "click", "reward": 0.2}
    assert dataset["feedback"]["transaction"] == {"role": "purchase", "reward": 1.0}


def test_a_log_without_such_names_says_what_it_has(tmp_path: Path):
    path = log_file(tmp_path, "when,who,what", "1,a,x")
    with pytest.raises(ConfigError, match=r"no column is known as user or item or timestamp; its columns are when, who, what"):
        settings_of(path, [])


def test_what_to_set_is_for_configurations(tmp_path: Path):
    with pytest.raises(ConfigError, match="--set is for configurations"):
        settings_of(log_file(tmp_path, "user,item,timestamp"), ["name=x"])
    config = tmp_path / "shop.yaml"
    config.write_text("name: shop\ntrajectory_gen: {dataset: {name: session_shop, num_events: 100}}\n", encoding="utf-8")
    assert settings_of(config, ["name=other"]).name == "other"


# === What is counted ===


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[tuple[str, str]]], Analysis]:
    """Sessions of (item, event) an hour apart each, and their analysis."""
    folder, draw = tmp_path_factory.mktemp("log"), random.Random(4)
    sessions = [
        [(f"item-{draw.randrange(12)}", "buy" if draw.random() < 0.1 else "view") for _ in range(draw.randrange(2, 7))] for _ in range(500)
    ]
    with (folder / "log.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["user_id", "item_id", "event", "timestamp"])
        for number, session in enumerate(sessions):
            rows.writerows([f"user-{number % 40}", item, event, 3600 * number + 60 * step] for step, (item, event) in enumerate(session))
    progress = SilentProgress()
    result = make_trajectories(settings_of(folder / "log.csv", []), folder / "root", progress)
    assert result.failed is None
    # The last sessions of train and of eval begin in the last second of their splits: one event of each is left, which is no session.
    del sessions[449], sessions[399]
    return sessions, analyse_run(result, folder / "root", progress, max_sessions=250)


def test_counts_are_of_the_whole_log(counted: tuple[list[list[tuple[str, str]]], Analysis]):
    sessions, analysis = counted
    events = [entry for session in sessions for entry in session]
    numbers = analysis.numbers
    assert numbers["reward"]["sessions"] == len(sessions) == 498
    assert numbers["reward"]["events"] == len(events)
    assert numbers["reward"]["rewarded_sessions"] == sum(any(event == "buy" for _, event in session) for session in sessions)
    assert numbers["reward"]["purchase_share"] == pytest.approx(sum(event == "buy" for _, event in events) / len(events))
    reward = sum(1.0 if event == "buy" else 0.2 for _, event in events)
    assert numbers["reward"]["return_per_session"] == pytest.approx(reward / 498, rel=1e-5)
    items = [[item for item, _ in session] for session in sessions]
    later = len(events) - 498
    again = sum(item in session[:step] for session in items for step, item in enumerate(session))
    at_once = sum(item == before for session in items for before, item in pairwise(session))
    assert numbers["repeats"] == {"rate": pytest.approx(again / later), "of_last_rate": pytest.approx(at_once / later)}
    assert numbers["horizon"]["mean_length"] == pytest.approx(len(events) / 498)
    assert numbers["horizon"]["lengths"][:8] == [sum(len(session) == length for session in sessions) for length in range(8)]


def test_models_are_made_of_a_sample(counted: tuple[list[list[tuple[str, str]]], Analysis]):
    sample = counted[1].numbers["sample"]
    # A hash decides: 250 of 498, give or take three standard deviations.
    assert 250 - 34 <= sample["sessions"] <= 250 + 34
    assert counted[1].numbers["logging"]["items"] == 12
    assert 10.0 < counted[1].numbers["logging"]["effective_choices"] < 12.5
    # A test split is a tenth of the sessions.
    assert 40 <= counted[1].numbers["evaluation"]["test_sessions"] <= 60


# === The answer ===


def test_the_page_answers_in_words_with_numbers(tmp_path: Path):
    analysis = analyse(*shops.log_of(2000, 0, bait_ends=True))
    config = decode(PipelineConfig, {"name": "shop", "trajectory_gen": {"dataset": {"name": "session_shop", "num_events": 10}}}, "test")
    write(analysis, config, tmp_path)
    assert json.loads((tmp_path / "analysis.json").read_text()) == {"pipeline": "shop", **json.loads(json.dumps(analysis.as_dict()))}
    page = pages.Page(tmp_path / "analysis.html")
    assert len(page.all("h1")) == 1
    assert page.all("script") == []
    for part in (
        "Can reinforcement learning pay here?",
        analysis.recommendation,
        *(finding.text for finding in analysis.findings),
        f"{analysis.numbers['logging']['entropy_bits']:.2f} bits",
        "decisions made otherwise",
        "gain in return",
    ):
        assert " ".join(part.split()) in page.text, part
    text = as_text(analysis)
    assert text.splitlines()[0] == f"Can reinforcement learning pay here? {analysis.verdict.upper()}"
    assert text.count("\n  + ") + text.count("\n  - ") == len(analysis.findings) == 5
    assert text.endswith(analysis.recommendation)
