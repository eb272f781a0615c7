"""The report's pictures as inline SVG: the frame they share, and cost against quality (scores: jobs/report/score_charts.py).

Built as an XML tree, so every text is escaped by the serialiser, and styled by classes of the page (`--m0` … for the
models), so light, dark and print need no second picture. Every mark has a `<title>` (a tooltip, and what a screen
reader reads). SVG text scales with the picture, so a phone gets its own, narrower drawing instead of a shrunk one.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from jobs.report.formatting import count, known, measured, usd

N_COLORS = 8
"""Colours of models in the page's style; more models repeat them."""
LETTER_WIDTH = 7.2
"""Pixels a letter of a label takes, on the wide side: fonts differ from reader to reader."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model, or the run: dollars on these rows and measured quality."""

    label: str
    usd: float
    quality: Mapping[str, Any]
    css: str
    is_run: bool = False


@dataclass(slots=True)
class Plot:
    """A frame with linear scales. Pixels grow to the right and down, values up."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    label: str
    left: int = 56
    right: int = 14
    top: int = 14
    bottom: int = 44
    svg: ET.Element = field(init=False)

    def __post_init__(self) -> None:
        box = f"0 0 {self.width} {self.height}"
        self.svg = ET.Element("svg", {"viewBox": box, "role": "img", "aria-label": self.label, "class": "chart"})

    def px(self, value: float) -> float:
        low, high = self.x
        return round(self.left + (value - low) / (high - low) * (self.width - self.left - self.right), 2)

    def py(self, value: float) -> float:
        low, high = self.y
        return round(
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom), 2
        )

    def add(self, tag: str, css: str, tip: str = "", **attributes: float | str) -> ET.Element:
        element = ET.SubElement(
            self.svg, tag, {"class": css, **{k.replace("_", "-"): str(v) for k, v in attributes.items()}}
        )
        if tip:
            ET.SubElement(element, "title").text = tip
        return element

    def text(self, text: str, x: float, y: float, css: str = "", anchor: str = "start", **attributes: str) -> None:
        self.add("text", css, x=x, y=y, text_anchor=anchor, **attributes).text = text

    def line(self, css: str, points: Sequence[tuple[float, float]], tip: str = "") -> None:
        self.add("polyline", css, tip, points=" ".join(f"{self.px(x)},{self.py(y)}" for x, y in points))

    def axes(
        self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_name: str, y_name: str
    ) -> None:
        """Horizontal grid lines, ticks, and the names of both axes."""
        for value, text in y_ticks:
            self.add("line", "grid", x1=self.left, x2=self.width - self.right, y1=self.py(value), y2=self.py(value))
            self.text(text, self.left - 8, self.py(value) + 4, "tick", "end")
        base = self.height - self.bottom
        self.add("line", "axis", x1=self.left, x2=self.width - self.right, y1=base, y2=base)
        for value, text in x_ticks:
            self.text(text, self.px(value), base + 17, "tick", "middle")
        self.text(x_name, (self.left + self.width - self.right) / 2, self.height - 6, "name", "middle")
        middle = (self.top + base) / 2
        self.text(y_name, 11, middle, "name", "middle", transform=f"rotate(-90 11 {middle})")

    def markup(self) -> Markup:
        return Markup(ET.tostring(self.svg, encoding="unicode"))


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `wanted` of them."""
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def color(models: Sequence[str], name: str) -> str:
    """CSS class of a model: its place in the ladder, cheapest first."""
    return f"m{models.index(name) % N_COLORS}" if name in models else "m-other"


def points_of(report: Mapping[str, Any]) -> list[Point]:
    """What the cost-quality picture can place: models measured on the sample and priced on these rows, and the run."""
    models, by_model = report["models"], report["quality_by_model"] or {}
    prices = {report["weak"]: report["all_weak_usd"], report["strong"]: report["all_strong_usd"]}
    points = []
    for name in models:
        quality = by_model.get(name) or {}
        cost = quality.get("usd") if known(quality.get("usd")) else prices.get(name)
        if known(quality.get("mean")) and known(cost):
            points.append(Point(f"all {name}", float(cost), quality, color(models, name)))
    if known((report["quality"] or {}).get("mean")) and known(report["spent_usd"]):
        # What measuring cost (the sample's further answers, a judge) is in the bill, but no part of the policy's cost.
        purposes = report["spent_by_purpose"] or {}
        measuring = sum(purposes.get(name) or 0.0 for name in ("pilot", "shadow", "judge"))
        usd = float(report["spent_usd"]) - measuring
        points.append(Point("this run", usd, report["quality"], "run", is_run=True))
    return points


