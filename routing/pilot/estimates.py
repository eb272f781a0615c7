"""What a run was worth, from a sample that every model answered: quality, gap, PGR, over- and under-routing, dollars.

The sample is drawn without replacement, by a hash of the row key, before any routing. Rows of it that fitted the router
or chose the cut (folds fit and select, routing/pilot/folds.py) are no sample of the router's quality any more, but they are
rows of the run: their values are known, so they enter as a known part, and the fold `report` estimates the rest, of
which it is a random sample. Unbiased, and nothing that was paid for is thrown away.

    quality of the run, of each model   difference estimator with route and predicted quality (assisted_interval)
    gap                                 paired difference strong - weak (bounded_interval)
    pgr                                 Fieller, post-stratified by route (ratio_interval); None where the gap may be 0
    over_routing, under_routing         exact intervals inside the rows sent to the strong model, and the others
    alternative_usd                     dollars of the run that was not made: what was paid, and a ratio estimate

A quality that is not known (NaN: a failed verdict) is counted, and widens every interval of a mean by all it could have
been; PGR and the two shares leave such rows out. Cost: O(N m). Legend: n sampled rows, N rows of the run, m models in
ladder order (cheapest first).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.metrics.pair import Interval
from routing.pilot.intervals import (
    LEVEL,
    assisted_interval,
    bounded_interval,
    combine_known,
    ratio_interval,
    total_interval,
)
from routing.pilot.proportions import proportion_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answered:
    """Rows that every model answered."""

    rows: NDArray[np.integer[Any]]
    """(n,) indices into the run's N rows, in an order that says nothing of the answers."""
    quality: NDArray[np.floating[Any]]
    """(n, m), 0..1; NaN where it could not be told; for a model that cannot answer the row (prompt too long), the
    quality of the one that answers in its place."""


@dataclass(frozen=True, slots=True)
class RunEstimates:
    """Every figure with its interval; None where the sample cannot tell."""

    quality: Interval | None
    """Mean quality of what the policy picked."""
    quality_by_model: tuple[Interval | None, ...]
    """(m,) mean quality had each model answered every row."""
    gap: Interval | None
    """r(strong) - r(weak), last and first of the ladder."""
    pgr: Interval | None
    """(r(run) - r(weak)) / gap; None where the gap's own interval holds 0."""
    pgr_over_random: Interval | None
    """PGR less the share of strong rows, which is what random routing recovers; None but for two models."""
    over_routing: Interval | None
    """Share of the rows on the strong model where the weak one was as good."""
    under_routing: Interval | None
    """Share of the other rows where the strong model was better than the one that answered."""
    n_rows: int
    n_sampled: int
    """Rows of the report fold."""
    n_known: int
    """Rows of the other folds, known and not estimated."""
    n_failed: int
    """Sampled rows with a quality that is not known."""


def estimate_run(
    route: NDArray[np.integer[Any]],
    predicted: NDArray[np.floating[Any]],
    report: Answered,
    known: Answered | None = None,
    level: float = LEVEL,
) -> RunEstimates:
    """Estimates for the run. Raises RoutingError where report and known share a row.

    route: (N,) ladder index the policy sends each row to, -1 for rows that cannot be asked (left out everywhere).
    predicted: (N, m) the router's expected quality; it only makes intervals narrower.
    report: rows not used for fitting or choosing.
    known: rows that were; None for none.
    level: of the intervals.
    """
    n_models = predicted.shape[1]
    rows = _rows_of(route, report, known, n_models, level)
    picked = route[rows.report.rows], route[rows.known.rows]
    values = _picked(rows.report.quality, picked[0]), _picked(rows.known.quality, picked[1])
    weak, strong = rows.quality(0), rows.quality(-1)
    dummies = (route[:, None] == np.arange(1, n_models)).astype(np.float64)
    expected = np.column_stack([dummies, _picked(predicted, np.maximum(route, 0))])
    gaps = strong[0] - weak[0], strong[1] - weak[1]
    gap = rows.mean(gaps, None, (-1.0, 1.0))
    pgr = None
    if gap is not None and not gap.low <= 0 <= gap.high:
        pgr = rows.pgr((values[0] - weak[0], values[1] - weak[1]), gaps, dummies)
    strong_share = float((route[route >= 0] == n_models - 1).mean()) if (route >= 0).any() else 0.0
    on_strong = picked[0] == n_models - 1, picked[1] == n_models - 1
    missed = strong[0] > values[0], strong[1] > values[1]
    told = np.isfinite(rows.report.quality).all(axis=1)
    n_strong = int((rows.rest & (route == n_models - 1)).sum())
    wrong = (gaps[0] <= 0)[on_strong[0] & told], (gaps[1] <= 0)[on_strong[1]]
    kept_down = missed[0][~on_strong[0] & told], missed[1][~on_strong[1]]
    return RunEstimates(
        quality=rows.mean(values, expected, (0.0, 1.0)),
        quality_by_model=tuple(
            rows.mean(rows.quality(j), np.asarray(predicted[:, j : j + 1], np.float64), (0.0, 1.0))
            for j in range(n_models)
        ),
        gap=gap,
        pgr=pgr,
        pgr_over_random=_shift(pgr, -strong_share) if n_models == 2 else None,
        over_routing=_share(*wrong, n_strong, level),
        under_routing=_share(*kept_down, rows.n_rest - n_strong, level),
        n_rows=rows.n_rest + rows.n_known,
        n_sampled=len(rows.report.rows),
        n_known=rows.n_known,
        n_failed=int((~told).sum()),
    )


