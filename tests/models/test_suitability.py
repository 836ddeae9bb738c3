"""Logs with a planted answer: bait that ends sessions, rewards without a future, a policy that never chooses."""

from dataclasses import replace

import numpy as np
import pytest

from models.ope.behaviour import Rounds
from models.suitability import Analysis, LogSample, Rules, Totals, _paired, analyse

NUM_ITEMS = 41
"""N: items 1..40."""
LENGTH = 12


def log_of(
    num_sessions: int, seed: int, bait_ends: bool, deterministic: bool = False, reward_share: float = 1.0
) -> tuple[LogSample, Totals]:
    """Sessions that show items evenly. Items 1 to 4 bring twice as much; where they are bait, nothing comes after them."""
    rng = np.random.default_rng(seed)
    session, history, item, reward, to_go, lengths = [], [], [], [], [], []
    for number in range(num_sessions):
        shown: list[int] = []
        for step in range(LENGTH):
            shown.append(step + 1 if deterministic else int(rng.integers(1, NUM_ITEMS)))
            stays = rng.random() < 0.85
            if (bait_ends and shown[-1] <= 4) or (not stays):
                break
        rewards = np.where(np.array(shown) <= 4, 0.4, 0.2) * (rng.random() < reward_share)
        session += [number] * len(shown)
        history += [(shown[:step] + [0] * LENGTH)[:LENGTH] for step in range(len(shown))]
        item += shown
        reward += rewards.tolist()
        to_go += np.cumsum(rewards[::-1])[::-1].tolist()
        lengths.append(len(shown))
    rewarded = len({number for number, value in zip(session, reward, strict=True) if value > 0})
    sample = LogSample(np.array(session, np.uint64), Rounds(np.array(history), np.array(item)), np.array(reward), np.array(to_go), None)
    counts = tuple(np.bincount(lengths, minlength=101).tolist())
    totals = Totals(num_sessions, len(item), 0, rewarded, float(sum(reward)), 0, 0, len(item) - num_sessions, counts, NUM_ITEMS)
    return sample, totals


def findings(analysis: Analysis) -> dict[str, bool]:
    return {finding.code: finding.holds for finding in analysis.findings}


def test_bait_makes_the_long_run_another_choice_than_the_moment():
    analysis = analyse(*log_of(3000, 0, bait_ends=True))
    gap = analysis.numbers["long_term_gap"]
    # A bait brings .4 and ends the session; another item brings .2 and the session goes on, for about .8 more.
    assert gap["low"] > 0.3
    assert gap["agreement"] < 0.2
    assert findings(analysis)["long_term_gap"]
    assert analysis.verdict in ("yes", "perhaps")
    assert "can pay" in analysis.recommendation


def test_without_consequences_the_moment_is_all():
    analysis = analyse(*log_of(3000, 0, bait_ends=False))
    gap = analysis.numbers["long_term_gap"]
    assert gap["low"] <= 0.0
    assert abs(gap["value"]) < 0.2
    assert not findings(analysis)["long_term_gap"]
    assert "supervised" in analysis.recommendation


def test_a_policy_that_never_chooses_teaches_nothing():
    analysis = analyse(*log_of(600, 0, bait_ends=False, deterministic=True))
    assert analysis.numbers["logging"]["effective_choices"] < 1.2
    assert not findings(analysis)["exploration"]
    assert (analysis.verdict, "Explore first" in analysis.recommendation) == ("no", True)


def test_an_even_choice_is_as_wide_as_the_catalogue():
    logging = analyse(*log_of(3000, 1, bait_ends=False)).numbers["logging"]
    assert 36.0 < logging["effective_choices"] < 42.0
    assert 39.0 < logging["effective_items"] <= 40.0
    assert logging["calibration_error"] < 0.05


def test_too_little_reward_is_said_first():
    analysis = analyse(*log_of(600, 2, bait_ends=True, reward_share=0.02))
    assert not findings(analysis)["reward"]
    assert analysis.verdict == "no"
    assert analysis.findings[0].value == analysis.numbers["reward"]["rewarded_sessions"] < Rules().min_rewarded_sessions


def test_the_recommendation_tells_its_numbers():
    analysis = analyse(*log_of(3000, 0, bait_ends=True))
    gap, width = analysis.numbers["long_term_gap"], analysis.findings[-1].value
    assert width is not None
    for number in (f"{gap['relative']:+.1%} of the return", f"{gap['agreement']:.0%} of the choices", f"{width:.1%}"):
        assert number in analysis.recommendation
    few = analyse(*log_of(600, 2, bait_ends=True, reward_share=0.02))
    assert f"{few.numbers['reward']['rewarded_sessions']:,} of 600 sessions" in few.recommendation


def test_a_gain_is_judged_by_the_sessions_of_the_test_split():
    sample, totals = log_of(1500, 4, bait_ends=True)
    whole, tenth = (analyse(sample, replace(totals, test_sessions=size)).numbers["evaluation"]["policies"] for size in (1500, 150))
    for one, other in zip(whole, tenth, strict=True):
        for name in ("test_half_width", "test_return_half_width"):
            assert other[name] == pytest.approx(one[name] * 10**0.5)
    # The interval of a difference on the same sessions is that of resampled ones.
    session = sample.session.astype(int)
    weight, values = np.random.default_rng(0).uniform(0.5, 1.5, len(session)), sample.to_go
    drawn = []
    for seed in range(300):
        times = np.bincount(np.random.default_rng(seed).integers(0, 1500, 1500), minlength=1500)[session]
        drawn.append((times * weight * values).sum() / (times * weight).sum() - (times * values).sum() / times.sum())
    assert _paired(session, weight, values) == pytest.approx(1.96 * np.std(drawn) / values.mean(), rel=0.15)


def test_a_policy_is_predicted_as_far_as_it_can_be():
    logging = analyse(*log_of(600, 0, bait_ends=False, deterministic=True)).numbers["logging"]
    assert logging["predicted"] > 0.95
    assert logging["entropy_bits"] == pytest.approx(np.log2(logging["effective_choices"]))
    # Forty items shown evenly: any ten are right a quarter of the time.
    even = analyse(*log_of(3000, 1, bait_ends=False)).numbers["logging"]
    assert even["predicted_among_ten"] == pytest.approx(0.25, abs=0.03)


def test_more_sessions_judge_a_policy_more_exactly():
    few, many = (analyse(*log_of(size, 3, bait_ends=True)).numbers["evaluation"]["policies"] for size in (300, 2700))
    for small, large in zip(few, many, strict=True):
        # Nine times the sessions, a third of the width.
        assert 0.2 < large["half_width"] / small["half_width"] < 0.5
    widths = [row["effective_share"] for row in many]
    assert widths == sorted(widths, reverse=True)
