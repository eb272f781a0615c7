"""Every figure of a router with its bootstrap interval, for a pair and for many models; the names of the plane.

The geometry (points, NDCH, AIQ, Zero router) is in routing/metrics/plane.py, the points a router reaches and the oracle's in
routing/metrics/sweep.py, PGR and what follows from it in routing/metrics/pair.py; this file gathers them. All figures of a call are
measured over the same draws of rows, so that `aiq_gain` is a paired difference. 1,000 rows x 11 models, 500 draws: 2 s;
a pair of 14,000 rows, 1,000 draws: 6 s with dollars, 3 s without (one core).
Legend: n rows, m models, b bootstrap replicates, k points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from routing.metrics.pair import Interval, bootstrap_all, curve_apgr, curve_cpt, routellm_figures, router_curve
from routing.metrics.plane import CostQuality, Floats, aiq, aiq_published, checked, ndch, row_mean, single_models
from routing.metrics.sweep import Sweep

__all__ = [
    "CostQuality",
    "Sweep",
    "aiq",
    "aiq_published",
    "evaluate_models",
    "evaluate_pair",
    "ndch",
    "single_models",
]
AIQS = ("aiq", "aiq_published", "aiq_zero", "aiq_gain", "aiq_oracle")


def evaluate_pair(
    score: ArrayLike,
    q_weak: ArrayLike,
    q_strong: ArrayLike,
    cost_weak: ArrayLike | None = None,
    cost_strong: ArrayLike | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Every figure of a weak/strong pair's router with its 95 % bootstrap interval; all arguments (n,).

    `quality_weak`, `quality_strong`, `apgr`, `apgr_routellm`, `cpt50`, `cpt80`, `cpt50_routellm`, `cpt80_routellm`;
    `calls_vs_random_cpt50` and `..80`: strong calls random routing needs for that share of the gap, over this router's
    (the paper's table 6). With costs (else None): `aiq`, `aiq_published`, `aiq_zero`, `aiq_gain` (aiq - aiq_zero, over
    the same draws), `aiq_oracle`, and `usd_vs_strong_cpt50`, `usd_vs_random_cpt50`, `..80`: dollars of all-strong, and
    of random routing at the same quality, over this router's.
    """
    weak, strong = np.asarray(q_weak, np.float64), np.asarray(q_strong, np.float64)
    priced = cost_weak is not None and cost_strong is not None
    if priced:
        quality, cost = checked(np.stack([weak, strong], 1), np.stack([cost_weak, cost_strong], 1))  # type: ignore[list-item]
        best = Sweep(quality, quality, cost, cost)

    def figures(weights: Floats) -> dict[str, Any]:
        curve = router_curve(score, weak, strong, weights)
        found: dict[str, Any] = {
            "quality_weak": curve.quality[:, 0],
            "quality_strong": curve.quality[:, -1],
            "apgr": curve_apgr(curve),
        }
        published = routellm_figures(score, weak, strong, 10, weights, {"cpt50": 0.5, "cpt80": 0.8})
        found |= {f"{name}_routellm": values for name, values in published.items()}
        reached = {50: curve_cpt(curve, 0.5), 80: curve_cpt(curve, 0.8)}
        with np.errstate(divide="ignore", invalid="ignore"):
            for percent, share in reached.items():
                found[f"cpt{percent}"] = share
                found[f"calls_vs_random_cpt{percent}"] = percent / 100 / share
            if priced:
                dollars = router_curve(score, cost[:, 0], cost[:, 1], weights)
                hulls = [ndch(d, q) for d, q in zip(dollars.quality, curve.quality, strict=True)]
                found |= _aiq_figures(hulls, best, quality, cost, weights)
                for percent, share in reached.items():
                    spent = np.array(
                        [np.interp(s, c, d) for s, c, d in zip(np.atleast_1d(share), *dollars, strict=True)]
                    )
                    low, high = dollars.quality[:, 0], dollars.quality[:, -1]
                    found[f"usd_vs_strong_cpt{percent}"] = high / spent
                    found[f"usd_vs_random_cpt{percent}"] = (low + (high - low) * percent / 100) / spent
        return found

    measured = bootstrap_all(figures, len(weak), n_boot, seed)
    usd = [f"usd_vs_{other}_cpt{percent}" for other in ("strong", "random") for percent in (50, 80)]
    return {**dict.fromkeys((*AIQS, *usd)), **measured}


def evaluate_models(
    predicted: ArrayLike,
    quality: ArrayLike,
    cost: ArrayLike | None = None,
    expected_cost: ArrayLike | None = None,
    n_boot: int = 500,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Every figure of a router among m models with its 95 % bootstrap interval; arrays (n, m).

    `quality`: each row on the model predicted best, whatever it costs; `quality_best_single`, `quality_oracle`. With
    costs (else None): `aiq`, `aiq_published`, `aiq_zero`, `aiq_gain` (aiq - aiq_zero, over the same draws),
    `aiq_oracle`, and `usd_vs_best_single`: dollars of the best single model over those for which the router's hull
    has the same quality (NaN where it never has).
    """
    predicted, quality = checked(predicted, quality)
    picked = quality[np.arange(len(quality)), predicted.argmax(axis=1)]
    oracle_quality = quality.max(axis=1)
    if cost is not None:
        quality, cost = checked(quality, cost)
        sweep, best = Sweep(predicted, quality, cost, expected_cost), Sweep(quality, quality, cost, cost)

    def figures(weights: Floats) -> dict[str, Any]:
        single = row_mean(quality, weights)
        found: dict[str, Any] = {
            "quality": row_mean(picked, weights),
            "quality_best_single": single.max(axis=1),
            "quality_oracle": row_mean(oracle_quality, weights),
        }
        if cost is not None:
            hulls = [ndch(*sweep.points(row)) for row in weights]
            found |= _aiq_figures(hulls, best, quality, np.asarray(cost), weights)
            paid = row_mean(np.asarray(cost), weights)
            dear = np.where(single == single.max(axis=1, keepdims=True), paid, np.inf).min(axis=1)
            found["usd_vs_best_single"] = np.array(
                [usd / _cost_of(hull, q) for usd, hull, q in zip(dear, hulls, single.max(axis=1), strict=True)]
            )
        return found

    measured = bootstrap_all(figures, len(quality), n_boot, seed)
    return {**dict.fromkeys((*AIQS, "usd_vs_best_single")), **measured}


def _aiq_figures(
    hulls: list[CostQuality], best: Sweep, quality: Floats, cost: Floats, weights: Floats
) -> dict[str, Floats]:
    """AIQs of a router whose hull per replicate is given, of the Zero router and of the oracle `best`, (b,) each."""
    singles = single_models(quality, cost, weights)
    low, high = singles.cost_usd[:, 0], singles.cost_usd[:, -1]
    ends = list(zip(low, high, strict=True))
    own = np.array([aiq(hull, *end) for hull, end in zip(hulls, ends, strict=True)])
    zero = np.asarray(aiq(singles, low, high))
    return {
        "aiq": own,
        "aiq_published": np.array([aiq_published(hull, end[1]) for hull, end in zip(hulls, ends, strict=True)]),
        "aiq_zero": zero,
        "aiq_gain": own - zero,
        "aiq_oracle": np.array([aiq(best.points(row), *end) for row, end in zip(weights, ends, strict=True)]),
    }


def _cost_of(hull: CostQuality, quality: float) -> float:
    """The least cost at which an NDCH has this quality; NaN where it never has."""
    if hull.quality[-1] < quality - 1e-12:
        return float("nan")
    return float(np.interp(quality, hull.quality, hull.cost_usd))
