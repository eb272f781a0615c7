"""`headgate status`: where a run stands, read from the store alone, while it runs or after.

Cost: one pass over the journal's columns of keys and dollars, 50 bytes a row of one model at a time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from jobs.errors import StoreError
from jobs.journal.reader import READ_THREADS, Journal
from jobs.journal.rows import RANKS
from jobs.journal.segments import parse_name
from jobs.route.plan.plan import latest_plan
from jobs.route.score.entries import ScoreEntry
from jobs.spec.sections import JUDGE, SAMPLES
from jobs.storage import lease
from jobs.storage.manifest import load_run, read_json
from jobs.storage.store import Store

RATE_WINDOW_S = 60.0


def run_status(output: str) -> dict[str, Any]:
    """Stage, rows and dollars per model, rows a second of the last minute, seconds to go, holder. Raises SpecError."""
    run = load_run(output)
    scored, (number, bill) = run.entry("score", ScoreEntry), latest_plan(run.store)
    report = read_json(run.store, "report.json")
    journal = Journal(run.store)
    now = time.time()
    models: dict[str, dict[str, Any]] = {}
    ladder = run.identity.models
    beside = [name for name in (JUDGE, SAMPLES) if name not in ladder and journal.segments(name)]
    for name in [*ladder, *beside]:
        settled = journal.settlements(name)
        recent = recent_times(run.store, journal.segments(name), now - RATE_WINDOW_S)
        models[name] = {
            "planned": bill["by_model"][name]["requests"] if bill and name in ladder else None,
            **{kind: int((settled.rank == rank).sum()) for kind, rank in RANKS.items()},
            "spent_usd": float(settled.cost_usd.sum()), "lost_usd": float(settled.lost_usd.sum()),
            "rows_per_s": len(recent) / min(RATE_WINDOW_S, max(1.0, now - recent.min())) if len(recent) else 0.0,
        }  # fmt: skip
    _, owner = lease.current(run.store)
    holder = None if owner is None or owner.is_free else str(owner)
    stage = "done" if report and report.get("complete") else "answer" if bill else "plan" if scored else "score"
    waits = [
        (m["planned"] - m["answered"] - m["rejected"]) / m["rows_per_s"]
        for m in models.values()
        if m["planned"] and m["rows_per_s"] and m["planned"] > m["answered"] + m["rejected"]
    ]
    return {
        "output": output, "stage": stage, "created": run.identity.created, "held_by": holder, "plan": number,
        "rows": sum(part.rows for part in scored.parts) if scored else None, "models": models,
        "planned_usd": bill["planned_usd"] if bill else None, "cap_usd": bill["cap_usd"] if bill else None,
        "spent_usd": sum(m["spent_usd"] for m in models.values()), "lost_usd": sum(m["lost_usd"] for m in models.values()),
        "eta_s": max(waits) if waits else None, "open": report.get("open") if report else None,
    }  # fmt: skip


def recent_times(store: Store, names: Sequence[str], since: float) -> NDArray[np.float64]:
    """When what was settled after `since` was: each writer's segments from its newest back to the first without such a row."""
    by_writer: dict[str, list[str]] = defaultdict(list)
    for name in names:
        segment = parse_name(name)
        if segment is not None and segment.writer:  # merged ones are of before this start of the run
            by_writer[segment.writer].append(name)

    def of_writer(segments: list[str]) -> list[NDArray[np.float64]]:
        found = []
        for name in sorted(segments, reverse=True):
            try:
                batches = list(store.batches(name, ["settled_at"]))
            except StoreError:
                if store.exists(name):
                    raise
                break  # merged meanwhile
            times = np.concatenate([np.empty(0), *(batch["settled_at"].to_numpy() for batch in batches)])
            recent = times[times > since]
            if not len(recent):
                break
            found.append(recent)
        return found

    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = [part for parts in pool.map(of_writer, by_writer.values()) for part in parts]
    return np.concatenate([np.empty(0), *parts])


def status_table(status: dict[str, Any]) -> Table:
    """The status for a terminal of 80 columns."""
    from jobs.report.formatting import count, duration, usd

    held = status["held_by"] or "nobody"
    # Text, not markup: a path may hold brackets.
    title = Text(f"{status['output']}\nstage {status['stage']}, held by {held}", style="table.title")
    table = Table(title=title, title_justify="left", width=79)
    table.add_column("model")
    for name in ("answered", "planned", "refused", "failed", "rows/s", "spent"):
        table.add_column(name, justify="right")
    for name, m in status["models"].items():
        planned = "-" if m["planned"] is None else count(m["planned"])
        table.add_row(
            Text(name),
            count(m["answered"]),
            planned,
            count(m["rejected"]),
            count(m["failed"]),
            f"{m['rows_per_s']:.1f}",
            usd(m["spent_usd"]),
        )
    planned, eta = status["planned_usd"], status["eta_s"]
    table.caption = (
        f"{usd(status['spent_usd'])} spent of {usd(planned) if planned is not None else '-'} planned, "
        f"{usd(status['lost_usd'])} lost; time to go {duration(eta) if eta else '-'}"
    )
    return table
