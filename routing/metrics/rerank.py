"""Overgenerate and rerank: ask several models (or all), keep the answer a reward likes best.

The dearest policy there is: every row pays for every model asked. It stands in the tables as an upper row, and with the
true quality as reward it is the oracle's quality at the price of everyone. Asking the first 1, 2, ... m models of a
ladder gives the points of a curve. The reward is any (n, m) array: a reward model's scores, routing/answers/learned_judge.py,
or `agreement` of the answers with each other, which needs no training. O(n m).
Legend: n rows, m models, k points, b bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import RoutingError
from routing.metrics.cascades import CascadeRun, default_order
from routing.metrics.plane import CostQuality, by_cost, checked, row_mean


def rerank(reward: ArrayLike, quality: ArrayLike, cost: ArrayLike, models: Sequence[int] | None = None) -> CascadeRun:
    """Ask `models` (default: all), keep the answer of the highest reward; the cheaper model's on ties.

    reward, quality, cost: (n, m). Raises RoutingError for shapes that do not fit, unknown entries, or no models.
    """
    quality, cost, rewards = checked(quality, cost, reward=reward)
    asked = default_order(cost) if models is None else sorted(models, key=default_order(cost).index)
    if not asked:
        raise RoutingError("rerank: no models to ask")
    choice = np.array(asked)[rewards[:, asked].argmax(axis=1)]
    rows = np.arange(len(quality))
    return CascadeRun(
        quality[rows, choice], cost[:, asked].sum(axis=1), choice, np.full(len(quality), len(asked), np.intp)
    )


def rerank_points(
    reward: ArrayLike,
    quality: ArrayLike,
    cost: ArrayLike,
    order: Sequence[int] | None = None,
    weights: ArrayLike | None = None,
) -> CostQuality:
    """Points of asking the first 1, 2, ... models of `order` (default: cheap to dear), (m,) or (b, m) for (b, n)."""
    ladder = default_order(cost) if order is None else list(order)
    runs = [rerank(reward, quality, cost, ladder[: size + 1]) for size in range(len(ladder))]
    costs, qualities = (np.stack([getattr(run, name) for run in runs], 1) for name in ("cost_usd", "quality"))
    return by_cost(row_mean(costs, weights), row_mean(qualities, weights))
