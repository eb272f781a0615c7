"""Which order of the cut does best on the pilot: gain, or gain per dollar.

Each order's cuts are measured from all-weak to all-strong, and the mean quality along them compared, with a bootstrap over rows for
the error of the lead. O(b s) for b replicates of s steps. Legend: n pilot rows, m models in ladder order, b replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.upgrades.hull import RankBy
from routing.upgrades.policy import DEFAULT_RANK_BY, PolicyKind
from routing.upgrades.steps import Steps, build_steps

REPLICATES = 400


@dataclass(frozen=True, slots=True)
class RankChoice:
    """Which order of the cut does best on the pilot."""

    rank_by: RankBy
    area: dict[str, float]
    """Mean measured quality over the dollars (or strong calls) from all-weak to all-strong, by rank."""
    lead: float
    """Of the best rank over the policy's default, in area."""
    error: float
    """Standard error of `lead`; the default stays unless the lead is larger."""


def choose_rank_by(
    predicted: NDArray[np.floating[Any]],
    quality: NDArray[np.floating[Any]],
    cost_usd: NDArray[np.float64],
    row_key: NDArray[np.int64],
    kind: PolicyKind,
    seed: int = 0,
) -> RankChoice:
    """The rank whose cuts measured best on pilot rows, the policy's default unless another leads by more than its error.

    Judged over all cuts, by dollars for budget_usd and min_quality, by strong calls for strong_share: one cut alone would be
    decided by a handful of rows. `threshold` knows only score. Standard error from a bootstrap over rows. Raises RoutingError
    for NaN or unequal shapes.

    predicted: (n, m) by a router that did not see these rows (the select fold, or out of fold inside the fit fold).
    quality: (n, m) measured, without NaN.
    cost_usd: (n, m) expected dollars of one call.
    row_key: (n,) unique, breaks ties.
    kind: of the policy.
    seed: of the bootstrap.
    """
    if quality.shape != predicted.shape or not np.isfinite(quality).all():
        raise RoutingError(f"pilot: quality must be {predicted.shape} without NaN, and is {quality.shape}")
    default = DEFAULT_RANK_BY[kind]
    candidates: list[RankBy] = [default]
    if kind != "threshold" and len(quality) > 1:
        # score and gain are one order; a gain is written as the policy's default writes it.
        candidates.append("gain" if default == "gain_per_dollar" else "gain_per_dollar")
    rng = np.random.default_rng(seed)
    n = len(quality)
    weights = (
        np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / max(n, 1)), REPLICATES)]) if n else None
    )
    areas = {}
    for rank_by in candidates:
        steps = build_steps(predicted, cost_usd, row_key, rank_by=rank_by)
        areas[rank_by] = _areas(steps, quality, weights, kind) if weights is not None else np.zeros(1)
    best = max(candidates, key=lambda rank_by: float(areas[rank_by][0]))
    lead = areas[best] - areas[default]
    error = float(lead[1:].std()) if len(lead) > 1 else 0.0
    chosen = best if float(lead[0]) > error else default
    return RankChoice(chosen, {rank: float(area[0]) for rank, area in areas.items()}, float(lead[0]), error)


def _areas(
    steps: Steps, quality: NDArray[np.floating[Any]], weights: NDArray[np.float64], kind: PolicyKind
) -> NDArray[np.float64]:
    """(b,) mean measured quality along the cuts of `steps`, for rows that count `weights`: (b, n) times."""
    rows = np.arange(len(quality))
    gain = quality[steps.row, steps.to_model].astype(np.float64) - quality[steps.row, steps.from_model]
    strong = (steps.to_model == steps.n_models - 1).astype(np.float64)
    price = strong if kind == "strong_share" else np.maximum(steps.cost_usd, 0.0)
    per_step = weights[:, steps.row]
    width = per_step * price
    base = weights @ quality[rows, np.maximum(steps.base_model, 0)].astype(np.float64)
    total = width.sum(axis=1)
    reached = base[:, None] + np.cumsum(per_step * gain, axis=1)
    before = np.concatenate([base[:, None], reached[:, :-1]], axis=1)
    area = (width * (before + reached) / 2).sum(axis=1)
    result: NDArray[np.float64] = np.where(total > 0, area / np.where(total > 0, total, 1), base) / weights.sum(axis=1)
    return result
