"""Points for the pictures of an evaluation: PGR against the share of strong calls, quality against dollars. Means over trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from routing.data.outcomes import Outcomes
from routing.metrics.pair import router_curve
from routing.metrics.plane import CostQuality, ndch, zero_router
from routing.metrics.sweep import Sweep, oracle, pair_points
from routing.metrics.trials import Trial

STEPS = 101
"""Points of a curve of shares."""
MAX_VERTICES = 60
Points = list[list[float]]


@dataclass(frozen=True, slots=True)
class RouterCurves:
    """A router's points, each [x, y]; None for a curve without meaning."""

    pgr: Points | None = None
    """[share of strong calls, PGR], for a pair."""
    cost: Points | None = None
    """[dollars a row, quality]."""
    ndch: Points | None = None
    """The hull of `cost`."""

    def to_json(self) -> dict[str, object]:
        return {"pgr": self.pgr, "cost": self.cost, "ndch": self.ndch}


@dataclass(frozen=True, slots=True)
class ReferenceCurves:
    """What needs no router, over all rows of the table; None without cost."""

    ndch: Points | None = None
    """The hull of the single models: the Zero router."""
    oracle: list[float] | None = None
    """Its one point, [dollars a row, quality]."""

    def to_json(self) -> dict[str, object]:
        return {"ndch": self.ndch, "oracle": self.oracle}


def router_curves(trials: Sequence[Trial], table: Outcomes, pair: bool) -> RouterCurves:
    """The curves of one router, means over its trials (at least one)."""
    pgr = _pgr(trials, table) if pair else None
    if table.cost_usd is None or any(trial.price is None for trial in trials):
        return RouterCurves(pgr)
    dollars = np.linspace(*_range(table), STEPS)
    qualities = []
    for trial in trials:
        quality, cost = table.quality[trial.rows].astype(np.float64), table.cost_usd[trial.rows]
        if pair:
            points = pair_points(trial.predicted[:, 1] - trial.predicted[:, 0], *quality.T, *cost.T)
        else:
            points = Sweep(trial.predicted, quality, cost, trial.price).points()
        qualities.append(np.interp(dollars, *points, left=np.nan))
    known = ~np.isnan(qualities).all(axis=0)
    mean = np.nanmean(np.array(qualities)[:, known], axis=0)
    return RouterCurves(pgr, _pairs(dollars[known], mean), _pairs(*_thinned(ndch(dollars[known], mean))))


def _pgr(trials: Sequence[Trial], table: Outcomes) -> Points | None:
    share = np.linspace(0, 1, STEPS)
    rows = []
    for trial in trials:
        weak, strong = table.quality[trial.rows].astype(np.float64).T
        curve = router_curve(trial.predicted[:, 1] - trial.predicted[:, 0], weak, strong)
        gap = strong.mean() - weak.mean()
        if abs(gap) < 1e-12:
            return None
        rows.append((np.interp(share, curve.share, curve.quality) - weak.mean()) / gap)
    return _pairs(share, np.mean(rows, axis=0))


def _range(table: Outcomes) -> tuple[float, float]:
    """Dollars a row of the cheapest and the dearest single model."""
    assert table.cost_usd is not None
    means = table.cost_usd.mean(axis=0)
    return float(means.min()), float(means.max())


def reference_curves(table: Outcomes) -> ReferenceCurves:
    """The Zero router's hull and the oracle's point."""
    if table.cost_usd is None:
        return ReferenceCurves()
    quality = table.quality.astype(np.float64)
    best = oracle(quality, table.cost_usd)
    point = [float(best.cost_usd.mean()), float(best.quality.mean())]
    return ReferenceCurves(_pairs(*zero_router(quality, table.cost_usd)), point)


def _thinned(hull: CostQuality) -> CostQuality:
    """At most MAX_VERTICES of a hull's vertices: enough for a picture."""
    at = np.unique(np.linspace(0, len(hull.cost_usd) - 1, MAX_VERTICES).round().astype(int))
    return CostQuality(hull.cost_usd[at], hull.quality[at])


def _pairs(x: ArrayLike, y: ArrayLike) -> Points:
    return [[float(a), float(b)] for a, b in np.stack([x, y], axis=1)]
