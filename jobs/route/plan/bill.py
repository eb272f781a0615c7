"""The bill: what a plan costs by the expected sizes, the range, the worst case, and the curve of cost against quality."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.route.plan.estimate import Estimate
from jobs.spec.job import JobSpec, cap_usd
from routing.upgrades.cut import Cut
from routing.upgrades.steps import Steps

if TYPE_CHECKING:
    from jobs.route.plan.plan import Assignments
    from jobs.route.plan.rows import Rows

CURVE_POINTS = 21
BATCH_WINDOW_S = 24 * 3600.0
"""A provider's promise for a batch; most end within an hour or two."""


def figures(
    spec: JobSpec, rows: Rows, estimates: dict[str, Estimate], plan: Assignments, steps: Steps, chosen: Cut,
    cost: NDArray[Any], groups: NDArray[np.int64], sample_usd: float, judge_usd: float = 0.0,
    cascade_usd: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """The bill's numbers."""
    by_model: dict[str, dict[str, Any]] = {}
    bounds = 0.0
    for index, name in enumerate(spec.names):
        estimate = estimates[name]
        mine = groups[plan.model[groups] == index]
        n_bytes = rows.prompt_bytes[mine]
        usd = float(estimate.cost_usd(n_bytes).sum())
        low, high = (estimate.completion_tokens * (1 + sign * estimate.completion_spread) for sign in (-1, 1))
        bound = float(estimate.bound_usd(n_bytes).sum())
        bounds += bound
        by_model[name] = {
            "rows": int((plan.model == index).sum()), "requests": len(mine), "usd": usd,
            "usd_low": float(estimate.cost_usd(n_bytes, max(low, 0)).sum()) * 0.9,
            "usd_high": min(bound or np.inf, float(estimate.cost_usd(n_bytes, min(high, estimate.max_tokens)).sum()) * 1.1),
            "usd_bound": bound, "usd_by_rate": estimate.usd_by_rate(n_bytes),
        }  # fmt: skip
    asked = plan.model >= 0
    predicted = rows.predicted[np.flatnonzero(asked), plan.model[asked]]
    last = len(spec.names) - 1
    planned = sum(entry["usd"] for entry in by_model.values()) + sample_usd + judge_usd + cascade_usd
    # Where steps are ranked by something else, no one score divides the rows.
    by_score = steps.rank_by == "score" and chosen.n_steps_taken
    cut_score = float(steps.score[chosen.n_steps_taken - 1]) if by_score else None
    return {
        "rows": len(rows.row_key), "input_errors": int((plan.model < 0).sum()),
        "duplicates": int(asked.sum() - len(groups)), "by_model": by_model, "planned_usd": planned,
        "range_usd": [
            sum(e[end] for e in by_model.values()) + sample_usd + judge_usd + cascade_usd for end in ("usd_low", "usd_high")
        ],
        "bound_usd": bounds, "cap_usd": cap_usd(spec), "all_strong_usd": float(np.nansum(cost[:, last])),
        "all_weak_usd": float(np.nansum(cost[:, 0])), "strong_share": chosen.strong_share,
        "predicted_quality": float(predicted.mean()) if len(predicted) else None,
        "weak": spec.names[0], "strong": spec.names[-1], "models": list(spec.names),
        "policy": {"kind": spec.policy.kind, "value": spec.policy.value, "rank_by": steps.rank_by},
        "cut_score": cut_score, "sample": {"rows": int(plan.sample.sum()), "usd": sample_usd},
        "judge_usd": judge_usd, "cascade_usd": cascade_usd,
        "assumptions": [line for name in spec.names for line in estimates[name].sources],
        "prices": {
            name: {**dataclasses.asdict(estimates[name].price), "source": estimates[name].price_source} for name in spec.names
        },
        "curve": _curve(steps),
    }  # fmt: skip


def _curve(steps: Steps) -> list[dict[str, float]]:
    """Predicted cost-quality points from no upgrade to every upgrade, in the order of the cut."""
    dollars = steps.base_cost_usd + np.concatenate([[0.0], np.cumsum(steps.cost_usd)])
    quality = steps.base_quality + np.concatenate([[0.0], np.cumsum(steps.gain.astype(float) * steps.weight)])
    strong = np.where(steps.to_model == steps.n_models - 1, steps.weight, 0)
    share = (steps.base_strong_weight + np.concatenate([[0], np.cumsum(strong)])) / max(1, steps.total_weight)
    at = np.unique(np.linspace(0, len(dollars) - 1, CURVE_POINTS).astype(int))
    return [
        {"share": float(share[i]), "usd": float(dollars[i]), "quality": float(quality[i] / max(1, steps.total_weight))}
        for i in at
    ]


def is_tight(spec: JobSpec, bill: dict[str, Any]) -> bool:
    """Dollars may decide which rows go up: at worst the plan passes the cap; once answers are measured, at the upper end."""
    cap = cap_usd(spec)
    recuts = bill.get("recuts")
    worst = recuts[-1]["upper_usd"] if recuts else max(bill["bound_usd"], bill["range_usd"][1])
    return cap is not None and worst > cap


def hours(spec: JobSpec, bill: dict[str, Any], latency_s: dict[str, float]) -> dict[str, Any]:
    """Rough running time: each lane's calls over what it may have in flight; lanes run side by side."""
    lanes = []
    for name in spec.names:
        model, calls = spec.models[name], bill["by_model"][name].get("requests", 0)
        traits = model.traits
        parallel = traits.parallel * model.replicas if traits.runs == "here" else model.limits.in_flight
        seconds = calls * latency_s[name] / parallel
        if traits.runs == "batches":  # all at once, within the provider's window
            seconds = BATCH_WINDOW_S if calls else 0.0
        if model.limits.requests_per_minute:
            seconds = max(seconds, calls / model.limits.requests_per_minute * 60)
        lanes.append(seconds / 3600)
    return {"total": max(lanes), "assumed": True}
