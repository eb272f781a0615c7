"""Exact intervals for shares of a finite set of N rows, from n of them drawn without replacement.

Hypergeometric tests inverted, Clopper and Pearson's way: never below their level, 2 to 4 % wider than the intervals for means
(routing/pilot/intervals.py), so they are for shares near 0 or 1 and for promises. Some 20 evaluations of a distribution function,
2 ms. Legend: n sampled rows, N rows of the set.
"""

from __future__ import annotations

import math

from routing.errors import RoutingError
from routing.metrics.pair import Interval
from routing.pilot.intervals import LEVEL, check_sizes


def proportion_interval(n_right: int, n: int, n_total: int, level: float = LEVEL) -> Interval:
    """Share of the `n_total` rows that are right, from `n_right` of `n` drawn: coverage is at least `level`, always.

    The counts that two one-sided hypergeometric tests at (1 - level) / 2 each do not refuse (Buonaccorsi 1987). Raises
    RoutingError unless 0 <= n_right <= n <= n_total and n > 0.

    n_right: sampled rows that are right.
    n: sampled rows.
    n_total: N, rows of the set.
    level: two-sided, of the interval.
    """
    check_sizes(n, n_total)
    if not 0 <= n_right <= n:
        raise RoutingError(f"intervals: {n_right} right of {n} rows; it must be between 0 and {n}")
    alpha = (1 - level) / 2
    low = _lowest_count(n_right, n, n_total, alpha)
    high = n_total - _lowest_count(n - n_right, n, n_total, alpha)
    return Interval(n_right / n, low / n_total, high / n_total)


def proportion_lower(n_right: int, n: int, n_total: int, confidence: float = LEVEL) -> float:
    """One-sided lower Clopper-Pearson bound, for a finite set, of the share of rows that are right; 0 for n = 0.

    Raises RoutingError unless 0 <= n_right <= n <= n_total.

    n_right: sampled rows that are right.
    n: sampled rows.
    n_total: N, rows of the set.
    confidence: one-sided.
    """
    if not 0 <= n_right <= n <= n_total:
        raise RoutingError(f"intervals: {n_right} right of {n} rows of {n_total} is impossible")
    return _lowest_count(n_right, n, n_total, 1 - confidence) / n_total if n else 0.0


def _lowest_count(n_right: int, n: int, n_total: int, alpha: float) -> int:
    """The smallest K of N with P(X >= n_right | K) > alpha, X hypergeometric: bisection, since P grows with K."""

    # scipy takes a second to load; every process that merges answers would pay for it.
    from scipy import special
    from scipy.stats import hypergeom

    def kept(count: int) -> bool:
        # sf(x) is P(X > x).
        return bool(hypergeom.sf(n_right - 1, n_total, count, n) > alpha)

    low, high = n_right, n_total - (n - n_right)
    if not n_right or low >= high:
        return low
    # The binomial bound lies just below: from there in doubling steps, a handful of evaluations instead of log2(N).
    start = math.floor(n_total * float(special.betaincinv(n_right, n - n_right + 1, alpha)))
    step = 1
    if low < start < high and not kept(start):
        low = start + 1
        while low + step < high and not kept(low + step):
            low, step = low + step + 1, 2 * step
        high = min(high, low + step)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) else (middle + 1, high)
    return low
