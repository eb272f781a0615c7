"""What every router fits on, outcomes or battles, and the way from one to the other.

`as_preferences` makes golden labels of outcomes (RouteLLM, arXiv 2406.18665), `as_outcomes` makes a regressor's rows of
battles, `mix` joins training sets with weights. O(n m^2) for golden labels, else O(n). Legend: n rows, m models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from routing.data import outcomes as outcome_tables
from routing.data.outcomes import Outcomes
from routing.data.preferences import Preferences, concat
from routing.errors import RoutingError

TrainingData: TypeAlias = Outcomes | Preferences
"""What every router fits on."""


def as_preferences(data: TrainingData, *, margin: float = 0.0) -> Preferences:
    """Battles as they are; outcomes as golden labels: all pairs of models known for a row, the better one wins.

    A difference of at most `margin` is a tie (0: exactly equal; a judge's scores of 1-10 scaled to 0..1 differ by
    1/9). Model a is the earlier column. Order: by row, then by pair.
    """
    if isinstance(data, Preferences):
        return data
    m = len(data.models)
    first, second = np.triu_indices(m, 1)
    quality = data.quality.astype(np.float64)
    gap = quality[:, first] - quality[:, second]
    rows, pairs = np.nonzero(~np.isnan(gap))
    gaps = gap[rows, pairs]
    # Float32 columns differ in the last bit where a file wrote the same decimal in two ways.
    winner = np.where(np.abs(gaps) <= margin + 1e-6, 0.5, np.where(gaps > 0, 1.0, 0.0))
    return Preferences(
        prompts=[data.prompts[row] for row in rows],
        model_a=[data.models[j] for j in first[pairs]],
        model_b=[data.models[j] for j in second[pairs]],
        winner=winner,
        datasets=[data.datasets[row] for row in rows],
    )


def as_outcomes(data: TrainingData, models: Sequence[str] | None = None) -> Outcomes:
    """Outcomes as they are; a battle as a row that knows its two sides: quality 1 and 0, or 0.5 each after a tie.

    `models`: the columns, in order; by default all of the table, weakest first by Bradley-Terry strength. Group
    battles into classes first (`routing.data.tiers.Tiers.classes`) to get the two columns weak and strong. Outcomes are
    narrowed to `models` where given. Raises RoutingError for a battle of a model not among `models`.
    """
    if isinstance(data, Outcomes):
        return data if models is None else data.with_models(models)
    if models is None:
        from routing.data.tiers import weakest_first  # tiers are made of preferences, so they import this module

        models = weakest_first(data)
    a, b = data.sides(models)
    rows = np.arange(len(data))
    quality = np.full((len(data), len(models)), np.nan, np.float32)
    quality[rows, a], quality[rows, b] = data.winner, 1 - data.winner
    ids = [f"battle-{row}" for row in rows]
    return Outcomes(ids, data.prompts, data.datasets, tuple(models), quality)


Table = TypeVar("Table", Outcomes, Preferences)


def mix(tables: Sequence[Table], weights: Sequence[float], seed: int = 0) -> Table:
    """Join training sets of one kind, each row of table t `weights[t]` times, shuffled.

    2 means twice, 0.5 a random half, 1.5 every row once and a random half of them again: weights for routers that know
    none. RouteLLM joins arena and judged battles with weight 1. O(n). Raises RoutingError for a weight that is
    negative, or where nothing is left.
    """
    if len(tables) != len(weights) or not tables:
        raise RoutingError(f"mix: {len(tables)} training sets and {len(weights)} weights; give one weight for each")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise RoutingError(f"mix: weights are {list(weights)}; they must not be negative")
    rng = np.random.default_rng(seed)
    parts: list[Table] = []
    for table, weight in zip(tables, weights, strict=True):
        whole, rest = int(weight), round((weight - int(weight)) * len(table))
        rows = [np.tile(np.arange(len(table)), whole), rng.permutation(len(table))[:rest]]
        parts.append(table.select(np.concatenate(rows)))
    joined: Any = outcome_tables.concat(parts) if isinstance(parts[0], Outcomes) else concat(parts)
    if not len(joined):
        raise RoutingError("mix: no rows are left; raise the weights")
    result: Table = joined.select(rng.permutation(len(joined)))
    return result
