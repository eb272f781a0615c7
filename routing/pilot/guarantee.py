"""Promises about a cut, kept with a stated confidence: a share of the strong-weak gap, or agreement with the strong model.

A sample answered by every model is laid along the order of the cut (routing/upgrades/cut.py). From all-strong, which keeps
every promise by definition, the candidate cuts are walked down, cheaper and cheaper, each tested at 1 - confidence;
the walk stops at the first that fails (fixed-sequence testing, Maurer et al. 1995): the order comes from the scores
alone, so all tests together err as seldom as one. Picking the cheapest cut that passes anywhere errs more often.

    min_quality   the routed set's mean quality less r(weak) + share * (r(strong) - r(weak)) is at least 0: lower bound
                  of a mean, stratified by the model a row goes to, whose shares of the whole set are known
    agreement     routed answers that equal the strong model's, as a share of all rows: exact hypergeometric
                  (Clopper-Pearson for a finite set) bound on the rows not sent to the strong model; the others agree

Violations on real outcomes: benchmarks/coverage.py. Cost: O(k n m), 5 ms for k = 100 cuts and n = 500 rows; agreement
less for each cut walked. Legend: k candidate cuts, n sampled rows, N rows of the set, m models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.pilot.intervals import LEVEL
from routing.pilot.proportions import proportion_lower
from routing.upgrades.steps import Steps

N_CUTS = 100
MIN_SEEN = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CandidateCuts:
    """Cuts from all-strong (first) to no upgrade (last), and where each sends the sampled rows."""

    n_steps: NDArray[np.int64]
    """(k,) steps taken, descending."""
    route: NDArray[np.int8]
    """(k, n) ladder index of every sampled row."""
    rows_by_model: NDArray[np.int64]
    """(k, m) rows of the whole set on each model."""
    cost_usd: Floats
    """(k,) expected dollars of the whole set."""

    @property
    def strong_share(self) -> Floats:
        """(k,) rows on the last model of the ladder over all answerable rows."""
        return np.asarray(self.rows_by_model[:, -1] / self.rows_by_model.sum(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class Margins:
    """By how much each cut keeps the promise, in the promise's own unit (quality, or share of rows)."""

    estimate: Floats
    """(k,) at least 0 where the cut keeps it by the sample's own figures."""
    lower: Floats
    """(k,) lower confidence bound."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The cheapest cut that the sample can vouch for, and what the certainty costs."""

    n_steps: int
    strong_share: float
    cost_usd: float
    lower: float
    """Margin that the promise is kept by, at least, with the stated confidence."""
    estimate: float
    """Margin by the sample's own figures."""
    below_all_strong: bool
    """False: the sample can promise nothing cheaper than all-strong."""
    point_strong_share: float
    """Where the walk would end if the sample's figures were exact: certainty costs the difference."""
    point_cost_usd: float
    rows_needed: int | None
    """Sampled rows with which a promise halfway between this cut and the point estimate's is to be expected; None where
    certainty costs nothing, or no number of rows would do by the sample's figures."""

    @property
    def certainty_usd(self) -> float:
        """Expected dollars paid for being sure."""
        return self.cost_usd - self.point_cost_usd


