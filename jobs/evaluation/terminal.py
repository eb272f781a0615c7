"""An evaluation for people: the terminal's table (80 columns) and the rows that the page shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.report.formatting import count, known, percent

NONE = "-"
TITLES = {
    "random": "random", "length": "prompt length", "category mean": "category mean", "zero": "Zero router", "oracle": "oracle",
}  # fmt: skip


def number(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """The mean alone."""
    return f"{figure['mean']:.{digits}f}" if figure and known(figure.get("mean")) else NONE


def signed(figure: Mapping[str, Any] | None) -> str:
    return f"{figure['mean']:+.3f}" if figure and known(figure.get("mean")) else NONE


def with_interval(figure: Mapping[str, Any] | None) -> str:
    """0.627 [0.580-0.669]."""
    if not figure or not known(figure.get("low")) or not known(figure.get("high")):
        return number(figure)
    low, high = figure["low"], figure["high"]
    joint = "-" if low >= 0 else " to "
    return f"{number(figure)} [{low:.3f}{joint}{high:.3f}]"


def share(figure: Mapping[str, Any] | None) -> str:
    return percent(figure["mean"]) if figure and known(figure.get("mean")) else NONE


def columns(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(heading, formatter of a router's figures) of one set's table: what a pair has, what dollars allow."""
    priced = any(row["aiq"] for row in found["routers"].values())
    if found["weak"] is None:
        chosen = (
            [("AIQ [95 %]", lambda r: with_interval(r["aiq"])), ("over Zero", lambda r: signed(r["aiq_gain"]))]
            if priced
            else []
        )
        return [*chosen, ("quality at any price", lambda r: with_interval(r["best_quality"]))]
    pair = [("APGR [95 %]", lambda r: with_interval(r["apgr"])), ("RouteLLM's", lambda r: number(r["apgr_routellm"]))]
    pair += [("CPT 50 %", lambda r: share(r["cpt50"])), ("CPT 80 %", lambda r: share(r["cpt80"]))]
    return [*pair, ("AIQ", lambda r: number(r["aiq"]))] if priced else pair


def all_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """(name to show, figures, whether it is a baseline): routers as asked for, then the baselines."""
    for name, row in found["routers"].items():
        yield name, row, False
    for name, row in found["baselines"].items():
        if any(row[key] for key in ("apgr", "aiq")) or (name == "oracle" and row["best_quality"]):
            yield TITLES[name], row, True


def evaluation_table(found: Mapping[str, Any]) -> RenderableType:
    """All sets of an evaluation, one table each, the pooled one last."""
    if "sets" not in found:
        return _set_table(found)
    sets = [*found["sets"].values(), *([found["pooled"]] if found["pooled"] else [])]
    return Group(*[_set_table(each) for each in sets])


def _set_table(found: Mapping[str, Any]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, title=heading(found), title_justify="left", title_style="bold")
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    table.add_column("router", overflow="ellipsis", no_wrap=True, min_width=10)
    shown = columns(found)
    rows = list(all_rows(found))
    for name, form in shown:
        width = max(len(name), *(len(form(row)) for _, row, _ in rows))
        table.add_column(name, justify="right", no_wrap=True, min_width=width)  # names are cut, figures never
    before = False
    for name, row, is_baseline in rows:
        if is_baseline and not before:
            table.add_section()
        before = is_baseline
        table.add_row(Text(name), *[form(row) for _, form in shown], style="dim" if is_baseline else "")
    return Group(table, *[Text(f"note: {note}", style="dim") for note in found["notes"]], Text(""))


def heading(found: Mapping[str, Any]) -> str:
    """What was measured on what."""
    seeds = len(found["seeds"])
    models = f"{found['strong']} / {found['weak']}" if found["weak"] else f"{len(found['models'])} models"
    training = found["training"]
    split = f"{count(found['train_rows'])} training rows" if found["train_rows"] else "no training"
    extra = (
        f", similarity {training['similarity']:.3f}, {count(training['contaminated'])} contaminated" if training else ""
    )
    seeds_text = f", {seeds} seeds" if seeds > 1 else ""
    return f"{found['name']}: {models}\n{split}{extra}, {count(found['test_rows'])} test rows{seeds_text}"


def training_table(summary: Mapping[str, Any]) -> RenderableType:
    """What was trained, on what, how good it is on the rows held out, and where it is."""
    training, validation = summary["training"], summary["validation"] or {}
    names = {"apgr": "APGR", "apgr_routellm": "APGR, RouteLLM's", "aiq": "AIQ", "best_quality": "quality at any price"}
    lines = [
        (
            "trained",
            f"{summary['router']} on {count(training['rows'])} rows of {training['kind']}, {training['fit_s']:.1f} s",
        )
    ]
    lines += [("models", ", ".join(summary["models"]))]
    if training.get("contaminated") is not None:
        lines.append(
            ("held out", f"{count(training['contaminated'])} prompts dropped, similarity {training['similarity']:.3f}")
        )
    lines += [(text, with_interval(validation[name])) for name, text in names.items() if validation.get(name)]
    for level in (50, 80):
        if validation.get(f"cpt{level}"):
            lines.append((f"CPT {level} %", share(validation[f"cpt{level}"])))
    if validation:
        lines.append(("measured on", f"{count(validation['rows'])} held-out rows"))
    lines += [("note", note) for note in summary["notes"]]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in [*lines, ("artifact", summary["artifact"])]:
        grid.add_row(Text(label), Text(text))
    return grid
