"""The points a router reaches on the cost-quality plane, exactly, and the oracle's.

RouterBench's rule: a row goes to argmax over models of willingness * predicted quality - expected cost. As the
willingness to pay grows from 0, a row climbs the upper hull of its (expected cost, predicted quality) points step by
step (routing/upgrades/hull.py), so the whole curve is one sort of all rows' steps and a cumulative sum: exact, no grid of
willingness values. O(n m^2 + e log e) for e <= n (m - 1) steps; 10,000 rows x 11 models 0.1 s, a bootstrap replicate 3 ms.
For a pair ranked by one score the curve is the prefix curve of routing/metrics/pair.py with dollars.
Legend: n rows, m models, b bootstrap replicates, k points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import RoutingError
from routing.metrics.pair import router_curve
from routing.metrics.plane import CostQuality, Floats, by_cost, checked
from routing.upgrades.hull import walk_hulls


class OracleRows(NamedTuple):
    """What the oracle pays and gets, row by row, (n,) each."""

    quality: Floats
    cost_usd: Floats
    choice: NDArray[np.intp]
    """Model index."""


def oracle(quality: ArrayLike, cost: ArrayLike, free_misses: bool = False) -> OracleRows:
    """Per row the best model, the cheapest of them on ties; where all are wrong it still pays the cheapest.

    quality, cost: (n, m). `free_misses`: as RouterBench's code has it, a row that no model gets right (quality 0) costs
    $0, which flatters the oracle.
    """
    quality, cost = checked(quality, cost)
    best = quality.max(axis=1, keepdims=True)
    choice = np.where(quality == best, cost, np.inf).argmin(axis=1)
    paid = np.take_along_axis(cost, choice[:, None], 1)[:, 0]
    if free_misses:
        paid = np.where(best[:, 0] == 0, 0.0, paid)
    return OracleRows(best[:, 0], paid, choice)


def choose(predicted: ArrayLike, expected_cost: ArrayLike, willingness: float) -> NDArray[np.intp]:
    """(n,) model per row: argmax of willingness * predicted - expected_cost, the cheaper on ties.

    predicted: (n, m); expected_cost: (m,) or (n, m) dollars; willingness: dollars per unit of quality.
    """
    predicted, cost = np.asarray(predicted, np.float64), np.asarray(expected_cost, np.float64)
    worth = willingness * predicted - cost
    tied = worth == worth.max(axis=1, keepdims=True)
    result: NDArray[np.intp] = np.where(tied, cost, np.inf).argmin(axis=1)
    return result


class Sweep:
    """A router's steps in the order in which growing willingness takes them; `points` sums them for any weights.

    Rows of equal step slopes move together. Raises RoutingError for shapes that do not fit or unknown entries.

    predicted: (n, m) quality as the router expects it.
    quality, cost: (n, m) what happened, cost in dollars.
    expected_cost: (m,) or (n, m) what the router expects to pay; None is each model's mean over these rows. Give the training
        rows' means where there are any, or the sweep knows the mean prices of the test.
    """

    def __init__(
        self, predicted: ArrayLike, quality: ArrayLike, cost: ArrayLike, expected_cost: ArrayLike | None = None
    ) -> None:
        quality, cost, predicted = checked(quality, cost, predicted=predicted)
        expected = cost.mean(axis=0) if expected_cost is None else np.asarray(expected_cost, np.float64)
        if expected.shape not in (cost.shape, cost.shape[1:]) or not (expected >= 0).all():
            raise RoutingError(
                f"cost-quality: expected_cost has shape {expected.shape}; it must be {cost.shape[1:]} or {cost.shape},"
                " known and not negative"
            )
        expected = np.broadcast_to(expected, cost.shape)
        n, m = cost.shape
        ladder = np.lexsort((-predicted, expected), axis=1)
        sorted_axes = [np.take_along_axis(axis, ladder, 1) for axis in (predicted, expected)]
        base, last = np.zeros(n, np.int8), np.full(n, m - 1, np.int8)
        steps = walk_hulls(sorted_axes[0], sorted_axes[1], np.ones((n, m), np.bool_), base, last, "gain_per_dollar")
        taken = np.flatnonzero(steps["rank"] > 0)
        taken = taken[np.argsort(-steps["rank"][taken], kind="stable")]
        self._row = steps["row"][taken]
        self._rank: Floats = steps["rank"][taken]
        changed = np.append(self._rank[1:] != self._rank[:-1], True)[: len(taken)]
        self._edges = np.flatnonzero(changed)
        source, target = (ladder[self._row, steps[end][taken]] for end in ("from_model", "to_model"))
        self._start = [axis[np.arange(n), ladder[:, 0]] for axis in (cost, quality)]
        self._change = [axis[self._row, target] - axis[self._row, source] for axis in (cost, quality)]

    def points(self, weights: Floats | None = None, willingness: ArrayLike | None = None) -> CostQuality:
        """Points of all willingness values (or of those given), rows counted by `weights` (n,)."""
        count = np.ones(len(self._start[0])) if weights is None else weights
        if willingness is None:
            at = np.append(0, self._edges + 1)
        else:
            with np.errstate(divide="ignore"):
                at = np.searchsorted(-self._rank, -1 / np.atleast_1d(np.asarray(willingness, np.float64)))
        axes = []
        for start, change in zip(self._start, self._change, strict=True):
            moved = np.concatenate([[0.0], np.cumsum(count[self._row] * change)])
            axes.append((count @ start + moved[at]) / count.sum())
        return by_cost(*axes)


def router_points(
    predicted: ArrayLike,
    quality: ArrayLike,
    cost: ArrayLike,
    weights: ArrayLike | None = None,
    willingness: ArrayLike | None = None,
    expected_cost: ArrayLike | None = None,
) -> CostQuality:
    """All points a router reaches as the willingness to pay grows from 0 (the cheapest model) without end: (k,), or (b, k).

    predicted, quality, cost, expected_cost: as in `Sweep`.
    weights: (n,) or (b, n), how often each row counts.
    willingness: dollars per unit of quality; only at these values, as RouterBench's code does; None is at all.
    """
    sweep = Sweep(predicted, quality, cost, expected_cost)
    if weights is None or np.ndim(weights) == 1:
        return sweep.points(None if weights is None else np.asarray(weights, np.float64), willingness)
    replicates = [sweep.points(row, willingness) for row in np.asarray(weights, np.float64)]
    return CostQuality(np.stack([p.cost_usd for p in replicates]), np.stack([p.quality for p in replicates]))


def oracle_points(quality: ArrayLike, cost: ArrayLike, weights: ArrayLike | None = None) -> CostQuality:
    """The oracle's whole frontier: the sweep of a router that knows each row's quality and cost. Nothing is above it."""
    return router_points(quality, quality, cost, weights, expected_cost=cost)


def pair_points(
    score: ArrayLike,
    q_weak: ArrayLike,
    q_strong: ArrayLike,
    cost_weak: ArrayLike,
    cost_strong: ArrayLike,
    weights: ArrayLike | None = None,
) -> CostQuality:
    """Points of a pair's router: every prefix of the rows by score goes to the strong model, ties averaged; (k,), or (b, k).

    score: (n,); higher scores go to the strong model first.
    q_weak, q_strong: (n,) quality.
    cost_weak, cost_strong: (n,) dollars.
    weights: (n,) or (b, n), how often each row counts.
    """
    dollars = router_curve(score, cost_weak, cost_strong, weights)
    return by_cost(dollars.quality, router_curve(score, q_weak, q_strong, weights).quality)
