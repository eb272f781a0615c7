"""What the evidence of all rows says of the run, as figures with intervals. jobs/route/account/bucket_evidence.py gathers it.

Nothing of a row outside the sample reaches the driver but what adds up. `routing.pilot.estimates.estimate_run` takes the route and
the predictions of all N rows, and uses only their means by route: so each unsampled row gets the mean of its route here, which
gives exactly the same estimates. Where gold tells the quality of every row, that of the run is counted and not estimated.
Cost: O(N m) NumPy, some 40 bytes a row and model for a moment. Legend: N rows, n sampled, m models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jobs.route.account.bucket_evidence import CATEGORIES, EXAMPLES
from jobs.route.account.totals import REPORT, FormTotals, GroupTotals, PolicyQuality, RunEvidence, SampledRows
from jobs.route.plan.bill import CurvePoint
from routing.features.structure import STRUCTURE
from routing.metrics.pair import Interval
from routing.pilot.estimates import Answered, RunEstimates, alternative_usd, estimate_run
from routing.pilot.intervals import bounded_interval
from routing.upgrades.steps import build_steps

DECILES, ROWS_PER_BIN = 10, 20
ORACLE_POINTS = 21
CHANGES = (-0.1, 0.1)
"""Of the budget, in the report's what-if."""
LEAST_SPREAD = 0.05
"""Standard deviation of a feature below which the training data had one value of it."""


def estimates(evidence: RunEvidence) -> RunEstimates:
    """All that the sample says of the run. Rows whose quality nobody can tell are left out."""
    sample, counts = evidence.sampled, evidence.strata_rows
    means = evidence.strata_predicted / np.maximum(counts, 1)[:, None]
    rest = np.repeat(np.arange(len(counts)), counts)
    route = np.concatenate([np.where(sample.told, sample.route, -1), rest]).astype(np.int8)
    predicted = np.concatenate([sample.predicted, means[rest]]).astype(np.float32)
    report, known = (np.flatnonzero(use) for use in (sample.fold == REPORT, sample.fold < REPORT))
    return estimate_run(
        route, predicted, Answered(report, sample.quality[report]), Answered(known, sample.quality[known])
    )


def run_quality(policy: PolicyQuality, estimated: RunEstimates) -> tuple[Interval | None, int]:
    """Quality of what the policy picked, and from how many rows: counted where rows outside the sample can be told too.

    Rows with an answer whose quality cannot be told could have had any; rows still open count as not drawn yet.
    """
    known = policy.values.total()
    if not policy.outside or not known:
        return estimated.quality, estimated.n_sampled + estimated.n_known
    failed = policy.told - policy.open - known
    values = np.repeat(np.array(list(policy.values)), list(policy.values.values()))
    part = bounded_interval(values, policy.told - failed)
    share = failed / (failed + known)
    return Interval(part.mean, (1 - share) * part.low, (1 - share) * part.high + share), known


def interval_json(interval: Interval | None, **more: Any) -> dict[str, Any] | None:
    """{"mean", "low", "high"}; None stays None. A hair's breadth from a whole number is that number: 1.0, not 0.9999999999."""
    if interval is None:
        return None
    ends = interval._asdict().items()
    return {k: float(round(v)) if abs(v - round(v)) < 1e-9 else v for k, v in ends} | more


def model_usd(evidence: RunEvidence, j: int, per_byte_usd: float, per_answer_usd: float) -> Interval | None:
    """Dollars had model j answered every row: what it was paid where it did, and from the sample where not.

    per_byte_usd, per_answer_usd: what its own answers cost; they weigh long prompts against short ones, no more. None
    where the sample cannot tell.
    """
    sample, paid = evidence.sampled, evidence.own_usd[j]
    n_rest, n_leaders, n_bytes = evidence.elsewhere[j]
    own = (sample.route == j) & np.isfinite(sample.paid_usd[:, j])
    seen = ~own
    expected = per_byte_usd * sample.prompt_bytes + per_answer_usd * sample.is_leader
    rest_usd = (per_byte_usd * n_bytes + per_answer_usd * n_leaders) / max(1.0, n_rest)
    # One row stands for all that the model answered itself: their dollars are known.
    n_more = int(n_rest)
    n_seen = int(seen.sum())
    return alternative_usd(
        np.concatenate([[0.0], expected[seen], np.full(n_more, rest_usd)]),
        np.concatenate([[paid], sample.paid_usd[seen, j], np.full(n_more, np.nan)]),
        np.arange(1 + n_seen + n_more) == 0,
        np.concatenate([[False], np.ones(n_seen, bool), np.zeros(n_more, bool)]),
    )


