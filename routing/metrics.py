"""Router metrics for a weak/strong pair: PGR, APGR and CPT, exact and as RouteLLM's code computes them.

A router is judged by a score per row (expected gain of the strong model): send the top share c of the rows to the
strong model, the rest to the weak one. Legend: n rows, b bootstrap replicates, k distinct scores.

Algorithm: one sort, then cumulative sums of the gain q_strong - q_weak over blocks of tied scores. Inside a block the
expected quality over random tie orders is a straight line, so the k + 1 block edges carry the whole curve and the
trapezoid over them is exact. O(n log n); a replicate of the bootstrap reuses the sort (weights instead of resampled
rows), O(n). Definitions: RouteLLM, arXiv 2406.18665. PGR and what follows from it are NaN where the two models are
equally good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import RoutingError

Floats = NDArray[np.float64]


class RouterCurve(NamedTuple):
    """Quality against the share of strong calls, at k + 1 points with straight lines between them."""

    share: Floats
    """(..., k + 1), c from 0 (all weak) to 1 (all strong), non-decreasing."""
    quality: Floats
    """(..., k + 1), mean quality of the rows at that share."""


class Interval(NamedTuple):
    """A measured figure with its percentile interval; `low` and `high` are NaN where a replicate has no value."""

    mean: float
    low: float
    high: float


def router_curve(
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, weights: ArrayLike | None = None
) -> RouterCurve:
    """The exact cost-quality curve of a router, ties averaged over their orders.

    `score`, `q_weak`, `q_strong`: (n,); higher scores go to the strong model first. `weights`: (n,) or (b, n), how
    often each row counts (bootstrap); a leading b appears in the result. Raises RoutingError for no rows, unequal
    lengths or NaN.
    """
    score, weak, strong = _checked(score, q_weak, q_strong)
    count = np.ones(len(score)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    edges = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    count = count[..., order]
    total = count.sum(-1, keepdims=True)
    share = np.cumsum(count, -1)[..., edges] / total
    share[..., -1] = 1.0
    base = (count @ weak[order])[..., None] / total
    quality = base + np.cumsum(count * (strong - weak)[order], -1)[..., edges] / total
    start = np.zeros((*share.shape[:-1], 1))
    return RouterCurve(np.concatenate([start, share], -1), np.concatenate([start + base, quality], -1))


def pgr_at(score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, share: float) -> float:
    """Performance gap recovered, (r(router) - r(weak)) / (r(strong) - r(weak)), with `share` of the rows to strong."""
    curve = router_curve(score, q_weak, q_strong)
    return float(np.interp(share, curve.share, _pgr(curve)))


def apgr(
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, weights: ArrayLike | None = None
) -> Floats | np.float64:
    """Average PGR, the exact integral of PGR over c in [0, 1]; a scalar, or (b,) for (b, n) weights. Random: 0.5."""
    curve = router_curve(score, q_weak, q_strong, weights)
    area: Floats | np.float64 = np.trapezoid(_pgr(curve), curve.share, axis=-1)
    return area


def cpt(
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, recovered: float, weights: ArrayLike | None = None
) -> Floats | np.float64:
    """Call-performance threshold: the smallest share of strong calls whose PGR reaches `recovered` (0.5 for CPT(50 %)).

    Linear inside a block of ties, as its average is. A scalar, or (b,) for (b, n) weights; NaN where no share reaches
    it (`recovered` > 1 or no gap).
    """
    curve = router_curve(score, q_weak, q_strong, weights)
    pgr = _pgr(curve)
    reached = pgr >= recovered
    at = reached.argmax(-1, keepdims=True)
    before = np.maximum(at - 1, 0)
    c1, p1 = np.take_along_axis(curve.share, at, -1), np.take_along_axis(pgr, at, -1)
    c0, p0 = np.take_along_axis(curve.share, before, -1), np.take_along_axis(pgr, before, -1)
    rise = np.where(p1 > p0, p1 - p0, 1.0)
    crossing = np.where(at == 0, c1, c0 + (c1 - c0) * (recovered - p0) / rise)
    result: Floats = np.where(reached.any(-1), crossing[..., 0], np.nan)
    return result[()]


def routellm_points(
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, n_bins: int = 10
) -> tuple[Floats, Floats]:
    """(share, quality) at the `n_bins` + 1 quantile edges of the scores, by share, as RouteLLM's evaluator draws them.

    Each edge is a threshold (score >= edge; > for the last one), so ties move together and edges may coincide.
    """
    score, weak, strong = _checked(score, q_weak, q_strong)
    edges = np.quantile(score, np.linspace(0, 1, n_bins + 1))
    ordered = np.sort(score)
    sent = len(score) - np.append(np.searchsorted(ordered, edges[:-1]), np.searchsorted(ordered, edges[-1], "right"))
    gain = np.append(0.0, np.cumsum((strong - weak)[np.argsort(-score, kind="stable")]))
    order = np.argsort(sent, kind="stable")
    share = sent / len(score)
    return share[order], (weak.mean() + gain[sent] / len(score))[order]


def routellm_apgr(score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, n_bins: int = 10) -> float:
    """APGR as RouteLLM's code has it: trapezoid over `routellm_points`, divided by the span of shares they cover."""
    share, quality = routellm_points(score, q_weak, q_strong, n_bins)
    span = share[-1] - share[0]
    weak, gap = _ends(q_weak, q_strong)
    return float(np.trapezoid(quality - weak, share) / (gap * span)) if gap and span else float("nan")


