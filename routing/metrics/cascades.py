"""Cascades: ask cheap models first, stop at the first answer a judge accepts; with a simulated judge or any real one.

A row goes down `order` (cheap to dear): a model is asked, its cost is paid, and its answer stands if the judge scores
it at least `threshold`; otherwise the next is asked, as long as the row's `budget` pays for it. RouterBench (arXiv
2403.12031) simulates the judge: the true score, flipped with probability epsilon in ERROR_RATES. A real judge is any
(n, m) array of scores of the answers: log-probabilities, agreement of samples, or routing/answers/response_judge.py.
All vectorised over rows: O(n m) a cascade, O(n m s) for a sweep of s settings; 1,000 rows x 11 models x 250 settings 0.4 s.
Legend: n rows, m models, k points, b bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import RoutingError
from routing.metrics.plane import CostQuality, Floats, by_cost, checked, ndch, row_mean

ERROR_RATES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4)
"""RouterBench's chances that its simulated judge is wrong."""
Keep = Literal["last", "best"]


class CascadeRun(NamedTuple):
    """What a cascade did with each row, (n,) each."""

    quality: Floats
    """Of the answer that stands."""
    cost_usd: Floats
    """All calls of the row."""
    model: NDArray[np.intp]
    """Whose answer stands."""
    n_calls: NDArray[np.intp]


def simulated_judge(quality: ArrayLike, error_rate: float, seed: int = 0) -> Floats:
    """Judge scores (n, m): the true quality, or with probability `error_rate` (each answer on its own) 1 - quality.

    With quality 0 or 1 and any threshold in (0, 1] that is RouterBench's judge, whose verdict is flipped. The same
    seed errs on the same answers at every rate above theirs, so rates are compared on like draws.
    """
    if not 0 <= error_rate <= 1:
        raise RoutingError(f"cascade: error_rate is {error_rate}; a probability lies in 0..1")
    quality = np.asarray(quality, np.float64)
    wrong = np.random.default_rng(seed).random(quality.shape) < error_rate
    result: Floats = np.where(wrong, 1 - quality, quality)
    return result


def cascade(
    judge_scores: ArrayLike,
    quality: ArrayLike,
    cost: ArrayLike,
    order: Sequence[int] | None = None,
    threshold: float | ArrayLike = 0.5,
    budget: float = np.inf,
    expected_cost: ArrayLike | None = None,
    keep: Keep = "last",
) -> CascadeRun:
    """Run one cascade over n rows. Raises RoutingError for shapes that do not fit, or an order that names a model twice or not
    at all.

    judge_scores: (n, m) of each model's answer.
    quality, cost: (n, m) of each model's answer, cost in dollars.
    order: model indices, first asked first; None is all, cheapest mean first.
    threshold: one, or (m,) one a model; -inf accepts every answer, +inf none.
    budget: dollars a row; the first model is always asked, another only where what was spent and the price of its call fit.
    expected_cost: (m,) or (n, m), that price; None is the recorded cost, as in RouterBench's code; a live cascade only knows an
        estimate.
    keep: which answer stands where none was accepted, the "last" (RouterBench) or the "best" by the judge.
    """
    quality, cost, scores = checked(quality, cost, judge_scores=judge_scores)
    n, m = quality.shape
    order = default_order(cost) if order is None else list(order)
    if not order or len(set(order)) != len(order) or not set(order) <= set(range(m)):
        raise RoutingError(f"cascade: order is {order}; it must name some of the {m} models, each once")
    if keep not in ("last", "best"):
        raise RoutingError(f"cascade: keep is {keep!r}; it must be last or best")
    price = cost if expected_cost is None else np.broadcast_to(np.asarray(expected_cost, np.float64), cost.shape)
    limits = np.broadcast_to(np.asarray(threshold, np.float64), (m,))
    spent, best_score = np.zeros(n), np.full(n, -np.inf)
    standing, n_calls = np.full(n, order[0], np.intp), np.zeros(n, np.intp)
    going = np.ones(n, np.bool_)
    for position, model in enumerate(order):
        if position:
            going &= spent + price[:, model] <= budget
        score = scores[:, model]
        accepted = going & (score >= limits[model])
        stands = going if keep == "last" else accepted | (going & (score > best_score))
        standing[stands] = model
        best_score[going] = np.maximum(best_score, score)[going]
        spent[going] += cost[going, model]
        n_calls[going] += 1
        going &= ~accepted
    return CascadeRun(quality[np.arange(n), standing], spent, standing, n_calls)


