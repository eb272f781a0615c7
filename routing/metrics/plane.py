"""The cost-quality plane: points, coins between routers, the NDCH, AIQ and the Zero router.

A router is a set of points (dollars a row, mean quality). Between two of them a coin gives every point of the segment,
so what a router can do is its non-decreasing upper convex hull (NDCH), flat to the right of its best point. AIQ is the
mean height of the hull over the cost range of the single models; the hull of the single models themselves is the Zero
router. Definitions: RouterBench, arXiv 2403.12031.

Hull: sort, running maximum, then passes that drop every point under the segment between its neighbours, all at once; a
few passes leave little, and Andrew's chain ends it. O(k log k) for k points: 30,000 points 3 ms on one core.
Legend: n rows, m models, k points, b bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import RoutingError

Floats = NDArray[np.float64]
PASSES = 24


class CostQuality(NamedTuple):
    """Points of a router, ascending in cost; a leading b for bootstrap replicates."""

    cost_usd: Floats
    """(..., k), mean dollars a row."""
    quality: Floats
    """(..., k), mean quality."""


def by_cost(cost: ArrayLike, quality: ArrayLike) -> CostQuality:
    """Points (..., k) in any order as a CostQuality; the better first where the cost is equal."""
    cost, quality = np.asarray(cost, np.float64), np.asarray(quality, np.float64)
    if cost.shape != quality.shape or not cost.ndim or not cost.shape[-1]:
        raise RoutingError(f"cost-quality points: costs {cost.shape} and qualities {quality.shape} must pair up")
    step, gain = np.diff(cost), np.diff(quality)
    if ((step > 0) | (step == 0) & (gain <= 0)).all():
        return CostQuality(cost, quality)  # most are: a look is a tenth of a sort
    order = np.lexsort((-quality, cost), axis=-1)
    return CostQuality(np.take_along_axis(cost, order, -1), np.take_along_axis(quality, order, -1))


def interpolate(a: CostQuality, b: CostQuality, t: float) -> CostQuality:
    """The router that asks `b` with probability `t` and `a` otherwise, point by point: on the segments between them.

    `a` and `b` have equally many points, or one has a single point. Raises RoutingError for `t` outside 0..1.
    """
    if not 0 <= t <= 1:
        raise RoutingError(f"interpolate: t is {t}; a probability lies in 0..1")
    return by_cost((1 - t) * a.cost_usd + t * b.cost_usd, (1 - t) * a.quality + t * b.quality)


def ndch(cost: ArrayLike, quality: ArrayLike) -> CostQuality:
    """Vertices of the non-decreasing upper convex hull of points (k,), cost and quality both strictly rising.

    It starts at the cheapest point (the best of them) and ends at the best quality (the cheapest of it); to the right
    it goes on flat, as `np.interp` does. Points (b, k) give hulls of equal length, short ones padded with their last
    vertex.
    """
    points = by_cost(cost, quality)
    if points.cost_usd.ndim == 1:
        return _hull(points.cost_usd, points.quality)
    flat = [axis.reshape(-1, axis.shape[-1]) for axis in points]
    hulls = [_hull(c, q) for c, q in zip(*flat, strict=True)]
    width = max(len(hull.cost_usd) for hull in hulls)
    padded = [np.stack([np.pad(h[axis], (0, width - len(h[axis])), mode="edge") for h in hulls]) for axis in (0, 1)]
    shape = (*points.cost_usd.shape[:-1], width)
    return CostQuality(padded[0].reshape(shape), padded[1].reshape(shape))


def aiq(points: CostQuality, c_min: ArrayLike, c_max: ArrayLike) -> Floats | np.float64:
    """Average improvement in quality: the mean of the NDCH over costs in [c_min, c_max], those of the single models.

    Right of its best point a router stays flat: it need not spend more. Left of its cheapest point it goes down on the
    straight line to (0, 0): a coin between asking it and answering nothing, so that a router which cannot be as cheap
    as c_min is not credited with quality it has not. c_min = c_max (one price): the hull's height there. A scalar for
    points (k,), (b,) for (b, k) with c_min and c_max () or (b,). The paper's AIQ; `aiq_published` is its code's.
    """

    def area(hull: CostQuality, low: float, high: float) -> float:
        cost, quality = hull
        if cost[0] > 0:
            cost, quality = np.append(0.0, cost), np.append(0.0, quality)
        grid = np.concatenate([[low], cost[(cost > low) & (cost < high)], [high]])
        height = np.interp(grid, cost, quality)
        return float(np.trapezoid(height, grid) / (high - low) if high > low else height[0])

    return _per_replicate(area, points, c_min, c_max)


def aiq_published(points: CostQuality, c_max: ArrayLike) -> Floats | np.float64:
    """AIQ as RouterBench's code has it: the area from the router's own cheapest point to c_max, divided by c_max.

    So what lies left of the cheapest point counts as 0, and every figure is lower than the paper's, more for a router
    that starts dear. c_max there is the dearest point of all hulls compared; here give the dearest single model's cost,
    and no router's figure depends on another's. Shapes as in `aiq`; NaN where c_max is 0.
    """

    def area(hull: CostQuality, low: float, high: float) -> float:
        if not high > 0:
            return float("nan")
        cost, quality = hull
        grid = np.append(cost[cost < high], high)
        return float(np.trapezoid(np.interp(grid, cost, quality), grid) / high)

    return _per_replicate(area, points, 0.0, c_max)


def single_models(quality: ArrayLike, cost: ArrayLike, weights: ArrayLike | None = None) -> CostQuality:
    """The m single models as points, (m,) or (b, m) for (b, n) weights; quality, cost: (n, m)."""
    quality, cost = checked(quality, cost)
    return by_cost(row_mean(cost, weights), row_mean(quality, weights))


def zero_router(quality: ArrayLike, cost: ArrayLike, weights: ArrayLike | None = None) -> CostQuality:
    """The Zero router: NDCH of the single models, which takes no learning; a router matters only above it.

    quality, cost: (n, m), a row per prompt. weights: (n,) or (b, n), how often each row counts. Raises RoutingError for
    unknown (NaN) entries or shapes that do not fit.
    """
    points = single_models(quality, cost, weights)
    return ndch(points.cost_usd, points.quality)


def row_mean(values: Floats, weights: ArrayLike | None) -> Floats:
    """Mean over the rows of (n, ...), each counted `weights` times; a leading b for (b, n) weights."""
    count = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    total: Floats = count @ values
    result: Floats = total / count.sum(-1).reshape(*count.shape[:-1], *[1] * (values.ndim - 1))
    return result


def checked(quality: ArrayLike, cost: ArrayLike, **more: ArrayLike) -> tuple[Floats, ...]:
    """Arrays as float64 of one shape (n, m) without unknown entries, n and m at least 1. Raises RoutingError."""
    arrays = {name: np.asarray(v, np.float64) for name, v in {"quality": quality, "cost": cost, **more}.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or not next(iter(shapes))[0] * next(iter(shapes))[1]:
        raise RoutingError(f"cost-quality: {', '.join(arrays)} must be (rows, models) alike, got {sorted(shapes)}")
    for name, array in arrays.items():
        unknown = int(np.isnan(array).any(axis=1).sum())
        if unknown:
            raise RoutingError(f"cost-quality: {name} is unknown (NaN) in {unknown} rows; leave those rows out")
    return tuple(arrays.values())


def _hull(cost: Floats, quality: Floats) -> CostQuality:
    rising = np.append(True, quality[1:] > np.maximum.accumulate(quality)[:-1])
    c, q = cost[rising], quality[rising]
    for _ in range(PASSES):
        # A point on or under the segment between two others is no vertex, whatever else is dropped beside it.
        above = (q[1:-1] - q[:-2]) * (c[2:] - c[:-2]) > (q[2:] - q[:-2]) * (c[1:-1] - c[:-2])
        if above.all():
            return CostQuality(c, q)
        keep = np.concatenate([[True], above, [True]])
        c, q = c[keep], q[keep]
    chain: list[tuple[float, float]] = []
    for c2, q2 in zip(c.tolist(), q.tolist(), strict=True):
        while len(chain) > 1:
            (c0, q0), (c1, q1) = chain[-2:]
            if (q1 - q0) * (c2 - c0) > (q2 - q0) * (c1 - c0):
                break
            chain.pop()
        chain.append((c2, q2))
    vertices = np.array(chain).T
    return CostQuality(vertices[0], vertices[1])


def _per_replicate(
    area: Callable[[CostQuality, float, float], float], points: CostQuality, c_min: ArrayLike, c_max: ArrayLike
) -> Floats | np.float64:
    shape = points.cost_usd.shape[:-1]
    low, high = (np.broadcast_to(np.asarray(c, np.float64), shape).ravel() for c in (c_min, c_max))
    flat = [axis.reshape(-1, axis.shape[-1]) for axis in points]
    values = [area(ndch(c, q), lo, hi) for c, q, lo, hi in zip(*flat, low, high, strict=True)]
    result: Floats = np.array(values, np.float64).reshape(shape)
    return result[()]
