"""From predictions on test rows to figures with intervals.

A `Trial` is one seed: a split, a router trained on its one side, predictions on the other. A figure is the mean over trials; its
interval is a two-way bootstrap (rows and seeds drawn anew together; Owen, "The pigeonhole bootstrap", 2007): every replicate
draws each row of the table a number of times, the same in all trials (a row is in the test of several), and as many trials as
there are, with replacement. Percentiles 2.5 and 97.5. 13,500 rows x 5 seeds x 300 replicates: 4 s without dollars, 15 s with.
Legend: N rows of the table, k test rows, m models, b replicates, s trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from routing.data.outcomes import Outcomes
from routing.metrics.pair import Interval, curve_apgr, curve_cpt, routellm_measures, router_curve
from routing.metrics.plane import CostQuality, aiq, aiq_published, ndch, single_models
from routing.metrics.sweep import Sweep, oracle_points, pair_points

Floats = NDArray[np.float64]
N_BOOT = 300
CELLS = 1_000_000
"""Weights (replicates x rows) in memory at once: 8 MB, which caches hold better than more."""
CONTRACT = ("apgr", "apgr_routellm", "cpt50", "cpt80", "aiq")
"""What every router of a report has, null where it has no meaning."""
GAP_FIGURES = (
    "apgr",
    "apgr_routellm",
    "cpt50",
    "cpt80",
    "cpt50_routellm",
    "cpt80_routellm",
    "calls_vs_random_cpt50",
    "calls_vs_random_cpt80",
)
"""Figures that divide by the gap between the two models."""
FIGURES = (*GAP_FIGURES, "aiq", "aiq_published", "aiq_gain", "best_quality")
"""calls_vs_random: strong calls of random routing for the same PGR over this router's (the paper's table 6). aiq_gain: AIQ less the
Zero router's on the same draws. best_quality: every row to the model with the best prediction, whatever it costs."""
Intervals: TypeAlias = dict[str, Interval | None]
"""By the names in FIGURES; None for one that has no meaning."""
Statistic = Callable[[Floats], Mapping[str, Floats]]
"""Weights (b, k) of one trial's test rows → (b,) per figure."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trained router said about the test rows of one split."""

    rows: NDArray[np.intp]
    """(k,) positions in the table."""
    predicted: NDArray[np.float32]
    """(k, m) expected quality; columns as in the table."""
    price: Floats | None = None
    """(m,) dollars a call that the sweep over budgets expects, from the training rows; None without cost."""


def measure_trials(
    trials: Sequence[Trial], table: Outcomes, pair: bool, n_boot: int = N_BOOT, seed: int = 0
) -> Intervals:
    """Each of FIGURES with its interval, None where it has no meaning.

    Dollars are used where the table and the trials have them. `low` and `high` of GAP_FIGURES are NaN where the gap between
    the two models is not beyond chance (its own interval holds 0): those figures divide by it.

    trials: s of them, by one router.
    table: N rows whose quality is known for every model; of a `pair` the columns are weak, strong.
    pair: whether GAP_FIGURES are measured.
    n_boot: replicates of the bootstrap.
    seed: of its draws: the same for every router, so that their differences are paired.
    """
    statistics = [_statistic(trial, table, pair) for trial in trials]
    means, draws = two_way_bootstrap(statistics, [trial.rows for trial in trials], len(table), n_boot, seed)
    low, high = np.percentile(draws["gap"], [2.5, 97.5]) if pair else (1.0, 1.0)
    beyond_chance = low > 0 or high < 0
    result: Intervals = dict.fromkeys(FIGURES)
    for name in FIGURES:
        if name in means and not np.isnan(means[name]):
            drawn = draws[name][~np.isnan(draws[name])]
            told = len(drawn) > n_boot / 2 and (beyond_chance or name not in GAP_FIGURES)
            result[name] = _interval(means[name], drawn if told else drawn[:0])
    return result


def intervals_json(intervals: Intervals) -> dict[str, dict[str, float | None] | None]:
    """{"mean", "low", "high"} per figure, null for an end that is not known."""
    return {
        name: interval and {end: None if np.isnan(value) else value for end, value in interval._asdict().items()}
        for name, interval in intervals.items()
    }


def two_way_bootstrap(
    statistics: Sequence[Statistic], rows: Sequence[NDArray[np.intp]], n: int, n_boot: int, seed: int
) -> tuple[dict[str, float], dict[str, Floats]]:
    """(means over trials, `n_boot` draws of those means (n_boot,)) per figure.

    statistics: one of each trial.
    rows: each trial's test rows among the `n` of the table.
    n_boot, seed: replicates, and the seed of their draws.
    """
    s = len(statistics)
    exact = [statistic(np.ones((1, len(own)))) for statistic, own in zip(statistics, rows, strict=True)]
    means = {name: _mean([float(each[name][0]) for each in exact]) for name in exact[0]}
    drawn: dict[str, list[Floats]] = {name: [] for name in means}
    for weights in _weights(n, n_boot, seed):
        found = [statistic(weights[:, own]) for statistic, own in zip(statistics, rows, strict=True)]
        for name, blocks in drawn.items():
            blocks.append(np.stack([each[name] for each in found]))
    shares = np.random.default_rng([seed, 1]).multinomial(s, np.full(s, 1 / s), n_boot).T / s
    draws = {}
    for name, blocks in drawn.items():
        values = np.concatenate(blocks, axis=1)
        # A trial that was not drawn has share 0, and its NaN (a CPT that is never reached) must not spoil the others.
        draws[name] = np.where(shares > 0, shares * values, 0.0).sum(axis=0)
    return means, draws


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _weights(n: int, n_boot: int, seed: int) -> Iterator[Floats]:
    """(b, n) blocks of how often each row is drawn, `n_boot` replicates in all; the same for every router."""
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // n)
    for start in range(0, n_boot, block):
        b = min(block, n_boot - start)
        cells = rng.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(cells.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)


