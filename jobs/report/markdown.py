"""The report as Markdown, for a pull request or a chat message: the result, the bill, and what to know about both.

Figures and names only: no prompt and no answer leaves the run this way. Names and messages are escaped, so that they can
neither break a table nor become links, mentions or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.report.formatting import count, known, measured, percent, points, routed_rows, usd, usd_bounds, usd_decimals

ERROR_KINDS = 5


def escaped(text: Any) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    line = re.sub(r"([\\`*_\[\]|~])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\u200b")  # no mention of anybody


def report_markdown(report: Mapping[str, Any], headline: str) -> str:
    """The whole text. `report`: with every key (`jobs.report.contents.complete_keys`)."""
    r = report
    lines = [f"### Headgate: {escaped(r['job'] or r['output'] or 'batch routing run')}", "", headline, ""]
    if not r["complete"]:
        lines += [f"**Not complete: {count(r['open'])} rows are open.** {escaped(r['next'] or '')}".rstrip(), ""]
    lines += [line for warning in r["warnings"] or [] for line in (f"**{escaped(warning)}**", "")]
    lines += _result(r)
    lines += [f"- {note}" for note in _notes(r)]
    if r["errors_by_kind"]:
        found = [[escaped(e["error"]), count(e["rows"])] for e in r["errors_by_kind"][:ERROR_KINDS]]
        lines += ["", *_table(["error", "rows"], found)]
    return "\n".join(lines).rstrip() + "\n"


def _result(r: Mapping[str, Any]) -> list[str]:
    qualities = r["quality_by_model"] or {}
    decimals = usd_decimals([r["spent_usd"], r["all_strong_usd"], r["all_weak_usd"]])
    rows = []
    for name in r["models"]:
        entry = r["by_model"].get(name) or {}
        n_rows = routed_rows(entry)
        share = percent(n_rows / r["rows"]) if known(n_rows) and r["rows"] else "-"
        rows.append([escaped(name), count(n_rows), share, usd(entry.get("cost_usd"), decimals), ""])
    rows.append(["**this run**", count(r["rows"]), "", f"**{usd(r['spent_usd'], decimals)}**", measured(r["quality"])])
    for label, name, key in (("all-weak", r["weak"], "all_weak_usd"), ("all-strong", r["strong"], "all_strong_usd")):
        dollars = f"{usd(r[key], decimals)} {usd_bounds(r[f'{key}_interval'])}".rstrip()
        rows.append([label, count(r["rows"]), "", dollars, measured(qualities.get(name))])
    return [*_table(["", "rows", "share", "dollars", "quality (95 % interval)"], rows), ""]


def _notes(r: Mapping[str, Any]) -> list[str]:
    """One fact a line; facts that are not known are left out, but for PGR."""
    purposes = {k: v for k, v in (r["spent_by_purpose"] or {}).items() if v}
    spent = ", ".join(f"{purpose} {usd(dollars)}" for purpose, dollars in purposes.items())
    notes = [
        f"bill: planned {usd(r['planned_usd'])}, spent {usd(r['spent_usd'])}{f' ({spent})' if spent else ''}, "
        f"lost {usd(r['lost_usd'])}, unspent {usd(r['unspent_usd'])}; saved {usd(r['saved_usd'])} against all-strong",
        f"PGR {measured(r['pgr'])}"
        + (f"; {points(r['pgr_over_random'])} above random routing" if r["pgr_over_random"] else ""),
    ]
    routing = [f"{kind.replace('_', '-')} {measured(r[kind])}" for kind in ("over_routing", "under_routing") if r[kind]]
    if routing:
        notes.append(", ".join(routing))
    if r["quality_source"]:
        notes.append(f"quality: {escaped(r['quality_source'])}")
    promise = r["promise"]
    if promise and known(promise.get("share")):
        kept = "kept" if promise.get("kept") else "not kept: dollars were short"
        notes.append(
            f"promise: {percent(promise['share'])} with {percent(promise.get('confidence'), 0)} confidence, {kept}"
        )
    for point in r["budget_changes"] or []:
        if point["change"]:
            change = f"{100 * point['quality_change']:+.1f} points of quality (predicted)"
            notes.append(f"{100 * point['change']:+.0f} % budget: {usd(point['usd'])}, {change}")
    notes += [f"note: {escaped(note)}" for note in r["notes"] or []]
    if r["errors"]:
        notes.append(f"{count(r['errors'])} rows with an error")
    return notes


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = [":--" if k == 0 else "--:" for k in range(len(heads))]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows)]
