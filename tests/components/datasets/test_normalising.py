"""What columns mean: times, events, rewards and propensities, in delimited text."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.datasets.base import Columns, LogSource
from schemas.reward import CLICK, PURCHASE, FeedbackRule

Read = Callable[..., Any]

T = 1_600_000_000
US = T * 1_000_000


# === Times ===


@pytest.mark.parametrize(
    ("unit", "text", "microseconds"),
    [
        ("seconds", "0", 0),
        ("seconds", f"{T}", US),
        ("seconds", f" {T}\t", US),
        ("seconds", f"{T}.25", US + 250_000),
        ("seconds", "1.6e9", US),
        ("seconds", "7258118400", 7_258_118_400_000_000),  # 2200-01-01, the last
        ("milliseconds", f"{T}007", US + 7_000),
        ("milliseconds", f"{T}007.5", US + 7_500),
        ("microseconds", f"{T}000009", US + 9),
        ("iso8601", "2020-09-13T12:26:40Z", US),
        ("iso8601", "2020-09-13 12:26:40", US),  # no zone means UTC
        ("iso8601", "2020-09-13T14:26:40+02:00", US),
        ("iso8601", "2020-09-13T06:56:40-0530", US),
        ("iso8601", "2020-09-13T12:26:40.277Z", US + 277_000),
        ("iso8601", "2020-09-13T12:26:40.277001", US + 277_001),
        ("iso8601", " 2020-09-13 12:26:40 ", US),
        ("iso8601", "1970-01-01", 0),
    ],
)
def test_a_time_is_read_in_its_unit(read_text: Read, unit: str, text: str, microseconds: int) -> None:
    alone = read_text(f"user,item,time\na,x,{text}\n", timestamp_unit=unit)
    assert (alone.times, alone.bad) == ([microseconds], [])
    beside_a_bad_row = read_text(f"user,item,time\na,x,{text}\nb,,{text}\n", timestamp_unit=unit)
    assert beside_a_bad_row.times == [microseconds]


def test_times_with_and_without_a_zone_may_stand_in_one_column(read_text: Read) -> None:
    outcome = read_text(
        "user,item,time\na,x,2020-09-13T12:26:40Z\na,x,2020-09-13 12:26:41\na,x,2020-09-13T14:26:42+02:00\n", timestamp_unit="iso8601"
    )
    assert outcome.times == [US, US + 1_000_000, US + 2_000_000]


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("seconds", "-1"),
        ("seconds", "7258118401"),
        ("seconds", f"{T}000"),  # milliseconds
        ("seconds", "99999999999999999999"),
        ("seconds", "1e300"),
        ("seconds", ""),
        ("seconds", "NaN"),
        ("seconds", "inf"),
        ("seconds", "2020-09-13"),
        ("seconds", "1 600 000 000"),
        ("milliseconds", "7258118400001"),
        ("microseconds", "7258118400000001"),
        ("iso8601", f"{T}"),
        ("iso8601", "1969-12-31T23:59:59Z"),
        ("iso8601", "2200-01-01T00:00:01Z"),
        ("iso8601", "2020-13-01"),
        ("iso8601", "2020-09-13T25:00:00"),
        ("iso8601", "yesterday"),
        ("iso8601", ""),
    ],
)
def test_what_is_no_plausible_time_is_a_bad_row(read_text: Read, unit: str, text: str) -> None:
    good = "2020-09-13" if unit == "iso8601" else "1"
    outcome = read_text(f"user,item,time\na,x,{text}\nb,y,{good}\n", timestamp_unit=unit)
    assert outcome.users_and_items == [("b", "y")]
    assert outcome.bad == [("log.csv", 2, f"timestamp {text!r} is not a time from 1970 to 2200 in {unit}", f"a,x,{text}")]


def parsed_seconds(microseconds: int) -> int:
    """Writes microseconds as a decimal number of seconds and reads it back."""
    import numpy as np
    import pyarrow as pa

    from components.datasets.normalising import normalise

    columns = Columns(user="u", item="i", timestamp="t")
    source = LogSource(paths=("x",), format="delimited", columns=columns, timestamp_unit="seconds", feedback={"c": CLICK})
    text = f"{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"
    log = {"u": pa.array(["a"]), "i": pa.array(["x"]), "t": pa.array([text])}
    (found,) = normalise(log, source, np.zeros(1, np.int64)).batch["time"].to_pylist()
    return int(found)


@given(st.integers(0, (1 << 32) * 1_000_000 - 1))
def test_fractional_seconds_are_exact_to_the_microsecond_until_2106(microseconds: int) -> None:
    # Below 2^32 seconds doubles lie 2^-21 s apart, so the nearest is off by less than half a microsecond.
    assert parsed_seconds(microseconds) == microseconds


@given(st.integers((1 << 32) * 1_000_000, 7_258_118_400_000_000 - 1))
def test_fractional_seconds_are_right_to_a_microsecond_until_2200(microseconds: int) -> None:
    assert abs(parsed_seconds(microseconds) - microseconds) <= 1


# === Events ===


def test_events_map_to_roles_and_rewards(read_text: Read, events: dict[str, Any]) -> None:
    outcome = read_text(f"user,item,time,event\na,x,{T},click\na,x,{T},buy\na,y,{T}, click \n", **events)
    assert [row[4:6] for row in outcome.rows] == [(0, 0.2), (1, 1.0), (0, 0.2)]


def test_ignored_events_are_counted_and_left_out(read_text: Read, events: dict[str, Any]) -> None:
    outcome = read_text(f"user,item,time,event\na,x,{T},search\na,y,{T},click\n", **events)
    assert outcome.users_and_items == [("a", "y")]
    assert (outcome.rows_read, outcome.ignored, outcome.bad) == (2, 1, [])


def test_an_ignored_row_that_does_not_parse_is_counted_once(read_text: Read, events: dict[str, Any]) -> None:
    outcome = read_text(f"user,item,time,event\n,x,{T},search\na,y,{T},click\n", **events)
    assert outcome.rows_read == 2
    assert len(outcome.rows) + len(outcome.bad) + outcome.ignored == 2


def test_an_unknown_event_is_a_bad_row_that_lists_the_known_ones(read_text: Read, events: dict[str, Any]) -> None:
    outcome = read_text(f"user,item,time,event\na,x,{T},Click\na,y,{T},\na,z,{T},click\n", **events)
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [
        (2, "unknown event 'Click'; known: click, buy, search"),
        (3, "unknown event ''; known: click, buy, search"),
    ]
    assert outcome.users_and_items == [("a", "z")]


def test_an_ignored_event_needs_nothing_else_to_be_right(read_text: Read, events: dict[str, Any]) -> None:
    outcome = read_text(f"user,item,time,event\na,,{T},search\na,y,{T},click\n", **events)
    assert (outcome.ignored, outcome.bad) == (1, [])


def test_without_an_event_column_every_row_is_the_one_event(read_text: Read) -> None:
    outcome = read_text(f"user,item,time\na,x,{T}\n", feedback={"buy": PURCHASE})
    assert [row[4:6] for row in outcome.rows] == [(1, 1.0)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feedback": {}}, "feedback must map at least one event name"),
        ({"feedback": {"a": CLICK, "b": PURCHASE}}, "without columns.feedback every row is one event, but feedback names 2: a, b"),
        ({"ignored_feedback": ("click",)}, "click: in feedback and in ignored_feedback"),
    ],
)
def test_events_that_contradict_themselves_are_a_configuration_error(read_text: Read, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_text(f"user,item,time\na,x,{T}\n", **changes)


# === Rewards and propensities ===

REWARDED = Columns(user="user", item="item", timestamp="time", feedback="event", reward="reward")
SHOWN = Columns(user="user", item="item", timestamp="time", propensity="p")


def test_a_reward_column_takes_the_place_of_the_events_reward(read_text: Read, events: dict[str, Any]) -> None:
    rows = f"a,x,{T},click,2.5\na,x,{T},buy,-1e-3\na,x,{T},buy,.5\na,x,{T},buy,3\n"
    outcome = read_text("user,item,time,event,reward\n" + rows, **{**events, "columns": REWARDED})
    assert [row[4:6] for row in outcome.rows] == [(0, 2.5), (1, -0.001), (1, 0.5), (1, 3.0)]


@pytest.mark.parametrize("reward", ["", "much", "nan", "inf", "-inf", "1e39", "1,5"])
def test_a_reward_that_is_no_finite_number_is_a_bad_row(read_text: Read, events: dict[str, Any], reward: str) -> None:
    # 1e39 is finite, but not in the 32 bits that a reward has.
    rows = f'a,x,{T},click,"{reward}"\nb,y,{T},click,1\n'
    outcome = read_text("user,item,time,event,reward\n" + rows, **{**events, "columns": REWARDED})
    assert outcome.users_and_items == [("b", "y")]
    assert [(line, reason) for _, line, reason, _ in outcome.bad] == [(2, f"reward {reward!r} is not a finite number")]


def test_propensities_are_kept(read_text: Read) -> None:
    outcome = read_text(f"user,item,time,p\na,x,{T},0.25\na,x,{T},1\na,x,{T},1e-6\n", columns=SHOWN)
    assert [row[6] for row in outcome.rows] == [0.25, 1.0, 1e-6]


@pytest.mark.parametrize("propensity", ["0", "-0.5", "1.5"])
def test_a_propensity_outside_0_to_1_is_a_bad_row(read_text: Read, propensity: str) -> None:
    outcome = read_text(f"user,item,time,p\na,x,{T},{propensity}\na,x,{T},1\n", columns=SHOWN)
    assert [row[6] for row in outcome.rows] == [1.0]
    assert [reason for _, _, reason, _ in outcome.bad] == [f"propensity {propensity} is not in (0, 1]"]


def test_a_propensity_that_is_no_number_is_a_bad_row(read_text: Read) -> None:
    outcome = read_text(f"user,item,time,p\na,x,{T},much\na,x,{T},1\n", columns=SHOWN)
    assert [reason for _, _, reason, _ in outcome.bad] == ["p 'much' is not a finite number"]


@pytest.mark.parametrize("beside", ["", f"a,x,{T},much\n"], ids=["typed", "row_by_row"])
def test_an_event_that_no_recommendation_led_to_has_no_propensity(read_text: Read, beside: str) -> None:
    outcome = read_text(f"user,item,time,p\na,x,{T},0.5\na,x,{T},\n{beside}", columns=SHOWN)
    assert [row[6] for row in outcome.rows] == [0.5, None]


def test_a_session_column_is_kept_and_must_not_be_empty(read_text: Read) -> None:
    columns = Columns(user="user", item="item", timestamp="time", session="s")
    outcome = read_text(f"user,item,time,s\na,x,{T},s1\na,x,{T},\n", columns=columns)
    assert [row[1] for row in outcome.rows] == ["s1"]
    assert [reason for _, _, reason, _ in outcome.bad] == ["session is empty"]


def test_one_column_may_play_two_parts(read_text: Read) -> None:
    columns = Columns(user="user", session="user", item="item", timestamp="time")
    assert columns.names() == ["user", "item", "time"]
    assert read_text(f"user,item,time\na,x,{T}\n", columns=columns).rows[0][:2] == ("a", "a")


def test_a_rule_knows_two_roles() -> None:
    with pytest.raises(ValueError, match="'click' or 'purchase'"):
        FeedbackRule(role="view", reward=1.0)  # type: ignore[arg-type]
