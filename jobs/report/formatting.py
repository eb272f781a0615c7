"""Figures as people read them: dollars, shares, intervals, counts, durations.

One place, so that the terminal, the log and the report's page print the same number the same way. What is not known
(None, NaN) is "not measured", never a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

NOT_MEASURED = "not measured"
MAX_USD_DECIMALS = 9


def known(value: Any) -> TypeGuard[float]:
    """True for a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def usd_decimals(values: Iterable[Any]) -> int:
    """Decimals for a column of dollars: three digits of the smallest value, while the largest has six at most."""
    sizes = [abs(v) for v in values if known(v) and v]
    if not sizes:
        return 2
    smallest, largest = (math.floor(math.log10(size)) for size in (min(sizes), max(sizes)))
    return min(max(2, 2 - smallest), max(2, 5 - largest), MAX_USD_DECIMALS)


def usd(value: Any, decimals: int | None = None) -> str:
    """Dollars: $1,234.50, $0.25, $0.000456: cents from a dollar up, three digits below, unless told otherwise."""
    if not known(value):
        return NOT_MEASURED
    if decimals is None:
        decimals = 2 if abs(value) >= 1 else usd_decimals([value])
        text = f"{abs(value):,.{decimals}f}"
        while decimals > 2 and text.endswith("0"):
            text, decimals = text[:-1], decimals - 1
    else:
        text = f"{abs(value):,.{decimals}f}"
    return f"-${text}" if value < 0 and text.strip("0.,") else f"${text}"


def routed_rows(entry: Mapping[str, Any]) -> int | None:
    """Rows that the plan sends to a model, from its entry in the report's `by_model`; whose answer stands, in older reports."""
    rows: int | None = entry.get("routed", entry.get("rows"))
    return rows


def count(value: Any) -> str:
    """1,240."""
    return f"{round(value):,}" if known(value) else NOT_MEASURED


def short_count(value: Any) -> str:
    """Four characters or so: 950, 12.3k, 4.5M, 1.2G."""
    if not known(value):
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def percent(share: Any, digits: int = 1) -> str:
    """A share as 51.7 %."""
    return f"{100 * share:.{digits}f} %" if known(share) else NOT_MEASURED


def measured(figure: Mapping[str, Any] | None, digits: int = 1) -> str:
    """{"mean", "low", "high"} of a share as 92.1 % [87.0-97.3]; without bounds the mean alone."""
    if not figure or not known(figure.get("mean")):
        return NOT_MEASURED
    return f"{percent(figure['mean'], digits)} {bounds(figure, digits)}".rstrip()


def bounds(figure: Mapping[str, Any] | None, digits: int = 1) -> str:
    """The interval alone: [87.0-97.3], "" where there is none or it is a point; "to" instead of "-" once a bound is negative."""
    low, high = (figure.get("low"), figure.get("high")) if figure else (None, None)
    if not known(low) or not known(high):
        return ""
    if low == high:  # counted on every row, not estimated
        return ""
    low, high = 100 * low, 100 * high
    joint = "-" if low >= 0 else " to "
    return f"[{low:.{digits}f}{joint}{high:.{digits}f}]"


def usd_bounds(figure: Mapping[str, Any] | None) -> str:
    """The interval of an amount: [$0.599-0.612], "" where there is none."""
    low, high = (figure.get("low"), figure.get("high")) if figure else (None, None)
    if not known(low) or not known(high) or low == high:
        return ""
    decimals = 2 if max(abs(low), abs(high)) >= 100 else usd_decimals([low, high])
    return f"[{usd(low, decimals)}-{usd(high, decimals).removeprefix('$')}]"


def duration(seconds: Any) -> str:
    """0:13, 12:05, 3:04:09, 2 d 3:04:09; "-" where unknown."""
    if not known(seconds) or seconds < 0:
        return "-"
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{secs:02d}" if hours or days else f"{minutes}:{secs:02d}"
    return f"{days} d {clock}" if days else clock


def points(figure: Mapping[str, Any]) -> str:
    """A difference of shares with its interval, in percentage points: `+24.3 points [17.7 to 30.6]`."""
    mean, low, high = (100 * figure[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} points [{low:.1f} to {high:.1f}]"
