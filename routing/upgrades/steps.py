"""Upgrade steps of all rows, sorted into the order of the cut.

One sort over rank, raw score, cost, row key and step number, the later keys only where the earlier ones tie. O(s log s);
see `routing.upgrades.cut` for the order, its cost in seconds and what a policy does with it. Legend: n rows (groups of
equal prompts), m models in ladder order (cheapest first), s steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.upgrades.hull import RANKS, RankBy, walk_hulls

MAX_MODELS = 127


@dataclass(frozen=True, slots=True)
class Steps:
    """All upgrade steps in the order of the cut, as columns, with what the policies need to know of the rows."""

    row: NDArray[np.integer[Any]]
    """(s,) index into the n rows."""
    from_model: NDArray[np.int8]
    """(s,) ladder index."""
    to_model: NDArray[np.int8]
    """(s,) ladder index, above from_model."""
    step_no: NDArray[np.int8]
    """(s,) 0 for the first step of its row."""
    gain: NDArray[np.float32]
    """(s,) predicted quality of to_model less that of from_model, one row; may be negative."""
    cost_usd: NDArray[np.float64]
    """(s,) expected dollars of to_model less those of from_model, one call for the whole group; may be negative."""
    score: NDArray[np.float32]
    """(s,) (1 + gain) / 2."""
    rank: NDArray[np.float64]
    """(s,) descending; what the steps are sorted by."""
    weight: NDArray[np.integer[Any]]
    """(s,) rows in the step's group."""
    base_model: NDArray[np.int8]
    """(n,) first feasible model of the ladder, -1 where none is: such a row has no step and counts nowhere."""
    n_models: int
    rank_by: RankBy
    total_weight: int
    """Rows that some model can answer."""
    base_strong_weight: int
    """Rows whose only feasible model is the strong one, the last of the ladder."""
    base_cost_usd: float
    """Every answerable group on its base model."""
    base_quality: float
    """Sum over rows of the base models' predicted quality."""
    strong_quality: float
    """The same with every row on its last feasible model."""

    @property
    def n_steps(self) -> int:
        """s, steps of all rows."""
        return len(self.row)

    @property
    def n_rows(self) -> int:
        """n, rows (groups), with and without a step."""
        return len(self.base_model)

    @property
    def n_gaining(self) -> int:
        """Steps before the gain ends: rank above that of a step that changes nothing."""
        neutral = 0.5 if self.rank_by == "score" else 0.0
        return _count_above(self.rank, neutral)

    @property
    def n_free(self) -> int:
        """Leading steps that lose no quality and cost nothing: infinite gain per dollar; 0 under other ranks."""
        return _count_above(self.rank, float(np.finfo(np.float64).max))


def build_steps(
    quality: NDArray[np.floating[Any]],
    cost_usd: NDArray[np.float64],
    row_key: NDArray[np.int64],
    weight: NDArray[np.integer[Any]] | None = None,
    feasible: NDArray[np.bool_] | None = None,
    rank_by: RankBy = "gain_per_dollar",
    raw_score: NDArray[np.floating[Any]] | None = None,
) -> Steps:
    """Steps of all rows in the order of the cut.

    A pair always has its step, also with a negative gain; with more models those under the hull are skipped. Raises
    RoutingError for shapes that do not fit, a quality or cost that is not finite, a negative cost, a weight below 1.

    quality: (n, m) expected quality, 0..1.
    cost_usd: (n, m) expected dollars of one call.
    row_key: (n,) unique, breaks ties.
    weight: (n,) rows in the group; None counts each as 1.
    feasible: (n, m) False where a model cannot answer the row (prompt too long); quality and cost may be NaN there; None: all
        can.
    rank_by: what the steps are sorted by, see `routing.upgrades.cut`.
    raw_score: (n, m) quality before calibration: isotonic fits make blocks of ties, and this orders them.
    """
    n, m = _check(quality, cost_usd, row_key, rank_by, weight=weight, feasible=feasible, raw_score=raw_score)
    able = np.ones((n, m), np.bool_) if feasible is None else feasible
    any_able = able.any(axis=1)
    base = np.where(any_able, able.argmax(axis=1), -1).astype(np.int8)
    last = np.where(any_able, m - 1 - able[:, ::-1].argmax(axis=1), -1).astype(np.int8)
    columns = walk_hulls(quality, cost_usd, able, base, last, rank_by, weight=weight, raw_score=raw_score)
    keys = [-columns["rank"], columns.pop("order_cost"), row_key[columns["row"]], columns["step_no"]]
    if raw_score is not None:
        keys.insert(1, -columns.pop("order_raw"))
    if m == 2:
        keys.pop()
    order = lexicographic_order(keys)
    del keys
    for name in list(columns):
        columns[name] = columns[name][order]
    rows = np.flatnonzero(any_able)
    row_weight = np.ones(len(rows), np.int64) if weight is None else weight[rows].astype(np.int64)
    step_weight = np.ones(len(order), np.int32) if weight is None else weight[columns["row"]]
    return Steps(
        **columns,
        weight=step_weight,
        base_model=base,
        n_models=m,
        rank_by=rank_by,
        total_weight=int(row_weight.sum()),
        base_strong_weight=int(row_weight[base[rows] == m - 1].sum()),
        # fsum is exact before its one rounding: the sum, and so the cut, does not depend on the order of the rows.
        base_cost_usd=math.fsum(cost_usd[rows, base[rows]]),
        base_quality=math.fsum(quality[rows, base[rows]].astype(np.float64) * row_weight),
        strong_quality=math.fsum(quality[rows, last[rows]].astype(np.float64) * row_weight),
    )


