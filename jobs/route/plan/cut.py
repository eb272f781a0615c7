"""Stage 2: one cut over all rows, and the bill, before a cent is spent.

    rows → groups of equal prompts → the sample → what is gone before the cut → upgrade steps → the cut → assignments, bill

`decide` is pure: it reads and writes nothing. Memory and time: O(n log n), one process; 10 M rows take about 1 GB and half a
minute. Legend: n rows, g groups, m models.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import SpecError
from jobs.route.plan.bill import figures
from jobs.route.plan.estimate import Estimate, judge_usd
from jobs.route.plan.groups import Groups, group_rows
from jobs.route.plan.plan import Assignments, Paid, Sample, WeakFirst
from jobs.route.plan.rows import Rows
from jobs.route.plan.sampling import draw_sample, folds_of_rows, keep_promise
from jobs.spec.job import JobSpec, cap_usd, most_judged
from routing.errors import RoutingError
from routing.upgrades.cut import Cut, Limits, cut, row_ranks, row_scores
from routing.upgrades.hull import RankBy
from routing.upgrades.policy import Policy, require_base_paid
from routing.upgrades.steps import Steps, build_steps


def policy_of(spec: JobSpec, learnt: RankBy | None = None) -> Policy:
    """The job file's policy for the cut; `learnt` is its order where the file leaves that open. Raises SpecError."""
    try:
        # Before a pilot vouches for it, agreement with the strong model is expected quality like any other.
        kind = "min_quality" if spec.policy.guarantee else spec.policy.kind
        return Policy(kind, spec.policy.value, spec.policy.rank_by or learnt)  # type: ignore[arg-type]
    except RoutingError as error:
        raise SpecError(str(error)) from None


def decide(
    spec: JobSpec,
    rows: Rows,
    estimates: dict[str, Estimate],
    too_long: NDArray[np.bool_],
    paid: Paid | None = None,
    sample: Sample | None = None,
    judged_usd: float | None = None,
    weak_first: WeakFirst | None = None,
) -> tuple[Assignments, dict[str, Any]]:
    """Cut the set. `too_long`: (n, m) True where a prompt does not fit a model. Raises SpecError for an unaffordable policy.

    `paid`: rows with an answer keep the best one they have, at no further cost, and the dollars left are cut over the others.
    Rows of the sample are cut as if nothing were paid: what the policy makes of them is what the sample measures.
    `sample`: the one that was drawn before; None draws it where the job has one. `judged_usd`: what the judge has had, once it is
    through; None expects its dollars. `weak_first`: rows that a cascade's weak model answers whatever the cut makes of them: what
    it costs there is gone before the cut, and an upgrade costs the whole of the dearer call.
    """
    groups, policy = group_rows(spec, rows, too_long), policy_of(spec, sample.rank_by if sample else None)
    n_bytes = rows.prompt_bytes[groups.at]
    cost = np.stack([estimates[name].cost_usd(n_bytes) for name in spec.names], axis=1)
    if sample is None and spec.sample is not None:
        sample = draw_sample(spec, rows, groups, cost, judge_usd(spec, estimates, n_bytes))
    fold = folds_of_rows(sample, rows, groups.askable)
    drawn = np.isin(groups.at, groups.leader[fold >= 0])
    if judged_usd is None:
        judged_usd = float(judge_usd(spec, estimates, n_bytes[drawn])[: most_judged(spec)].sum())
    offer = _offer(groups, cost, too_long[groups.at], drawn, paid, weak_first)
    raw = None if rows.raw is None else rows.raw[groups.at]
    steps = build_steps(
        rows.predicted[groups.at], offer.cost_usd, rows.row_key[groups.at], groups.weight, offer.feasible, policy.order, raw
    )  # fmt: skip
    gone_usd = offer.gone_usd + judged_usd
    chosen = _cut(spec, policy, steps, gone_usd)
    promised = None
    if spec.policy.promises and sample is not None and sample.quality is not None:
        left_usd = None if spec.max_usd is None else spec.max_usd - gone_usd
        chosen, promised = keep_promise(spec, rows, sample, steps, groups, too_long, chosen, left_usd)
    scores, ranks = row_scores(steps), row_ranks(steps)
    if paid is not None:
        _rank_settled(scores, ranks, policy, rows, groups, cost, ~too_long[groups.at])
    dollars = cost[np.arange(len(cost)), chosen.model]
    assignments = _assignments(spec, rows, groups, too_long, fold, chosen, scores, ranks, dollars)
    # Of the sample's dollars, those beyond what the cut pays anyway.
    sample_usd = float((cost[drawn].sum(axis=1) - dollars[drawn]).sum())
    cascade_usd = float(cost[offer.asked_first & ~drawn & (chosen.model > 0), 0].sum()) + offer.further_usd
    bill = figures(
        spec, rows, estimates, assignments, steps, chosen, cost, groups.at, sample_usd, judged_usd, cascade_usd
    )
    return assignments, bill | {"promise": promised}


@dataclass(frozen=True, slots=True)
class _Offer:
    """What is left to choose from, and what is gone whatever is chosen."""

    feasible: NDArray[np.bool_]
    """(g, m)."""
    cost_usd: NDArray[np.float64]
    """(g, m) what each choice would cost from now on."""
    asked_first: NDArray[np.bool_]
    """(g,) groups that a cascade's weak model answers whatever the cut makes of them."""
    further_usd: float
    """A cascade's further answers."""
    gone_usd: float
    """Sample, cascade, and all that is spent on other groups than the sample's; the judge is not in it."""


