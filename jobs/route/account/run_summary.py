"""report.json, from what all buckets add up to: money that reconciles, and quality with an interval.

Everything measured comes from jobs/route/account/run_measures.py: an interval as {"mean", "low", "high"}, or null where
nothing can be said. What the page shows (jobs/report/page.py) and what a program may want is put together here, once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jobs.journal.reader import Spent
from jobs.route.account import run_measures as measures
from jobs.route.account.bucket_evidence import EXAMPLES
from jobs.route.account.bucket_totals import ERROR_KINDS, HISTOGRAM_BINS
from jobs.route.account.run_measures import groups_json, interval_json
from jobs.route.account.run_warnings import run_warnings
from jobs.route.account.totals import BucketTotals, ErrorKind, ModelTotals, RunEvidence
from jobs.route.plan.bill import Bill, BilledPrice
from jobs.route.plan.estimate import HOUR_S
from jobs.route.score.router import router_card
from jobs.spec.job import JobSpec
from jobs.storage.manifest import fingerprint
from routing.metrics.pair import Interval
from routing.pilot.estimates import RunEstimates

REPORTED_PURPOSES = ("answer", "pilot", "shadow", "judge", "cascade")


@dataclass(frozen=True, slots=True)
class Beside:
    """Dollars that no bucket knows of."""

    stranded_usd: float = 0.0
    """Granted to a process that died before it could say what it used."""
    judge: Spent = field(default_factory=Spent)
    further: Spent = field(default_factory=Spent)
    """A cascade's further answers."""
    gpu_usd: float | None = None
    """Of both; None where neither is paid by the hour."""


def summarise(
    spec: JobSpec, buckets: Sequence[BucketTotals], bill: Bill, beside: Beside, facts: dict[str, Any]
) -> dict[str, Any]:
    """The report. `facts`: what the run knows of itself, provenance among it."""
    names = spec.names
    models = {name: sum((part.models[name] for part in buckets), start=ModelTotals()) for name in names}
    rows, errors, still_open = (sum(getattr(part, key) for part in buckets) for key in ("rows", "errors", "open"))
    given: Counter[str] = sum((part.given for part in buckets), start=Counter())
    routed: Counter[str] = sum((part.routed for part in buckets), start=Counter())
    evidence = RunEvidence.together([part.evidence for part in buckets], len(names))
    estimated = measures.estimates(evidence)
    from_sample = {name: _alternative(evidence, j, models[name], bill.prices[name]) for j, name in enumerate(names)}
    # Where the sample tells, it knows better than the rows that the policy chose for the model.
    all_usd = {
        name: found.mean if (found := from_sample[name]) else _all_usd(name, models[name], bill) for name in names
    }
    prices = {name: asdict(price) for name, price in bill.prices.items()}
    money = _money(models, bill, beside, all_usd[names[-1]])
    return {
        "rows": rows, "errors": errors, "open": still_open, "complete": still_open == 0,
        "by_model": {
            name: {
                "rows": given[name], "cost_usd": model.cost_usd, "prompt_tokens": model.prompt_tokens,
                "completion_tokens": model.completion_tokens, "routed": routed[name], "answers": model.answers,
                "requests": model.requests,
            } for name, model in models.items()
        },
        **money,
        "all_strong_usd": all_usd[names[-1]], "all_weak_usd": all_usd[names[0]],
        "all_strong_usd_interval": interval_json(from_sample[names[-1]]),
        "all_weak_usd_interval": interval_json(from_sample[names[0]]),
        "strong_share": routed[names[-1]] / max(1, sum(routed.values())),
        **_quality(spec, evidence, estimated, all_usd, bill),
        "requests": sum(model.requests for model in models.values()),
        "copied_rows": sum(part.copied for part in buckets),
        "reused_answers": sum(model.reused for model in models.values()),
        **_job(spec, bill),
        **_details(names, buckets, evidence, bill),
        "next": _next(still_open, errors), "warnings": [*run_warnings(spec, models, evidence), *_over_cap(money, bill)],
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
        "provenance": (facts.get("provenance") or {}) | {"prices": {"hash": fingerprint(prices)}},
    }  # fmt: skip


