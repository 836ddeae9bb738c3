"""Leaderboards from runs whose numbers are known: averages, comparisons in pairs, failures, files and page."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from models.metrics.ranking import MAX_RANK, RankedSteps, SessionSums, sum_by_session, values_by_session
from pipeline.compare.config import Comparison, load_comparison
from pipeline.compare.page import write_page
from pipeline.compare.results import Leaderboard, Paired, Row, leaderboard, write_leaderboard
from pipeline.compare.runs import Play, Run, RunStore
from pipeline.compare.table import leaderboard_table

EVIL = "<script>alert('x')</script>"
SESSIONS = 60
EXACT = {"logging": 1.17, "greedy": 0.23, "optimal": 3.66}

# === Runs ===


def ranked(rank: int, seed: int, noise: int = 0) -> SessionSums:
    """Sums of two events for every session, click and purchase; ranks from `rank` on, differing by session and seed."""
    rng = np.random.default_rng(seed)
    ranks = rank + np.random.default_rng(0).integers(0, 4, 2 * SESSIONS) + (rng.integers(0, noise, 2 * SESSIONS) if noise else 0)
    return sum_by_session(
        RankedSteps(
            rank=np.minimum(ranks, MAX_RANK).astype(np.int64),
            role=np.tile([0, 1], SESSIONS),
            reward=np.tile([0.2, 1.0], SESSIONS).astype(np.float32),
            session=np.repeat(np.arange(SESSIONS), 2),
            known=np.ones(2 * SESSIONS, bool),
            recommended={},
        )
    )


def returns(mean: float) -> SessionSums:
    return values_by_session("return", mean + np.random.default_rng(1).normal(0.0, 0.5, 200))


def run(heads: Mapping[str, int], seed: int = 0, values: Mapping[str, float] | None = None, **training: Any) -> Run:
    """A finished run: head -> rank it begins with; the first head recommends."""
    took = {"seconds": 2.0 + seed, "transitions_per_second": 100.0, "parameters": 500, "epochs": 3, "steps": 30, "best": 0.3}
    facts = {
        "kind": "model",
        "error": None,
        "seed": seed,
        "heads": {
            head: {
                "is_main": head == next(iter(heads)),
                "beyond_accuracy": {"coverage@10": 0.5 + 0.1 * seed, "popularity_share@10": 0.2},
                **({"rollout": {"turns": 9.5, "cut": 3, "sessions": 200}} if values else {}),
            }
            for head in heads
        },
        "training": {**took, "metric": "ndcg@10", "health": {"q_max": 0.5 + seed}, **training},
        "counts": {"events": 2 * SESSIONS, "sessions": SESSIONS, "events_on_unknown_items": 0},
    }
    sums = {head: ranked(rank, seed) for head, rank in heads.items()}
    return Run(facts, sums, {head: returns(mean) for head, mean in (values or {}).items()})


def asked_run(seed: int, played: Mapping[Play, float], target: float, value: float) -> Run:
    """A finished run of a policy conditioned on a return: what it asks for by itself and earns, and what other plays earn."""
    found = run({"policy": 2}, seed, {"policy": value})
    rollout = {"turns": 4.0, "cut": 1, "sessions": 200}
    facts = {
        **found.facts,
        "heads": {"policy": {**found.facts["heads"]["policy"], "target_return": target}},
        "plays": {
            play.name: {
                "target_return": target if play.target_return is None else play.target_return,
                "is_drawn": play.is_drawn,
                "rollout": rollout,
            }
            for play in played
        },
    }
    return Run(facts, found.sums, {**found.returns, **{play.name: returns(mean) for play, mean in played.items()}})


def baseline(rank: int) -> Run:
    found = run({"baseline": rank}, 0, {"baseline": 0.7})
    return Run({**found.facts, "training": {}}, found.sums, found.returns)


def failed(why: str) -> Run:
    return Run({"kind": "model", "error": why, "heads": {}, "training": {"seconds": 0.1}})


def comparison(folder: Path, grids: Sequence[Mapping[str, Any]], **data: Any) -> Comparison:
    (folder / "base.yaml").write_text(yaml.safe_dump({"trajectory_gen": {"dataset": {"name": "session_shop"}}}))
    path = folder / "family.yaml"
    path.write_text(yaml.safe_dump({"name": "family", "base": "base.yaml", "grids": list(grids), **data}, sort_keys=False))
    return load_comparison(path)


def board_of(asked: Comparison, runs: Mapping[tuple[int, int], Run], **baselines: Run) -> Leaderboard:
    return leaderboard(asked, runs, baselines, EXACT, num_resamples=100, seed=0)


def row(board: Leaderboard, title: str) -> Row:
    (found,) = [row for row in board.rows if row.title == title]
    return found


@pytest.fixture
def family(tmp_path: Path) -> Leaderboard:
    """bc, sqn with two heads, and a model of which one seed failed; bc on two backbones."""
    asked = comparison(
        tmp_path,
        [
            {"algorithms": ["bc", "sqn"], "seeds": [0, 1]},
            {"algorithms": ["bc"], "backbones": ["gru4rec"], "seeds": [0, 1]},
            {"algorithms": ["sqn"], "backbones": ["gru4rec"], "seeds": [1, 2], "label": EVIL},
        ],
    )
    runs = {
        (0, 0): run({"policy": 2}, 0, {"policy": 1.0}),
        (0, 1): run({"policy": 4}, 1, {"policy": 1.2}),
        (1, 0): run({"policy": 0, "values": 9}, 0, {"policy": 2.0, "values": 0.5}),
        (1, 1): run({"policy": 1, "values": 9}, 1, {"policy": 1.1, "values": 0.4}),
        (2, 0): run({"policy": 6}, 0, {"policy": 0.9}),
        (2, 1): run({"policy": 6}, 1, {"policy": 0.9}),
        (3, 1): run({"policy": 3}, 1, {"policy": 1.5}),
        (3, 2): failed(f"values diverge: {EVIL}\nsecond line"),
    }
    return board_of(asked, runs, popularity=baseline(12), repeat_last=baseline(1))


# === Rows ===


def test_rows_are_heads_and_baselines_the_best_first_and_exact_values_after_them(family: Leaderboard) -> None:
    assert [row.title for row in family.rows] == [
        "sqn, sasrec",
        "repeat_last",
        "bc, sasrec",
        f"{EVIL}, gru4rec",
        "bc, gru4rec",
        "sqn [values], sasrec",
        "popularity",
        *("optimal", "logging", "greedy"),
    ]
    values = [row.metrics["ndcg@10"][0] for row in family.rows[:7]]
    assert values == sorted(values, reverse=True)
    assert [row.kind for row in family.rows] == ["model", "baseline", "model", "model", "model", "head", "baseline", *["exact"] * 3]
    assert [row.metrics["return"][0] for row in family.rows[-3:]] == [3.66, 1.17, 0.23]
    assert family.backbones == ["sasrec", "gru4rec"]
    assert (family.finished, family.planned) == (8, 8)


def test_a_row_is_the_mean_of_its_seeds(family: Leaderboard) -> None:
    found = row(family, "bc, sasrec")
    each = [ranked(2, 0).values(), ranked(4, 1).values()]
    for name in ("ndcg@10", "purchase/mrr@5", "reward_ndcg@20"):
        value, low, high = found.metrics[name]
        assert value == pytest.approx((each[0][name] + each[1][name]) / 2)
        assert low < value < high
        assert found.by_seed[0][name] == each[0][name]
    assert found.metrics["coverage@10"] == pytest.approx((0.55, 0.55, 0.55))
    # Returns of 1.0 and 1.2 with the same noise.
    assert found.metrics["return"][0] == pytest.approx((returns(1.0).values()["return"] + returns(1.2).values()["return"]) / 2)
    assert found.training["seconds"] == 2.5
    assert found.training["health"] == {"q_max": 1.0}
    assert found.rollout == {"turns": 9.5, "cut": 6, "sessions": 400}


def test_the_metric_decides_the_order(family: Leaderboard, tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"]}], metric="click/ndcg@10")
    early, late = run({"policy": 1}), run({"policy": 3})
    assert [row.name for row in board_of(asked, {(0, 0): late, (1, 0): early}).rows][:2] == ["sqn", "bc"]
    assert [row.name for row in board_of(asked, {(0, 0): early, (1, 0): late}).rows][:2] == ["bc", "sqn"]


# === Comparisons in pairs ===


def test_rows_are_compared_with_the_reference_on_their_backbone(family: Leaderboard) -> None:
    assert {row.title: row.against for row in family.rows if row.kind != "exact"} == {
        "bc, sasrec": None,
        "bc, gru4rec": None,
        "sqn, sasrec": "bc, sasrec",
        "sqn [values], sasrec": "bc, sasrec",
        f"{EVIL}, gru4rec": "bc, gru4rec",
        # A baseline is on none, so the first row of that label is taken.
        "repeat_last": "bc, sasrec",
        "popularity": "bc, sasrec",
    }


def test_a_difference_is_that_of_the_seeds_that_both_have(family: Leaderboard) -> None:
    def value(rank: int, seed: int) -> float:
        return ranked(rank, seed).values()["ndcg@10"]

    sqn = row(family, "sqn, sasrec").paired["ndcg@10"]
    assert sqn.value == pytest.approx((value(0, 0) - value(2, 0) + value(1, 1) - value(4, 1)) / 2)
    assert (sqn.agree, sqn.seeds, sqn.verdict) == (2, 2, "higher")
    assert sqn.low < sqn.value < sqn.high
    # Seeds 1 and 2 were asked for, 2 failed; the reference has 0 and 1.
    other = row(family, f"{EVIL}, gru4rec").paired["ndcg@10"]
    assert other.value == pytest.approx(value(3, 1) - value(6, 1))
    assert (other.agree, other.seeds) == (1, 1)
    # A baseline goes with every seed of the reference.
    last = row(family, "repeat_last").paired["ndcg@10"]
    assert last.value == pytest.approx(value(1, 0) - (value(2, 0) + value(4, 1)) / 2)
    assert last.seeds == 2


def test_returns_are_compared_session_by_session(family: Leaderboard) -> None:
    # The same noise in all: differences of 1.0 and -.1 in the seeds, and no spread over sessions.
    found = row(family, "sqn, sasrec").paired["return"]
    assert (found.value, found.low, found.high) == pytest.approx((0.45, 0.45, 0.45))
    assert (found.agree, found.seeds, found.verdict) == (1, 2, "undecided")
    values = row(family, "sqn [values], sasrec").paired["return"]
    assert values.value == pytest.approx((0.5 - 1.0 + 0.4 - 1.2) / 2)
    assert (values.agree, values.verdict) == (2, "lower")


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [
        (Paired(0.2, 0.1, 0.3, 3, 3), "higher"),
        (Paired(0.2, 0.1, 0.3, 2, 3), "undecided"),
        (Paired(0.2, -0.1, 0.3, 3, 3), "undecided"),
        (Paired(-0.2, -0.3, -0.1, 3, 3), "lower"),
        (Paired(0.0, 0.0, 0.0, 3, 3), "undecided"),
    ],
)
def test_a_difference_is_one_when_sessions_and_seeds_say_so(pair: Paired, verdict: str) -> None:
    assert pair.verdict == verdict


def test_rows_that_are_the_same_agree_that_they_are(tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"], "seeds": [0, 1]}])
    board = board_of(asked, {(place, seed): run({"policy": 2 + seed}, seed) for place in (0, 1) for seed in (0, 1)})
    pair = row(board, "sqn, sasrec").paired["ndcg@10"]
    assert (pair.value, pair.low, pair.high, pair.agree, pair.seeds) == (0.0, 0.0, 0.0, 2, 2)


def test_a_baseline_can_be_the_reference(tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"], "seeds": [0, 1]}], reference="repeat_last")
    runs = {(place, seed): run({"policy": 2 + place}, seed) for place in (0, 1) for seed in (0, 1)}
    board = board_of(asked, runs, repeat_last=baseline(1), popularity=baseline(9))
    assert {row.title: row.against for row in board.rows if row.kind != "exact"} == {
        "repeat_last": None,
        "popularity": "repeat_last",
        "bc, sasrec": "repeat_last",
        "sqn, sasrec": "repeat_last",
    }
    assert row(board, "bc, sasrec").paired["ndcg@10"].seeds == 2
    assert row(board, "popularity").paired["ndcg@10"].seeds == 1


# === Ways to play a policy that is conditioned on a return ===

LOW, HIGH, DRAWN = Play(1.0), Play(4.0), Play(None, True)


@pytest.fixture
def conditioned(tmp_path: Path) -> tuple[Leaderboard, Comparison]:
    """bc, and edt4rec that asks for 2.0 by itself and was also asked for 1.0 and 4.0, and drawn."""
    asked = comparison(tmp_path, [{"algorithms": ["bc", "edt4rec", "dt4rec"], "seeds": [0, 1]}])
    runs = {
        (0, 0): run({"policy": 6}, 0, {"policy": 1.0}),
        (0, 1): run({"policy": 6}, 1, {"policy": 1.0}),
        (1, 0): asked_run(0, {LOW: 0.5, HIGH: 2.5, DRAWN: 1.2}, 2.0, 1.5),
        (1, 1): asked_run(1, {LOW: 0.7, HIGH: 2.7, DRAWN: 1.4}, 2.2, 1.7),
        (2, 0): failed("no"),
        (2, 1): failed("no"),
    }
    return board_of(asked, runs, popularity=baseline(12)), asked


def test_the_name_of_a_play_says_what_is_unusual() -> None:
    assert [play.name for play in (Play(), LOW, DRAWN, Play(2.5, True))] == ["", "return 1", "drawn", "return 2.5, drawn"]


def test_every_other_play_is_a_row_after_what_was_ranked(conditioned: tuple[Leaderboard, Comparison]) -> None:
    board, _ = conditioned
    names = [row.name for row in board.rows if row.kind != "exact"]
    assert names == ["edt4rec", "bc", "popularity", "edt4rec [return 4]", "edt4rec [drawn]", "edt4rec [return 1]", "dt4rec"]
    high = row(board, "edt4rec [return 4], sasrec")
    assert (high.kind, high.target_return, high.is_drawn, high.seeds) == ("play", 4.0, False, [0, 1])
    assert high.rollout == {"turns": 4.0, "cut": 2, "sessions": 400}
    assert set(high.metrics) == {"return"}
    noise = returns(0.0).values()["return"]
    assert high.metrics["return"][0] == pytest.approx(2.6 + noise)
    assert high.by_seed[1]["return"] == pytest.approx(2.7 + noise)
    assert (high.against, high.paired["return"].value) == ("bc, sasrec", pytest.approx(1.6))
    # By itself it asks for what the logs had, which may differ by a little from seed to seed.
    assert row(board, "edt4rec, sasrec").target_return == pytest.approx(2.1)
    drawn = row(board, "edt4rec [drawn], sasrec")
    assert (drawn.target_return, drawn.is_drawn) == (pytest.approx(2.1), True)
    assert row(board, "bc, sasrec").target_return is None


def test_a_play_is_no_reference(conditioned: tuple[Leaderboard, Comparison], tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "edt4rec"]}], reference="edt4rec")
    board = board_of(asked, {(0, 0): run({"policy": 6}, 0, {"policy": 1.0}), (1, 0): asked_run(0, {LOW: 0.5}, 2.0, 1.5)})
    assert row(board, "bc, sasrec").paired["return"].value == pytest.approx(1.0 - 1.5)
    assert row(board, "edt4rec [return 1], sasrec").paired["return"].value == pytest.approx(0.5 - 1.5)


def test_the_page_draws_what_came_against_what_was_asked_for(conditioned: tuple[Leaderboard, Comparison], tmp_path: Path) -> None:
    board, asked = conditioned
    write_page(board, asked, tmp_path / "leaderboard.html")
    found = Page(tmp_path / "leaderboard.html")
    labels = [attributes.get("aria-label") or "" for tag, attributes in found.tags if tag == "svg"]
    # One of several is drawn, so there is one target of that kind and nothing to draw a line through.
    (label,) = [label for label in labels if label.startswith("Returns of")]
    noise = returns(0.0).values()["return"]
    for wanted, value in (("1", 0.6), ("2.1", 1.6), ("4", 2.6)):
        assert f"{wanted} asked for, {value + noise:.4g} (" in label
    assert "asked for return of a session" in found.text
    # Where nobody was asked for anything there is neither chart nor column.
    plain = comparison(tmp_path, [{"algorithms": ["bc"]}])
    write_page(board_of(plain, {(0, 0): run({"policy": 6}, 0, {"policy": 1.0})}), plain, tmp_path / "plain.html")
    assert "asked for return" not in Page(tmp_path / "plain.html").text


def test_plays_are_in_the_files_and_on_the_terminal(conditioned: tuple[Leaderboard, Comparison], tmp_path: Path) -> None:
    board, _ = conditioned
    write_leaderboard(board, tmp_path)
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        lines = {line["model"]: line for line in csv.DictReader(stream)}
    high = lines["edt4rec [return 4], sasrec"]
    assert (high["kind"], high["target_return"], high["is_drawn"], high["ndcg@10"]) == ("play", "4.0", "0", "")
    assert lines["edt4rec [drawn], sasrec"]["is_drawn"] == "1"
    assert lines["bc, sasrec"]["target_return"] == ""
    plain = json.loads((tmp_path / "leaderboard.json").read_text())["rows"]
    assert [one["target_return"] for one in plain if one["name"] == "edt4rec [return 1]"] == [1.0]
    assert "edt4rec [return 4]" in shown(board, 400)


def test_a_run_keeps_its_plays(tmp_path: Path) -> None:
    store, wanted = RunStore(tmp_path / "runs"), asked_run(0, {LOW: 0.5, DRAWN: 1.2}, 2.0, 1.5)
    store.write("a" * 64, wanted)
    found = store.find("a" * 64)
    assert found is not None
    assert list(found.sums) == ["policy"]
    assert {name: sums.values() for name, sums in found.returns.items()} == {name: s.values() for name, s in wanted.returns.items()}


# === Varied settings ===


@pytest.fixture
def swept(tmp_path: Path) -> tuple[Leaderboard, Comparison]:
    """A model with two settings of two and three values, of which one failed; what is better has the greater values."""
    vary = {"network.width": [8, 16], "algorithm.discount": [0.5, 0.9, 0.0]}
    asked = comparison(tmp_path, [{"algorithms": ["bc"]}, {"algorithms": ["sqn"], "label": EVIL, "vary": vary}])
    runs = {(0, 0): run({"policy": 6}, 0, {"policy": 1.0})}
    for place, rank in enumerate((4, 3, 5, 2, 1), start=1):
        runs[place, 0] = run({"policy": rank, "values": 9}, 0, {"policy": 1.0 + place, "values": 0.0})
    runs[6, 0] = failed("no")
    return board_of(asked, runs), asked


def test_rows_know_their_settings(swept: tuple[Leaderboard, Comparison], tmp_path: Path) -> None:
    board, _ = swept
    best = board.rows[0]
    assert best.name == f"{EVIL}, width 16, discount 0.9"
    assert (best.family, best.settings) == (EVIL, {"network.width": 16, "algorithm.discount": 0.9})
    write_leaderboard(board, tmp_path)
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        lines = {line["model"]: line for line in csv.DictReader(stream)}
    assert (lines[best.title]["setting network.width"], lines[best.title]["setting algorithm.discount"]) == ("16", "0.9")
    assert lines["bc, sasrec"]["setting network.width"] == ""


def test_the_page_has_settings_down_and_across(swept: tuple[Leaderboard, Comparison], tmp_path: Path) -> None:
    board, asked = swept
    write_page(board, asked, tmp_path / "leaderboard.html")
    found = Page(tmp_path / "leaderboard.html")

    def cell(place: int) -> str:
        value, low, high = row(board, f"{asked.models[place].label}, sasrec").metrics["ndcg@10"]
        return f"{value:.4f} {low:.4f}–{high:.4f}"

    # Numbers by size; of width 16 and discount 0 the training failed.
    header = "network.width algorithm.discount 0.0 algorithm.discount 0.5 algorithm.discount 0.9"
    assert f"{EVIL}: ndcg@10 {header} 8 {cell(3)} {cell(1)} {cell(2)} 16 – {cell(4)} {cell(5)} {EVIL}: return {header} 8 " in found.text
    assert "<script" not in found.source


# === Tuned online ===


def tuned(seed: int, returns_by_round: Mapping[int, float]) -> Run:
    found = run({"policy": 2}, seed, {"policy": 1.0})
    evaluations = [
        {"round": number, "update": 0, "step": 100.0 * number + seed, "return": [value, 0.0, 9.0], "click_rate": [value / 10, 0.0, 1.0]}
        for number, value in returns_by_round.items()
    ]
    return Run({**found.facts, "tuning": {"evaluations": evaluations, "rounds": []}}, found.sums, found.returns)


def test_a_tuned_row_has_the_curve_of_its_seeds(tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["edt4rec", "bc"], "seeds": [0, 2]}])
    # Seed 2 was stopped early: its last round is that of the other seed alone.
    runs = {(0, 0): tuned(0, {0: 1.0, 5: 2.0, 10: 4.0}), (0, 2): tuned(2, {0: 2.0, 5: 5.0}), (1, 0): run({"policy": 2}, 0, {"policy": 1.0})}
    board = board_of(asked, runs)
    found = row(board, "edt4rec, sasrec").tuning
    assert [(entry["round"], entry["step"], entry["seeds"]) for entry in found] == [(0, 1.0, 2), (5, 501.0, 2), (10, 1000.0, 1)]
    assert [entry["return"] for entry in found] == [[1.5, 1.0, 2.0], [3.5, 2.0, 5.0], [4.0, 4.0, 4.0]]
    assert found[1]["click_rate"] == pytest.approx([0.35, 0.2, 0.5])
    assert row(board, "bc, sasrec").tuning == []
    write_page(board, asked, tmp_path / "leaderboard.html")
    page = Page(tmp_path / "leaderboard.html")
    assert "edt4rec 1,000 0.1500 0.1000–0.2000 0.4000" in page.text
    assert 'aria-label="click rate: edt4rec from 15.00 % to 40.00 %"' in page.source
    write_leaderboard(board, tmp_path)
    assert json.loads((tmp_path / "leaderboard.json").read_text())["rows"][0]["tuning"] is not None


# === Failures, and comparisons that are not finished ===


def test_a_model_that_failed_from_every_seed_is_a_row_that_says_why(tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"], "seeds": [0, 1]}])
    runs = {(0, 0): failed("no"), (0, 1): failed("again"), (1, 0): run({"policy": 2}), (1, 1): run({"policy": 2}, 1)}
    board = board_of(asked, runs)
    assert [row.title for row in board.rows[:2]] == ["sqn, sasrec", "bc, sasrec"]
    bad = board.rows[1]
    assert (bad.errors, bad.seeds, bad.planned) == ({0: "no", 1: "again"}, [], 2)
    assert bad.value("ndcg@10") is None
    # Nothing to compare with.
    assert board.rows[0].paired == {}


def test_what_has_not_been_trained_is_a_row_without_numbers(tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"], "seeds": [0, 1]}])
    board = board_of(asked, {(0, 0): run({"policy": 2})})
    assert [(row.title, row.seeds) for row in board.rows[:2]] == [("bc, sasrec", [0]), ("sqn, sasrec", [])]
    assert (board.finished, board.planned) == (1, 4)
    empty = board_of(asked, {})
    assert empty.counts == {}
    for found in (board, empty):
        write_leaderboard(found, tmp_path)
        write_page(found, asked, tmp_path / "leaderboard.html")
        assert "bc" in shown(found, 120)


# === As files ===


def test_csv_and_json_state_every_row(family: Leaderboard, tmp_path: Path) -> None:
    write_leaderboard(family, tmp_path)
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["model"] for line in lines] == [row.title for row in family.rows]
    sqn = row(family, "sqn, sasrec")
    (line,) = [line for line in lines if line["model"] == sqn.title]
    assert float(line["ndcg@10"]) == sqn.metrics["ndcg@10"][0]
    assert float(line["purchase/ndcg@10 low"]) == sqn.metrics["purchase/ndcg@10"][1]
    assert (line["seeds"], line["failed"], line["against"]) == ("2", "0", "bc, sasrec")
    assert float(line["difference ndcg@10"]) == sqn.paired["ndcg@10"].value
    assert (line["difference ndcg@10 seeds agreeing"], line["difference ndcg@10 seeds"]) == ("2", "2")
    assert float(line["seconds"]) == 2.5
    assert list(line)[7] == "ndcg@10"  # what sorts comes first
    found = json.loads((tmp_path / "leaderboard.json").read_text())
    assert (found["metric"], found["reference"]) == ("ndcg@10", "bc")
    assert found["rows"][0]["title"] == "sqn, sasrec"
    assert found["rows"][0]["paired"]["ndcg@10"]["verdict"] == "higher"
    assert found["rows"][0]["by_seed"]["1"]["ndcg@10"] == pytest.approx(ranked(1, 1).values()["ndcg@10"])


def shown(board: Leaderboard, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), soft_wrap=True)
    console.print(leaderboard_table(board, console))
    return console.export_text()


def test_the_terminal_shows_as_much_as_it_is_wide(family: Leaderboard) -> None:
    wide, narrow = shown(family, 400), shown(family, 120)
    first = row(family, "sqn, sasrec").metrics["ndcg@10"]
    assert f"{first[0]:.4f} ({first[1]:.4f} to {first[2]:.4f})" in wide
    assert "reward_ndcg@10" in wide
    assert f"{first[0]:.4f}" in narrow
    assert " to 0." not in narrow
    assert "reward_ndcg@10" not in narrow
    for text in (wide, narrow):
        # Brackets are text here, not markup.
        assert "sqn [values]" in text
        assert "optimal (exact)" in text
        assert "…" not in text.replace(EVIL, "")
        assert f"{EVIL}, gru4rec, seed 2 failed: values diverge: {EVIL}" in text.replace("\n", "")
        assert "second line" not in text
    assert "bc, sasrec 6 of 400" in wide


# === As a page ===

VOID = {"meta", "link", "input", "br", "wbr"}


class Page(HTMLParser):
    """A page as a reader sees it; fails on tags that do not match."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.stack == []
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.pieces.append(data.replace("\xa0", " "))


