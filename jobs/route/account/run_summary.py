"""From the sums of all buckets to report.json: money that reconciles, and quality with an interval.

Everything measured comes from jobs/route/account/run_measures.py: figures as {"mean", "low", "high"}, or null where
nothing can be said. What the page shows and a program may want (jobs/report/page.py) is put together here, once.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from jobs.journal.reader import Spent
from jobs.route.account import run_measures as measures
from jobs.route.account.bucket_evidence import EXAMPLES
from jobs.route.account.bucket_sums import HISTOGRAM_BINS
from jobs.route.plan.estimate import HOUR_S
from jobs.route.score.router import router_card
from jobs.spec.job import JobSpec
from jobs.storage.manifest import fingerprint
from routing.metrics.pair import Interval
from routing.pilot.estimates import RunEstimates

PURPOSES = ("answer", "pilot", "shadow", "judge", "cascade")


def summarise(
    spec: JobSpec, sums: list[dict[str, Any]], bill: dict[str, Any], stranded_usd: float, facts: dict[str, Any],
    judge: Spent | None = None, further: Spent | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report. `stranded_usd`: dollars granted to a process that died before it could say what it used. `facts`: provenance.
    `judge`, `further`: what the judge and a cascade's further answers cost."""
    names = spec.names
    journal = {name: _add([part["journal"][name] for part in sums]) for name in names}
    rows, errors, still_open = (sum(part[key] for part in sums) for key in ("rows", "errors", "open"))
    given, routed = (_count(sums, key) for key in ("given", "routed"))
    parts = [part["evidence"] for part in sums]
    sample = measures.sampled_rows(parts, len(names))
    estimated = measures.estimates(parts, sample, len(names))
    from_sample = {
        name: _alternative(parts, sample, j, journal[name], bill["prices"][name]) for j, name in enumerate(names)
    }
    # Where the sample tells, it knows better than the rows that the policy chose for the model.
    all_usd = {
        name: found.mean if (found := from_sample[name]) else _all_usd(name, journal[name], bill) for name in names
    }
    return {
        "rows": rows, "errors": errors, "open": still_open, "complete": still_open == 0,
        "by_model": {
            name: {
                "rows": given[name], "cost_usd": journal[name]["cost_usd"], "prompt_tokens": journal[name]["prompt_tokens"],
                "completion_tokens": journal[name]["completion_tokens"], "routed": routed[name],
                "answers": journal[name]["answers"], "requests": journal[name]["requests"],
            } for name in names
        },
        **_money(names, journal, bill, stranded_usd, judge or Spent(), further or Spent(), all_usd[names[-1]]),
        "all_strong_usd": all_usd[names[-1]], "all_weak_usd": all_usd[names[0]],
        "all_strong_usd_interval": measures.figure(from_sample[names[-1]]),
        "all_weak_usd_interval": measures.figure(from_sample[names[0]]),
        "strong_share": routed[names[-1]] / max(1, sum(routed.values())),
        **_quality(spec, parts, sample, estimated, all_usd, bill),
        "requests": sum(journal[name]["requests"] for name in names),
        "copied_rows": sum(part["copied"] for part in sums),
        "reused_answers": sum(journal[name]["reused"] for name in names),
        **_job(spec, bill),
        **_details(names, sums, parts, bill),
        "next": _next(still_open, errors),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
        "provenance": (facts.get("provenance") or {}) | {"prices": {"hash": fingerprint(bill["prices"])}},
    }  # fmt: skip


