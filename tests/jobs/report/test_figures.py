"""Dollars, shares, intervals, times and counts as people read them, in columns that line up."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.report.formatting import duration, measured, percent, short_count, usd, usd_bounds, usd_decimals


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0.00"),
        (0.25, "$0.25"),
        (0.0123, "$0.0123"),
        (0.0005, "$0.0005"),
        (4.56e-7, "$0.000000456"),
        (1234.5, "$1,234.50"),
        (-0.5, "-$0.50"),
        (None, "not measured"),
        (float("nan"), "not measured"),
    ],
)
def test_dollars(value: Any, text: str):
    assert usd(value) == text


def test_columns_of_dollars_line_up_and_stay_readable():
    assert usd_decimals([0.00214, 0.0487, 0]) == 5
    assert usd_decimals([12_345.67, 0.002]) == 2
    assert usd_decimals([None, float("nan")]) == 2
    assert usd(0.1, 5) == "$0.10000"
    assert usd(-0.0001, 2) == "$0.00"


def test_other_figures():
    assert percent(0.5167) == "51.7 %"
    assert measured({"mean": 0.9213, "low": 0.87, "high": 0.973}) == "92.1 % [87.0-97.3]"
    assert measured({"mean": 0.1, "low": -0.2, "high": 0.4}) == "10.0 % [-20.0 to 40.0]"
    assert measured({"mean": 0.5, "low": None, "high": None}) == "50.0 %"
    assert measured(None) == "not measured"
    assert measured({"mean": 0.5, "low": 0.5, "high": 0.5}) == "50.0 %", "counted, not estimated"
    assert usd_bounds({"low": 0.599, "high": 0.6115}) == "[$0.599-0.612]"
    assert usd_bounds({"low": 1234.5, "high": 2345.6}) == "[$1,234.50-2,345.60]"
    assert usd_bounds(None) == usd_bounds({"low": 2.0, "high": 2.0}) == ""
    assert [duration(s) for s in (13.4, 725, 11_049, 183_849, None)] == ["0:13", "12:05", "3:04:09", "2 d 3:04:09", "-"]
    assert [short_count(n) for n in (950, 12_345, 999_960, 4.5e6, 111e6, 1e9)] == [
        "950",
        "12.3k",
        "1.0M",
        "4.5M",
        "111M",
        "1.0G",
    ]