def candidate_cuts(
    steps: Steps,
    rows: NDArray[Any],
    weight: NDArray[np.integer[Any]] | None = None,
    n_cuts: int = N_CUTS,
    min_seen: int = MIN_SEEN,
) -> CandidateCuts:
    """At most `n_cuts` + 1 cuts at equal numbers of steps, placed without a look at any answer.

    Raises RoutingError where a sampled row has no model.

    steps: of the whole set, in the order of the cut.
    rows: (n,) the sampled rows' indices into the rows of `steps`; a group drawn twice stands here twice.
    weight: (N,) as given to `build_steps`.
    n_cuts: cuts between all-strong and no upgrade.
    min_seen: of a cut that sends few of the sampled rows down next to nothing is known, and the walk would end there for that
        alone: all-strong is followed by the first cut that sends so many of them down.
    """
    sample = np.asarray(rows, np.int64)
    if len(sample) and (steps.base_model[sample] < 0).any():
        raise RoutingError("guarantee: a sampled row can be answered by no model; leave it out of the sample")
    taken = np.unique(np.linspace(0, steps.n_steps, n_cuts + 1).round().astype(np.int64))[::-1]
    # Where in the order a row reaches each model: later steps of a row come later and go higher.
    reached = np.full((len(steps.base_model), steps.n_models), steps.n_steps, np.int64)
    reached[steps.row, steps.to_model] = np.arange(steps.n_steps)
    route = np.repeat(steps.base_model[sample][None, :], len(taken), axis=0)
    for model in range(1, steps.n_models):
        there = reached[sample, model][None, :] < taken[:, None]
        route[there] = np.maximum(route[there], model)
    seen = (route < steps.n_models - 1).sum(axis=1) - (route[0] < steps.n_models - 1).sum() if len(taken) else taken
    keep = (seen >= min(min_seen, len(sample))) | (taken == steps.n_steps)
    taken, route = taken[keep], route[keep]
    return CandidateCuts(
        n_steps=taken,
        route=route,
        rows_by_model=_rows_by_model(steps, weight, taken),
        cost_usd=steps.base_cost_usd + np.concatenate([[0.0], np.cumsum(steps.cost_usd)])[taken],
    )