def lexicographic_order(keys: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Indices that sort by keys[0], its ties by keys[1], and so on, all ascending.

    Like np.lexsort with the keys reversed, but later keys are sorted only where the earlier ones tie: distinct scores
    pay one sort instead of four.
    """
    order = np.argsort(keys[0])
    new_run = np.ones(len(order), np.bool_)
    first_key = keys[0][order]
    new_run[1:] = first_key[1:] != first_key[:-1]
    for key in keys[1:]:
        tied = ~new_run
        tied[:-1] |= ~new_run[1:]
        at = np.flatnonzero(tied)
        if not len(at):
            break
        run = np.cumsum(new_run[at]) - 1
        within = order[at]
        by_key = np.argsort(key[within])
        # Few long runs (isotonic fits) fit 16 bits, where numpy's stable sort is a radix sort.
        runs = run[by_key].astype(np.uint16 if run[-1] < 2**16 else np.int64)
        by_key = by_key[np.argsort(runs, kind="stable")]
        order[at] = within[by_key]
        sorted_key = key[order[at]]
        changed = np.ones(len(at), np.bool_)
        changed[1:] = (sorted_key[1:] != sorted_key[:-1]) | new_run[at[1:]]
        new_run[at] = changed
    return order


def _count_above(descending: NDArray[np.float64], value: float) -> int:
    return int(np.count_nonzero(descending > value))


def _check(
    quality: NDArray[Any],
    cost_usd: NDArray[Any],
    row_key: NDArray[Any],
    rank_by: str,
    *,
    weight: NDArray[Any] | None,
    feasible: NDArray[Any] | None,
    raw_score: NDArray[Any] | None,
) -> tuple[int, int]:
    """(n, m), or RoutingError for what would make a wrong plan without a word."""
    if quality.ndim != 2 or not 1 <= quality.shape[1] <= MAX_MODELS:
        raise RoutingError(
            f"quality has shape {quality.shape}; it must be (rows, models) with 1 to {MAX_MODELS} models"
        )
    n, m = quality.shape
    wanted = {"cost_usd": (cost_usd, (n, m)), "row_key": (row_key, (n,)), "weight": (weight, (n,))}
    wanted |= {"feasible": (feasible, (n, m)), "raw_score": (raw_score, (n, m))}
    for name, (array, shape) in wanted.items():
        if array is not None and array.shape != shape:
            raise RoutingError(f"{name} has shape {array.shape}; quality of shape {quality.shape} needs {shape}")
    if rank_by not in RANKS:
        raise RoutingError(f"policy.rank_by must be one of {', '.join(RANKS)}, not {rank_by!r}")
    able = True if feasible is None else feasible
    for name, array in (("quality", quality), ("raw_score", raw_score)):
        if array is not None and not np.isfinite(array).all(where=able):
            raise RoutingError(
                f"{name} is not a finite number for some rows: the router's predictions cannot be ranked"
            )
    if not ((cost_usd >= 0) & (cost_usd < np.inf)).all(where=able):
        raise RoutingError("cost_usd is negative or not a finite number for some rows: check the models' prices")
    if weight is not None and n and weight.min() < 1:
        raise RoutingError("weight is below 1 for some rows: a group holds at least the row it stands for")
    return n, m
