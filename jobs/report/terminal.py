"""What the terminal shows before and after a run: the bill of `headgate plan`, the summary of `headgate run`.

Both fit 80 columns: long model names are cut, figures never.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.report.formatting import count, duration, known, measured, percent, points, usd, usd_decimals

WIDTH = 80
SHORTEST_NAME = 10
WARNING = "warning"
REQUEST_LINES = 24
MISROUTED = {"over_routing": "of the strong rows needlessly", "under_routing": "of the others wrongly not"}


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], totals: Sequence[Sequence[str]]) -> Table:
    """Names to the left, figures to the right; `totals` stand below the rule, the first of them in bold."""
    columns = list(zip(*rows, *totals, strict=True))
    widths = [max(map(len, [*head.split("\n"), *column])) for head, column in zip(heads, columns, strict=True)]
    widths[0] = max(min(widths[0], WIDTH - 2 - sum(widths[1:]) - 2 * len(widths[1:])), SHORTEST_NAME)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for k, head in enumerate(heads):
        justify, cut = ("right", "fold") if k else ("left", "ellipsis")
        table.add_column(head, justify=justify, width=widths[k], no_wrap=True, overflow=cut)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(Text, row))
    table.add_section()
    for k, row in enumerate(totals):
        table.add_row(*map(Text, row), style="" if k else "bold")
    return table


def _notes(notes: Sequence[tuple[str, str]]) -> Table:
    """Label and text, the text wrapped under itself."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in notes:
        grid.add_row(Text(label), Text(text, style="bold" if label == WARNING else ""))
    return grid


def _share(part: Any, whole: Any) -> str:
    return percent(part / whole) if known(part) and known(whole) and whole else "-"


def summary_table(report: Mapping[str, Any]) -> RenderableType:
    """Rows, share, dollars and quality: each model's part, the run, its two alternatives; PGR; what to do next.

    `report` is the dict of report.json; any key may be missing.
    """
    by_model, qualities = report.get("by_model") or {}, report.get("quality_by_model") or {}
    listed = list(report.get("models") or by_model)
    rows, run_usd, strong_usd = report.get("rows"), report.get("spent_usd"), report.get("all_strong_usd")
    weak_usd = report.get("all_weak_usd")
    decimals = usd_decimals([run_usd, strong_usd, weak_usd])
    parts = []
    for name in [*listed, *(name for name in by_model if name not in listed)]:
        entry = by_model.get(name) or {}
        n_rows, dollars = entry.get("routed", entry.get("rows")) or 0, entry.get("cost_usd") or 0.0
        parts.append([name, count(n_rows), _share(n_rows, rows), usd(dollars, decimals), "", ""])
    totals = [
        [
            "this run",
            count(rows),
            "",
            usd(run_usd, decimals),
            _share(run_usd, strong_usd),
            measured(report.get("quality")),
        ]
    ]
    for label, dollars, name in (
        ("all-weak", weak_usd, report.get("weak")),
        ("all-strong", strong_usd, report.get("strong")),
    ):
        figures = [usd(dollars, decimals), _share(dollars, strong_usd), measured(qualities.get(name))]
        totals.append([label, count(rows), "", *figures])
    heads = ("", "rows", "share", "dollars", "of all-\nstrong", "quality\n[95 % interval]")
    return Group(_table("Result", heads, parts, totals), _notes(_summary_notes(report)))