def cost_quality(report: Mapping[str, Any], width: int = 720, height: int = 400) -> Markup | None:
    """Dollars (x) against quality (y): all rows to one model, the line of random mixing, the plan's curve, this run.

    None where fewer than two things can be placed: a picture of one point says nothing.
    """
    points = points_of(report)
    curve, best = curve_of(report["curve"]), curve_of(report["oracle"])
    if len(points) + len(curve) < 2:
        return None
    values = [y for p in points for y in (p.quality["mean"], p.quality.get("low"), p.quality.get("high")) if known(y)]
    values += [quality for _, quality in curve + best]
    low, high = min(values), max(values)
    pad = max(high - low, 0.02) * 0.16
    widest = max([p.usd for p in points] + [x for x, _ in curve]) or 1.0
    y_range = (max(low - pad, 0.0) if low >= 0 else low - pad, high + pad)
    plot = Plot(
        width, height, (-0.03 * widest, widest * 1.06), y_range, "Cost against quality. " + "; ".join(map(_tip, points))
    )
    x_ticks = ticks(0, widest * 1.06, 6 if width > 500 else 4)
    decimals = max([len(repr(x).partition(".")[2]) for x in x_ticks if x != int(x)] + [0])
    step_digits = 0 if y_range[1] - y_range[0] > 0.08 else 1
    plot.axes(
        [(x, "$0" if x == 0 else usd(x, decimals if decimals != 1 else 2)) for x in x_ticks],
        [(y, f"{100 * y:.{step_digits}f}%") for y in ticks(*y_range, 7 if height > 350 else 5)],
        "dollars for all rows",
        "quality",
    )
    mixing = zero_line(points)
    if len(mixing) > 1:
        plot.line("mixing", mixing, "the Zero router: random mixing of the models")
    if len(best) > 1:
        plot.line("oracle", best, "the oracle: every row of the sample on the cheapest model that gets it right")
    if len(curve) > 1:
        plot.line("curve", curve, "the plan's predicted curve")
    marks = [_draw_mark(plot, point) for point in points]
    taken = list(marks)
    for point, mark in sorted(zip(points, marks, strict=True), key=lambda pair: not pair[0].is_run):
        _draw_label(plot, point, mark, taken)
    return plot.markup()


def curve_of(points: Sequence[Mapping[str, Any]] | None) -> list[tuple[float, float]]:
    """(dollars, quality) in order; dollars as measured where the plan expected others."""
    found = []
    for p in points or []:
        usd = p["measured_usd"] if known(p.get("measured_usd")) else p.get("usd")
        if known(usd) and known(p.get("quality")):
            found.append((float(usd), float(p["quality"])))
    return sorted(found)


def zero_line(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The Zero router (RouterBench, section 4): the upper hull of the single models, along which random mixing moves."""
    hull: list[tuple[float, float]] = []
    for x, y in sorted((p.usd, p.quality["mean"]) for p in points if not p.is_run):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) <= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return hull


def _tip(point: Point) -> str:
    rows = f", {count(point.quality['rows'])} rows measured" if known(point.quality.get("rows")) else ""
    return f"{point.label}: {usd(point.usd)}, quality {measured(point.quality)}{rows}"


def _draw_mark(plot: Plot, point: Point) -> Box:
    """The mark and its interval; returns the box they fill. The run is a diamond, models are dots."""
    x, y = plot.px(point.usd), plot.py(point.quality["mean"])
    low, high = point.quality.get("low"), point.quality.get("high")
    top, bottom = y - 8, y + 8
    if known(low) and known(high):
        upper, lower = plot.py(high), plot.py(low)
        line = f"M{x} {upper}V{lower}M{x - 5} {upper}h10M{x - 5} {lower}h10"
        plot.add("path", f"bar {point.css}", _tip(point), d=line)
        top, bottom = min(top, upper), max(bottom, lower)
    if point.is_run:
        plot.add("path", f"mark {point.css}", _tip(point), d=f"M{x} {y - 8}l8 8l-8 8l-8 -8Z")
    else:
        plot.add("circle", f"mark {point.css}", _tip(point), cx=x, cy=y, r=6)
    return x - 8, top, x + 8, bottom


def _draw_label(plot: Plot, point: Point, mark: Box, taken: list[Box]) -> None:
    """Write the point's name beside its mark where nothing else is; nowhere, if all is taken: the legend has it too."""
    half, (left, top, right, bottom) = LETTER_WIDTH * len(point.label) / 2, mark
    middle = min(max((left + right) / 2, plot.left + half), plot.width - half - 2)
    above, below, beside = (middle, top - 6), (middle, bottom + 15), (top + bottom) / 2 + 4
    places = [above, below] if point.is_run else [below, above]
    for x, y in [*places, (right + half + 4, beside), (left - half - 4, beside)]:
        box = (x - half, y - 11, x + half, y + 3)
        inside = (
            box[0] >= plot.left - 8 and box[2] <= plot.width and box[1] >= 0 and box[3] <= plot.height - plot.bottom
        )
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            plot.text(point.label, round(x, 2), round(y, 2), "label", "middle")
            return


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