def _rows_by_model(
    steps: Steps, weight: NDArray[np.integer[Any]] | None, taken: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(k, m): base models, and what each prefix of steps moves."""
    able = steps.base_model >= 0
    rows = None if weight is None else np.asarray(weight, np.float64)[able]
    counts = np.bincount(steps.base_model[able], rows, steps.n_models).astype(np.int64)
    result = np.repeat(counts[None, :], len(taken), axis=0)
    for model in range(steps.n_models):
        moved = np.where(steps.to_model == model, steps.weight, 0) - np.where(
            steps.from_model == model, steps.weight, 0
        )
        result[:, model] += np.concatenate([[0], np.cumsum(moved, dtype=np.int64)])[taken]
    return result


def quality_margins(
    cuts: CandidateCuts, quality: NDArray[np.floating[Any]], share: float, confidence: float = LEVEL
) -> Margins:
    """Margins of `min_quality`: mean quality of the routed set less that of `share` of the gap above all-weak.

    Per model a row may go to, the mean of d = q_routed - q_weak - share * (q_strong - q_weak) is weighted by the model's known
    share of the set. A pseudo-row with the worst d (and for the strong model its opposite too) keeps a model with few sampled
    rows from looking certain; Satterthwaite's degrees of freedom. Raises RoutingError for NaN: leave failed rows out and say
    how many.

    cuts: k candidates, with where they send the sampled rows.
    quality: (n, m) of the sampled rows, 0..1; where a model cannot answer a row (prompt too long), that of the model which
        answers in its place.
    share: of the gap that is promised.
    confidence: one-sided, of each cut's bound.
    """
    from scipy import special

    q = np.asarray(quality, np.float64)
    if q.shape != cuts.route.shape[1:] + cuts.rows_by_model.shape[1:] or np.isnan(q).any():
        raise RoutingError(f"guarantee: quality must be (n, m) without NaN, and is of shape {q.shape}")
    target = q[:, 0] + share * (q[:, -1] - q[:, 0])
    total = cuts.rows_by_model.sum(axis=1)
    strong = q.shape[1] - 1
    estimate, padded, variance, per_df = (np.zeros(len(total)) for _ in range(4))
    for model in range(q.shape[1]):
        d = q[:, model] - target
        here = (cuts.route == model).astype(np.float64)
        n, rows = here.sum(axis=1), cuts.rows_by_model[:, model]
        weight = rows / total
        # Extremes of d over qualities in 0..1, all others moved freely.
        worst, best = (-(1 - share), 1 - share) if model == strong else (-share if model == 0 else -1.0, None)
        pseudo = [worst] if best is None else [worst, best]
        size = n + len(pseudo)
        sums, squares = here @ d, here @ d**2 + sum(p * p for p in pseudo)
        mean = (sums + sum(pseudo)) / size
        spread = np.maximum(squares / size - mean**2, 0.0) * size / np.maximum(size - 1, 1)
        part = weight**2 * spread / size * np.clip(1 - n / np.maximum(rows, 1), 0.0, 1.0)
        estimate += weight * np.where(n > 0, sums / np.maximum(n, 1), worst)
        padded += weight * mean
        variance += part
        per_df += part**2 / np.maximum(size - 1, 1)
    df = np.where(per_df > 0, variance**2 / np.where(per_df > 0, per_df, 1.0), np.inf)
    t = special.stdtrit(np.minimum(df, 1e6), confidence)
    return Margins(estimate, padded - t * np.sqrt(variance))


def agreement_margins(
    cuts: CandidateCuts, agrees: NDArray[Any], agreement: float, confidence: float = LEVEL
) -> Margins:
    """Margins of `guarantee: {agreement, confidence}`: share of all rows with the strong model's own answer, less `agreement`.

    Exact, hence valid for any n and N; past the first cut that fails, without the correction for the finite set. Raises
    RoutingError for another shape.

    cuts: k candidates, with where they send the sampled rows.
    agrees: (n, m) bool, whether each model's answer to a sampled row equals the strong model's; a row whose comparison failed
        counts as False.
    agreement: the share that is promised.
    confidence: one-sided, of each cut's bound.
    """
    from scipy import special

    same = np.asarray(agrees, bool)
    if same.shape != cuts.route.shape[1:] + cuts.rows_by_model.shape[1:]:
        raise RoutingError(f"guarantee: agrees must be (n, m), and is of shape {same.shape}")
    total = cuts.rows_by_model.sum(axis=1)
    estimate, lower = np.zeros(len(total)), np.zeros(len(total))
    walking = True
    for k, route in enumerate(cuts.route):
        elsewhere = route < same.shape[1] - 1
        n, rows = int(elsewhere.sum()), int(total[k] - cuts.rows_by_model[k, -1])
        right = int(same[elsewhere, route[elsewhere]].sum())
        weight = rows / int(total[k])
        base = 1 - weight - agreement
        estimate[k] = base + (right / n if n else 0.0) * weight
        # Clopper and Pearson's own bound is never higher, and takes a hundredth of the time.
        lower[k] = base + (float(special.betaincinv(right, n - right + 1, 1 - confidence)) if right else 0.0) * weight
        if lower[k] < 0 and walking:
            lower[k] = base + proportion_lower(right, n, max(rows, n), confidence) * weight
            walking = k == 0 or bool(lower[k] >= 0)
    return Margins(estimate, lower)


def promise(cuts: CandidateCuts, margins: Margins, n_sampled: int) -> Promise:
    """Walk down from all-strong and stop before the first cut whose lower bound is below 0."""
    at, point = walk(margins.lower), walk(margins.estimate)
    point = max(point, at)
    return Promise(
        n_steps=int(cuts.n_steps[at]),
        strong_share=float(cuts.strong_share[at]),
        cost_usd=float(cuts.cost_usd[at]),
        lower=float(margins.lower[at]) if at else 0.0,
        estimate=float(margins.estimate[at]),
        below_all_strong=at > 0,
        point_strong_share=float(cuts.strong_share[point]),
        point_cost_usd=float(cuts.cost_usd[point]),
        rows_needed=_rows_needed(margins, at, point, n_sampled),
    )


def walk(margin: Sequence[float] | Floats) -> int:
    """Index of the last cut before the first failing one; 0, all-strong, is not tested: it keeps every promise."""
    failing = np.flatnonzero(~(np.asarray(margin)[1:] >= 0))
    return int(failing[0]) if len(failing) else len(margin) - 1


def _rows_needed(margins: Margins, at: int, point: int, n_sampled: int) -> int | None:
    """Rows at which the bound halfway to the point estimate's cut would reach 0, as errors shrink with sqrt(n)."""
    middle = (at + point + 1) // 2
    estimate, lower = float(margins.estimate[middle]), float(margins.lower[middle])
    if point <= at or estimate <= 0 or not math.isfinite(lower):
        return None
    return math.ceil(n_sampled * ((estimate - lower) / estimate) ** 2)