def routellm_cpt(score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, recovered: float, n_bins: int = 10) -> float:
    """CPT as RouteLLM's code has it: `np.interp` over `routellm_points`, whose quality need not be monotone.

    Where it is not, the value may be far from the smallest share that reaches `recovered`; report `cpt` beside it.
    """
    share, quality = routellm_points(score, q_weak, q_strong, n_bins)
    weak, gap = _ends(q_weak, q_strong)
    return float(np.interp(weak + recovered * gap, quality, share)) if gap else float("nan")


def bootstrap(
    fn: Callable[[Floats], ArrayLike], n: int, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a statistic over rows drawn with replacement.

    `fn` maps weights (b, n), how often each row was drawn, to b values: `lambda w: apgr(score, weak, strong, w)`, or
    `lambda w: w @ quality / n` for a mean. A statistic that wants row numbers goes through `by_rows`. `mean` is the
    value on the rows themselves. Replicates run in blocks of about 32 MB.
    """
    if n < 1:
        raise RoutingError("bootstrap: no rows to draw from")
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // n)
    values: list[Floats] = []
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        # One bincount over (replicate, row) cells: a multinomial draw per replicate without a Python loop.
        cells = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        values.append(np.asarray(fn(weights), np.float64).reshape(size))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return Interval(float(np.asarray(fn(np.ones((1, n)))).reshape(())), float(low), float(high))


def by_rows(fn: Callable[[NDArray[np.intp]], float]) -> Callable[[Floats], Floats]:
    """Turn a statistic of row numbers (rows,) into one of weights (b, n), for `bootstrap`; one call per replicate."""

    def of_weights(weights: Floats) -> Floats:
        return np.array([fn(np.repeat(np.arange(len(row)), row.astype(np.intp))) for row in weights])

    return of_weights


def _pgr(curve: RouterCurve) -> Floats:
    weak = curve.quality[..., :1]
    gap = curve.quality[..., -1:] - weak
    # The gap is a difference of sums of up to n terms: below 1e-12 it is rounding, not a difference between models.
    result: Floats = np.divide(
        curve.quality - weak, gap, out=np.full_like(curve.quality, np.nan), where=np.abs(gap) > 1e-12
    )
    return result


def _ends(q_weak: ArrayLike, q_strong: ArrayLike) -> tuple[float, float]:
    """r(weak) and the gap r(strong) - r(weak), the latter exactly 0 where it is rounding alone."""
    weak, strong = float(np.asarray(q_weak, np.float64).mean()), float(np.asarray(q_strong, np.float64).mean())
    return weak, strong - weak if abs(strong - weak) > 1e-12 else 0.0


def _checked(score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike) -> tuple[Floats, Floats, Floats]:
    columns = tuple(np.asarray(column, np.float64) for column in (score, q_weak, q_strong))
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or columns[0].ndim != 1 or not len(columns[0]):
        raise RoutingError(f"metrics: score, q_weak and q_strong must be one number per row each, got {sorted(shapes)}")
    for name, column in zip(("score", "q_weak", "q_strong"), columns, strict=True):
        if np.isnan(column).any():
            raise RoutingError(
                f"metrics: {name} is unknown (NaN) in {np.isnan(column).sum()} rows; leave those rows out"
            )
    return columns[0], columns[1], columns[2]
