"""Upgrade steps and the one cut: which model answers which row, decided for the whole set at once.

Every row starts on its base model, the first feasible of the ladder. The upper hull of its (cost, quality) points,
from there to its last feasible model (routing/upgrades/hull.py), gives its upgrade steps: from model a to model b, so much
quality for so many dollars. All steps of all rows are sorted by rank, and a policy (routing/upgrades/policy.py) takes the
longest prefix within its limits. Two models or ten, it is the same code.

Rank, with gain = quality_to - quality_from: `score` = (1 + gain) / 2, which for a pairwise router is the strong
model's win rate p; `gain`; `gain_per_dollar` = weight * gain / dollars, since duplicates are asked once and copies
cost 0. Order of the cut: rank and raw score descending, then cost, row key and step number ascending. A step's rank
and raw score are at most, its cost (for this order only) at least, those of its predecessor, so no prefix skips a
step of a row.

Cost: one sort, O(n log n) time, 40 bytes a step kept. Measured on one core, pairs, scores full of ties:
1 M rows 0.6 s and 0.2 GB at the peak, inputs included; 10 M rows 12 s and 1.6 GB.
Past 100 M rows use a histogram of the rank and sort the boundary bin alone.
Legend: n rows (groups of equal prompts), m models in ladder order (cheapest first), s steps in the order of the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.upgrades.steps import Steps


@dataclass(frozen=True, slots=True)
class CutLimits:
    """Where the cut is; every limit that is not None holds at once."""

    min_score: float | None = None
    """Only steps of at least this score. Needs steps ranked by score."""
    max_strong_weight: int | None = None
    """Most rows on the last model of the ladder."""
    max_usd: float | None = None
    """Most expected dollars, base models included."""
    min_quality: float | None = None
    """Stop as soon as the sum over rows of predicted quality reaches this."""
    only_gains: bool = False
    """Stop where the predicted gain ends."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The decision, and what is expected of it."""

    model: NDArray[np.int8]
    """(n,) ladder index per row, -1 where no model is feasible."""
    n_steps_taken: int
    cost_usd: float
    """Expected dollars of all groups."""
    quality: float
    """Mean predicted quality over the answerable rows; NaN without any."""
    strong_weight: int
    """Rows on the last model of the ladder."""
    strong_share: float
    """strong_weight over the answerable rows; NaN without any."""


def cut(steps: Steps, limits: CutLimits) -> Cut:
    """Take the longest prefix of steps within `limits`, exact to one group; a wider limit takes a superset.

    Dollars run out at the first step that passes them: a cheaper step after it does not slip in. A limit that the base
    models alone pass takes no step; callers that must refuse do so before (`Policy.limits`).
    """
    taken = steps.n_steps
    if limits.only_gains:
        taken = min(taken, steps.n_gaining)
    if limits.min_score is not None:
        if steps.rank_by != "score":
            raise RoutingError(
                f"policy.rank_by must be score with policy.threshold, not {steps.rank_by}: remove rank_by"
            )
        # In float32, as the router gave it: a row of score .7 passes a threshold of .7.
        taken = min(taken, int(np.count_nonzero(steps.rank >= np.float64(np.float32(limits.min_score)))))
    if limits.max_strong_weight is not None:
        strong = np.where(steps.to_model[:taken] == steps.n_models - 1, steps.weight[:taken], 0).cumsum(dtype=np.int64)
        taken = int(np.searchsorted(strong, limits.max_strong_weight - steps.base_strong_weight, side="right"))
    if limits.max_usd is not None:
        # Relative slack for the rounding of the sum; far below a cent at any budget.
        over = steps.base_cost_usd + np.cumsum(steps.cost_usd[:taken]) > limits.max_usd * (1 + 1e-12)
        over[: steps.n_free] = False
        taken = int(over.argmax()) if over.any() else taken
    if limits.min_quality is not None:
        reached = steps.base_quality + np.cumsum(steps.gain[:taken].astype(np.float64) * steps.weight[:taken])
        enough = reached >= limits.min_quality - 1e-7 * max(1, steps.total_weight)
        needed = 0 if steps.base_quality >= limits.min_quality else int(enough.argmax()) + 1 if enough.any() else taken
        # Steps that cost nothing and lose nothing only make the prefix cheaper.
        taken = min(taken, max(needed, steps.n_free))
    return _take(steps, taken)


def cut_at(steps: Steps, n_steps: int) -> Cut:
    """The cut after the first `n_steps` steps."""
    return _take(steps, n_steps)


def row_scores(steps: Steps) -> NDArray[np.float32]:
    """(n,) score of each row's first step, for a pair the win rate; NaN where the row has no choice."""
    scores = np.full(steps.n_rows, np.nan, np.float32)
    first = steps.step_no == 0
    scores[steps.row[first]] = steps.score[first]
    return scores


def row_ranks(steps: Steps) -> NDArray[np.float64]:
    """(n,) rank of each row's first step: the order in which dollars go out; -inf where the row has no choice."""
    ranks = np.full(steps.n_rows, -np.inf)
    first = steps.step_no == 0
    ranks[steps.row[first]] = steps.rank[first]
    return ranks


def _take(steps: Steps, taken: int) -> Cut:
    """The cut after `taken` steps."""
    model = steps.base_model.copy()
    # Later steps of a row go up the ladder: model by model, since NumPy does not say which of equal indices wins.
    for to in range(1, steps.n_models):
        model[steps.row[:taken][steps.to_model[:taken] == to]] = to
    weight = steps.weight[:taken]
    strong = steps.base_strong_weight + int(weight[steps.to_model[:taken] == steps.n_models - 1].sum())
    quality = steps.base_quality + float((steps.gain[:taken].astype(np.float64) * weight).sum())
    total = steps.total_weight
    return Cut(
        model=model,
        n_steps_taken=taken,
        cost_usd=steps.base_cost_usd + float(steps.cost_usd[:taken].sum()),
        quality=quality / total if total else math.nan,
        strong_weight=strong,
        strong_share=strong / total if total else math.nan,
    )
