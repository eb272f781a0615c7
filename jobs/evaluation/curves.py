"""Points for the pictures of an evaluation: PGR against the share of strong calls, quality against dollars. Means over trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def curves(trials: Sequence[Trial], table: Outcomes, pair: bool) -> dict[str, Any]:
    """{"pgr": [[share, PGR]…], "cost": [[dollars a row, quality]…], "ndch": the hull of the latter}; null where without meaning.

    Without trials: the hull of the single models (the Zero router) and the oracle's point, over all rows of the table.
    """
    if not trials:
        return _references(table)
    found: dict[str, Any] = {"pgr": None, "cost": None, "ndch": None}
    if pair:
        found["pgr"] = _pgr(trials, table)
    if table.cost_usd is not None and all(trial.price is not None for trial in trials):
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
        found["cost"] = _pairs(dollars[known], mean)
        found["ndch"] = _pairs(*_thinned(ndch(dollars[known], mean)))
    return found


def _pgr(trials: Sequence[Trial], table: Outcomes) -> list[list[float]] | None:
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


def _references(table: Outcomes) -> dict[str, Any]:
    if table.cost_usd is None:
        return {"ndch": None, "oracle": None}
    quality = table.quality.astype(np.float64)
    best = oracle(quality, table.cost_usd)
    point = [float(best.cost_usd.mean()), float(best.quality.mean())]
    return {"ndch": _pairs(*zero_router(quality, table.cost_usd)), "oracle": point}


def _thinned(hull: CostQuality) -> CostQuality:
    """At most MAX_VERTICES of a hull's vertices: enough for a picture."""
    at = np.unique(np.linspace(0, len(hull.cost_usd) - 1, MAX_VERTICES).round().astype(int))
    return CostQuality(hull.cost_usd[at], hull.quality[at])


def _pairs(x: ArrayLike, y: ArrayLike) -> list[list[float]]:
    return [[float(a), float(b)] for a, b in np.stack([x, y], axis=1)]