@pytest.fixture
def page(family: Leaderboard, tmp_path: Path) -> Page:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"], "label": EVIL}], reference=f"bc, {EVIL}")
    write_page(family, asked, tmp_path / "leaderboard.html")
    return Page(tmp_path / "leaderboard.html")


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.tags}
    links = [attributes.get("href") or "" for tag, attributes in page.tags if tag in ("a", "link")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\(|@import|http-equiv=\"refresh\"", page.source)
    assert "prefers-color-scheme: dark" in page.source
    # Whatever it is called, a row stays text.
    assert EVIL in page.text
    assert "<script" not in page.source


def test_every_link_leads_to_a_section(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {(attributes.get("href") or "")[1:] for tag, attributes in page.tags if tag == "a"} <= set(ids)
    sections = {"leaderboard", "metric", "against", "returns", "training", "seeds", "failures", "configuration"}
    assert sections <= set(ids)


def test_plots_show_the_metric_roles_differences_and_returns(page: Page, family: Leaderboard) -> None:
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "svg"]
    for begin in ("ndcg@10: ", "purchase/ndcg@10: ", "click/ndcg@10: ", "reward_ndcg@10: ", "ndcg@10 against bc: ", "return against bc: "):
        assert any(label.startswith(begin) for label in labels), begin
    (returned,) = [label for label in labels if label.startswith("True return")]
    assert returned.startswith("True return of a session: optimal (exact) 3.6600, 3.6600 to 3.6600; ")
    assert returned.endswith("greedy (exact) 0.2300, 0.2300 to 0.2300")
    (compared,) = [label for label in labels if label.startswith("ndcg@10 against bc")]
    pair = row(family, "sqn, sasrec").paired["ndcg@10"]
    assert f"sqn, sasrec  2/2 {pair.value:+.4f}, {pair.low:+.4f} to {pair.high:+.4f}" in compared


def test_the_page_says_what_was_measured_and_what_failed(page: Page, family: Leaderboard) -> None:
    assert "8 of 8 are done" in page.text
    assert "120 events of 60 sessions" in page.text
    pair = row(family, "sqn, sasrec").paired["ndcg@10"]
    assert f"{pair.value:+.4f} {pair.low:+.4f} to {pair.high:+.4f} 2 of 2 seeds" in page.text
    assert f"{EVIL} gru4rec 2 values diverge: {EVIL} second line" in page.text
    assert "6 of 400" in page.text
    assert "1 of 2" in page.text


def test_the_same_leaderboard_gives_the_same_page(family: Leaderboard, tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc"]}])
    for name in ("one", "two"):
        write_page(family, asked, tmp_path / f"{name}.html")
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


def test_without_a_simulated_world_there_are_no_returns(tmp_path: Path) -> None:
    asked = comparison(tmp_path, [{"algorithms": ["bc", "sqn"]}], simulate=None)
    board = leaderboard(asked, {(0, 0): run({"policy": 2}), (1, 0): run({"policy": 3})}, {}, {}, 50, 0)
    write_page(board, asked, tmp_path / "leaderboard.html")
    found = Page(tmp_path / "leaderboard.html")
    assert "returns" not in {attributes.get("id") for _, attributes in found.tags}
    assert "failures" not in {attributes.get("id") for _, attributes in found.tags}
    assert "return" not in shown(board, 400).partition("against")[0]


# === Runs as files ===


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    written = run({"policy": 2, "values [x]": 5}, 3, {"policy": 1.0, "values [x]": 0.5})
    store.write("a" * 64, written)
    found = store.find("a" * 64)
    assert found is not None
    assert found.facts == written.facts
    assert found.main_head == "policy"
    for head in written.sums:
        assert found.sums[head].values() == written.sums[head].values()
        assert found.returns[head].values() == written.returns[head].values()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [f"{'a' * 16}.json", f"{'a' * 16}.npz"]


def test_a_failed_run_comes_back_too(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write("b" * 64, failed("it diverged"))
    found = store.find("b" * 64)
    assert found is not None
    assert found.error == "it diverged"


def test_what_is_not_whole_is_no_run(tmp_path: Path) -> None:
    store, key = RunStore(tmp_path), "c" * 64
    assert store.find(key) is None
    store.write(key, run({"policy": 2}))
    # Another key with the same beginning.
    assert store.find("c" * 16 + "d" * 48) is None
    path = store.path(key)
    for spoil in (lambda: path.with_suffix(".npz").write_bytes(b"PK"), path.with_suffix(".npz").unlink, lambda: path.write_text("{")):
        spoil()
        assert store.find(key) is None


def test_a_run_begins_with_an_empty_folder(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    folder = store.scratch("e" * 64)
    (folder / "left").touch()
    assert list(store.scratch("e" * 64).iterdir()) == []
    store.discard("e" * 64)
    assert not folder.exists()
