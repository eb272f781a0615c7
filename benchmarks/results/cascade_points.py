"""Cost and quality that a rule reaches on recorded answers: (dollars a row, mean quality) per setting of the rule.

By the prompt alone, after the weak model's answer, RouterBench's simulated judge; tables of them are made by cascade_tables.py and
live_tables.py. Legend: n rows, m models, cheapest (weak) first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.results.tables import markdown
from routing.metrics.cascades import cascade, cascade_orders, simulated_judge, sweep
from routing.metrics.pair import apgr
from routing.metrics.plane import CostQuality, by_cost, ndch
from routing.metrics.sweep import Sweep, choose, pair_points
from routing.metrics.trials import Floats

ERROR_RATE = 0.1
"""Of the simulated judge."""
RECOVERED = (0.5, 0.8, 0.9)
"""PGR at which dollars are compared: shares of the quality from the weak model to the best one."""
WILLINGNESS = 120
"""Points of the cascade that leaves weak calls out; the others' curves are exact."""


def usd_at(hull: CostQuality, target: float) -> float:
    """Least dollars a row for a mean quality of `target`, mixing settings of the hull; infinite where it is not reached."""
    if target > hull.quality[-1] + 1e-12:
        return float("inf")
    return float(np.interp(target, hull.quality, hull.cost_usd))


def reached(predicted: Floats, quality: Floats, cost: Floats, price: Floats) -> CostQuality:
    """A pair's prefixes by gain, down to all-strong; more models by the rule of willingness to pay."""
    if quality.shape[1] == 2:
        return pair_points(predicted[:, 1] - predicted[:, 0], *quality.T, *cost.T)
    return Sweep(predicted, quality, cost, price).points()


def straight_up(alone: Floats, after: Floats, quality: Floats, cost: Floats, price: Floats) -> CostQuality:
    """Routing and cascading in one: asked the weak model first are the rows that the prompt alone would leave with it."""
    rows, points = np.arange(len(quality)), []
    dearer = price.copy()
    dearer[0] = 0.0  # its answer is paid for
    for willingness in np.geomspace(price.min() / 10, price.max() * 1000, WILLINGNESS):
        first = choose(alone, price, willingness)
        asked = first == 0
        last = np.where(asked, choose(after, dearer, willingness), first)
        paid = cost[rows, last] + np.where(asked & (last > 0), cost[:, 0], 0.0)
        points.append((paid.mean(), quality[rows, last].mean()))
    # Both ends are settings too: nobody goes up, everybody goes straight to the dearest model.
    points += [(cost[:, j].mean(), quality[:, j].mean()) for j in (0, -1)]
    return by_cost(*np.array(points).T)


def on_top(cost: Floats) -> Floats:
    """What a row costs once its weak answer is paid: (..., m)."""
    paid = cost + cost[..., :1]
    paid[..., 0] = cost[..., 0]
    return paid


def judged(q_pilot: Floats, c_pilot: Floats, quality: Floats, cost: Floats, seed: int) -> CostQuality:
    """Points of the simulated judge's cascades that are on the pilot's hull."""
    tried = sweep(simulated_judge(q_pilot, ERROR_RATE, seed), q_pilot, c_pilot, cascade_orders(q_pilot, c_pilot))
    scores = simulated_judge(quality, ERROR_RATE, seed + 1)
    runs = [cascade(scores, quality, cost, *tried.settings[setting]) for setting in tried.best()]
    return by_cost(np.array([run.cost_usd.mean() for run in runs]), np.array([run.quality.mean() for run in runs]))


def compared(points: Mapping[str, CostQuality], scores: Mapping[str, Floats], quality: Floats) -> dict[str, Floats]:
    """Rule → dollars a row at each quality of RECOVERED, then the APGR of its `scores` (n, 2) where it has some and models are two,
    else NaN; "quality" → those qualities. quality: (n, m) of the measured rows."""
    weak, best = quality[:, 0].mean(), quality.mean(axis=0).max()
    wanted = weak + np.array(RECOVERED) * (best - weak)
    found = {"quality": wanted}
    for name, each in points.items():
        hull, merit = ndch(*each), np.nan
        if quality.shape[1] == 2 and name in scores:
            merit = float(apgr(scores[name][:, 1] - scores[name][:, 0], *quality.T))
        found[name] = np.append([usd_at(hull, target) for target in wanted], merit)
    return found


def dollars_table(names: Sequence[str], trials: Sequence[Mapping[str, Floats]]) -> str:
    """A line per rule, means over trials of `compared`; the first rule is what the others' dollars are compared with."""
    has_merit = any(np.isfinite(t[name][-1]) for t in trials for name in names)
    lines = []
    for name in names:
        cells = [_dollars([(t[name], t[names[0]]) for t in trials], column) for column in range(len(RECOVERED))]
        merit = np.mean([t[name][-1] for t in trials])
        lines.append([name, *cells, *([f"{merit:.3f}" if np.isfinite(merit) else "-"] if has_merit else [])])
    quality = np.mean([t["quality"] for t in trials], axis=0)
    targets = [f"PGR {100 * share:.0f} % (quality {q:.3f})" for share, q in zip(RECOVERED, quality, strict=True)]
    return markdown(["dollars per 1,000 rows", *targets, *(["APGR"] if has_merit else [])], lines)


def _dollars(pairs: Sequence[tuple[Floats, Floats]], column: int) -> str:
    """Mean dollars per 1,000 rows, and how they compare with the first rule's; "not reached" where a seed does not get there."""
    own, first = np.array([(mine[column], base[column]) for mine, base in pairs]).T * 1000
    if not np.isfinite(own).all():
        return "not reached"
    text = f"${own.mean():.2f}" if own.mean() >= 1 else f"${own.mean():.3g}"
    if not np.isfinite(first).all() or pairs[0][0] is pairs[0][1]:
        return text
    return text + f" ({100 * (own.mean() / first.mean() - 1):+.0f} %)"