def _money(
    names: tuple[str, ...], journal: dict[str, dict[str, Any]], bill: dict[str, Any], stranded_usd: float, judge: Spent,
    further: Spent, all_strong_usd: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Dollars that reconcile: planned - spent - lost = unspent. GPU dollars stand beside them."""
    spent = dict.fromkeys(PURPOSES, 0.0)
    gpu_usd: float | None = None
    for name in names:
        for purpose, usd in journal[name]["by_purpose"].items():
            spent[purpose] = spent.get(purpose, 0.0) + usd
        rate = bill["prices"][name].get("gpu_hour_usd")
        if rate is not None:
            gpu_usd = (gpu_usd or 0.0) + journal[name]["gpu_s"] / HOUR_S * rate
    spent["judge"] += judge.cost_usd
    spent["cascade"] += further.cost_usd
    spent_usd = sum(spent.values())
    lost_usd = sum(journal[name]["lost_usd"] for name in names) + judge.lost_usd + further.lost_usd + stranded_usd
    return {
        "planned_usd": bill["planned_usd"], "spent_usd": spent_usd, "spent_by_purpose": spent, "lost_usd": lost_usd,
        "unspent_usd": bill["planned_usd"] - spent_usd - lost_usd, "gpu_usd": gpu_usd,
        "saved_usd": None if all_strong_usd is None else all_strong_usd - spent_usd - lost_usd - (gpu_usd or 0.0),
    }  # fmt: skip


def _quality(
    spec: JobSpec, parts: measures.Evidence, sample: measures.SampledRows, estimated: RunEstimates,
    all_usd: dict[str, float | None], bill: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """How good the answers are, and how good the routing was."""
    names, figure = spec.names, measures.figure
    quality, measured_rows = measures.run_quality(parts, estimated)
    curve = measures.measured_curve(bill["curve"], all_usd[names[0]], all_usd[names[-1]])
    sample_rows = int(sample.reported.sum())
    return {
        "quality": figure(quality), "quality_source": _source(spec, measured_rows, sample_rows),
        "quality_by_model": _by_model(names, estimated, sample_rows, all_usd),
        "pgr": figure(estimated.pgr), "pgr_over_random": figure(estimated.pgr_over_random), "gap": figure(estimated.gap),
        "over_routing": figure(estimated.over_routing), "under_routing": figure(estimated.under_routing),
        **measures.examples(parts, names), "sample_rows": sample_rows, "n_failed": estimated.n_failed,
        "calibration": measures.calibration(sample, names),
        "oracle": measures.oracle(sample, [all_usd[name] for name in names]),
        "curve": curve, "budget_changes": measures.budget_changes(bill, curve),
        "drift": measures.drift(parts, estimated, sample, names, router_card(spec)),
    }  # fmt: skip


def _job(spec: JobSpec, bill: dict[str, Any]) -> dict[str, Any]:
    """What the job was, and what pilot, judge and cascade made of it."""
    return {
        "weak": spec.names[0], "strong": spec.names[-1], "models": list(spec.names), "output": spec.output,
        "policy": bill["policy"], "max_usd": spec.max_usd, "cap_usd": bill["cap_usd"],
        "judge": (bill.get("pilot") or {}).get("judge"),
        **{name: bill.get(name) for name in ("pilot", "cascade", "promise", "recuts")},
        "prices": {
            name: {"input": p["input_usd_per_million"], "output": p["output_usd_per_million"], "source": p["source"]}
            for name, p in bill["prices"].items()
        },
    }  # fmt: skip


def _details(
    names: tuple[str, ...], sums: list[dict[str, Any]], parts: measures.Evidence, bill: dict[str, Any]
) -> dict[str, Any]:
    """What the page breaks down: scores, errors, groups of rows, the slowest calls."""
    lengths = sorted((int(key), group) for key, group in measures.groups(parts, "lengths").items())
    return {
        "score_histogram": {
            "edges": np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist(),
            "counts": {name: np.sum([part["histogram"][name] for part in sums], axis=0).tolist() for name in names},
            "cut": bill["cut_score"],
        },
        "errors_by_kind": _errors_by_kind(sums),
        "by_category": [{"category": key} | group for key, group in measures.groups(parts, "categories").items()],
        "by_length": [{"from_bytes": key, "to_bytes": 2 * key - 1} | group for key, group in lengths],
        "slowest": sorted((row for part in sums for row in part["slowest"]), key=lambda row: -row["latency_s"])[
            : 2 * EXAMPLES
        ],
    }


def _count(sums: list[dict[str, Any]], key: str) -> Counter[str]:
    """Model → rows, over all buckets."""
    total = Counter[str]()
    for part in sums:
        total.update(part[key])
    return total


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
    return {name: measures.figure(quality, rows=sample_rows, usd=all_usd[name]) for name, quality in found}


def _alternative(
    parts: measures.Evidence, sample: measures.SampledRows, j: int, journal: dict[str, Any], price: dict[str, Any]
) -> Interval | None:
    """Dollars if this model had answered every row, with an interval from the sample; None for a machine priced by the hour,
    or where the sample cannot tell."""
    if price.get("gpu_hour_usd") is not None or not journal["answers"]:
        return None
    per_byte = journal["prompt_tokens"] / max(1, journal["asked_bytes"]) * price["input_usd_per_million"] / 1e6
    per_answer = journal["completion_tokens"] / journal["answers"] * price["output_usd_per_million"] / 1e6
    return measures.model_usd(parts, sample, j, per_byte, per_answer)


def _add(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum of dicts of numbers, and of dicts of numbers inside them."""
    total: dict[str, Any] = defaultdict(float)
    purposes: dict[str, float] = defaultdict(float)
    for entry in entries:
        for key, value in entry.items():
            if isinstance(value, dict):
                for purpose, usd in value.items():
                    purposes[purpose] += usd
            else:
                total[key] += value
    dollars = ("cost_usd", "lost_usd", "gpu_s")
    return {k: v if k in dollars else int(v) for k, v in total.items()} | {"by_purpose": dict(purposes)}


def _all_usd(name: str, journal: dict[str, Any], bill: dict[str, Any]) -> float | None:
    """Dollars if this model had answered every row: what it was paid, and the rest at its own measured size.

    A model that answered nothing has the plan's estimate; a machine priced by the hour none.
    """
    price = bill["prices"][name]
    if price.get("gpu_hour_usd") is not None:
        return None
    if not journal["answers"]:
        planned = {bill["strong"]: bill["all_strong_usd"], bill["weak"]: bill["all_weak_usd"]}.get(name)
        return None if planned is None else float(planned)
    per_byte = journal["prompt_tokens"] / max(1, journal["asked_bytes"])
    output = journal["completion_tokens"] / journal["answers"]
    rest = journal["unasked_bytes"] * per_byte * price["input_usd_per_million"]
    rest += journal["unasked"] * output * price["output_usd_per_million"]
    return float(journal["cost_usd"] + rest / 1e6)


def _errors_by_kind(sums: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {}
    for part in sums:
        for error, entry in part["errors_by_kind"].items():
            total = kinds.setdefault(error, {"error": error, "rows": 0, "ids": []})
            total["rows"] += entry["rows"]
            total["ids"] = (total["ids"] + entry["ids"])[:EXAMPLES]
    return sorted(kinds.values(), key=lambda entry: -entry["rows"])[:20]
