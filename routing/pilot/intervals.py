"""Confidence intervals for means over a finite set of N rows, from n of them drawn without replacement.

    bounded_interval     values in a range, differences of them included: Student's t with pseudo-rows at both ends
    assisted_interval    the same, with what is known of all N rows (route, predicted quality) as control variates
    ratio_interval       a ratio of two means, such as PGR: Fieller's theorem
    total_interval       a sum of dollars over the N rows, in proportion to what was expected of them

Pseudo-rows (Agresti and Coull 1998 for one mean, Bonett and Price 2012 for paired differences) keep an interval from
collapsing where all n values are equal: twenty right answers of twenty do not prove 100 %. The finite-population
correction 1 - n/N makes every interval a point at n = N. Coverage and width on real outcomes, over 20,000 draws, beside
the Wald interval: benchmarks/coverage.py. `bounded` is never below 94.5 % there at Wald's width. Exact intervals for shares
are in routing/pilot/proportions.py. Cost: O(n c^2) for c control variates, well under 1 ms.
Legend: n sampled rows, N rows of the set, c control variates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import RoutingError
from routing.metrics.pair import Interval

LEVEL = 0.95
FOLDS = 10
"""Of the cross-fit of control variates."""
MIN_ASSISTED_ROWS = 30
"""With fewer rows the fit of control variates costs more width than it saves."""
RIDGE_ROWS = 1.0
"""Weight, in rows, that holds the control variates' coefficients to zero."""
Floats = NDArray[np.float64]