def alternative_usd(
    expected_usd: Floats, paid_usd: Floats, routed: NDArray[np.bool_], sampled: NDArray[np.bool_], level: float = LEVEL
) -> Interval | None:
    """Dollars had one model answered every row: exact where it did, a ratio estimate from the sample where not.

    None where fewer than two sampled rows were routed elsewhere and some rows were.

    expected_usd: (N,) the plan's dollars of each row on that model.
    paid_usd: (N,) what it really cost, NaN where it was not asked.
    routed: (N,) rows the policy sent to it.
    sampled: (N,) rows of the sample, asked of every model.
    level: of the interval.
    """
    rest = ~routed
    paid = float(np.nansum(paid_usd[routed]))
    if not rest.any():
        return Interval(paid, paid, paid)
    seen = rest & sampled & np.isfinite(paid_usd)
    part = total_interval(paid_usd[seen], expected_usd[seen], float(expected_usd[rest].sum()), int(rest.sum()), level)
    return _shift(part, paid)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that are known, those that are not, and the sample of the latter; pairs are (of the report fold, of the known)."""

    report: Answered
    known: Answered
    rest: NDArray[np.bool_]
    """(N,) askable rows that are not known."""
    level: float

    @property
    def n_rest(self) -> int:
        return int(self.rest.sum())

    @property
    def n_known(self) -> int:
        return len(self.known.rows)

    def quality(self, model: int) -> tuple[Floats, Floats]:
        """A model's, of the report fold and of the known rows."""
        report, known = (np.asarray(part.quality[:, model], np.float64) for part in (self.report, self.known))
        return report, known

    def mean(
        self, values: tuple[Floats, Floats], variates: Floats | None, bounds: tuple[float, float]
    ) -> Interval | None:
        """Of all rows, from values within `bounds`, NaN where they failed; variates: (N, c), of every row."""
        x, known = values
        ok = np.isfinite(x)
        part: Interval | None = None
        if ok.any():
            if variates is None or not np.isfinite(variates[self.rest]).all():
                part = bounded_interval(x[ok], self.n_rest, self.level, bounds)
            else:
                target = variates[self.rest].mean(axis=0)
                sampled = variates[self.report.rows[ok]]
                part = assisted_interval(x[ok], sampled, target, self.n_rest, self.level, bounds)
            part = _with_failed(part, float(1 - ok.mean()), bounds)
        return combine_known(part, self.n_rest, float(known.sum()), self.n_known)

    def pgr(self, gains: tuple[Floats, Floats], gaps: tuple[Floats, Floats], dummies: Floats) -> Interval | None:
        """Fieller over the rest, the known rows' means added to both sides as constants."""
        ok = np.isfinite(gains[0]) & np.isfinite(gaps[0])
        if not ok.any():
            return None
        share = self.n_rest / (self.n_rest + self.n_known)
        above, below = (
            share * x[ok] + (1 - share) * (known.mean() if self.n_known else 0.0) for x, known in (gains, gaps)
        )
        sampled, target = dummies[self.report.rows][ok], dummies[self.rest].mean(axis=0)
        return ratio_interval(above, below, self.n_rest, self.level, sampled, target)


def _rows_of(
    route: NDArray[np.integer[Any]], report: Answered, known: Answered | None, n_models: int, level: float
) -> _Rows:
    report, known = _askable(report, route, n_models), _askable(known, route, n_models)
    if len(np.intersect1d(report.rows, known.rows)):
        raise RoutingError("estimates: a row is both in the report fold and among those used for fitting")
    # A known row with a failed verdict is not known.
    known = _take(known, ~np.isnan(known.quality).any(axis=1))
    rest = route >= 0
    rest[known.rows] = False
    return _Rows(report, known, rest, level)


def _share(seen: NDArray[np.bool_], known: NDArray[np.bool_], n_rest: int, level: float) -> Interval | None:
    """Share of rows of a kind among n_rest rows, of which `seen` is a sample, and the `known` ones."""
    if not n_rest + len(known) or (n_rest and not len(seen)):
        return None
    part = proportion_interval(int(seen.sum()), len(seen), n_rest, level) if n_rest else None
    return combine_known(part, n_rest, float(known.sum()), len(known))


def _with_failed(part: Interval, failed: float, bounds: tuple[float, float]) -> Interval:
    """Widened by what the failed share of the rows could have been at most."""
    return Interval(
        part.mean, (1 - failed) * part.low + failed * bounds[0], (1 - failed) * part.high + failed * bounds[1]
    )


def _shift(figure: Interval | None, by: float) -> Interval | None:
    return None if figure is None else Interval(*(end + by for end in figure))


def _picked(table: NDArray[Any], column: NDArray[np.integer[Any]]) -> Floats:
    return np.asarray(table[np.arange(len(column)), column], np.float64)


def _askable(answered: Answered | None, route: NDArray[np.integer[Any]], n_models: int) -> Answered:
    """Without rows that have no model; of None, no rows."""
    if answered is None:
        return Answered(np.zeros(0, np.int64), np.zeros((0, n_models)))
    return _take(answered, route[answered.rows] >= 0)


def _take(answered: Answered, keep: NDArray[np.bool_]) -> Answered:
    return Answered(np.asarray(answered.rows)[keep], np.asarray(answered.quality, np.float64)[keep])