def default_order(cost: ArrayLike) -> list[int]:
    """All models, cheapest mean cost first; cost: (n, m)."""
    return [int(j) for j in np.argsort(np.asarray(cost, np.float64).mean(axis=0), kind="stable")]


def cascade_orders(quality: ArrayLike, cost: ArrayLike, max_orders: int = 64) -> list[list[int]]:
    """Ladders worth trying, cheap to dear: all models, and every choice among those on the single models' NDCH.

    Call it on the training rows: which models are worth a place is learned. Shortest first after the
    ladder of all, at most `max_orders`.
    """
    quality, cost = checked(quality, cost)
    everyone = default_order(cost)
    means = row_mean(cost, None)
    hull = set(ndch(means, row_mean(quality, None)).cost_usd.tolist())
    good = [j for j in everyone if float(means[j]) in hull]
    chosen = [list(c) for size in range(1, len(good) + 1) for c in combinations(good, size)]
    return [everyone, *(order for order in chosen if order != everyone)][:max_orders]


class CascadeSweep(NamedTuple):
    """Settings of a cascade and what each did: s settings."""

    settings: list[tuple[tuple[int, ...], float, float]]
    """(order, threshold, budget) each."""
    quality: Floats
    """(n, s)."""
    cost_usd: Floats
    """(n, s)."""

    def points(self, weights: ArrayLike | None = None) -> CostQuality:
        """All settings as points, (s,) or (b, s) for (b, n) weights."""
        return by_cost(row_mean(self.cost_usd, weights), row_mean(self.quality, weights))

    def best(self) -> list[int]:
        """The settings on the NDCH, cheapest first: choose on training rows, run them on others."""
        hull = ndch(row_mean(self.cost_usd, None), row_mean(self.quality, None))
        cost, quality = row_mean(self.cost_usd, None), row_mean(self.quality, None)
        return [int(np.flatnonzero((cost == c) & (quality == q))[0]) for c, q in zip(*hull, strict=True)]


def sweep(
    judge_scores: ArrayLike,
    quality: ArrayLike,
    cost: ArrayLike,
    orders: Sequence[Sequence[int]] | None = None,
    thresholds: Sequence[float] | None = None,
    budgets: Sequence[float] | None = None,
    keep: Keep = "last",
) -> CascadeSweep:
    """Every combination of orders, thresholds and budgets, as RouterBench sweeps them. O(n m) each.

    judge_scores, quality, cost: (n, m) as in `cascade`.
    orders: lists of model indices; None is all models, cheap to dear.
    thresholds: None is -inf and 15 quantiles of the judge's scores.
    budgets: dollars a row; None is no limit and 8 between the cheapest and the dearest mean cost, in equal ratios.
    keep: as in `cascade`.
    """
    quality, cost, scores = checked(quality, cost, judge_scores=judge_scores)
    if orders is None:
        orders = [default_order(cost)]
    if thresholds is None:
        thresholds = [-np.inf, *np.unique(np.quantile(scores, np.linspace(0, 1, 15))).tolist()]
    if budgets is None:
        means = np.maximum(cost.mean(axis=0), 1e-12)
        budgets = [np.inf, *np.geomspace(means.min(), cost.mean(axis=0).sum() + 1e-12, 8).tolist()]
    settings = [(tuple(order), float(t), float(b)) for order in orders for t in thresholds for b in budgets]
    runs = [cascade(scores, quality, cost, order, t, b, keep=keep) for order, t, b in settings]
    return CascadeSweep(settings, np.stack([r.quality for r in runs], 1), np.stack([r.cost_usd for r in runs], 1))


def rerank(reward: ArrayLike, quality: ArrayLike, cost: ArrayLike, models: Sequence[int] | None = None) -> CascadeRun:
    """Overgenerate and rerank: ask all of `models`, keep the answer of the highest reward, the cheaper model's on ties.

    The dearest policy there is, an upper row of a table; with the true quality as reward it is the oracle's quality at
    the price of everyone. Raises RoutingError for shapes that do not fit, unknown entries, or no models.

    reward: (n, m), of any reward model.
    quality, cost: (n, m), cost in dollars.
    models: indices of those asked; None asks all.
    """
    quality, cost, rewards = checked(quality, cost, reward=reward)
    asked = default_order(cost) if models is None else sorted(models, key=default_order(cost).index)
    if not asked:
        raise RoutingError("rerank: no models to ask")
    choice = np.array(asked)[rewards[:, asked].argmax(axis=1)]
    n_calls = np.full(len(quality), len(asked), np.intp)
    return CascadeRun(quality[np.arange(len(quality)), choice], cost[:, asked].sum(axis=1), choice, n_calls)
