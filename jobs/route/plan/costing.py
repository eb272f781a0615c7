"""From a cut to its bill: expected dollars, their range, the worst case, the curve, the hours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.route.plan.bill import (
    Bill,
    BilledModel,
    BilledPolicy,
    BilledPrice,
    BilledPromise,
    BilledSample,
    CurvePoint,
    Hours,
)
from jobs.route.plan.estimate import Estimate
from jobs.route.plan.groups import Groups
from jobs.route.plan.plan import Assignments
from jobs.route.plan.situation import Situation
from jobs.spec.job import JobSpec, cap_usd
from routing.upgrades.cut import Cut
from routing.upgrades.steps import Steps

CURVE_POINTS = 21
BATCH_WINDOW_S = 24 * 3600.0
"""A provider's promise for a batch; most end within an hour or two."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A cut, and what it was chosen from. Legend: g groups, m models."""

    groups: Groups
    steps: Steps
    cut: Cut
    cost_usd: NDArray[np.float64]
    """(g, m) expected dollars of a call."""
    promise: BilledPromise | None


@dataclass(frozen=True, slots=True)
class BesideUsd:
    """Dollars beside the cut's own."""

    sample: float
    judge: float
    cascade: float

    def on_top_of(self, usd: float) -> float:
        """All of them added to `usd`, one after the other: sums in another order differ in the last bit from earlier bills."""
        return usd + self.sample + self.judge + self.cascade


def bill_of(situation: Situation, chosen: Chosen, plan: Assignments, beside: BesideUsd) -> Bill:
    """The bill's figures; the planner fills in what the cut does not know."""
    spec, estimates, steps = situation.spec, situation.estimates, chosen.steps
    by_model = {name: _billed_model(situation, chosen, plan, index) for index, name in enumerate(spec.names)}
    parts = by_model.values()
    moved_usd = _moved_usd(situation, chosen, plan)
    asked = plan.model >= 0
    predicted = situation.rows.predicted[np.flatnonzero(asked), plan.model[asked]]
    # Where steps are ranked by something else, no one score divides the rows.
    by_score = steps.rank_by == "score" and chosen.cut.n_steps_taken
    return Bill(
        rows=len(situation.rows.row_key),
        input_errors=int((plan.model < 0).sum()),
        duplicates=int(asked.sum() - len(chosen.groups.at)),
        by_model=by_model,
        planned_usd=beside.on_top_of(sum(part.usd for part in parts)),
        range_usd=(beside.on_top_of(sum(p.usd_low for p in parts)), beside.on_top_of(sum(p.usd_high for p in parts))),
        bound_usd=sum(part.usd_bound for part in parts) + moved_usd,
        moved_usd=moved_usd,
        cap_usd=cap_usd(spec),
        all_strong_usd=float(np.nansum(chosen.cost_usd[:, -1])),
        all_weak_usd=float(np.nansum(chosen.cost_usd[:, 0])),
        strong_share=chosen.cut.strong_share,
        predicted_quality=float(predicted.mean()) if len(predicted) else None,
        weak=spec.names[0],
        strong=spec.names[-1],
        models=tuple(spec.names),
        policy=BilledPolicy(spec.policy.kind, spec.policy.value, steps.rank_by),
        cut_score=float(steps.score[chosen.cut.n_steps_taken - 1]) if by_score else None,
        sample=BilledSample(int(plan.sample.sum()), beside.sample),
        judge_usd=beside.judge,
        cascade_usd=beside.cascade,
        assumptions=tuple(line for name in spec.names for line in estimates[name].sources),
        notes=tuple(_about_moves(spec, moved_usd)),
        prices={name: _billed_price(estimates[name]) for name in spec.names},
        curve=_curve(steps),
        promise=chosen.promise,
    )


