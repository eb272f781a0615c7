"""The evaluation page's two pictures: PGR against the share of strong calls, and quality against dollars.

Drawn with `jobs.report.charts.Plot`, so one SVG per width, styled by the page's classes, every mark with a title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from jobs.evaluation.results import SetResult
from jobs.report.charts import N_COLORS, Plot, ticks
from jobs.report.formatting import known, percent, usd

ROWS = 1000
"""Dollars are shown for this many rows: a single call costs too little to read."""
GREY = {"length (baseline)": "prompt length", "category mean": "category mean"}


def color(found: SetResult, router: str) -> str:
    """CSS class of a router: its place in the table."""
    return f"m{list(found.routers).index(router) % N_COLORS}"


def pgr_chart(found: SetResult, width: int = 720, height: int = 420) -> Markup | None:
    """PGR against c, random's diagonal, and where each router reaches 50 and 80 %; None without a pair."""
    drawn = {name: curve.pgr for name, curve in found.curves.items() if curve.pgr}
    if not drawn:
        return None
    values = [y for curve in drawn.values() for _, y in curve]
    low, high = min(-0.02, *values), max(1.02, *values)
    plot = Plot(
        width, height, (0, 1), (low, high), "Share of the quality gap recovered against the share of strong calls"
    )
    plot.right = 24  # room for half of "100%"
    step = 0.2 if width > 500 else 0.25
    marks = [round(k * step, 2) for k in range(round(1 / step) + 1)]
    plot.axes(
        [(x, f"{100 * x:.0f}%") for x in marks],
        [(y, f"{100 * y:.0f}%") for y in ticks(low, high, 5)],
        "rows sent to the strong model",
        "quality gap recovered (PGR)",
    )
    for level in (0.5, 0.8):
        plot.line("level", [(0, level), (1, level)], f"CPT {100 * level:.0f} %: where a curve crosses this line")
    plot.line("mixing", [(0, 0), (1, 1)], "random routing")
    for name, label in GREY.items():
        if name in drawn:
            plot.line(f"grey {_css(label)}", [(x, y) for x, y in drawn[name]], label)
    for name, row in found.routers.items():
        if name not in drawn:
            continue
        css = color(found, name)
        plot.line(f"curve {css}", [(x, y) for x, y in drawn[name]], name)
        for level in (50, 80):
            at = row.intervals[f"cpt{level}"]
            if at and known(at.mean) and plot.y[0] <= level / 100 <= plot.y[1]:
                tip = f"{name}: CPT {level} % at {percent(at.mean)} strong calls"
                plot.add("circle", f"mark {css}", tip, cx=plot.px(at.mean), cy=plot.py(level / 100), r=4.5)
    return plot.markup()


def _css(label: str) -> str:
    return label.replace(" ", "-")


def cost_chart(found: SetResult, width: int = 720, height: int = 420) -> Markup | None:
    """Quality against dollars: routers' curves, NDCH of the single models (Zero router), models, oracle; None without cost."""
    zero = found.references
    if not zero.ndch or not zero.oracle:
        return None
    singles = {
        name: (each.cost_usd * ROWS, each.quality)
        for name, each in found.single_models.items()
        if each.cost_usd is not None
    }
    hulls = {name: _dollars(points) for name in found.routers if (points := found.curves[name].ndch)}
    best = zero.oracle
    seen = [*singles.values(), (best[0] * ROWS, best[1]), *(p for hull in hulls.values() for p in hull)]
    top, floor, ceiling = max(x for x, _ in seen), min(y for _, y in seen), max(y for _, y in seen)
    pad = max(ceiling - floor, 0.02) * 0.12
    plot = Plot(
        width, height, (-0.03 * top, 1.06 * top), (floor - pad, ceiling + pad), "Quality against dollars per 1,000 rows"
    )
    x_ticks = ticks(0, 1.06 * top, 6 if width > 500 else 4)
    decimals = max([len(repr(x).partition(".")[2]) for x in x_ticks if x != int(x)] + [0])
    digits = 0 if ceiling - floor > 0.08 else 1
    plot.axes(
        [(x, "$0" if x == 0 else usd(x, decimals if decimals != 1 else 2)) for x in x_ticks],
        [(y, f"{100 * y:.{digits}f}%") for y in ticks(floor - pad, ceiling + pad, 5)],
        f"dollars per {ROWS:,} rows",
        "quality",
    )
    line = _dollars(zero.ndch)
    plot.line("mixing", [*line, (max(top, line[-1][0]), line[-1][1])], "Zero router: the hull of the single models")
    for name, hull in hulls.items():
        plot.line(f"curve {color(found, name)}", hull, f"{name}: its hull (NDCH)")
    for name, (x, y) in singles.items():
        tip = f"{name}: {usd(x)} per {ROWS:,} rows, quality {percent(y)}"
        plot.add("circle", "mark single", tip, cx=plot.px(x), cy=plot.py(y), r=5)
    _labels(plot, singles)
    x, y = plot.px(best[0] * ROWS), plot.py(best[1])
    plot.add(
        "path",
        "mark oracle",
        f"oracle: {usd(best[0] * ROWS)}, quality {percent(best[1])}",
        d=f"M{x} {y - 8}l8 8l-8 8l-8 -8Z",
    )
    plot.text("oracle", x + 13, y + 4, "label")
    return plot.markup()


def _dollars(hull: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(x * ROWS, y) for x, y in hull]


def _labels(plot: Plot, singles: Mapping[str, tuple[float, float]]) -> None:
    """Names beside the models' dots where there is room: right, left, below, above; hovering tells the others."""
    taken = [(plot.px(x) - 7, plot.py(y) - 7, plot.px(x) + 7, plot.py(y) + 7) for x, y in singles.values()]
    for name, (x, y) in singles.items():
        text = name.rpartition("/")[2]
        wide, cx, cy = 6.9 * len(text), plot.px(x), plot.py(y)
        for anchor, at_x, at_y in (
            ("start", cx + 10, cy + 4),
            ("end", cx - 10, cy + 4),
            ("middle", cx, cy + 20),
            ("middle", cx, cy - 11),
        ):
            left = at_x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            area = (left, at_y - 11, left + wide, at_y + 3)
            inside = (
                area[0] >= plot.left
                and area[2] <= plot.width - 2
                and area[3] <= plot.height - plot.bottom
                and area[1] >= 0
            )
            if inside and not any(
                area[0] < b[2] and b[0] < area[2] and area[1] < b[3] and b[1] < area[3] for b in taken
            ):
                taken.append(area)
                plot.text(text, round(at_x, 2), round(at_y, 2), "label", anchor)
                break