def bounded_interval(
    values: ArrayLike, n_total: int, level: float = LEVEL, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Mean over the set of values within bounds: Student's t with pseudo-rows at both ends.

    The mean is f * (mean of the seen) + (1 - f) * (mean of the rest) with f = n/N, and only the rest is estimated: the interval
    also keeps to what is certain. Raises RoutingError for no values, more than N, NaN, or out of bounds.

    values: (n,) of the sampled rows.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    bounds: (lowest, highest) possible value; a negative low end says that they are differences.
    """
    return _interval(bounded_ends(_checked(values, n_total, bounds), n_total, level, bounds))


def bounded_ends(x: Floats, n_total: int, level: float = LEVEL, bounds: tuple[float, float] = (0.0, 1.0)) -> Floats:
    """(3, ...): mean, low and high of `bounded_interval` for many samples at once, unchecked.

    x: (..., n) values.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    bounds: (lowest, highest) possible value; a negative low end says that they are differences.
    """
    return _padded(x, x, x.mean(-1), n_total, level, bounds)


def assisted_interval(
    values: ArrayLike,
    covariates: ArrayLike,
    covariate_means: ArrayLike,
    n_total: int,
    level: float = LEVEL,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """`bounded_interval` of values whose control variates are known for all N rows: the difference estimator.

    The coefficients for a row are fitted on the other folds, so the estimate is unbiased whatever the covariates are worth, and
    the residuals carry the fit's own error (cross-fitting; Särndal et al. 1992, section 6.5). Rows must be in an order that
    says nothing of their values. With fewer than MIN_ASSISTED_ROWS the covariates are left out. Raises RoutingError as
    `bounded_interval` does, and for covariates that do not fit.

    values: (n,) of the sampled rows.
    covariates: (n, c) of the same rows.
    covariate_means: (c,) over all N rows.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    bounds: (lowest, highest) possible value; a negative low end says that they are differences.
    """
    x, variates, target = _with_covariates(_checked(values, n_total, bounds), covariates, covariate_means)
    return _interval(assisted_ends(x, variates, target, n_total, level, bounds))


def assisted_ends(
    x: Floats,
    covariates: Floats,
    target: Floats,
    n_total: int,
    level: float = LEVEL,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Floats:
    """(3, ...): mean, low and high of `assisted_interval` for many samples at once, unchecked.

    x: (..., n) values.
    covariates: (..., n, c).
    target: (c,) means of the covariates over all N rows.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    bounds: (lowest, highest) possible value; a negative low end says that they are differences.
    """
    if x.shape[-1] < MIN_ASSISTED_ROWS:
        return bounded_ends(x, n_total, level, bounds)
    estimate, residual = _assist(x, covariates, target, n_total)
    return _padded(x, residual, estimate.mean(-1), n_total, level, bounds)


def ratio_interval(
    numerator: ArrayLike,
    denominator: ArrayLike,
    n_total: int,
    level: float = LEVEL,
    covariates: ArrayLike | None = None,
    covariate_means: ArrayLike | None = None,
) -> Interval | None:
    """Ratio of the means of two paired differences in [-1, 1] (Fieller 1954); None where the denominator may be 0.

    Four pseudo-rows, gaps of either sign recovered and not, keep the interval from collapsing where no sampled row has a
    numerator. Raises RoutingError as `assisted_interval` does.

    numerator, denominator: (n,) of the sampled rows.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    covariates: (n, c) of the same rows, or None.
    covariate_means: (c,) over all N rows; None leaves the covariates out.
    """
    a, b = (_checked(column, n_total, (-1.0, 1.0)) for column in (numerator, denominator))
    variates = target = None
    if covariates is not None and covariate_means is not None:
        _, variates, target = _with_covariates(a, covariates, covariate_means)
    ends = ratio_ends(a, b, n_total, level, variates, target)
    return None if np.isnan(ends[0]) else _interval(ends)


def ratio_ends(
    a: Floats,
    b: Floats,
    n_total: int,
    level: float = LEVEL,
    covariates: Floats | None = None,
    target: Floats | None = None,
) -> Floats:
    """(3, ...): mean, low and high of `ratio_interval` for many samples at once, unchecked; NaN where it has none.

    a, b: (..., n) numerators and denominators.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    covariates: (..., n, c), or None.
    target: (c,) their means over all N rows; None leaves them out.
    """
    n = a.shape[-1]
    f = n / n_total
    residual = [a, b]
    means = [a.mean(-1), b.mean(-1)]
    if covariates is not None and target is not None and n >= MIN_ASSISTED_ROWS:
        for column in (0, 1):
            estimate, residual[column] = _assist((a, b)[column], covariates, target, n_total)
            means[column] = estimate.mean(-1)
    first, second = (r - r.mean(-1, keepdims=True) for r in residual)
    # Pseudo-rows (a, b): a gap of either sign, recovered and not: with the recovered alone a sample in which all of it was
    # recovered would leave no doubt.
    pseudo = np.array([(1.0, 1.0), (0.0, 1.0), (0.0, -1.0), (-1.0, -1.0)])
    size = n + len(pseudo)
    v_aa, v_ab, v_bb = (
        ((u * v).sum(-1) + float(pseudo[:, i] @ pseudo[:, j])) / (size - 1) / size * (1 - f)
        for u, v, i, j in ((first, first, 0, 0), (first, second, 0, 1), (second, second, 1, 1))
    )
    t2 = _quantile(level, size - 1) ** 2
    # The pseudo-rows pull both means to 0 by the same factor, for the test though not for the ratio.
    mean_a, mean_b = (m * (f + (1 - f) * n / size) for m in means)
    lead, cross, last = mean_b**2 - t2 * v_bb, mean_a * mean_b - t2 * v_ab, mean_a**2 - t2 * v_aa
    known = lead > 0
    safe = np.where(known, lead, np.nan)
    root = np.sqrt(np.maximum(0.0, cross**2 - lead * last))
    ratio = np.where(known, mean_a, np.nan) / np.where(known, mean_b, np.nan)
    return _ordered(ratio, (cross - root) / safe, (cross + root) / safe)


def total_interval(
    amounts: ArrayLike, expected: ArrayLike, expected_total: float, n_total: int, level: float = LEVEL
) -> Interval | None:
    """Sum over all N rows of amounts known for n, in proportion to what was expected of each row: the ratio estimator.

    Ratio estimate with its linearised variance (Cochran 1977, section 6.4); the low end is at least what was seen. None where
    the amounts say nothing: fewer than two, or nothing expected of them. Raises RoutingError for more rows than N.

    amounts, expected: (n,), at least 0, same unit.
    expected_total: over all N rows.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    """
    y, x = np.asarray(amounts, np.float64), np.asarray(expected, np.float64)
    n = len(y)
    if n < 2 or x.sum() <= 0:
        return None
    check_sizes(n, n_total)
    ratio = y.sum() / x.sum()
    residual = y - ratio * x
    f = n / n_total
    # Over x.sum() instead of n: the factor X/x of the linearised variance, better where the sample drew long rows.
    error = math.sqrt((1 - f) * float(residual @ residual) * n / (n - 1)) / float(x.sum()) * expected_total
    half = _quantile(level, n - 1) * error
    total = ratio * expected_total
    return Interval(total, max(total - half, min(total, float(y.sum()))), total + half)


def combine_known(rest: Interval | None, n_rest: int, known_sum: float, n_known: int) -> Interval | None:
    """Mean over rows that are estimated and rows whose values are known.

    None where there are rows to estimate and no estimate, and where there is no row at all.

    rest: the estimate of the mean of the `n_rest` rows.
    n_rest: rows it stands for.
    known_sum: sum of the known values.
    n_known: rows they are of.
    """
    if (n_rest and rest is None) or not n_rest + n_known:
        return None
    share = n_rest / (n_rest + n_known)
    known = known_sum / (n_rest + n_known)
    return Interval(*(known + (share * end if share else 0.0) for end in rest or (0.0, 0.0, 0.0)))


def _assist(x: Floats, covariates: Floats, target: Floats, n_total: int) -> tuple[Floats, Floats]:
    """Row-wise unbiased estimates of the mean of all N rows, (..., n), and the residuals of the cross-fitted variates.

    With f = n/N, fold k's row i counts as x_i - slope_k @ ((1 - f) c_i + f mean(c) - target), slope_k from the other
    folds: the bracket's expectation is 0 given those folds, and it sums to 0 at n = N.
    """
    f = x.shape[-1] / n_total
    scale = covariates.std(-2, keepdims=True)
    scale = np.where(scale > 1e-9, scale, np.inf)
    sampled = covariates.mean(-2, keepdims=True)
    variates, goal = (covariates - sampled) / scale, ((target - sampled) / scale)[..., 0, :]
    design = np.concatenate([np.ones((*variates.shape[:-1], 1)), variates], -1)
    by_fold = [slice(k, None, FOLDS) for k in range(FOLDS)]
    grams = np.stack([np.swapaxes(design[..., k, :], -1, -2) @ design[..., k, :] for k in by_fold], -3)
    sides = np.stack([np.swapaxes(design[..., k, :], -1, -2) @ x[..., k, None] for k in by_fold], -3)
    grams = grams.sum(-3, keepdims=True) - grams
    ridge = RIDGE_ROWS * np.eye(design.shape[-1])
    ridge[0, 0] = 0.0
    slopes = np.linalg.solve(grams + ridge, sides.sum(-3, keepdims=True) - sides)[..., 1:, :]
    estimate, residual = np.array(x), np.array(x)
    for k, rows in enumerate(by_fold):
        slope = slopes[..., k, :, :]
        explained = (variates[..., rows, :] @ slope)[..., 0]
        offset = (goal[..., None, :] @ slope)[..., 0]
        estimate[..., rows] -= (1 - f) * explained - offset
        residual[..., rows] -= explained - offset
    return estimate, residual


def _padded(
    seen: Floats, residual: Floats, mean: Floats, n_total: int, level: float, bounds: tuple[float, float]
) -> Floats:
    """Student's t interval around `mean`, the spread from `residual`, with pseudo-rows at both bounds."""
    low, high = bounds
    extra = 1.0 if low < 0 else 2.0
    n, f = seen.shape[-1], seen.shape[-1] / n_total
    size = n + 2 * extra
    middle = (n * residual.mean(-1) + extra * (low + high)) / size
    squares = ((residual - middle[..., None]) ** 2).sum(-1) + extra * ((low - middle) ** 2 + (high - middle) ** 2)
    half = _quantile(level, size - 1) * np.sqrt(squares / (size - 1) * (1 - f) / size)
    at = f * mean + (1 - f) * (n * mean + extra * (low + high)) / size
    known = f * seen.mean(-1)
    least, most = known + (1 - f) * low, known + (1 - f) * high
    return _ordered(np.clip(mean, least, most), np.maximum(at - half, least), np.minimum(at + half, most))


def _quantile(level: float, df: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(df, (1 + level) / 2))


def _ordered(mean: Floats, low: Floats, high: Floats) -> Floats:
    """Ends that hold their mean, whatever rounding and pseudo-rows did."""
    return np.stack([mean, np.minimum(low, mean), np.maximum(high, mean)])


def _interval(ends: Floats) -> Interval:
    return Interval(*(float(end) for end in ends))


def _with_covariates(x: Floats, covariates: ArrayLike, means: ArrayLike) -> tuple[Floats, Floats, Floats]:
    variates, target = np.asarray(covariates, np.float64), np.asarray(means, np.float64)
    if variates.shape != (len(x), len(target)) or not np.isfinite(variates).all() or not np.isfinite(target).all():
        raise RoutingError(
            f"intervals: covariates of shape {variates.shape} do not fit {len(x)} rows and means of shape {target.shape}"
        )
    return x, variates, target


def _checked(values: ArrayLike, n_total: int, bounds: tuple[float, float]) -> Floats:
    x = np.asarray(values, np.float64)
    if x.ndim != 1:
        raise RoutingError(f"intervals: values must be one number per row, not of shape {x.shape}")
    check_sizes(len(x), n_total)
    # Quality is kept as float32: 1e-6 covers its rounding in a difference.
    if not (np.isfinite(x).all() and x.min() >= bounds[0] - 1e-6 and x.max() <= bounds[1] + 1e-6):
        raise RoutingError(f"intervals: values must be numbers between {bounds[0]:g} and {bounds[1]:g}")
    return np.clip(x, *bounds)


def check_sizes(n: int, n_total: int) -> None:
    """Raises RoutingError unless 0 < n <= n_total."""
    if not 0 < n <= n_total:
        raise RoutingError(
            f"intervals: {n} rows drawn from {n_total}; there must be at least one, and not more than all"
        )