def _money(
    models: Mapping[str, ModelTotals], bill: Bill, beside: Beside, all_strong_usd: float | None
) -> dict[str, Any]:
    """Dollars that reconcile: planned - spent - lost = unspent. GPU dollars stand beside them."""
    spent = dict.fromkeys(REPORTED_PURPOSES, 0.0)
    gpu_usd = beside.gpu_usd
    for name, model in models.items():
        for purpose, usd in model.by_purpose.items():
            spent[purpose] = spent.get(purpose, 0.0) + usd
        rate = bill.prices[name].gpu_hour_usd
        if rate is not None:
            gpu_usd = (gpu_usd or 0.0) + model.gpu_s / HOUR_S * rate
    spent["judge"] += beside.judge.cost_usd
    spent["cascade"] += beside.further.cost_usd
    spent_usd = sum(spent.values())
    lost_usd = sum(model.lost_usd for model in models.values())
    lost_usd += beside.judge.lost_usd + beside.further.lost_usd + beside.stranded_usd
    over_usd = 0.0 if bill.cap_usd is None else spent_usd + lost_usd - bill.cap_usd
    return {
        "planned_usd": bill.planned_usd, "spent_usd": spent_usd, "spent_by_purpose": spent, "lost_usd": lost_usd,
        "over_cap_usd": over_usd if over_usd > 1e-9 else 0.0,
        "unspent_usd": bill.planned_usd - spent_usd - lost_usd, "gpu_usd": gpu_usd,
        "saved_usd": None if all_strong_usd is None else all_strong_usd - spent_usd - lost_usd - (gpu_usd or 0.0),
    }  # fmt: skip


def _over_cap(money: Mapping[str, Any], bill: Bill) -> list[str]:
    """A line where replies cost more than anybody could know, and no dollars were left for it."""
    if not money["over_cap_usd"]:
        return []
    return [
        f"spent and lost are ${money['over_cap_usd']:.4f} above the cap of ${bill.cap_usd:.4f}: requests under way cost more than"
        " the most that was reserved for them; none was sent once that was known"
    ]


def _quality(
    spec: JobSpec, evidence: RunEvidence, estimated: RunEstimates, all_usd: dict[str, float | None],
    bill: Bill,
) -> dict[str, Any]:  # fmt: skip
    """How good the answers are, and how good the routing was."""
    names, sample = spec.names, evidence.sampled
    quality, measured_rows = measures.run_quality(evidence.policy, estimated)
    curve = measures.measured_curve(bill.curve, all_usd[names[0]], all_usd[names[-1]])
    sample_rows = int(sample.reported.sum())
    intervals = ("pgr", "pgr_over_random", "gap", "over_routing", "under_routing")
    return {
        "quality": interval_json(quality), "quality_source": _source(spec, measured_rows, sample_rows),
        "quality_by_model": _by_model(names, estimated, sample_rows, all_usd),
        **{name: interval_json(getattr(estimated, name)) for name in intervals},
        **measures.examples_json(evidence, names), "sample_rows": sample_rows, "n_failed": estimated.n_failed,
        "calibration": measures.calibration(sample, names),
        "oracle": measures.oracle(sample, [all_usd[name] for name in names]),
        "curve": [asdict(point) for point in curve],
        "budget_changes": measures.budget_changes(sum(part.usd for part in bill.by_model.values()), curve),
        "drift": measures.drift(evidence, estimated, names, router_card(spec)),
    }  # fmt: skip


def _job(spec: JobSpec, bill: Bill) -> dict[str, Any]:
    """What the job was, and what pilot, judge and cascade made of it."""
    recuts = [asdict(recut) for recut in bill.recuts]
    pilot = bill.pilot.to_json() if bill.pilot else None
    return {
        "weak": spec.names[0], "strong": spec.names[-1], "models": list(spec.names), "output": spec.output,
        "policy": asdict(bill.policy), "max_usd": spec.max_usd, "cap_usd": bill.cap_usd,
        "judge": (pilot or {}).get("judge"), "pilot": pilot, "cascade": bill.cascade.to_json() if bill.cascade else None,
        "promise": asdict(bill.promise) if bill.promise else None, "recuts": recuts or None,
        "prices": {
            name: {"input": p.input_usd_per_million, "output": p.output_usd_per_million, "source": p.source}
            for name, p in bill.prices.items()
        },
    }  # fmt: skip


