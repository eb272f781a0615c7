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

from collections.abc import Callable, Mapping
from types import MappingProxyType
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
    """The exact cost-quality curve of a router, ties averaged over their orders. Raises RoutingError for no rows, unequal
    lengths or NaN.

    score: (n,); higher scores go to the strong model first.
    q_weak, q_strong: (n,) quality of the two models' answers.
    weights: (n,) or (b, n), how often each row counts (bootstrap); a leading b appears in the result.
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


def apgr(
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, weights: ArrayLike | None = None
) -> Floats | np.float64:
    """Average PGR, the exact integral of PGR over c in [0, 1]; a scalar, or (b,). Random routing has 0.5; NaN without a gap.

    score: (n,); higher scores go to the strong model first.
    q_weak, q_strong: (n,) quality of the two models' answers.
    weights: (n,) or (b, n), how often each row counts (bootstrap); a leading b appears in the result.
    """
    return curve_apgr(router_curve(score, q_weak, q_strong, weights))


def cpt(
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, recovered: float, weights: ArrayLike | None = None
) -> Floats | np.float64:
    """Call-performance threshold: the smallest share of strong calls whose PGR reaches `recovered`; a scalar, or (b,).

    Linear inside a block of ties, as its average is. NaN where no share reaches it (`recovered` > 1 or no gap).

    score: (n,); higher scores go to the strong model first.
    q_weak, q_strong: (n,) quality of the two models' answers.
    recovered: share of the gap, 0.5 for CPT(50 %).
    weights: (n,) or (b, n), how often each row counts (bootstrap); a leading b appears in the result.
    """
    return curve_cpt(router_curve(score, q_weak, q_strong, weights), recovered)


def curve_apgr(curve: RouterCurve) -> Floats | np.float64:
    """`apgr` of a curve already drawn."""
    area: Floats | np.float64 = np.trapezoid(_pgr(curve), curve.share, axis=-1)
    return area


def curve_cpt(curve: RouterCurve, recovered: float) -> Floats | np.float64:
    """`cpt` of a curve already drawn."""
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
    score: ArrayLike, q_weak: ArrayLike, q_strong: ArrayLike, n_bins: int = 10, weights: ArrayLike | None = None
) -> RouterCurve:
    """(share, quality) at the `n_bins` + 1 quantile edges of the scores, by share, as RouteLLM's evaluator draws them.

    Each edge is a threshold (score >= edge; > for the last one), so ties move together and edges may coincide.

    score: (n,); higher scores go to the strong model first.
    q_weak, q_strong: (n,) quality of the two models' answers.
    n_bins: 10 there: deciles.
    weights: (n,) or (b, n) whole numbers, how often each row counts; a leading b appears in the result.
    """
    score, weak, strong = _checked(score, q_weak, q_strong)
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    count = (np.ones(len(score)) if weights is None else np.asarray(weights, np.float64))[..., order]
    zero = np.zeros((*count.shape[:-1], 1))
    below = np.concatenate([zero, np.cumsum(count, -1)], -1)  # rows before each position
    gain = np.concatenate([zero, np.cumsum(count * (strong - weak)[order], -1)], -1)
    total = below[..., -1:]
    base = (count @ weak[order])[..., None]
    cut = _quantile_edges(ordered, below, np.linspace(0, 1, n_bins + 1))
    share = (total - np.take_along_axis(below, cut, -1)) / total
    quality = (base + gain[..., -1:] - np.take_along_axis(gain, cut, -1)) / total
    return RouterCurve(share[..., ::-1], quality[..., ::-1])


def routellm_measures(
    score: ArrayLike,
    q_weak: ArrayLike,
    q_strong: ArrayLike,
    n_bins: int = 10,
    weights: ArrayLike | None = None,
    recovered: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Floats | np.float64]:
    """APGR and CPTs as RouteLLM's code has them, from one pass over `routellm_points`: a scalar, or (b,), by name.

    `apgr` is the trapezoid over the points, divided by the span of shares they cover. A CPT is `np.interp` over points whose
    quality need not be monotone: where it is not, it may be far from the smallest share that reaches `recovered`; report `cpt`
    beside it. NaN without a gap.

    score: (n,); higher scores go to the strong model first.
    q_weak, q_strong: (n,) quality of the two models' answers.
    n_bins: as in `routellm_points`.
    weights: (n,) or (b, n) whole numbers, how often each row counts.
    recovered: name of a CPT in the result → share of the gap.
    """
    curve = routellm_points(score, q_weak, q_strong, n_bins, weights)
    weak, gap = _ends(q_weak, q_strong, weights)
    area = np.trapezoid(curve.quality - weak[..., None], curve.share, axis=-1)
    span = gap * (curve.share[..., -1] - curve.share[..., 0])
    apgr = np.divide(area, span, out=np.full_like(area, np.nan), where=span != 0)
    measures: dict[str, Floats | np.float64] = {"apgr": apgr[()]}
    flat = [axis.reshape(-1, n_bins + 1) for axis in (curve.quality, curve.share)]
    for name, part in recovered.items():
        wanted = np.where(gap == 0, np.nan, weak + part * gap)
        found = [np.interp(at, q, c) for at, q, c in zip(wanted.ravel(), *flat, strict=True)]
        measures[name] = np.array(found, np.float64).reshape(wanted.shape)[()]
    return measures


def bootstrap(
    fn: Callable[[Floats], ArrayLike], n: int, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a statistic over rows drawn with replacement; `mean` is its value on the rows themselves.

    Raises RoutingError for no rows.

    fn: weights (b, n), how often each row was drawn, → b values: `lambda w: apgr(score, weak, strong, w)`, or `lambda w: w @
        quality / n` for a mean.
    n: rows that are drawn, with replacement; at least 1.
    n_boot: replicates, in blocks of about 8 MB, which caches hold better than larger ones.
    seed: of the draws.
    level: of the percentile interval.
    """
    return bootstrap_all(lambda weights: {"value": fn(weights)}, n, n_boot, seed, level)["value"]


