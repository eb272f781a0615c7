"""evaluation.json and report.html of an evaluation; the page is one file without scripts or outside resources."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jinja2

from jobs.evaluation import charts as pictures
from jobs.evaluation import terminal as show
from jobs.evaluation.results import Evaluation, SetResult
from jobs.report.contents import json_safe
from jobs.report.formatting import count, known, percent, usd
from jobs.storage.store import Store
from routing.text import whole

PHONE = (356, 320)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "usd": usd}
    return environment


def render_page(found: Evaluation) -> str:
    """The whole page."""
    return (
        _environment()
        .get_template("evaluate.html.jinja")
        .render(title=", ".join(each.name for each in found.shown), sets=[_section(each) for each in found.shown])
    )


def _section(found: SetResult) -> dict[str, object]:
    """What the template shows of one set."""
    shown = show.columns(found)
    return {
        "name": found.name,
        "heading": show.heading(found).split("\n"),
        "verdict": verdict(found),
        "columns": [name for name, _ in shown],
        "rows": [
            {
                "name": name,
                "css": "" if baseline else pictures.color(found, name),
                "cells": [form(row) for _, form in shown],
                "router": None if baseline else found.routers[name],
                "baseline": baseline,
            }
            for name, row, baseline in show.all_rows(found)
        ],
        "singles": found.single_models,
        "priced": any(model.cost_usd is not None for model in found.single_models.values()),
        "notes": found.notes,
        "routers": [(name, pictures.color(found, name)) for name in found.routers],
        "greys": [
            (label, label.replace(" ", "-"))
            for key, label in pictures.GREY.items()
            if key in found.curves and found.curves[key].pgr
        ],
        "pgr": [pictures.pgr_chart(found), pictures.pgr_chart(found, *PHONE)],
        "cost": [pictures.cost_chart(found), pictures.cost_chart(found, *PHONE)],
    }


def verdict(found: SetResult) -> str:
    """The result in a sentence: the best router by the set's main figure, against the best baseline."""
    key, words = ("apgr", "APGR") if found.is_pair else ("aiq", "AIQ")
    routers = {
        name: interval
        for name, row in found.routers.items()
        if not row.seen and (interval := row.intervals[key]) and known(interval.mean)
    }
    asked_for = {candidate.partition(":")[0] for candidate in routers}
    baselines = {
        name: interval
        for name, row in found.baselines.items()
        if (interval := row[key]) and name not in {"oracle", *asked_for}
    }
    if not routers:
        return "No figure could be measured here; the notes say why."
    best = max(routers, key=lambda name: routers[name].mean)
    text = f"{best} is best: {words} {show.with_interval(routers[best])}"
    if not baselines:
        return text + "."
    rival = max(baselines, key=lambda name: baselines[name].mean)
    gap = routers[best].mean - baselines[rival].mean
    side = "above" if gap > 0 else "below"
    against = f"{show.TITLES[rival]}, {show.number(baselines[rival])}"
    return f"{text}, {abs(gap):.3f} {side} the best baseline ({against})."


def write_evaluation(store: Store, found: Evaluation) -> None:
    """Write evaluation.json, then report.html, each whole."""
    text = json.dumps(json_safe(found.to_json()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    store.write("evaluation.json", text.encode("utf-8", errors="backslashreplace"))
    store.write("report.html", whole(render_page(found)).encode())
