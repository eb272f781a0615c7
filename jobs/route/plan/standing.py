"""jobs/route/plan/standing.py: carried here."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.route.plan.estimate import Estimate
from jobs.route.plan.plan import Paid


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands between two bands: read once, since it takes a pass over the journal."""

    paid: Paid
    estimates: dict[str, Estimate]
