"""What a cut is made from: the job, its rows, what calls cost, and what is paid already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.route.plan.estimate import Estimate
from jobs.route.plan.plan import Paid, Sample, WeakFirst
from jobs.route.plan.rows import Rows
from jobs.spec.job import JobSpec


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands between two bands: read once, since it takes a pass over the journal."""

    paid: Paid
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that `jobs.route.plan.cut.decide` looks at. Legend: n rows, m models."""

    spec: JobSpec
    rows: Rows
    estimates: Mapping[str, Estimate]
    too_long: NDArray[np.bool_]
    """(n, m) True where a prompt does not fit a model."""
    maybe_too_long: NDArray[np.bool_] | None = None
    """(n, m) True where a prompt may not fit a model, which the model itself will say: it goes up then."""
    paid: Paid | None = None
    """What is settled. Rows with an answer keep the best one they have, at no further cost, and the dollars left are cut over the
    others. Rows of the sample are cut as if nothing were paid: what the policy makes of them is what the sample measures."""
    sample: Sample | None = None
    """The one that was drawn before; None draws it where the job has one."""
    judged_usd: float | None = None
    """What judge and further answers have had, once they are through; None expects the judge's dollars."""
    weak_first: WeakFirst | None = None
    """Rows that a cascade's weak model answers whatever the cut makes of them: what it costs there is gone before the cut, and an
    upgrade costs the whole of the dearer call."""
