"""The run's report: `report.json` for programs, `report.html` for people, `report.md` for a chat or a pull request.

The page is one file without scripts or outside resources: it opens from a disk or a mailbox, prints, and follows the
reader's light or dark setting. Whatever a model or a user wrote is escaped by Jinja's autoescape or by the XML
serialiser of `jobs.report.charts`; a Content-Security-Policy in the page forbids scripts on top. What is not known stays null
in the JSON and is called "not measured" on the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from jobs.report import charts, score_charts
from jobs.report.contents import complete_keys, headline, saved_share
from jobs.report.formatting import (
    bounds,
    count,
    known,
    measured,
    percent,
    points,
    routed_rows,
    usd,
    usd_bounds,
    usd_decimals,
)
from jobs.report.markdown import escaped, report_markdown
from jobs.storage.store import Store
from routing.text import whole

# fmt: off
__all__ = [
    "complete_keys", "headline", "render_html", "render_markdown", "write_report",
]
POLICIES = {
    "strong_share": lambda v: f"policy: {percent(v)} strong",
    "budget_usd": lambda v: f"policy: budget {usd(v)}",
    "threshold": lambda v: f"policy: threshold {v:g}",
    "min_quality": lambda v: f"policy: {percent(v)} of the quality gap",
    "guarantee": lambda v: f"policy: {percent(v)} agreement",
}
PHONE_WIDTH, PHONE_HEIGHT = 356, 300


def _model_rows(r: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One dict per model of the run, cheapest first, for the table with bars."""
    by_model = {name: r["by_model"].get(name) or {} for name in r["models"]}
    routed = {name: routed_rows(m) or 0 for name, m in by_model.items()}
    rows = sum(routed.values())
    dollars = sum(m.get("cost_usd") or 0 for m in by_model.values())
    return [
        {
            "name": name,
            "rows": routed[name],
            "row_share": routed[name] / rows if rows else 0.0,
            "given": m.get("rows") or 0,
            "answers": m.get("answers"),
            "cost_usd": m.get("cost_usd"),
            "usd_share": (m.get("cost_usd") or 0) / dollars if dollars else 0.0,
            "per_thousand": 1000 * (m.get("cost_usd") or 0) / m["answers"] if m.get("answers") else None,
            "prompt_tokens": m.get("prompt_tokens"),
            "completion_tokens": m.get("completion_tokens"),
            "quality": (r["quality_by_model"] or {}).get(name),
        }
        for name, m in by_model.items()
    ]


def _promise(r: Mapping[str, Any]) -> dict[str, str]:
    """What the policy promised, as label and text."""
    promise = r["promise"]
    if not promise:
        return {}
    share, sure = percent(promise.get("share")), percent(promise.get("confidence"), 0)
    of = "agreement with the strong model" if promise.get("kind") == "guarantee" else "of the quality gap"
    facts = {
        "promised": f"{share} {of}, with {sure} confidence",
        "kept": "yes" if promise.get("kept") else "no: dollars were short",
        "rows that vouch for it": count(promise.get("rows")),
        "share of strong rows": percent(promise.get("strong_share")),
        "without certainty": f"{percent(promise.get('point_strong_share'))} would do by the sample's own figures",
        "certainty costs": usd(promise.get("certainty_usd")),
    }
    if r["agreement"]:
        facts["measured on other rows"] = f"{measured(r['agreement'])} agreement"
    if not promise.get("below_all_strong", True):
        facts["note"] = "the sample vouches for nothing cheaper than all-strong"
    if promise.get("best_rows") is not None:
        pays = "one more row would still pay" if promise.get("one_more_row_pays") else "one more row would not pay"
        facts["sample size"] = f"best with {count(promise['best_rows'])} rows; {pays}"
    return facts


def _money_decimals(r: Mapping[str, Any]) -> int:
    """One number of decimals for the whole bill, so that its columns line up and visibly add up."""
    return usd_decimals(r[key] for key in ("planned_usd", "spent_usd", "all_strong_usd", "all_weak_usd"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"usd": usd, "count": count, "percent": percent, "points": points, "nb": _no_break}
    return environment


def _no_break(text: str) -> str:
    """A share and its % sign stay on one line."""
    return text.replace(" %", "\u00a0%")


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    r = complete_keys(report)
    policy = r["policy"] or {}
    pictures = {
        "cost_quality": charts.cost_quality(r),
        "cost_quality_phone": charts.cost_quality(r, PHONE_WIDTH, PHONE_HEIGHT),
        "histogram": score_charts.score_histogram(r),
        "histogram_phone": score_charts.score_histogram(r, PHONE_WIDTH, 220),
        "calibration": score_charts.calibration(r),
        "calibration_phone": score_charts.calibration(r, PHONE_WIDTH, 260),
    }
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            r=r,
            headline=headline(r),
            models=_model_rows(r),
            placed=[p.label.removeprefix("all ") for p in charts.points_of(r) if not p.is_run],
            policy=POLICIES[policy["kind"]](policy["value"]) if policy.get("kind") in POLICIES else "",
            saved_share=saved_share(r),
            error_share=r["errors"] / r["rows"] if r["rows"] else 0.0,
            money=_money_decimals(r),
            pictures=pictures,
            color=lambda name: charts.color(r["models"], name),
            interval=bounds,
            dollars_between=usd_bounds,
            figures=lambda value: f"{value:.3g}" if known(value) else str(value),
            verdict=lambda quality: {1: "right", 0: "wrong"}.get(quality, percent(quality)),
            promise=_promise(r),
            category_of=lambda group: group["category"],
            length_of=lambda group: f"{group['from_bytes']:,} to {group['to_bytes']:,}",
            share_of=lambda figure: percent(figure.get("mean") if isinstance(figure, Mapping) else figure),
        )
    )


def write_report(store: Store, report: Mapping[str, Any]) -> None:
    """Write report.json, report.html and report.md, each whole; texts that are no valid Unicode are made so."""
    plain = complete_keys(report)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate (half an emoji, cut by max_tokens) is legal in JSON as \udXXX, and in no page.
    store.write("report.json", text.encode("utf-8", errors="backslashreplace"))
    store.write("report.html", whole(render_html(plain)).encode())
    store.write("report.md", whole(render_markdown(plain)).encode())


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report in figures and names alone, as Markdown."""
    plain = complete_keys(report)
    strong = plain["strong"]
    return report_markdown(plain, headline(plain | {"strong": strong and escaped(strong)}))