def _offer(
    groups: Groups, cost: NDArray[np.float64], too_long: NDArray[np.bool_], drawn: NDArray[np.bool_], paid: Paid | None,
    weak_first: WeakFirst | None,
) -> _Offer:  # fmt: skip
    """The choices of every group. cost: (g, m) expected dollars of a call. too_long: (g, m). drawn: (g,) groups of the sample."""
    at = groups.at
    asked_first = np.zeros(len(at), bool) if weak_first is None else weak_first.asked[at] & ~too_long[:, 0]
    sunk_usd = np.where(asked_first, cost[:, 0], 0.0)
    further_usd = 0.0 if weak_first is None else weak_first.samples_usd
    open_cost = cost.copy()
    open_cost[asked_first, 0] = 0.0
    feasible, spent_usd = ~too_long, 0.0
    if paid is not None:
        feasible, open_cost = _still_open(paid, at, drawn, feasible, open_cost)
        spent_usd = paid.usd - float(paid.cost_usd[at[drawn]].sum())
        sunk_usd[(paid.answered[at, 0] | paid.rejected[at, 0]) & ~drawn] = 0.0
    sample_usd = float((cost[drawn].sum(axis=1) - cost[drawn].min(axis=1)).sum())
    gone_usd = sample_usd + spent_usd + further_usd + float(sunk_usd.sum())
    return _Offer(feasible, open_cost, asked_first, further_usd, gone_usd)


def _still_open(
    paid: Paid, at: NDArray[np.int64], drawn: NDArray[np.bool_], feasible: NDArray[np.bool_], cost: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """(g, m) models that can still be chosen for a group, and what each would cost now.

    A group does not go below its best answer, nor back below a model that refused it.
    """
    answered, rejected = paid.answered[at], paid.rejected[at]
    ladder = np.arange(answered.shape[1])
    best = np.where(answered, ladder, -1).max(axis=1)
    refused = np.where(rejected, ladder, -1).max(axis=1)
    able = feasible & ~rejected & (ladder >= best[:, None]) & (ladder > np.where(refused > best, refused, -1)[:, None])
    # Refused by the last that could: its best answer stays, or else the refusal.
    stuck = ~able.any(axis=1)
    able[stuck] = ladder == np.where(best >= 0, best, refused)[stuck, None]
    open_cost = np.where((answered | rejected) & ~drawn[:, None], 0.0, cost)
    return np.where(drawn[:, None], feasible, able), open_cost


def _cut(spec: JobSpec, policy: Policy, steps: Steps, gone_usd: float) -> Cut:
    """The policy's cut, under max_usd too; what the sample costs and what is spent comes off the dollars first."""
    try:
        for field, usd in (("policy.budget_usd", spec.policy.budget_usd), ("max_usd", spec.max_usd)):
            if usd is not None:
                require_base_paid(steps, usd, field, gone_usd)
        cap = cap_usd(spec)
        left = None if cap is None else max(cap - gone_usd, 1e-12)
        limits = Limits(only_gains=True) if policy.kind == "budget_usd" else policy.limits(steps)
        limits = dataclasses.replace(limits, max_usd=left)
        return cut(steps, limits)
    except RoutingError as error:
        raise SpecError(str(error)) from None


def _rank_settled(
    scores: NDArray[np.float32], ranks: NDArray[np.float64], policy: Policy, rows: Rows, groups: Groups,
    cost: NDArray[np.float64], feasible: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Give groups without a choice left what the router said of them, as if nothing were paid. In place."""
    done = np.flatnonzero(np.isnan(scores))
    if not len(done):
        return
    at = groups.at[done]
    whole = build_steps(
        rows.predicted[at], cost[done], rows.row_key[at], groups.weight[done], feasible[done], policy.order
    )
    scores[done], ranks[done] = row_scores(whole), row_ranks(whole)


def _assignments(
    spec: JobSpec, rows: Rows, groups: Groups, too_long: NDArray[np.bool_], fold: NDArray[np.int8], chosen: Cut,
    scores: NDArray[np.float32], ranks: NDArray[np.float64], dollars: NDArray[np.float64],
) -> Assignments:  # fmt: skip
    """Every row's share in its group's choice. scores, ranks, dollars: (g,)."""
    n, strong = rows.predicted.shape[0], rows.predicted.shape[1] - 1
    model = np.full(n, -1, np.int8)
    model[groups.at] = chosen.model
    model[groups.askable] = model[groups.leader[groups.askable]]
    score, rank, cost_usd = np.full(n, np.nan, np.float32), np.full(n, -np.inf), np.zeros(n)
    score[groups.at], rank[groups.at], cost_usd[groups.at] = scores, ranks, dollars
    reason = np.full(n, "", object)
    reason[model >= 0] = "between the cuts"
    reason[model == 0] = "below the cut"
    reason[model == strong] = "above the cut"
    reason[groups.askable & too_long[:, 0]] = f"too long for {spec.names[0]}"
    error = np.full(n, "", object)
    error[groups.duplicate_id] = "duplicate id: an earlier row of the input has it"
    error[groups.no_model] = "prompt too long: it fits no model of the job"
    return Assignments(
        row_key=rows.row_key, bucket=rows.bucket, leader=rows.row_key[groups.leader], model=model, fold=fold,
        router_score=score[groups.leader], rank=rank[groups.leader], cost_usd=cost_usd, reason=reason, error=error,
    )  # fmt: skip
