"""`headgate status`: where a run stands, read from the store alone, while it runs or after."""

from __future__ import annotations

import time
from typing import Any

from rich.table import Table

from jobs import lease
from jobs.journal import Journal
from jobs.manifest import load_run, read_json
from jobs.plan import latest_plan
from jobs.spec import JUDGE, SAMPLES

RATE_WINDOW_S = 60.0


def run_status(output: str) -> dict[str, Any]:
    """Stage, rows and dollars per model, rows a second of the last minute, seconds to go, holder. Raises SpecError."""
    run = load_run(output)
    scored, (number, bill), report = run.entry("score"), latest_plan(run.store), read_json(run.store, "report.json")
    journal = Journal(run.store)
    now = time.time()
    models: dict[str, dict[str, Any]] = {}
    ladder = run.identity["models"]
    beside = [name for name in (JUDGE, SAMPLES) if name not in ladder and journal.segments(name)]
    for name in [*ladder, *beside]:
        columns = ["row_key", "kind", "cost_usd", "lost_usd", "attempts", "settled_at"]
        table = journal.read(name, None, columns).to_pydict()
        kinds = table["kind"]
        recent = [t for t in table["settled_at"] if t > now - RATE_WINDOW_S]
        models[name] = {
            "planned": bill["by_model"][name]["requests"] if bill and name in ladder else None,
            "answered": kinds.count("answered"), "rejected": kinds.count("rejected"), "failed": kinds.count("failed"),
            "spent_usd": sum(table["cost_usd"]), "lost_usd": sum(table["lost_usd"]),
            "rows_per_s": len(recent) / min(RATE_WINDOW_S, max(1.0, now - min(recent))) if recent else 0.0,
        }  # fmt: skip
    _, owner = lease.current(run.store)
    holder = None if owner is None or lease.is_free(owner) else lease.describe(owner)
    stage = "done" if report and report.get("complete") else "answer" if bill else "plan" if scored else "score"
    waits = [
        (m["planned"] - m["answered"] - m["rejected"]) / m["rows_per_s"]
        for m in models.values()
        if m["planned"] and m["rows_per_s"] and m["planned"] > m["answered"] + m["rejected"]
    ]
    return {
        "output": output, "stage": stage, "created": run.identity["created"], "held_by": holder, "plan": number,
        "rows": sum(part["rows"] for part in scored["parts"]) if scored else None, "models": models,
        "planned_usd": bill["planned_usd"] if bill else None, "cap_usd": bill["cap_usd"] if bill else None,
        "spent_usd": sum(m["spent_usd"] for m in models.values()), "lost_usd": sum(m["lost_usd"] for m in models.values()),
        "eta_s": max(waits) if waits else None, "open": report.get("open") if report else None,
    }  # fmt: skip


def status_table(status: dict[str, Any]) -> Table:
    """The status for a terminal of 80 columns."""
    from jobs.figures import count, duration, usd

    held = status["held_by"] or "nobody"
    table = Table(title=f"{status['output']}\nstage {status['stage']}, held by {held}", title_justify="left", width=79)
    table.add_column("model")
    for name in ("answered", "planned", "refused", "failed", "rows/s", "spent"):
        table.add_column(name, justify="right")
    for name, m in status["models"].items():
        planned = "-" if m["planned"] is None else count(m["planned"])
        table.add_row(
            name,
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
