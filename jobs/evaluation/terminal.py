"""An evaluation for people: the terminal's table (80 columns) and the rows that the page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.evaluation.results import Evaluation, SetResult, TrainResult
from jobs.report.formatting import count, known, percent
from routing.metrics.pair import Interval
from routing.metrics.trials import Intervals

NONE = "-"
TITLES = {
    "random": "random", "length": "prompt length", "category mean": "category mean", "zero": "Zero router", "oracle": "oracle",
}  # fmt: skip


def number(interval: Interval | None, digits: int = 3) -> str:
    """The mean alone."""
    return f"{interval.mean:.{digits}f}" if interval and known(interval.mean) else NONE


def signed(interval: Interval | None) -> str:
    return f"{interval.mean:+.3f}" if interval and known(interval.mean) else NONE


def with_interval(interval: Interval | None) -> str:
    """0.627 [0.580-0.669]."""
    if not interval or not known(interval.low) or not known(interval.high):
        return number(interval)
    low, high = interval.low, interval.high
    joint = "-" if low >= 0 else " to "
    return f"{number(interval)} [{low:.3f}{joint}{high:.3f}]"


def share(interval: Interval | None) -> str:
    return percent(interval.mean) if interval and known(interval.mean) else NONE


def columns(found: SetResult) -> list[tuple[str, Callable[[Intervals], str]]]:
    """(heading, formatter of a router's intervals) of one set's table: what a pair has, what dollars allow."""
    priced = any(row.intervals["aiq"] for row in found.routers.values())
    if not found.is_pair:
        chosen = (
            [("AIQ [95 %]", lambda r: with_interval(r["aiq"])), ("over Zero", lambda r: signed(r["aiq_gain"]))]
            if priced
            else []
        )
        return [*chosen, ("quality at any price", lambda r: with_interval(r["best_quality"]))]
    pair = [("APGR [95 %]", lambda r: with_interval(r["apgr"])), ("RouteLLM's", lambda r: number(r["apgr_routellm"]))]
    pair += [("CPT 50 %", lambda r: share(r["cpt50"])), ("CPT 80 %", lambda r: share(r["cpt80"]))]
    return [*pair, ("AIQ", lambda r: number(r["aiq"]))] if priced else pair


def all_rows(found: SetResult) -> Iterator[tuple[str, Intervals, bool]]:
    """(name to show, intervals, whether it is a baseline): routers as asked for, then the baselines."""
    for name, result in found.routers.items():
        yield name, result.intervals, False
    for name, row in found.baselines.items():
        if any(row[key] for key in ("apgr", "aiq")) or (name == "oracle" and row["best_quality"]):
            yield TITLES[name], row, True


def evaluation_table(found: Evaluation) -> RenderableType:
    """All sets of an evaluation, one table each, the pooled one last."""
    return Group(*[_set_table(each) for each in found.shown])


def _set_table(found: SetResult) -> RenderableType:
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
    return Group(table, *[Text(f"note: {note}", style="dim") for note in found.notes], Text(""))


def heading(found: SetResult) -> str:
    """What was measured on what."""
    seeds = len(found.seeds)
    models = f"{found.strong} / {found.weak}" if found.is_pair else f"{len(found.models)} models"
    overlap = found.overlap
    split = f"{count(found.train_rows)} training rows" if found.train_rows else "no training"
    extra = f", similarity {overlap.similarity:.3f}, {count(overlap.contaminated)} contaminated" if overlap else ""
    seeds_text = f", {seeds} seeds" if seeds > 1 else ""
    return f"{found.name}: {models}\n{split}{extra}, {count(found.test_rows)} test rows{seeds_text}"


def training_table(result: TrainResult) -> RenderableType:
    """What was trained, on what, how good it is on the rows held out, and where it is."""
    training, validation = result.training, result.validation
    names = {"apgr": "APGR", "apgr_routellm": "APGR, RouteLLM's", "aiq": "AIQ", "best_quality": "quality at any price"}
    lines = [
        (
            "trained",
            f"{result.router} on {count(training.rows)} rows of {training.kind}, {training.fit_s:.1f} s",
        )
    ]
    lines += [("models", ", ".join(result.models))]
    if training.overlap is not None:
        near = training.overlap
        lines.append(("held out", f"{count(near.contaminated)} prompts dropped, similarity {near.similarity:.3f}"))
    if validation is not None:
        found = validation.intervals
        lines += [(text, with_interval(found[name])) for name, text in names.items() if found[name]]
        lines += [(f"CPT {level} %", share(found[f"cpt{level}"])) for level in (50, 80) if found[f"cpt{level}"]]
        lines.append(("measured on", f"{count(validation.rows)} held-out rows"))
    lines += [("note", note) for note in result.notes]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in [*lines, ("artifact", result.artifact)]:
        grid.add_row(Text(label), Text(text))
    return grid