def _statistic(trial: Trial, table: Outcomes, pair: bool) -> Statistic:
    quality = table.quality[trial.rows].astype(np.float64)
    predicted = trial.predicted.astype(np.float64)
    picked = quality[np.arange(len(quality)), predicted.argmax(axis=1)]
    cost = None if table.cost_usd is None or trial.price is None else table.cost_usd[trial.rows]
    hulls = None if cost is None else _hulls(predicted, quality, cost, trial.price, pair)

    def statistic(weights: Floats) -> dict[str, Floats]:
        found = {"best_quality": weights @ picked / weights.sum(axis=1)}
        if pair:
            found |= _pair_statistics(predicted[:, 1] - predicted[:, 0], quality[:, 0], quality[:, 1], weights)
        if hulls is not None and cost is not None:
            singles = single_models(quality, cost, weights)
            ends = list(zip(singles.cost_usd[:, 0], singles.cost_usd[:, -1], strict=True))
            own = hulls(weights)
            found["aiq"] = np.array([aiq(hull, *end) for hull, end in zip(own, ends, strict=True)])
            found["aiq_published"] = np.array(
                [aiq_published(hull, end[1]) for hull, end in zip(own, ends, strict=True)]
            )
            found["aiq_gain"] = found["aiq"] - aiq(singles, *np.array(ends).T)
        return found

    return statistic


def _pair_statistics(score: Floats, weak: Floats, strong: Floats, weights: Floats) -> dict[str, Floats]:
    curve = router_curve(score, weak, strong, weights)
    found = {"gap": curve.quality[:, -1] - curve.quality[:, 0], "apgr": np.asarray(curve_apgr(curve))}
    for percent in (50, 80):
        share = np.asarray(curve_cpt(curve, percent / 100))
        found[f"cpt{percent}"] = share
        with np.errstate(divide="ignore", invalid="ignore"):
            found[f"calls_vs_random_cpt{percent}"] = percent / 100 / share
    published = routellm_measures(score, weak, strong, 10, weights, {"cpt50": 0.5, "cpt80": 0.8})
    return found | {f"{name}_routellm": np.asarray(values) for name, values in published.items()}


def _hulls(
    predicted: Floats, quality: Floats, cost: Floats, price: Floats | None, pair: bool
) -> Callable[[Floats], list[CostQuality]]:
    """Weights (b, k) → the router's NDCH per replicate: prefixes by score for a pair, the sweep over budgets for more."""
    if pair:
        score = predicted[:, 1] - predicted[:, 0]

        def of_pair(weights: Floats) -> list[CostQuality]:
            (weak, strong), (cost_weak, cost_strong) = quality.T, cost.T
            points = pair_points(score, weak, strong, cost_weak, cost_strong, weights)
            return [ndch(c, q) for c, q in zip(*points, strict=True)]

        return of_pair
    sweep = Sweep(predicted, quality, cost, price)
    return lambda weights: [ndch(*sweep.points(row)) for row in weights]


def measure_references(
    rows: Sequence[NDArray[np.intp]], table: Outcomes, pair: bool, n_boot: int, seed: int = 0
) -> dict[str, Intervals]:
    """FIGURES of the Zero router ("zero") and of the oracle ("oracle") on the same test rows.

    The Zero router has an AIQ alone (its "best_quality" is the best single model's). The oracle knows each row's quality and cost.

    rows: each trial's test rows, positions in `table`.
    table, pair, n_boot, seed: as in `measure_trials`.
    """
    statistics = [_reference(table.quality[own].astype(np.float64), _cost(table, own), pair) for own in rows]
    means, draws = two_way_bootstrap(statistics, rows, len(table), n_boot, seed)
    found: dict[str, Intervals] = {"zero": dict.fromkeys(FIGURES), "oracle": dict.fromkeys(FIGURES)}
    for key, mean in means.items():
        which, _, name = key.partition("|")
        if not np.isnan(mean):
            found[which][name] = _interval(mean, draws[key][~np.isnan(draws[key])])
    return found


def _interval(mean: float, drawn: Floats) -> Interval:
    """Ends at 2.5 and 97.5 % of what was drawn, NaN of nothing."""
    return Interval(mean, *np.percentile(drawn, [2.5, 97.5]).tolist()) if len(drawn) else Interval(mean, np.nan, np.nan)


def _cost(table: Outcomes, rows: NDArray[np.intp]) -> Floats | None:
    return None if table.cost_usd is None else table.cost_usd[rows]


def _reference(quality: Floats, cost: Floats | None, pair: bool) -> Statistic:
    best = quality.max(axis=1)

    def statistic(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        found = {
            "zero|best_quality": (weights @ quality / total[:, None]).max(axis=1),
            "oracle|best_quality": weights @ best / total,
        }
        if pair:
            of_oracle = _pair_statistics(quality[:, 1] - quality[:, 0], quality[:, 0], quality[:, 1], weights)
            found |= {f"oracle|{name}": values for name, values in of_oracle.items() if name != "gap"}
        if cost is not None:
            singles = single_models(quality, cost, weights)
            low, high = singles.cost_usd[:, 0], singles.cost_usd[:, -1]
            top = oracle_points(quality, cost, weights)
            for name, points in (("zero", singles), ("oracle", top)):
                found[f"{name}|aiq"] = np.asarray(aiq(points, low, high))
                found[f"{name}|aiq_published"] = np.asarray(aiq_published(points, high))
                found[f"{name}|aiq_gain"] = found[f"{name}|aiq"] - np.asarray(aiq(singles, low, high))
        return found

    return statistic
