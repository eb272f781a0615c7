"""The upper hull of each row's (cost, quality) points, walked from its base model to its last.

Gift wrapping along the ladder: from the model a row stands on, the next is the later model that buys the most quality
per dollar; models under the hull are skipped, and the last feasible one is always reached. Vectorised over rows, a
loop over models only: O(n m^2) time, and for a pair one subtraction.
Legend: n rows, m models in ladder order (cheapest first).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RankBy = Literal["score", "gain", "gain_per_dollar"]
RANKS: tuple[RankBy, ...] = ("score", "gain", "gain_per_dollar")


def gain_per_dollar(gain: NDArray[Any], cost_usd: NDArray[Any]) -> NDArray[np.float64]:
    """Quality bought per dollar, a total order also where the dearer model of the ladder is free or cheaper for a row.

    Something for nothing (gain > 0 at cost <= 0, or gain = 0 at cost < 0) is +inf and comes first; no gain, for
    dollars or for none, is 0; a loss is gain / |cost|, always negative, so that money saved never passes for quality
    gained, and -inf at cost 0. Hence rank > 0 exactly where the step is worth taking at all.
    """
    gain = np.asarray(gain, np.float64)
    cost_usd = np.asarray(cost_usd, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rank: NDArray[np.float64] = gain / np.abs(cost_usd)
    rank[(cost_usd == 0) & (gain == 0)] = 0.0
    rank[(cost_usd <= 0) & (gain > 0) | (cost_usd < 0) & (gain == 0)] = np.inf
    return rank


def walk_hulls(
    quality: NDArray[np.floating[Any]],
    cost_usd: NDArray[np.float64],
    able: NDArray[np.bool_],
    base: NDArray[np.int8],
    last: NDArray[np.int8],
    rank_by: RankBy,
    *,
    weight: NDArray[np.integer[Any]] | None = None,
    raw_score: NDArray[np.floating[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Columns of all steps, unsorted, as `Steps` names them, and `order_cost`, `order_raw`: what the cut sorts by.

    Rank and raw score fall, and order_cost grows, from each step of a row to the next.

    quality: (n, m) expected, 0..1.
    cost_usd: (n, m) expected dollars of one call.
    able: (n, m) feasible models.
    base, last: (n,) first and last feasible model, -1 where none is.
    rank_by: what a step's rank is, see `routing.upgrades.cut`.
    weight: (n,) rows in the group; None counts each as 1.
    raw_score: (n, m) quality before calibration, which orders ties; None leaves `order_raw` out.
    """
    n, m = quality.shape
    row_type: Any = np.int32 if n < 2**31 else np.int64
    at = base.copy()
    step_no = np.zeros(n, np.int8)
    # What the step before allows: only needed where a row can have a second step.
    ceiling = {"rank": np.full(n, np.inf), "order_raw": np.full(n, np.inf, np.float32)} if m > 2 else {}
    floor_cost = np.full(n, -np.inf) if m > 2 else None
    chunks: list[dict[str, NDArray[Any]]] = []
    for here in range(max(1, m - 1)):
        rows = np.flatnonzero((at == here) & (last > here)).astype(row_type)
        to: NDArray[np.int8] = last[rows] if m == 2 else _next_on_hull(here, rows, quality, cost_usd, able, last)
        gain = quality[rows, to].astype(np.float64) - quality[rows, here]
        cost = cost_usd[rows, to] - cost_usd[rows, here]
        chunk = {
            "row": rows,
            "from_model": np.full(len(rows), here, np.int8),
            "to_model": to,
            "step_no": step_no[rows],
            "gain": gain.astype(np.float32),
            "cost_usd": cost,
            "score": ((1 + gain) / 2).astype(np.float32),
            "order_cost": cost,
        }
        chunk["rank"] = _rank(rank_by, chunk, gain, weight)
        if raw_score is not None:
            chunk["order_raw"] = (raw_score[rows, to] - raw_score[rows, here]).astype(np.float32)
        if floor_cost is not None:
            for name in ceiling.keys() & chunk.keys():
                ceiling[name][rows] = chunk[name] = np.minimum(chunk[name], ceiling[name][rows])
            floor_cost[rows] = chunk["order_cost"] = np.maximum(cost, floor_cost[rows])
            at[rows] = to
            step_no[rows] += 1
        chunks.append(chunk)
    if len(chunks) == 1:
        return chunks[0]
    return {name: np.concatenate([chunk.pop(name) for chunk in chunks]) for name in list(chunks[0])}


def _rank(
    rank_by: RankBy,
    chunk: Mapping[str, NDArray[Any]],
    gain: NDArray[np.float64],
    weight: NDArray[np.integer[Any]] | None,
) -> NDArray[np.float64]:
    """What steps are sorted by; score and gain in the single precision that they are kept in."""
    if rank_by == "gain_per_dollar":
        return gain_per_dollar(gain if weight is None else gain * weight[chunk["row"]], chunk["cost_usd"])
    rank: NDArray[np.float64] = chunk[rank_by].astype(np.float64)
    return rank


def _next_on_hull(
    here: int,
    rows: NDArray[Any],
    quality: NDArray[np.floating[Any]],
    cost_usd: NDArray[np.float64],
    able: NDArray[np.bool_],
    last: NDArray[np.int8],
) -> NDArray[np.int8]:
    """The next model of `rows`, which all stand on `here`: the most quality per dollar, the nearest on ties."""
    to: NDArray[np.int8] = last[rows]
    best = np.full(len(rows), -np.inf)
    for model in range(here + 1, quality.shape[1]):
        slope = gain_per_dollar(
            quality[rows, model].astype(np.float64) - quality[rows, here], cost_usd[rows, model] - cost_usd[rows, here]
        )
        better = able[rows, model] & (slope > best)
        to[better] = model
        best[better] = slope[better]
    return to