def _moved_usd(situation: Situation, chosen: Chosen, plan: Assignments) -> float:
    """At most for rows that go up because their model refuses them: all of them, or those that may be too long for it."""
    names, groups = situation.spec.names, chosen.groups.at
    may_move = np.ones(situation.rows.predicted.shape, bool)
    if situation.spec.on_refused == "error":
        if situation.maybe_too_long is None:
            return 0.0
        may_move = situation.maybe_too_long
    total = 0.0
    for index in range(len(names) - 1):
        mine = groups[(plan.model[groups] == index) & may_move[groups, index]]
        for upper in names[index + 1 :]:  # one may refuse after the other
            total += float(situation.estimates[upper].bound_usd(situation.rows.prompt_bytes[mine]).sum())
    return total


def _about_moves(spec: JobSpec, moved_usd: float) -> list[str]:
    """Why the bill's "at most" is more than that of its models."""
    if spec.on_refused == "strong":
        return [f"on_refused strong: at most, every row is refused and goes up, for ${moved_usd:,.2f} more"]
    return (
        [f"at most, prompts that turn out too long for their model go up, for ${moved_usd:,.2f} more"]
        if moved_usd
        else []
    )


def _billed_model(situation: Situation, chosen: Chosen, plan: Assignments, index: int) -> BilledModel:
    estimate, groups = situation.estimates[situation.spec.names[index]], chosen.groups.at
    mine = groups[plan.model[groups] == index]
    n_bytes = situation.rows.prompt_bytes[mine]
    low, high = (estimate.completion_tokens * (1 + sign * estimate.completion_spread) for sign in (-1, 1))
    bound = float(estimate.bound_usd(n_bytes).sum())
    most = float(estimate.cost_usd(n_bytes, min(high, estimate.max_tokens)).sum()) * 1.1
    return BilledModel(
        rows=int((plan.model == index).sum()),
        requests=len(mine),
        usd=float(estimate.cost_usd(n_bytes).sum()),
        usd_low=float(estimate.cost_usd(n_bytes, max(low, 0)).sum()) * 0.9,
        usd_high=min(bound or np.inf, most),
        usd_bound=bound,
        usd_by_rate=estimate.usd_by_rate(n_bytes),
    )


def _billed_price(estimate: Estimate) -> BilledPrice:
    return BilledPrice(**{**dataclasses.asdict(estimate.price), "source": estimate.price_source})


def _curve(steps: Steps) -> tuple[CurvePoint, ...]:
    """Predicted cost-quality points from no upgrade to every upgrade, in the order of the cut."""
    dollars = steps.base_cost_usd + np.concatenate([[0.0], np.cumsum(steps.cost_usd)])
    quality = steps.base_quality + np.concatenate([[0.0], np.cumsum(steps.gain.astype(float) * steps.weight)])
    strong = np.where(steps.to_model == steps.n_models - 1, steps.weight, 0)
    share = (steps.base_strong_weight + np.concatenate([[0], np.cumsum(strong)])) / max(1, steps.total_weight)
    at = np.unique(np.linspace(0, len(dollars) - 1, CURVE_POINTS).astype(int))
    total = max(1, steps.total_weight)
    return tuple(CurvePoint(float(share[i]), float(dollars[i]), float(quality[i] / total)) for i in at)


def running_hours(
    spec: JobSpec, bill: Bill, latency_s: Mapping[str, float], turns: Sequence[Sequence[str]] = ()
) -> Hours:
    """Rough running time: each lane's calls over what it may have in flight; lanes run side by side, `turns` one after the
    other."""
    lanes: dict[str, float] = {}
    for name in spec.names:
        model, calls = spec.models[name], bill.by_model[name].requests
        traits = model.traits
        parallel = traits.parallel * model.replicas if traits.runs == "here" else model.limits.in_flight
        seconds = calls * latency_s[name] / parallel
        if traits.runs == "batches":  # all at once, within the provider's window
            seconds = BATCH_WINDOW_S if calls else 0.0
        if model.limits.requests_per_minute:
            seconds = max(seconds, calls / model.limits.requests_per_minute * 60)
        lanes[name] = seconds / 3600
    in_turn = sum(max((lanes.get(name, 0.0) for name in turn), default=0.0) for turn in turns)
    return Hours(total=max(in_turn, *lanes.values()), assumed=True)
