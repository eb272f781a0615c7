"""evaluation.json and report.html of an evaluation; the page is one file without scripts or outside resources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from jobs.evaluation import charts as pictures
from jobs.evaluation import terminal as show
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


def render_page(found: Mapping[str, Any]) -> str:
    """The whole page. `found` is what `run_evaluate` returns."""
    sets = (
        [found] if "sets" not in found else [*found["sets"].values(), *([found["pooled"]] if found["pooled"] else [])]
    )
    return (
        _environment()
        .get_template("evaluate.html.jinja")
        .render(title=", ".join(each["name"] for each in sets), sets=[_section(each) for each in sets], found=found)
    )


def _section(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of one set."""
    shown = show.columns(found)
    return {
        "name": found["name"],
        "heading": show.heading(found).split("\n"),
        "verdict": verdict(found),
        "columns": [name for name, _ in shown],
        "rows": [
            {
                "name": name,
                "css": "" if baseline else pictures.color(found, name),
                "cells": [form(row) for _, form in shown],
                "speed": row.get("predict_rows_per_s"),
                "chosen": row.get("chosen"),
                "seen": row.get("seen", False),
                "baseline": baseline,
            }
            for name, row, baseline in show.all_rows(found)
        ],
        "singles": found["single_models"],
        "priced": any(model["cost_usd"] is not None for model in found["single_models"].values()),
        "notes": found["notes"],
        "routers": [(name, pictures.color(found, name)) for name in found["routers"]],
        "greys": [
            (label, label.replace(" ", "-"))
            for key, label in pictures.GREY.items()
            if found["curves"].get(key, {}).get("pgr")
        ],
        "pgr": [pictures.pgr_chart(found), pictures.pgr_chart(found, *PHONE)],
        "cost": [pictures.cost_chart(found), pictures.cost_chart(found, *PHONE)],
    }


def verdict(found: Mapping[str, Any]) -> str:
    """The result in a sentence: the best router by the set's main figure, against the best baseline."""
    key, words = ("apgr", "APGR") if found["weak"] is not None else ("aiq", "AIQ")
    unseen = {name: row for name, row in found["routers"].items() if not row.get("seen")}
    routers = {name: row[key] for name, row in unseen.items() if row[key] and known(row[key]["mean"])}
    asked_for = {candidate.partition(":")[0] for candidate in routers}
    baselines = {
        name: row[key] for name, row in found["baselines"].items() if row[key] and name not in {"oracle", *asked_for}
    }
    if not routers:
        return "No figure could be measured here; the notes say why."
    best = max(routers, key=lambda name: routers[name]["mean"])
    text = f"{best} is best: {words} {show.with_interval(routers[best])}"
    if not baselines:
        return text + "."
    rival = max(baselines, key=lambda name: baselines[name]["mean"])
    gap = routers[best]["mean"] - baselines[rival]["mean"]
    side = "above" if gap > 0 else "below"
    against = f"{show.TITLES[rival]}, {show.number(baselines[rival])}"
    return f"{text}, {abs(gap):.3f} {side} the best baseline ({against})."


def write_evaluation(store: Store, found: Mapping[str, Any]) -> None:
    """Write evaluation.json, then report.html, each whole."""
    plain = json_safe(found)
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    store.write("evaluation.json", text.encode("utf-8", errors="backslashreplace"))
    store.write("report.html", whole(render_page(plain)).encode())
