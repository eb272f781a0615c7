"""The pilot: a small random sample that every model answers before the cut, in three disjoint folds.

    fit      recalibrates the router, or fits a head on it (routing/routers/)
    select   says where the cut is that keeps a promise (routing/pilot/guarantee.py)
    report   measures the run, and nothing else (routing/pilot/estimates.py)

Rows are drawn, and dealt to folds, by a seeded hash of their key: the same on every machine and after every crash, and
a larger pilot holds the smaller one. Keys are those of groups of equal prompts, so no prompt is in two folds.

Sizes (`fold_sizes`). The report fold gets what its interval needs, 1.96^2 * .75 * .25 / half_width^2 rows for the usual
quality of three quarters, and at most two fifths: past that it measures well a router that learnt nothing. A select
fold is only needed for a promise. What certainty costs falls with the square root of its rows (500 rows of MMLU promise
80 % of the gap at 82 % strong calls where 64 % would do, benchmarks/coverage.py), what a small fit fold loses falls no
faster, and neither was seen to be clearly the larger: the rest is halved between them. Below MIN_FIT_ROWS no router is
fitted, and the rows go to the other folds.

When one more row stops paying (`stopping`): what is lost for want of rows falls like (n0/n)^e, e = 1/2 for certainty;
its derivative against the price of a row gives the best n in closed form.
Cost: O(N log N) for the draw, one sort; O(b n) for the choice of rank_by. Legend: n pilot rows, N rows, m models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import RoutingError

MIN_FIT_ROWS = 100
REPORT_SHARE = 0.4
HALF_WIDTH = 0.05
USUAL_QUALITY = 0.75
FOLD_NAMES = ("fit", "select", "report")
FOLD_SALT = 0x5851F42D4C957F2D
"""Folds must not follow the order of the draw: a pilot cut short by max_usd keeps its proportions."""


@dataclass(frozen=True, slots=True)
class FoldSizes:
    """Rows of each fold."""

    fit: int
    select: int
    report: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """Whether one more pilot row pays."""

    saving_usd: float
    """Expected dollars that the next row saves."""
    row_usd: float
    """What it costs beyond the answer that the row gets anyway."""
    best_rows: int
    """Rows at which the two meet; not more than the set has."""

    @property
    def pays(self) -> bool:
        """True while the next row saves more than it costs."""
        return self.saving_usd > self.row_usd


def hash_order(row_key: NDArray[np.integer[Any]], seed: int = 0) -> NDArray[np.int64]:
    """(N,) indices in the order of a seeded hash of the keys (SplitMix64, Steele et al. 2014); equal keys by position."""
    z = np.asarray(row_key).astype(np.int64).view(np.uint64) ^ _mix(np.array([seed], np.int64).view(np.uint64))
    return np.argsort(_mix(z), kind="stable")


def draw(row_key: NDArray[np.integer[Any]], rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of `rows` random rows, all where there are fewer; a larger draw with the same seed begins with a smaller one."""
    return hash_order(row_key, seed)[: max(0, rows)]


def affordable(extra_usd: ArrayLike, max_usd: float | None) -> int:
    """How many rows of a draw, in its order, `max_usd` pays for; `extra_usd`: (n,) dollars beyond the row's own answer."""
    spent = np.cumsum(np.asarray(extra_usd, np.float64))
    return len(spent) if max_usd is None else int(np.searchsorted(spent, max_usd * (1 + 1e-12), side="right"))


def fold_sizes(n: int, promise: bool = False, half_width: float = HALF_WIDTH) -> FoldSizes:
    """Rows of the three folds of `n` rows. `promise`: the policy is min_quality or a guarantee. See the file's head.

    Raises RoutingError for a negative n or a half_width not in (0, 1).
    """
    if n < 0 or not 0 < half_width < 1:
        raise RoutingError(f"pilot: {n} rows and a half width of {half_width} make no folds")
    needed = math.ceil(1.96**2 * USUAL_QUALITY * (1 - USUAL_QUALITY) / half_width**2)
    report = min(needed, math.floor(REPORT_SHARE * n))
    left = n - report
    if not promise:
        return FoldSizes(left, 0, report) if left >= MIN_FIT_ROWS else FoldSizes(0, 0, n)
    if left < 2 * MIN_FIT_ROWS:
        return FoldSizes(0, left, report)
    return FoldSizes(left // 2, left - left // 2, report)


def assign_folds(row_key: NDArray[np.integer[Any]], sizes: FoldSizes, seed: int = 0) -> NDArray[np.int8]:
    """(n,) index into FOLD_NAMES of every pilot row; rows of one key, and of nothing else, always go together.

    row_key: (n,) key of each row's group. Sizes are kept to within one group. Raises RoutingError where they do not sum
    to n.
    """
    n = len(row_key)
    counts = [sizes.fit, sizes.select, sizes.report]
    if sum(counts) != n or min(counts) < 0:
        raise RoutingError(f"pilot: folds of {counts} rows do not make {n}")
    keys, inverse, copies = np.unique(row_key, return_inverse=True, return_counts=True)
    order = hash_order(keys, seed ^ FOLD_SALT)
    # A group belongs to the fold in which its middle row would lie.
    middle = np.cumsum(copies[order]) - copies[order] / 2
    fold = np.empty(len(keys), np.int8)
    fold[order] = np.searchsorted(np.cumsum(counts)[:2], middle, side="left")
    return fold[inverse]


def stopping(n: int, lost_usd: float, row_usd: float, n_total: int, exponent: float = 0.5) -> Stopping:
    """The worth of one more row, where dollars are lost for want of more than `n` rows, and the loss falls like n^-exponent.

    `best_rows` minimises lost_usd * (n/x)^e + row_usd * x. Raises RoutingError for n < 1, negative dollars or no exponent.

    n: rows of the pilot so far.
    lost_usd: dollars over the whole set; `Promise.certainty_usd` for certainty.
    row_usd: what a row costs beyond the answer that it gets anyway.
    n_total: rows of the set, which best_rows does not pass.
    exponent: e, above 0; 1/2 for certainty.
    """
    if n < 1 or lost_usd < 0 or row_usd < 0 or exponent <= 0:
        raise RoutingError(f"pilot: no stopping rule for {n} rows, {lost_usd} dollars lost, {row_usd} dollars a row")
    saving = exponent * lost_usd / n
    if not saving:
        best = 0.0
    elif not row_usd:
        best = float(n_total)
    else:
        best = n * (saving / row_usd) ** (1 / (1 + exponent))
    return Stopping(saving, row_usd, min(n_total, round(best)))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 after one step: a bijection on 64 bits."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