def _details(
    names: tuple[str, ...], buckets: Sequence[BucketTotals], evidence: RunEvidence, bill: Bill
) -> dict[str, Any]:
    """What the page breaks down: scores, errors, groups of rows, the slowest calls."""
    lengths = sorted((int(key), group) for key, group in groups_json(evidence.lengths).items())
    slowest = sorted((call for part in buckets for call in part.slowest), key=lambda call: -call.latency_s)
    return {
        "score_histogram": {
            "edges": np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist(),
            "counts": {name: np.sum([part.histogram[name] for part in buckets], axis=0).tolist() for name in names},
            "cut": bill.cut_score,
        },
        "errors_by_kind": _errors_by_kind(buckets),
        "by_category": [{"category": key} | group for key, group in groups_json(evidence.categories).items()],
        "by_length": [{"from_bytes": key, "to_bytes": 2 * key - 1} | group for key, group in lengths],
        "slowest": [asdict(call) for call in slowest[: 2 * EXAMPLES]],
    }


def _source(spec: JobSpec, rows: int, sample_rows: int) -> str | None:
    """Where the quality figures come from, in words."""
    judge = spec.quality.judge
    if judge is not None and sample_rows:
        where_gold = (
            f"gold column {spec.quality.gold.column}, else " if spec.quality.gold and spec.quality.matcher else ""
        )
        return f"{where_gold}judge {judge.model} ({judge.mode}), a sample of {sample_rows:,} rows"
    if spec.quality.gold is None:
        return None
    sampled = f"; models on a sample of {sample_rows:,} rows" if sample_rows else ""
    return f"gold column {spec.quality.gold.column}, {rows:,} rows{sampled}"


def _next(still_open: int, errors: int) -> str | None:
    """What to do about a run that is not whole."""
    if still_open:
        return f"{still_open:,} rows are still open; run the same command to go on"
    return f"{errors:,} rows have an error; see the column `error` of responses/" if errors else None


def _by_model(
    names: tuple[str, ...], estimated: RunEstimates, sample_rows: int, all_usd: dict[str, float | None]
) -> dict[str, Any] | None:
    """Quality and dollars had each model answered every row; None where no model's quality is known."""
    if not any(estimated.quality_by_model):
        return None
    found = zip(names, estimated.quality_by_model, strict=True)
    return {name: interval_json(quality, rows=sample_rows, usd=all_usd[name]) for name, quality in found}


def _alternative(evidence: RunEvidence, j: int, model: ModelTotals, price: BilledPrice) -> Interval | None:
    """Dollars if this model had answered every row, with an interval from the sample; None for a machine priced by the hour,
    or where the sample cannot tell."""
    if price.gpu_hour_usd is not None or not model.answers:
        return None
    per_byte = model.prompt_tokens / max(1, model.asked_bytes) * price.input_usd_per_million / 1e6
    per_answer = model.completion_tokens / model.answers * price.output_usd_per_million / 1e6
    return measures.model_usd(evidence, j, per_byte, per_answer)


def _all_usd(name: str, model: ModelTotals, bill: Bill) -> float | None:
    """Dollars if this model had answered every row: what it was paid, and the rest at its own measured size.

    A model that answered nothing has the plan's estimate; a machine priced by the hour none.
    """
    price = bill.prices[name]
    if price.gpu_hour_usd is not None:
        return None
    if not model.answers:
        planned = {bill.strong: bill.all_strong_usd, bill.weak: bill.all_weak_usd}.get(name)
        return None if planned is None else float(planned)
    per_byte = model.prompt_tokens / max(1, model.asked_bytes)
    output = model.completion_tokens / model.answers
    rest = model.unasked_bytes * per_byte * price.input_usd_per_million
    rest += model.unasked * output * price.output_usd_per_million
    return float(model.cost_usd + rest / 1e6)


def _errors_by_kind(buckets: Sequence[BucketTotals]) -> list[dict[str, Any]]:
    """The most frequent errors of the run, with some ids of each."""
    kinds: dict[str, ErrorKind] = {}
    for kind in (kind for part in buckets for kind in part.errors_by_kind):
        known = kinds.get(kind.error, ErrorKind(kind.error, 0, ()))
        kinds[kind.error] = ErrorKind(kind.error, known.rows + kind.rows, (known.ids + kind.ids)[:EXAMPLES])
    largest = sorted(kinds.values(), key=lambda kind: -kind.rows)[:ERROR_KINDS]
    return [{"error": kind.error, "rows": kind.rows, "ids": list(kind.ids)} for kind in largest]
