"""The rows that every model answers, and what the cut may promise by them.

    draw by a hash of the row key → folds (routing/pilot/folds.py) → answered and measured → the cheapest cut that the select fold
    vouches for (routing/pilot/guarantee.py)

Legend: n rows, g groups, m models, k rows of the sample.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.route.plan.bill import BilledPromise
from jobs.route.plan.groups import Groups
from jobs.route.plan.plan import Sample
from jobs.route.plan.rows import Rows
from jobs.route.plan.situation import Situation
from jobs.spec.job import JobSpec, has_pilot, most_judged
from jobs.storage.keys import find_keys, positions
from routing.pilot.folds import FOLD_NAMES, FoldSizes, affordable, assign_folds, draw, fold_sizes, stopping
from routing.pilot.guarantee import agreement_margins, candidate_cuts, promise, quality_margins
from routing.pilot.intervals import LEVEL
from routing.upgrades.cut import Cut, cut_at
from routing.upgrades.steps import Steps


def draw_sample(
    spec: JobSpec, rows: Rows, groups: Groups, cost_usd: NDArray[Any], verdicts_usd: NDArray[np.float64]
) -> Sample:
    """The rows that every model answers: drawn by a hash of the row key, as many as sample.max_usd pays for.

    Its dollars are those beyond one model's answer; a group is paid once, however many of its rows are drawn. cost_usd: (g, m)
    expected. verdicts_usd: (g,) what it costs to have a group's answers judged.
    """
    assert spec.sample is not None
    at = np.flatnonzero(groups.askable)
    drawn = at[draw(rows.row_key[at], spec.sample.rows, spec.sample.seed)]
    group = groups.of_rows(drawn)
    first = np.zeros(len(drawn), bool)
    first[np.unique(group, return_index=True)[1]] = True
    # Before the cut every answer of the sample is paid from sample.max_usd, the one that the row would have had anyway too.
    of_group = cost_usd[group]
    usd = of_group.sum(axis=1) if has_pilot(spec) else of_group.sum(axis=1) - of_group.min(axis=1)
    usd[: most_judged(spec)] += verdicts_usd[group][: most_judged(spec)]
    drawn = drawn[: affordable(np.where(first, usd, 0.0), spec.sample.max_usd)]
    keys = rows.row_key[groups.leader[drawn]]
    sizes = fold_sizes(len(drawn), spec.policy.promises) if has_pilot(spec) else FoldSizes(0, 0, len(drawn))
    return Sample(rows.row_key[drawn], assign_folds(keys, sizes, spec.sample.seed))


def folds_of_rows(sample: Sample | None, rows: Rows, askable: NDArray[np.bool_]) -> NDArray[np.int8]:
    """(n,) fold of the rows of the sample that can be asked, -1 for all others."""
    fold = np.full(len(rows.row_key), -1, np.int8)
    if sample is not None:
        at = find_keys(sample.row_key, rows.row_key)
        here = (at >= 0) & askable
        fold[here] = sample.fold[at[here]]
    return fold


def keep_promise(
    situation: Situation, sample: Sample, steps: Steps, groups: Groups, predicted: Cut, left_usd: float | None
) -> tuple[Cut, BilledPromise | None]:
    """The cheapest cut that the pilot's select fold vouches for, never dearer than `left_usd`; what the bill says of it.

    predicted: the policy's own cut, which stands, with nothing for the bill, where there is no select fold. left_usd: of the cap,
    after all that is gone beside the cut; None without a cap.
    """
    assert sample.quality is not None
    spec, rows = situation.spec, situation.rows
    at = positions(rows.row_key, sample.row_key)
    quality = fill_in(sample.quality, situation.too_long[at])
    use = (sample.fold == FOLD_NAMES.index("select")) & np.isfinite(quality).all(axis=1) & groups.askable[at]
    if not use.any():
        return predicted, None
    cuts = candidate_cuts(steps, groups.of_rows(at[use]), groups.weight)
    wanted = spec.policy.guarantee
    confidence = wanted.confidence if wanted else LEVEL
    if wanted:  # the pilot's quality is agreement with the strong model then
        margins = agreement_margins(cuts, quality[use] == 1.0, wanted.agreement, confidence)
    else:
        margins = quality_margins(cuts, quality[use], spec.policy.value, confidence)
    found = promise(cuts, margins, int(use.sum()))
    chosen = cut_at(steps, found.n_steps)
    if left_usd is not None and chosen.cost_usd > left_usd:
        chosen = predicted  # which was cut under the same cap
    row_usd = float((cuts.cost_usd[0] + steps.base_cost_usd) / max(1, steps.total_weight))
    more = stopping(int(use.sum()), max(0.0, found.certainty_usd), row_usd, steps.total_weight)
    return chosen, BilledPromise(
        **dataclasses.asdict(found), certainty_usd=found.certainty_usd, kind=spec.policy.kind, share=spec.policy.value,
        confidence=confidence, rows=int(use.sum()), kept=chosen.n_steps_taken == found.n_steps,
        best_rows=more.best_rows, one_more_row_pays=more.pays,
    )  # fmt: skip


def fill_in(quality: NDArray[np.float64], too_long: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k, m) where a model cannot answer a row, the quality of the next one up that can: it answers in its place."""
    filled = quality.copy()
    for j in range(quality.shape[1] - 2, -1, -1):
        filled[too_long[:, j], j] = filled[too_long[:, j], j + 1]
    return filled
