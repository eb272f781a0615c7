"""The charts of the report: every mark where its figures say, round ticks, no picture without measurements."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from report_reading import BARE, example

from jobs.report.charts import Point, cost_quality, ticks, zero_line
from jobs.report.contents import complete_keys
from jobs.report.score_charts import calibration, score_histogram


def parsed(chart: Any) -> ET.Element:
    return ET.fromstring(str(chart))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.61, 0.63), (0, 4930.0), (-3, 3), (0, 1e-6)])
def test_ticks_are_round_inside_and_few(low: float, high: float):
    found = ticks(low, high, 5)
    assert 3 <= len(found) <= 9
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


@pytest.mark.parametrize("width", [356, 720])
def test_cost_quality_places_models_run_line_and_curve(width: int):
    svg = parsed(cost_quality(complete_keys(example()), width))
    classes = [element.get("class") for element in svg.iter()]
    assert {"mark m0", "mark m1", "mark run", "bar run", "mixing", "curve"} <= set(classes)
    assert svg.get("role") == "img"
    assert "this run: $0.0461, quality 87.1 % [85.6-88.5]" in str(svg.get("aria-label"))
    x = {name: float(svg.find(f".//circle[@class='mark {name}']").get("cx")) for name in ("m0", "m1")}  # type: ignore[union-attr,arg-type]
    y = {name: float(svg.find(f".//circle[@class='mark {name}']").get("cy")) for name in ("m0", "m1")}  # type: ignore[union-attr,arg-type]
    assert x["m0"] < x["m1"]  # dearer to the right
    assert y["m0"] > y["m1"]  # better further up
    for element in svg.iter("text"):
        assert 0 <= float(element.get("x", "0")) <= width


def test_the_zero_line_is_the_upper_hull_of_the_single_models():
    points = [
        Point(name, usd, {"mean": q}, "")
        for name, usd, q in (("a", 1, 0.5), ("b", 2, 0.9), ("c", 3, 0.6), ("d", 9, 0.95))
    ]
    assert zero_line([*points, Point("run", 0, {"mean": 1.0}, "", is_run=True)]) == [(1, 0.5), (2, 0.9), (9, 0.95)]
    svg = parsed(cost_quality(complete_keys(example())))
    assert svg.find(".//polyline[@class='oracle']") is not None


def test_the_plans_curve_is_drawn_in_measured_dollars():
    report = complete_keys(example())
    report["curve"] = [p | {"usd": 40 * p["usd"], "measured_usd": p["usd"]} for p in report["curve"]]
    assert parsed(cost_quality(report)).find(".//polyline[@class='curve']").get("points") == (  # type: ignore[union-attr]
        parsed(cost_quality(complete_keys(example()))).find(".//polyline[@class='curve']").get("points")  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("width", [356, 720])
def test_calibration_puts_every_bin_by_predicted_and_measured(width: int):
    svg = parsed(calibration(complete_keys(example()), width))
    marks = svg.findall(".//circle")
    assert [mark.get("class") for mark in marks] == ["mark m0"] * 2 + ["mark m1"] * 2
    low, high = (float(mark.get("cx", 0)) for mark in marks[:2])
    assert low < high <= width and float(marks[0].get("cy", 0)) > float(marks[1].get("cy", 0))
    assert "20.0 % predicted, 25.0 % [15.0-38.0] measured on 100 rows" in "".join(svg.itertext())
    assert calibration(complete_keys(BARE)) is None


def test_labels_of_near_models_do_not_overlap():
    report = complete_keys(example())
    report["quality_by_model"]["demo-small"] = {**report["quality_by_model"]["demo-large"]}
    report["all_weak_usd"] = report["all_strong_usd"]
    svg = parsed(cost_quality(report))
    places = [(float(t.get("x", 0)), float(t.get("y", 0))) for t in svg.iter("text") if t.get("class") == "label"]
    assert len(places) == len(set(places)) >= 2


def test_no_picture_without_measurements():
    assert cost_quality(complete_keys(BARE)) is None
    assert cost_quality(complete_keys(example(quality=None, quality_by_model=None, curve=None))) is None
    assert (
        cost_quality(complete_keys(example(quality=None, quality_by_model=None))) is not None
    )  # the plan's curve alone


def test_histogram_stacks_to_the_counts():
    report = complete_keys(example())
    svg = parsed(score_histogram(report))
    counts = report["score_histogram"]["counts"]
    bars = svg.findall(".//rect")
    assert len(bars) == sum(1 for column in counts.values() for n in column if n)
    tallest = {
        name: max(float(b.get("height", 0)) for b in bars if b.get("class") == f"mark {name}") for name in ("m0", "m1")
    }
    assert tallest["m0"] / tallest["m1"] == pytest.approx(
        max(counts["demo-small"]) / max(counts["demo-large"]), rel=0.01
    )
    assert svg.find(".//line[@class='cut']") is not None
    assert (
        score_histogram(complete_keys(example(score_histogram={"edges": [0, 1], "counts": {"a": [0]}, "cut": None})))
        is None
    )
