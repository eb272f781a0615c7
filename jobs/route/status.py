"""`headgate status`: where a run stands, read from the store alone, while it runs or after.

Cost: one pass over the journal's columns of keys and dollars, 50 bytes a row of one model at a time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Of one model, the judge or a cascade's further answers."""

    planned: int | None
    """Requests; None without a plan, and for what no plan counts."""
    answered: int
    rejected: int
    failed: int
    spent_usd: float
    lost_usd: float
    rows_per_s: float
    """Over the last RATE_WINDOW_S."""

    @property
    def wait_s(self) -> float | None:
        """Until every planned row is settled; None where nothing is left, or nothing moves."""
        left = (self.planned or 0) - self.answered - self.rejected
        return left / self.rows_per_s if left > 0 and self.rows_per_s else None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """`headgate status --json`, key for key."""

    output: str
    stage: str
    created: str
    held_by: str | None
    plan: int
    """Number of the newest, 0 for none."""
    rows: int | None
    models: dict[str, ModelStatus]
    planned_usd: float | None
    cap_usd: float | None
    spent_usd: float
    lost_usd: float
    eta_s: float | None
    open: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_status(output: str) -> RunStatus:
    """Stage, rows and dollars per model, rows a second of the last minute, seconds to go, holder. Raises SpecError."""
    run = load_run(output)
    scored, (number, bill) = run.entry("score", ScoreEntry), latest_plan(run.store)
    report = read_json(run.store, "report.json")
    journal = Journal(run.store)
    ladder = run.identity.models
    beside = [name for name in (JUDGE, SAMPLES) if name not in ladder and journal.segments(name)]
    now = time.time()
    models = {
        name: model_status(run.store, name, bill.by_model[name].requests if bill and name in ladder else None, now)
        for name in (*ladder, *beside)
    }
    _, owner = lease.current(run.store)
    waits = [model.wait_s for model in models.values() if model.wait_s is not None]
    return RunStatus(
        output=output,
        stage="done" if report and report.get("complete") else "answer" if bill else "plan" if scored else "score",
        created=run.identity.created,
        held_by=None if owner is None or owner.is_free else str(owner),
        plan=number,
        rows=sum(part.rows for part in scored.parts) if scored else None,
        models=models,
        planned_usd=bill.planned_usd if bill else None,
        cap_usd=bill.cap_usd if bill else None,
        spent_usd=sum(model.spent_usd for model in models.values()),
        lost_usd=sum(model.lost_usd for model in models.values()),
        eta_s=max(waits) if waits else None,
        open=report.get("open") if report else None,
    )


def model_status(store: Store, name: str, planned: int | None, now: float) -> ModelStatus:
    """What the journal says of one model at `now`."""
    journal = Journal(store)
    settled = journal.settlements(name)
    recent = recent_times(store, journal.segments(name), now - RATE_WINDOW_S)
    rows = {kind: int((settled.rank == rank).sum()) for kind, rank in RANKS.items()}
    return ModelStatus(
        planned=planned, answered=rows["answered"], rejected=rows["rejected"], failed=rows["failed"],
        spent_usd=float(settled.cost_usd.sum()), lost_usd=float(settled.lost_usd.sum()),
        rows_per_s=len(recent) / min(RATE_WINDOW_S, max(1.0, now - recent.min())) if len(recent) else 0.0,
    )  # fmt: skip


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


def status_table(status: RunStatus) -> Table:
    """The status for a terminal of 80 columns."""
    from jobs.report.formatting import count, duration, usd

    # Text, not markup: a path may hold brackets.
    title = Text(f"{status.output}\nstage {status.stage}, held by {status.held_by or 'nobody'}", style="table.title")
    table = Table(title=title, title_justify="left", width=79)
    table.add_column("model")
    for head in ("answered", "planned", "refused", "failed", "rows/s", "spent"):
        table.add_column(head, justify="right")
    for name, model in status.models.items():
        planned = "-" if model.planned is None else count(model.planned)
        counts = [count(model.answered), planned, count(model.rejected), count(model.failed)]
        table.add_row(Text(name), *counts, f"{model.rows_per_s:.1f}", usd(model.spent_usd))
    planned_usd = "-" if status.planned_usd is None else usd(status.planned_usd)
    table.caption = (
        f"{usd(status.spent_usd)} spent of {planned_usd} planned, {usd(status.lost_usd)} lost; "
        f"time to go {duration(status.eta_s) if status.eta_s else '-'}"
    )
    return table
