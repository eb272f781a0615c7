"""What the report shows of the router's scores: their histogram with the cut, and predicted against measured quality."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from jobs.report.charts import Plot, color, ticks
from jobs.report.formatting import count, known, measured, percent


def score_histogram(report: Mapping[str, Any], width: int = 720, height: int = 260) -> Markup | None:
    """Rows by router score, stacked by the model that answered them, with the cut; None where there is no histogram."""
    histogram = report["score_histogram"] or {}
    edges, counts, cut = histogram.get("edges") or [], histogram.get("counts") or {}, histogram.get("cut")
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    if len(edges) < 2 or len(totals) != len(edges) - 1 or not any(totals) or edges[0] == edges[-1]:
        return None
    if not known(cut) or not edges[0] <= cut <= edges[-1]:  # a cut by gain per dollar is no score
        cut = None
    heading = f"Rows by router score, {count(sum(totals))} rows" + (f", cut at {cut:.3g}" if known(cut) else "")
    plot = Plot(width, height, (edges[0], edges[-1]), (0, max(totals) * 1.16), heading)
    x_ticks = ticks(*plot.x, 8 if width > 500 else 4)
    y_ticks = [y for y in ticks(*plot.y, 4) if y == int(y)]
    plot.axes([(x, f"{x:g}") for x in x_ticks], [(y, _short_rows(y)) for y in y_ticks], "router score", "rows")
    for k, (left, right) in enumerate(pairwise(edges)):
        base = 0
        for name in [*(m for m in report["models"] if m in counts), *(m for m in counts if m not in report["models"])]:
            rows = counts[name][k]
            if rows:
                share = f"{count(rows)} of {count(totals[k])} rows ({percent(rows / totals[k])})"
                tip = f"{name}: {share} with score {left:.3g} to {right:.3g}"
                x, y = plot.px(left) + 0.5, plot.py(base + rows)
                wide, tall = max(plot.px(right) - x - 0.5, 0.5), round(plot.py(base) - y, 2)
                plot.add(
                    "rect", f"mark {color(report['models'], name)}", tip, x=x, y=y, width=round(wide, 2), height=tall
                )
                base += rows
    if known(cut):
        x = plot.px(cut)
        plot.add("line", "cut", f"the cut: {cut:.4g}", x1=x, x2=x, y1=plot.top, y2=plot.height - plot.bottom)
        right_side = x > plot.width * 0.7
        plot.text(
            f"cut {cut:.3g}", x + (-6 if right_side else 6), plot.top + 10, "label", "end" if right_side else "start"
        )
    return plot.markup()


def _short_rows(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,.0f}"


def calibration(report: Mapping[str, Any], width: int = 720, height: int = 300) -> Markup | None:
    """Predicted (x) against measured quality (y), a mark with its interval per bin and model, and the diagonal."""
    found = report["calibration"] or {}
    bins = [(name, b) for name, row in found.items() for b in row if known(b.get("predicted")) and known(b.get("mean"))]
    if not bins:
        return None
    plot = Plot(
        width, height, (0.0, 1.0), (0.0, 1.0), f"Predicted against measured quality, {count(len(bins))} bins", right=24
    )
    steps = [(x, f"{100 * x:.0f}%") for x in ticks(0, 1, 5)]
    plot.axes(steps, steps, "predicted quality", "measured quality")
    plot.line("mixing", [(0, 0), (1, 1)], "as predicted")
    shift = {name: 2.5 * (k - (len(found) - 1) / 2) for k, name in enumerate(found)}  # bars of two models side by side
    for name, b in bins:
        css = color(report["models"], name)
        x, y = plot.px(b["predicted"]) + shift[name], plot.py(b["mean"])
        tip = f"{name}: {percent(b['predicted'])} predicted, {measured(b)} measured on {count(b.get('rows'))} rows"
        if known(b.get("low")) and known(b.get("high")):
            plot.add("path", f"bar {css}", tip, d=f"M{x} {plot.py(b['high'])}V{plot.py(b['low'])}")
        plot.add("circle", f"mark {css}", tip, cx=x, cy=y, r=4.5)
    return plot.markup()