def bootstrap_all(
    fn: Callable[[Floats], Mapping[str, ArrayLike]], n: int, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """`bootstrap` of several figures over the same draws.

    fn: weights (b, n) → b values per name.
    n: rows that are drawn, with replacement; at least 1.
    n_boot: replicates, in blocks of about 8 MB, which caches hold better than larger ones.
    seed: of the draws.
    level: of the percentile interval.
    """
    if n < 1:
        raise RoutingError("bootstrap: no rows to draw from")
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // n)
    values: dict[str, list[Floats]] = {}
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        # One bincount over (replicate, row) cells: a multinomial draw per replicate without a Python loop.
        cells = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        for name, column in fn(weights).items():
            values.setdefault(name, []).append(np.asarray(column, np.float64).reshape(size))
    tail = (1 - level) / 2
    at_rows = {name: float(np.asarray(v).reshape(())) for name, v in fn(np.ones((1, n))).items()}
    with np.errstate(invalid="ignore"):  # a ratio may be infinite in some replicates
        ends = {name: np.quantile(np.concatenate(parts), [tail, 1 - tail]) for name, parts in values.items()}
    return {name: Interval(mean, *map(float, ends[name])) for name, mean in at_rows.items()}


def _pgr(curve: RouterCurve) -> Floats:
    weak = curve.quality[..., :1]
    gap = curve.quality[..., -1:] - weak
    # The gap is a difference of sums of up to n terms: below 1e-12 it is rounding, not a difference between models.
    result: Floats = np.divide(
        curve.quality - weak, gap, out=np.full_like(curve.quality, np.nan), where=np.abs(gap) > 1e-12
    )
    return result


def _quantile_edges(ordered: Floats, below: Floats, probabilities: Floats) -> NDArray[np.intp]:
    """Position in `ordered` (n,) of the first row at or above each quantile edge; past the edge for the last one.

    Edges interpolate between neighbours as `np.quantile` does, for the sample in which row i stands
    `below[i + 1] - below[i]` times; `below` (..., n + 1), result (..., len(probabilities)).
    """
    flat = below.reshape(-1, below.shape[-1])
    cut = np.empty((len(flat), len(probabilities)), np.intp)
    for row, until in zip(cut, flat, strict=True):
        at = (until[-1] - 1) * probabilities
        low, fraction = np.floor(at), at - np.floor(at)
        a, b = (
            ordered[np.searchsorted(until[1:], position, "right")]
            for position in (low, np.minimum(low + 1, until[-1] - 1))
        )
        # From the nearer end, so that an edge that falls on a score is that score to the bit.
        edge = np.where(fraction < 0.5, a + (b - a) * fraction, b - (b - a) * (1 - fraction))
        row[:-1] = np.searchsorted(ordered, edge[:-1])
        row[-1] = np.searchsorted(ordered, edge[-1], "right")
    return cut.reshape(*below.shape[:-1], -1)


def _ends(q_weak: ArrayLike, q_strong: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """r(weak) and the gap r(strong) - r(weak), the latter exactly 0 where it is rounding alone; () or (b,) each."""
    weak, strong = (
        np.asarray(np.asarray(q, np.float64).mean())
        if weights is None
        else np.asarray(weights, np.float64) @ np.asarray(q, np.float64) / np.asarray(weights, np.float64).sum(-1)
        for q in (q_weak, q_strong)
    )
    return weak, np.where(np.abs(strong - weak) > 1e-12, strong - weak, 0.0)


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
