"""Charts put known values at known places and let nothing from outside through as markup."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import strategies as st

from pipeline import charts
from pipeline.charts import Axis, Interval, Scale

# The plot area of charts with two axes, in units of the view box: 46 to 380 across, 182 up to 28.
LEFT, RIGHT, TOP, BOTTOM = 46.0, 380.0, 28.0, 182.0


def parse(svg: charts.Svg) -> ET.Element:
    """The drawing as a tree; fails on anything that is not well-formed."""
    return ET.fromstring(svg)


def of_class(root: ET.Element, kind: str) -> list[ET.Element]:
    return [element for element in root.iter() if element.get("class") == kind]


def texts(root: ET.Element, kind: str) -> list[str]:
    return [element.text or "" for element in of_class(root, kind)]


def tips(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter("title")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, (0, 2, 4, 6, 8, 10)),
        (0.0, 1.0, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0.372, 0.387, (0.37, 0.375, 0.38, 0.385, 0.39)),
        (1.0, 868.0, (0, 200, 400, 600, 800, 1000)),
        (-3.0, 4.0, (-4, -2, 0, 2, 4)),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert charts.nice_ticks(low, high) == ticks


def test_curves_have_their_values_bands_and_names() -> None:
    lines = {"one": [(0.0, 0.0, 0.0, 0.0), (10.0, 10.0, 0.0, 10.0)], "<b>": [(0.0, 5.0, 5.0, 5.0), (10.0, 9.9, 9.9, 9.9)], "none": []}
    lines["broken"] = [(0.0, math.nan, 0.0, 0.0)]
    found = parse(charts.curves("title", lines, Axis("x"), Axis("y")))
    # Names of 3 letters take 3 * 6.6 + 14 = 33.8 of the 400; x 0..10 is 46..366.2, y 0..10 is 182..28.
    assert [path.get("d") for path in of_class(found, "line")] == ["M46.0 182.0L366.2 28.0", "M46.0 105.0L366.2 29.5"]
    assert of_class(found, "band")[0].get("d") == "M46.0 182.0L366.2 28.0L366.2 182.0L46.0 182.0Z"
    assert texts(found, "name") == ["one", "<b>"]
    # The ends are 1.5 apart, a name takes 15: the second is moved down.
    one, other = (float(text.get("y", "")) for text in of_class(found, "name"))
    assert (one, other) == (pytest.approx(32.0), pytest.approx(47.0))
    assert found.get("aria-label") == "title: one from 0 to 10; <b> from 5 to 9.9"
    assert charts.curves("title", {"none": []}, Axis("x"), Axis("y")) == ""


@hypothesis.given(st.lists(st.floats(28.0, 182.0), min_size=1, max_size=10))
def test_names_of_curves_never_overlap_and_stay_inside(places: list[float]) -> None:
    found = charts._apart({str(number): place for number, place in enumerate(places)}, 28.0, 182.0)
    ordered = sorted(found.values())
    assert all(below - above >= 15.0 - 1e-6 for above, below in pairwise(ordered))
    assert ordered[0] >= 28.0 - 1e-6
    assert ordered[-1] <= 182.0 + 1e-6
    # A name that has room stays where its curve ends.
    if len(places) == 1:
        assert found["0"] == places[0]


def test_ticks_of_whole_numbers_are_whole() -> None:
    assert charts.nice_ticks(1.0, 3.0, integer=True) == (1, 2, 3)
    assert charts.nice_ticks(2.0, 2.0, integer=True) == (1, 2, 3)


@hypothesis.given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_enclose_any_interval_at_equal_distances(low: float, width: float) -> None:
    high = low + width
    hypothesis.assume(high - low > 1e-9 * max(abs(low), abs(high)))
    ticks = charts.nice_ticks(low, high)
    slack = 1e-6 * (high - low)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 12
    distances = [b - a for a, b in pairwise(ticks)]
    assert max(distances) == pytest.approx(min(distances), rel=1e-3)


def test_log_ticks_are_one_two_and_five_times_powers_of_ten() -> None:
    assert charts.log_ticks(24.0, 1726.0) == (20, 50, 100, 200, 500, 1000, 2000)
    assert charts.log_ticks(1.0, 1.0) == (1, 2)


@pytest.mark.parametrize(
    ("ticks", "percent", "labels"),
    [
        ((0.0, 5000.0, 10000.0), False, ("0", "5k", "10k")),
        ((0.0, 500000.0, 1000000.0), False, ("0", "0.5M", "1.0M")),
        ((0.0, 0.05, 0.1), False, ("0", "0.05", "0.10")),
        ((0.37, 0.375, 0.38), False, ("0.370", "0.375", "0.380")),
        ((0.0, 0.05, 0.1), True, ("0 %", "5 %", "10 %")),
        ((1000.0, 2000.0), False, ("1,000", "2,000")),
    ],
)
def test_tick_labels_share_a_unit_and_as_many_decimals_as_needed(ticks: tuple[float, ...], percent: bool, labels: tuple[str, ...]) -> None:
    assert charts.tick_labels(ticks, percent) == labels


def test_scale_maps_the_ends_and_the_middle() -> None:
    linear = Scale((0.0, 10.0), (100.0, 300.0), (), ())
    assert [linear(value) for value in (0.0, 5.0, 10.0)] == [100.0, 200.0, 300.0]
    log = Scale((1.0, 10_000.0), (300.0, 100.0), (), (), log=True)
    assert [log(value) for value in (1.0, 100.0, 10_000.0)] == pytest.approx([300.0, 200.0, 100.0])


def test_line_chart_puts_points_at_their_values() -> None:
    root = parse(charts.line_chart("t", [(0.0, 0.0), (50.0, 5.0), (100.0, 10.0)], Axis("step"), Axis("loss")))
    places = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in of_class(root, "dot")]
    assert places == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, TOP)]
    assert of_class(root, "line")[0].get("d") == "M46.0 182.0L213.0 105.0L380.0 28.0"
    assert tips(root) == ["step 0: 0", "step 50: 5", "step 100: 10"]
    assert texts(root, "axis") == ["loss", "step"]


def test_line_chart_on_log_axes_puts_decades_at_equal_distances() -> None:
    points = [(1.0, 10.0), (10.0, 100.0), (100.0, 1000.0)]
    root = parse(charts.line_chart("t", points, Axis("rank", log=True), Axis("events", log=True)))
    assert [float(dot.get("cx", "")) for dot in of_class(root, "dot")] == pytest.approx([LEFT, 213.0, RIGHT])
    assert [float(dot.get("cy", "")) for dot in of_class(root, "dot")] == pytest.approx([BOTTOM, 105.0, TOP])


def test_what_a_chart_cannot_show_is_left_out() -> None:
    points = [(1.0, 0.0), (2.0, math.nan), (3.0, 10.0), (4.0, math.inf), (5.0, 20.0)]
    assert tips(parse(charts.line_chart("t", points, Axis("x"), Axis("y", log=True)))) == ["x 3: 10", "x 5: 20"]
    assert tips(parse(charts.line_chart("t", points, Axis("x"), Axis("y")))) == ["x 1: 0", "x 3: 10", "x 5: 20"]


def test_charts_of_nothing_are_empty() -> None:
    assert charts.line_chart("t", [], Axis("x"), Axis("y")) == ""
    assert charts.histogram("t", [0, 0], Axis("x"), Axis("y")) == ""
    assert charts.interval_plot("t", [Interval("a", math.nan, 0.0, 1.0)], Axis("x")) == ""


def test_a_single_point_and_a_flat_curve_can_be_drawn() -> None:
    one = parse(charts.line_chart("t", [(1.0, 0.5)], Axis("epoch", integer=True), Axis("ndcg@10")))
    assert float(of_class(one, "dot")[0].get("cx", "")) == 213.0
    flat = parse(charts.line_chart("t", [(1.0, 0.0), (2.0, 0.0)], Axis("x"), Axis("y")))
    assert [float(dot.get("cy", "")) for dot in of_class(flat, "dot")] == [105.0, 105.0]


def test_long_curves_are_averaged_in_groups() -> None:
    thinned = charts.thin([(float(i), float(i % 2)) for i in range(1000)], limit=100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 0.5)
    root = parse(charts.line_chart("t", [(float(i), 1.0 + i) for i in range(2000)], Axis("x"), Axis("y")))
    columns = of_class(root, "hit")
    assert len(columns) == len(tips(root)) == 223
    assert sum(float(column.get("width", "")) for column in columns) == pytest.approx(RIGHT - LEFT, abs=223 * 0.1)


def test_the_best_point_is_ringed_and_named() -> None:
    points = [(1.0, 0.1), (2.0, 0.3), (3.0, 0.2)]
    root = parse(charts.line_chart("t", points, Axis("epoch", integer=True), Axis("ndcg@10"), (2.0, 0.3, "epoch 2: 0.3000")))
    (ring,) = of_class(root, "best")
    second = of_class(root, "dot")[1]
    assert (ring.get("cx"), ring.get("cy")) == (second.get("cx"), second.get("cy"))
    assert texts(root, "note") == ["epoch 2: 0.3000"]


def test_histogram_bars_are_as_high_as_their_counts() -> None:
    root = parse(charts.histogram("t", [0, 0, 4, 2], Axis("events"), Axis("sessions"), [(2, "median 2")]))
    heights = [float(bar.get("height", "")) for bar in of_class(root, "bar")]
    assert heights == [154.0, 77.0]
    assert [float(bar.get("y", "")) for bar in of_class(root, "bar")] == [TOP, 105.0]
    assert tips(root) == ["2 events: 4 sessions (66.7 %)", "3 events: 2 sessions (33.3 %)"]
    # Two bars share the width: the median stands in the middle of the first.
    assert float(of_class(root, "mark")[0].get("x1", "")) == pytest.approx(LEFT + (RIGHT - LEFT) / 4)


def test_a_rare_length_is_still_seen_and_the_last_bar_says_what_it_holds() -> None:
    root = parse(charts.histogram("t", [0, 1_000_000, 1], Axis("events"), Axis("sessions"), is_open=True))
    assert float(of_class(root, "bar")[1].get("height", "")) == 1.0
    assert tips(root)[1] == "2 or more events: 1 sessions (0.0 %)"


def test_interval_plot_puts_values_and_bounds_at_their_places() -> None:
    rows = [Interval("candidate", 0.5, 0.4, 0.6, is_main=True), Interval("popularity", 0.25, 0.0, 1.0)]
    root = parse(charts.interval_plot("ndcg@10", rows, Axis("ndcg@10")))
    # Values run from 116 to 340 for the domain 0 to 1.
    main, other = of_class(root, "main")[0], of_class(root, "other")[0]
    assert of_class(main, "point")[0].get("d", "").startswith("M228.0 ")
    assert float(of_class(other, "point")[0].get("cx", "")) == pytest.approx(116 + 224 * 0.25)
    assert [float(of_class(main, "whisker")[0].get(end, "")) for end in ("x1", "x2")] == pytest.approx([205.6, 250.4])
    assert float(of_class(root, "mark")[0].get("x1", "")) == 228.0
    assert texts(root, "name") == ["candidate", "popularity"]
    assert tips(root)[0] == "candidate: 0.5000, 95 % interval 0.4000 to 0.6000"


def test_interval_plot_of_differences_marks_zero_and_has_signs() -> None:
    rows = [Interval("sqn", 0.5, 0.25, 1.0, tone="higher"), Interval("cql", 0.0, 0.0, 0.0)]
    root = parse(charts.interval_plot("difference", rows, Axis("ndcg@10"), at=0.0, width=620.0))
    # Values run from 116 to 560 for the domain 0 to 1.
    (zero,) = of_class(root, "mark")
    assert (zero.get("x1"), zero.get("x2")) == ("116.0", "116.0")
    assert root.get("viewBox") == "0 0 620 92"
    (higher,) = of_class(root, "other higher")
    assert float(of_class(higher, "point")[0].get("cx", "")) == pytest.approx((116 + 560) / 2)
    assert texts(root, "value") == ["+0.5000", "+0.0000"]
    assert tips(root) == ["sqn: +0.5000, 95 % interval +0.2500 to +1.0000", "cql: +0.0000, 95 % interval +0.0000 to +0.0000"]


def test_zero_is_marked_also_where_all_differences_are_on_one_side() -> None:
    root = parse(charts.interval_plot("difference", [Interval("cql", -0.5, -0.6, -0.4)], Axis("ndcg@10"), at=0.0))
    # From -.6 to 0 between 116 and 340.
    assert float(of_class(root, "mark")[0].get("x1", "")) == 340.0


def test_long_names_have_room() -> None:
    name = "advantage of a model with a long name"
    root = parse(charts.interval_plot("t", [Interval(name, 0.5, 0.0, 1.0)], Axis("x"), width=620.0))
    left = min(float(line.get("x1", "")) for line in of_class(root, "grid"))
    assert left > len(name) * 6.5
    assert float(of_class(root, "name")[0].get("x", "")) < left


def test_an_exact_value_has_no_interval_to_tell() -> None:
    root = parse(charts.interval_plot("t", [Interval("optimal", 3.66, 3.66, 3.66), Interval("bc", 1.0, 0.9, 1.1)], Axis("x")))
    assert tips(root) == ["optimal: 3.6600", "bc: 1.0000, 95 % interval 0.9000 to 1.1000"]


def test_a_point_interval_is_drawn_like_any_other() -> None:
    root = parse(charts.interval_plot("t", [Interval("a", 1.0, 1.0, 1.0), Interval("b", 1.0, 1.0, 1.0)], Axis("x")))
    assert len({point.get("cx") for point in of_class(root, "point")}) == 1


def test_every_drawing_says_what_it_shows_to_those_who_hear_it() -> None:
    drawings = [
        charts.line_chart("Loss td", [(1.0, 0.5), (9.0, 0.25)], Axis("step"), Axis("td")),
        charts.histogram("Sessions by length", [0, 3], Axis("events"), Axis("sessions"), [(1, "median 1")]),
        charts.interval_plot("ndcg@10", [Interval("candidate", 0.5, 0.4, 0.6)], Axis("ndcg@10")),
    ]
    roots = [parse(drawing) for drawing in drawings]
    assert {root.get("role") for root in roots} == {"img"}
    assert [root.get("aria-label") for root in roots] == [
        "Loss td: from 0.5 to 0.25, along step 1 to 9",
        "Sessions by length: median 1",
        "ndcg@10: candidate 0.5000, 0.4000 to 0.6000",
    ]


def test_names_from_outside_stay_text() -> None:
    name = "<script>alert('\"x\"')</script>&"
    drawings = [
        charts.line_chart(name, [(1.0, 0.5)], Axis(name), Axis(name), (1.0, 0.5, name)),
        charts.histogram(name, [1], Axis(name), Axis(name), [(0, name)]),
        charts.interval_plot(name, [Interval(name, 0.5, 0.4, 0.6)], Axis(name)),
    ]
    for drawing in drawings:
        root = parse(drawing)
        assert "script" not in {element.tag for element in root.iter()}
        assert name in (root.get("aria-label") or "")
        assert any(element.text == name for element in root.iter("text"))


def test_drawings_take_their_colours_from_the_page() -> None:
    drawing = charts.line_chart("t", [(1.0, 0.5)], Axis("x"), Axis("y"))
    assert not {"fill", "stroke", "style"} & {key for element in parse(drawing).iter() for key in element.attrib}


# === What came of what was asked for ===


def test_what_came_stands_over_what_was_asked_for() -> None:
    x, y = Axis("asked"), Axis("came")
    root = parse(charts.identity_chart("Returns", [(4.0, 2.0, 1.0, 3.0), (0.0, 1.0, 0.0, 2.0), (2.0, math.nan, 0.0, 1.0)], x, y))
    # Across from 0 at 46 to 4 at 380, up from 0 at 182 to 3 at 28.
    dots = [(float(dot.get("cx") or 0), float(dot.get("cy") or 0)) for dot in of_class(root, "dot")]
    assert dots == [pytest.approx((46.0, 182 - 154 / 3), abs=0.06), pytest.approx((380.0, 182 - 2 * 154 / 3), abs=0.06)]
    bounds = [(float(line.get("y1") or 0), float(line.get("y2") or 0)) for line in of_class(root, "whisker")]
    assert bounds == [pytest.approx((182.0, 182 - 2 * 154 / 3), abs=0.06), pytest.approx((182 - 154 / 3, 28.0), abs=0.06)]
    # Both are the same from 0 up to 3, where the upper axis ends.
    (same,) = of_class(root, "mark")
    ends = [float(same.get(name) or 0) for name in ("x1", "y1", "x2", "y2")]
    assert ends == pytest.approx([46.0, 182.0, 46 + 334 * 3 / 4, 28.0], abs=0.06)
    assert root.get("aria-label") == "Returns: 0 asked for, 1 (0 to 2); 4 asked for, 2 (1 to 3)"


def test_without_a_common_value_there_is_no_line_of_equals() -> None:
    root = parse(charts.identity_chart("Returns", [(10.0, 1.0, 0.9, 1.1), (20.0, 1.0, 0.9, 1.1)], Axis("asked"), Axis("came")))
    assert of_class(root, "mark") == []
    assert len(of_class(root, "dot")) == 2
    assert charts.identity_chart("Returns", [], Axis("asked"), Axis("came")) == ""


def test_long_names_leave_room_for_the_intervals() -> None:
    root = parse(charts.interval_plot("plot", [Interval("x" * 90, 0.5, 0.2, 0.9)], Axis("value"), width=620))
    ((left, right),) = [(float(line.get("x1") or 0), float(line.get("x2") or 0)) for line in of_class(root, "whisker")]
    # From .2 to .9 of an axis of 200 units.
    assert right - left == pytest.approx(0.7 / 0.8 * 200, rel=0.2)
    assert float((root.get("viewBox") or "").split()[2]) > 90 * 6 + 200