def _summary_notes(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    saved = report.get("saved_usd")
    share = f" ({_share(saved, report.get('all_strong_usd'))} of all-strong)" if known(saved) else ""
    of_gap = " of the quality gap recovered" if report.get("pgr") else ""
    notes = [(WARNING, str(warning)) for warning in report.get("warnings") or []]
    notes.append(("PGR", measured(report.get("pgr")) + of_gap))
    beyond = report.get("pgr_over_random")
    if beyond:
        notes.append(("router", f"{points(beyond)} of PGR against random routing at the same share"))
    wrong = [f"{measured(report[key])} {words}" for key, words in MISROUTED.items() if report.get(key)]
    if wrong:
        notes.append(("routing", ", ".join(wrong)))
    notes.append(("saved", usd(saved) + share))
    measuring = (report.get("spent_by_purpose") or {}).get("shadow")
    if measuring and report.get("sample_rows"):
        asked = f"{count(report['sample_rows'])} rows were asked of every model: {usd(measuring)} of the dollars"
        notes.append(("sample", asked))
    troubles = [f"{count(report[key])} {key}" for key in ("errors", "open") if report.get(key)]
    notes += [("note", str(note)) for note in report.get("notes") or []]
    if report.get("lost_usd"):
        troubles.append(f"{usd(report['lost_usd'])} lost to failed requests")
    if troubles:
        notes.append(("rows", ", ".join(troubles)))
    return notes + ([("next", str(report["next"]))] if report.get("next") else [])


def bill_table(bill: Mapping[str, Any]) -> RenderableType:
    """What a run will cost: rows, dollars and range per model, alternatives, quality, hours, one rendered request.

    `bill` is the dict of bill.json; any key may be missing.
    """
    by_model, rows = bill.get("by_model") or {}, bill.get("rows")
    totals_usd = [bill.get(key) for key in ("planned_usd", "all_strong_usd", "all_weak_usd")]
    decimals = usd_decimals([*totals_usd, *(part.get("usd") for part in by_model.values())])
    parts = [
        [
            name,
            count(part.get("rows")),
            _share(part.get("rows"), rows),
            usd(part.get("usd"), decimals),
            _range(part.get("usd_low"), part.get("usd_high"), decimals),
            usd(part.get("usd_bound"), decimals) if known(part.get("usd_bound")) else "-",
        ]
        for name, part in by_model.items()
    ]
    sample = bill.get("sample") or {}
    if sample.get("rows"):
        parts.append(["sample, every model", count(sample["rows"]), "", usd(sample.get("usd"), decimals), "", ""])
    if bill.get("judge_usd"):
        parts.append(["sample, judge", "", "", usd(bill["judge_usd"], decimals), "", ""])
    low, high = bill.get("range_usd") or (None, None)
    bound = usd(bill.get("bound_usd"), decimals) if known(bill.get("bound_usd")) else "-"
    totals = [["planned", count(rows), "", usd(totals_usd[0], decimals), _range(low, high, decimals), bound]]
    totals.append(["all-weak", count(rows), "", usd(totals_usd[2], decimals), "", ""])
    totals.append(["all-strong", count(rows), "", usd(totals_usd[1], decimals), "", ""])
    table = _table("Plan", ("", "rows", "share", "dollars", "range", "at most"), parts, totals)
    shown: list[RenderableType] = [table, _notes(_bill_notes(bill))]
    if bill.get("request"):
        shown += [Text("\nOne request, as it will be sent", style="bold"), Text(_request(bill["request"]))]
    return Group(*shown)


def _range(low: Any, high: Any, decimals: int) -> str:
    """$0.042-0.062."""
    return f"{usd(low, decimals)}-{usd(high, decimals).removeprefix('$')}" if known(low) and known(high) else "-"


def _bill_notes(bill: Mapping[str, Any]) -> list[tuple[str, str]]:
    quality, hours, policy = bill.get("predicted_quality"), bill.get("hours") or {}, bill.get("policy") or {}
    shown = measured(quality) if isinstance(quality, Mapping) else percent(quality) if known(quality) else "not known"
    notes = [("quality", f"{shown} expected, {percent(bill.get('strong_share'))} of rows to the strong model")]
    if policy:
        at = f", cut at score {bill['cut_score']:.4g}" if known(bill.get("cut_score")) else ""
        notes.append(("policy", f"{policy.get('kind')} {policy.get('value')}{at}"))
    notes += [("rates", line) for name, part in (bill.get("by_model") or {}).items() if (line := _rates(name, part))]
    if bill.get("cap_usd") is not None:
        notes.append(("cap", usd(bill["cap_usd"])))
    notes += [("cluster", line) for line in bill.get("places") or []]
    if known(hours.get("total")):
        assumed = " (rate assumed)" if hours.get("assumed") else ""
        notes.append(("time", duration(hours["total"] * 3600) + assumed))
    reasons = (("input_errors", "rows with input errors"), ("duplicates", "duplicates"))
    skipped = [f"{count(bill[key])} {words}" for key, words in reasons if bill.get(key)]
    if skipped:
        notes.append(("not asked", ", ".join(skipped)))
    notes += [("note", str(note)) for note in bill.get("notes") or []]
    notes += [("check", f"{model}: {detail}") for model, detail in (bill.get("checks") or {}).items()]
    return notes + [("assumed", str(assumption)) for assumption in bill.get("assumptions") or []]


def _rates(name: str, part: Mapping[str, Any]) -> str:
    """What a model's calls would cost, made otherwise: `gpt: $12 at once, $6 in batches (up to 24 h)`."""
    rates = part.get("usd_by_rate") or {}
    words = {"standard": "at once", "flex": "flex (slower)", "batch": "in batches (up to 24 h)"}
    shown = [f"{usd(rates[rate])} {how}" for rate, how in words.items() if known(rates.get(rate))]
    return f"{name}: {', '.join(shown)}" if len(shown) > 1 else ""


def _request(request: Any) -> str:
    """The request as JSON, long lines and long requests cut."""
    lines = json.dumps(request, indent=2, ensure_ascii=False).splitlines()
    lines = [line if len(line) < WIDTH else line[: WIDTH - 2] + "…" for line in lines]
    return "\n".join(lines[:REQUEST_LINES] + ["…"] * (len(lines) > REQUEST_LINES))
