"""docs/reliability.md from the outcomes: one row per fault, what was promised beside what was measured."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence

from tests.chaos.setting import BUDGET_USD, IN_FLIGHT, LATENCY_S, ROWS, Outcome

HEADER = """# What breaks, and what it costs

Made by `make chaos`; do not edit. Each fault is done to a real job: `python -m jobs.route` as a process, a replay server that
counts what it answered, a local disk or S3 (moto) over HTTP. The job has {rows} rows, two API models at {latency} s a reply and
{in_flight} requests in flight each, and (but where noted) `policy: {{budget_usd: {budget}}}`, so that rank bands and re-cuts
are under fire too. A start that ends with exit 3 is followed by the same command, as a scheduler would give it, until it
ends with 0.

* **lost**: input rows that do not come out with the one right answer. **dup**: rows that come out twice. The goal is 0.
* **repeated**: answers that the *server* gave a second time; in brackets how many were out of reach at most: in flight in a
  process (or at a server) when it was stopped, or in the open segment (2 s) of a node that was lost with its disk. The goal is
  no more than that, and 0 elsewhere.
* **over**: dollars by the server's own tokens above the cap, answers that nobody was left to read included. The goal is 0.
* **starts**: how often the command was given, a job. **time lost**: wall time beyond the undisturbed run, median (and worst).
  Undisturbed: {bases}. A start alone takes most of it: loading, Ray, the plan.

"""
COLUMNS = ("fault", "runs", "rows in", "rows out", "lost", "dup", "repeated", "over, $", "starts", "time lost, s")


def render(
    outcomes: Sequence[Outcome], bases: Mapping[str, float], skipped: Mapping[str, str], missing: Sequence[str]
) -> str:
    """The page. `skipped`: fault → why it could not be done here; `missing`: faults for which there was no time."""
    base_text = ", ".join(f"{seconds:.0f} s ({kind})" for kind, seconds in sorted(bases.items())) or "not measured"
    text = HEADER.format(
        rows=ROWS, latency=f"{LATENCY_S:g}", in_flight=IN_FLIGHT, budget=f"{BUDGET_USD:g}", bases=base_text
    )
    families: dict[str, dict[str, list[Outcome]]] = {}
    for each in outcomes:
        families.setdefault(each.family, {}).setdefault(each.fault, []).append(each)
    for family, faults in families.items():
        text += f"## {family[0].upper() + family[1:]}\n| " + " | ".join(COLUMNS) + " |\n"
        text += "|" + "---|" * len(COLUMNS) + "\n"
        text += "".join(_row(fault, runs) for fault, runs in faults.items()) + "\n"
    text += _totals(outcomes)
    if skipped:
        text += "\nNot possible on the machine of this table:\n"
        text += "".join(f"* {fault}: {why}\n" for fault, why in skipped.items())
    if missing:
        text += "\nNot run for lack of time: " + "; ".join(missing) + ".\n"
    return text


def _row(fault: str, runs: Sequence[Outcome]) -> str:
    kills = sum(run.kills for run in runs)
    lost_s = sorted(run.lost_s for run in runs)
    time_lost = f"{statistics.median(lost_s):.0f}" + (f" ({lost_s[-1]:.0f})" if len(runs) > 1 else "")
    starts = f"{sum(run.starts for run in runs) / len(runs):.3g}"
    spare = sum(run.spare for run in runs)
    cells = (
        fault + (f" ({kills} in all)" if kills > len(runs) else ""),
        len(runs),
        f"{sum(run.rows_in for run in runs):,}",
        f"{sum(run.rows_out for run in runs):,}",
        sum(run.lost for run in runs),
        sum(run.duplicates for run in runs),
        f"{sum(run.repeated for run in runs)}" + (f" ({spare})" if spare else ""),
        f"{max(run.over_usd for run in runs):.4g}",
        starts,
        time_lost,
    )
    row = "| " + " | ".join(str(cell) for cell in cells) + " |\n"
    problems = [problem for run in runs for problem in run.problems]
    return row + "".join(
        f"| ↳ {problem.replace('|', '/')} |" + " |" * (len(COLUMNS) - 1) + "\n" for problem in problems
    )


def _totals(outcomes: Sequence[Outcome]) -> str:
    bad = [each for each in outcomes if not each.ok]
    rows = sum(each.rows_in for each in outcomes)
    return (
        f"In all {len(outcomes)} jobs, {rows:,} rows, {sum(each.starts for each in outcomes)} starts and "
        f"{sum(each.kills for each in outcomes)} kills: {sum(each.lost for each in outcomes)} lost, "
        f"{sum(each.duplicates for each in outcomes)} duplicates, {sum(each.repeated for each in outcomes)} repeated, "
        f"{sum(each.over_usd for each in outcomes):.4g} dollars over; {len(bad)} jobs missed a goal. "
        f"Measured on {os.cpu_count()} cores at a load average of {os.getloadavg()[2]:.0f}.\n"
    )