def calibration(sample: SampledRows, names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]] | None:
    """Model → bins of predicted quality, equally full, with the quality measured on the report fold."""
    use = sample.reported
    bins = min(DECILES, int(use.sum()) // ROWS_PER_BIN)
    if bins < 2:
        return None
    out = {}
    for j, name in enumerate(names):
        predicted, quality = sample.predicted[use, j], sample.quality[use, j]
        edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
        place = np.searchsorted(edges, predicted, side="right")
        out[name] = [
            {
                "predicted": float(predicted[place == k].mean()),
                **(interval_json(bounded_interval(quality[place == k], 10**9)) or {}),
                "rows": int((place == k).sum()),
            }
            for k in np.unique(place)
        ]
    return out


def oracle(sample: SampledRows, all_usd: list[float | None]) -> list[dict[str, float]] | None:
    """Points of the best any router could do: each sampled row upgraded by what the answers proved to be worth.

    Dollars on the scale of all N rows: those of the single models, `all_usd`. From the cheapest model to the last gain.
    """
    use = sample.reported | (sample.told & np.isfinite(sample.quality).all(axis=1))
    n = int(use.sum())
    if n < ROWS_PER_BIN or any(usd is None for usd in all_usd):
        return None
    cost = np.tile(np.array(all_usd, float) / n, (n, 1))
    steps = build_steps(sample.quality[use].astype(np.float32), cost, sample.row_key[use])
    gains = int((steps.gain > 0).sum())
    usd = steps.base_cost_usd + np.concatenate([[0.0], np.cumsum(steps.cost_usd[:gains])])
    quality = (steps.base_quality + np.concatenate([[0.0], np.cumsum(steps.gain[:gains].astype(float))])) / n
    at = np.unique(np.linspace(0, gains, ORACLE_POINTS).astype(int))
    return [{"usd": float(usd[i]), "quality": float(quality[i])} for i in at]


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """A point of the plan's curve, in measured dollars too."""

    share: float
    usd: float
    quality: float
    measured_usd: float | None
    """None where it is not known what all-weak and all-strong cost."""


def measured_curve(
    curve: Sequence[CurvePoint], weak_usd: float | None, strong_usd: float | None
) -> list[MeasuredPoint]:
    """The plan's curve with `measured_usd`: its dollars stretched so that its ends cost what all-weak and all-strong do.

    Null where these are not known: a plan that expected twice the tokens is as good a plan, on another scale.
    """
    ends = [point.usd for point in curve]
    if len(curve) < 2 or weak_usd is None or strong_usd is None or ends[-1] <= ends[0]:
        return [MeasuredPoint(point.share, point.usd, point.quality, None) for point in curve]
    scale = (strong_usd - weak_usd) / (ends[-1] - ends[0])
    return [MeasuredPoint(p.share, p.usd, p.quality, weak_usd + scale * (p.usd - ends[0])) for p in curve]


def budget_changes(answers_usd: float, curve: Sequence[MeasuredPoint]) -> list[dict[str, float]]:
    """What a tenth less or more money for the answers would do, by the plan's predicted curve, in measured dollars.

    answers_usd: planned for the answers alone. Sample, judge and a cascade's further answers are paid beside the cut,
    whatever it is.
    """
    if len(curve) < 2:
        return []
    usd, share, quality = (np.array([getattr(point, key) for point in curve]) for key in ("usd", "share", "quality"))
    measured = [point.measured_usd for point in curve if point.measured_usd is not None]
    shown = np.array(measured) if measured else usd
    now = float(np.interp(answers_usd, usd, shown))
    out = []
    for change in (CHANGES[0], 0.0, CHANGES[1]):
        at = float(np.clip(now * (1 + change), shown[0], shown[-1]))
        then, before = (float(np.interp(dollars, shown, quality)) for dollars in (at, now))
        out.append(
            {
                "change": change,
                "usd": at,
                "strong_share": float(np.interp(at, shown, share)),
                "quality": then,
                "quality_change": then - before,
            }
        )
    return out


def groups_json(groups: Mapping[str, GroupTotals]) -> dict[str, dict[str, Any]]:
    """Group → rows, strong_share and quality, of the largest groups."""
    ordered = sorted(groups.items(), key=lambda item: -item[1].rows)[:CATEGORIES]
    return {
        name: {
            "rows": group.rows,
            "strong_share": group.strong / group.rows,
            "quality": _share(group.told, group.known, group.quality),
        }
        for name, group in ordered
    }


def _share(told: int, known: int, total: float) -> dict[str, Any] | None:
    """Mean quality of `known` rows of `told`, as if they were drawn from them; an interval for 0 or 1, wide for others."""
    if not known:
        return None
    values = np.zeros(known)
    whole = min(int(total), known)
    values[:whole] = 1.0
    if whole < known:
        values[whole] = total - whole
    return interval_json(bounded_interval(np.clip(values, 0, 1), told), rows=known)


def examples_json(evidence: RunEvidence, names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """`over_routed` and `under_routed` rows of the sample, with names for places."""
    over = sorted(evidence.over_routed, key=lambda row: (-row.quality[0], -row.score))
    under = sorted(evidence.under_routed, key=lambda row: row.score)
    return {
        kind: [
            asdict(row)
            | {
                "route": names[row.route],
                "quality": dict(zip(names, row.quality, strict=True)),
                "answers": dict(zip(names, row.answers, strict=True)),
            }
            for row in rows[:EXAMPLES]
        ]
        for kind, rows in (("over_routed", over), ("under_routed", under))
    }


def prompt_form(form: FormTotals) -> dict[str, dict[str, float]] | None:
    """Feature of `routing.features.structure.STRUCTURE` → mean and standard deviation over the run's prompts."""
    if not form.rows:
        return None
    sums, squares = form.sums / form.rows, form.squares / form.rows
    spread = np.sqrt(np.maximum(0.0, squares - sums**2))
    return {name: {"mean": float(a), "std": float(b)} for name, a, b in zip(STRUCTURE, sums, spread, strict=True)}


def drift(
    evidence: RunEvidence, estimated: RunEstimates, names: tuple[str, ...], card: Mapping[str, Any]
) -> dict[str, Any]:
    """How far this run's prompts lie from those the router was trained on, as far as its `router.json` (`card`) tells.

    quality: per model the mean in training (held-out rows), as predicted here, as measured here. form: features of the
    prompts, furthest first, with the distance of the means in standard deviations of the training data; null where the
    card has no `form`.
    """
    sample = evidence.sampled
    rows = evidence.strata_rows.sum() + sample.told.sum()
    predicted = evidence.strata_predicted.sum(axis=0) + sample.predicted[sample.told].sum(axis=0)
    predicted /= max(1, rows)
    metrics = card.get("metrics") or {}
    trained = {names[0]: metrics.get("quality_weak"), names[-1]: metrics.get("quality_strong")}
    quality = [
        {
            "model": name,
            "trained": trained.get(name),
            "predicted": float(predicted[j]) if rows else None,
            "measured": interval_json(estimated.quality_by_model[j]),
        }
        for j, name in enumerate(names)
    ]
    form, known = prompt_form(evidence.form), card.get("form") or {}
    shifts = [
        {
            "feature": name,
            "run": here["mean"],
            "trained": known[name]["mean"],
            "shift": (here["mean"] - known[name]["mean"]) / max(known[name]["std"], LEAST_SPREAD),
        }
        for name, here in (form or {}).items()
        if name in known
    ]
    furthest = sorted(shifts, key=lambda entry: -abs(entry["shift"]))
    return {"quality": quality, "form": furthest or None, "prompts": form}
