"""Stage 2: one cut over all rows, and the bill, before a cent is spent.

    rows → groups of equal prompts → the sample → dollars gone before the cut → upgrade steps → the cut → assignments, bill

`decide` is pure: it reads nothing but the `Situation`, and writes nothing. O(n log n) in one process: 10 M rows take about 1 GB
and half a minute. Legend: n rows, g groups, m models.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import SpecError
from jobs.route.plan.bill import Bill
from jobs.route.plan.costing import BesideUsd, Chosen, bill_of
from jobs.route.plan.estimate import judge_usd
from jobs.route.plan.groups import Groups, group_rows
from jobs.route.plan.plan import Assignments, Paid
from jobs.route.plan.sampling import draw_sample, folds_of_rows, keep_promise
from jobs.route.plan.situation import Situation
from jobs.spec.job import JobSpec, cap_usd, most_judged
from routing.errors import RoutingError
from routing.upgrades.cut import Cut, CutLimits, cut, row_ranks, row_scores
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


def decide(situation: Situation) -> tuple[Assignments, Bill]:
    """Cut the set. Raises SpecError for a policy that the dollars do not pay for, and where no row can be asked."""
    spec, rows, too_long, paid = situation.spec, situation.rows, situation.too_long, situation.paid
    sample = situation.sample
    groups, policy = group_rows(spec, rows, too_long), policy_of(spec, sample.rank_by if sample else None)
    n_bytes = rows.prompt_bytes[groups.at]
    cost = np.stack([situation.estimates[name].cost_usd(n_bytes) for name in spec.names], axis=1)
    if sample is None and spec.sample is not None:
        sample = draw_sample(spec, rows, groups, cost, judge_usd(spec, situation.estimates, n_bytes))
    fold = folds_of_rows(sample, rows, groups.askable)
    drawn = np.isin(groups.at, groups.leader[fold >= 0])
    judged_usd = situation.judged_usd
    if judged_usd is None:
        judged_usd = float(judge_usd(spec, situation.estimates, n_bytes[drawn])[: most_judged(spec)].sum())
    offer = _offer(situation, groups, cost, drawn)
    steps = build_steps(
        quality=rows.predicted[groups.at], cost_usd=offer.cost_usd, row_key=rows.row_key[groups.at],
        weight=groups.weight, feasible=offer.feasible, rank_by=policy.order,
        raw_score=None if rows.raw is None else rows.raw[groups.at],
    )  # fmt: skip
    gone_usd = offer.gone_usd + judged_usd
    chosen, promise = _cut(spec, policy, steps, gone_usd), None
    if spec.policy.promises and sample is not None and sample.quality is not None:
        left_usd = None if spec.max_usd is None else spec.max_usd - gone_usd
        chosen, promise = keep_promise(situation, sample, steps, groups, chosen, left_usd)
    places = _Places(row_scores(steps), row_ranks(steps), cost[np.arange(len(cost)), chosen.model])
    if paid is not None:
        _rank_settled(places, situation, policy, groups, cost)
    assignments = _assignments(situation, groups, fold, chosen, places)
    beside = BesideUsd(
        # Of the sample's dollars, those beyond what the cut pays anyway.
        sample=float((cost[drawn].sum(axis=1) - places.cost_usd[drawn]).sum()),
        judge=judged_usd,
        cascade=float(cost[offer.asked_first & ~drawn & (chosen.model > 0), 0].sum()) + offer.further_usd,
    )
    return assignments, bill_of(situation, Chosen(groups, steps, chosen, cost, promise), assignments, beside)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where each group stands in the order of the cut, and what its choice costs. All (g,)."""

    score: NDArray[np.float32]
    rank: NDArray[np.float64]
    cost_usd: NDArray[np.float64]


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


def _offer(situation: Situation, groups: Groups, cost: NDArray[np.float64], drawn: NDArray[np.bool_]) -> _Offer:
    """The choices of every group. cost: (g, m) expected dollars of a call. drawn: (g,) groups of the sample."""
    at, paid, weak_first = groups.at, situation.paid, situation.weak_first
    too_long = situation.too_long[at]
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

    A group does not go below its best answer, nor back below a model that refused it. Where a refusal is the group's own fault it
    is as good as an answer: nothing but the cut sends it further up.
    """
    answered, rejected = paid.answered[at], paid.rejected[at]
    final = np.zeros_like(rejected) if paid.moves is None else rejected & ~paid.moves[at]
    ladder = np.arange(answered.shape[1])
    best = np.where(answered, ladder, -1).max(axis=1)
    refused = np.where(rejected, ladder, -1).max(axis=1)
    able = feasible & ~rejected & (ladder >= best[:, None]) & (ladder > np.where(refused > best, refused, -1)[:, None])
    able |= feasible & final & (best[:, None] < 0) & (ladder >= refused[:, None])
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
        limits = CutLimits(only_gains=True) if policy.kind == "budget_usd" else policy.limits(steps)
        limits = dataclasses.replace(limits, max_usd=left)
        return cut(steps, limits)
    except RoutingError as error:
        raise SpecError(str(error)) from None


def _rank_settled(
    places: _Places, situation: Situation, policy: Policy, groups: Groups, cost: NDArray[np.float64]
) -> None:
    """Give groups without a choice left what the router said of them, as if nothing were paid. In place. cost: (g, m)."""
    done = np.flatnonzero(np.isnan(places.score))
    if not len(done):
        return
    at, rows = groups.at[done], situation.rows
    whole = build_steps(
        quality=rows.predicted[at], cost_usd=cost[done], row_key=rows.row_key[at], weight=groups.weight[done],
        feasible=~situation.too_long[at], rank_by=policy.order,
    )  # fmt: skip
    places.score[done], places.rank[done] = row_scores(whole), row_ranks(whole)


def _assignments(
    situation: Situation, groups: Groups, fold: NDArray[np.int8], chosen: Cut, places: _Places
) -> Assignments:
    """Every row's share in its group's choice. fold: (n,)."""
    spec, rows, too_long = situation.spec, situation.rows, situation.too_long
    n, strong = rows.predicted.shape[0], rows.predicted.shape[1] - 1
    model = np.full(n, -1, np.int8)
    model[groups.at] = chosen.model
    model[groups.askable] = model[groups.leader[groups.askable]]
    score, rank, cost_usd = np.full(n, np.nan, np.float32), np.full(n, -np.inf), np.zeros(n)
    score[groups.at], rank[groups.at], cost_usd[groups.at] = places.score, places.rank, places.cost_usd
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
