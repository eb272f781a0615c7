"""Coverage of the intervals and violations of the promises, as tables of docs/results.md (simulation: promises.py).

The intervals that reports use, beside the textbook's on the same draws; `python -m benchmarks.coverage` has the others too.
Cost on one core: three minutes for 20,000 draws and 1,000 walks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results.promises import SETS, Case, coverage, load_case, violations
from benchmarks.results.tables import Amount, Say, markdown
from jobs.report.formatting import percent

DRAWS, WALKS = 20_000, 1000
QUICK_DRAWS, QUICK_WALKS, QUICK_ROWS = 200, 10, 400
SIZES, QUICK_SIZES = (30, 100, 200, 500), (30, 100)
WALK_SIZES, QUICK_WALK_SIZES = (200, 500), (100,)
USUAL = {
    ("run", "assisted *"): "quality of the run", ("run", "Wald"): "",
    ("strong", "assisted *"): "quality of all-strong", ("strong", "Wald"): "",
    ("gap", "bounded *"): "strong less weak", ("gap", "Wald"): "",
    ("PGR", "Fieller, by route *"): "PGR of the run", ("PGR", "bootstrap"): "",
}  # fmt: skip
"""Figure and method → what the table calls it; "" for the textbook's, below ours."""
FLOOR, CEILING = 0.945, 0.05
"""Least share of draws covered, and most promises broken, for the words below a table."""


def coverage_tables(data: Path, amount: Amount, say: Say) -> str:
    """One table: a line per set, figure and interval."""
    sizes = QUICK_SIZES if amount.quick else SIZES
    lines, ours = [], []
    for case in _cases(data, amount, say):
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for n in sizes:
            say(f"{case.name}: intervals of {n} rows")
            for record in coverage(case, n, QUICK_DRAWS if amount.quick else DRAWS, only=USUAL):
                found.setdefault((record["figure"], record["method"]), []).append(record)
        for key, what in USUAL.items():
            name = f"**{key[1].removesuffix(' *')}**" if what else key[1]
            lines.append([case.name, what, name, *[_cell(record) for record in found[key]]])
            ours += [record["coverage"] for record in found[key] if what]
    verdict = "every one" if min(ours) >= FLOOR else f"{sum(share >= FLOOR for share in ours)} of {len(ours)}"
    return "\n".join([
        markdown(["set", "figure", "interval", *[f"n = {n}" for n in sizes]], lines, left=3), "",
        f"Ours (bold): {verdict} of the cells at {100 * FLOOR:.1f} % or more, the least {percent(min(ours), 1)}.",
    ])  # fmt: skip


def _cell(record: dict[str, Any]) -> str:
    """Coverage / width, and in how many draws there was an interval at all."""
    # A ratio's interval may be very wide: its mean says nothing.
    width = record["median_width" if record["figure"] == "PGR" else "width"]
    given = "" if record["given"] > 0.9995 else f" ({percent(record['given'], 0)} given)"
    return f"{percent(record['coverage'], 1)} / {width:.3f}{given}"


def violation_tables(data: Path, amount: Amount, say: Say) -> str:
    """One table: a line per set, promise and sample size."""
    lines, broken = [], []
    walks = QUICK_WALKS if amount.quick else WALKS
    for case in _cases(data, amount, say):
        for n in QUICK_WALK_SIZES if amount.quick else WALK_SIZES:
            say(f"{case.name}: promises from {n} rows")
            for r in violations(case, n, walks):
                shares = [percent(r[name], 1) for name in ("violated", "strong_share", "true_share")]
                others = [percent(r[name], 1) for name in ("violated_by_point", "violated_by_cheapest_passing")]
                lines.append([case.name, f"`{_promise(r['promise'])}`", str(n), *shares, *others])
                broken.append(r["violated"])
    head = ["set", "promise", "n", "broken", "strong calls", "strong calls that would do",
            "broken without a bound", "broken by the cheapest cut that passes"]  # fmt: skip
    verdict = (
        "None is" if max(broken) <= CEILING else f"{sum(share > CEILING for share in broken)} of {len(broken)} are"
    )
    return "\n".join([
        markdown(head, lines, left=2), "",
        f"{verdict} broken in more than {percent(CEILING, 0)} of {walks:,} draws; the most: {percent(max(broken), 1)}.",
    ])  # fmt: skip


def _promise(name: str) -> str:
    kind, _, target = name.partition(" ")
    return f"{'guarantee: agreement' if kind == 'agreement' else kind} {target}"


def _cases(data: Path, amount: Amount, say: Say) -> list[Case]:
    """The sets that are there. Raises FileNotFoundError where none is."""
    found, missing = [], []
    for name in SETS:
        try:
            say(f"{name}: a router for each half")
            found.append(load_case(data, name, QUICK_ROWS, "length") if amount.quick else load_case(data, name))
        except FileNotFoundError as error:
            missing.append(str(error))
    if not found:
        raise FileNotFoundError("; ".join(missing))
    return found
