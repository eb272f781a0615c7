"""From the sums of all buckets to report.json: money that reconciles, and quality with an interval.

Everything measured comes from jobs/measures.py: figures as {"mean", "low", "high"}, or null where nothing can be said. What the
page shows and a program may want (jobs/report.py) is put together here, once.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from jobs import measures
from jobs.account import HISTOGRAM_BINS
from jobs.estimate import HOUR_S
from jobs.evidence import EXAMPLES
from jobs.journal import Spent
from jobs.manifest import fingerprint
from jobs.spec import UNTRAINED_ROUTERS, JobSpec
from routing.estimates import RunEstimates
from routing.metrics import Interval
from routing.routers.base import read_card

PURPOSES = ("answer", "pilot", "shadow", "judge", "cascade")


def summarise(
    spec: JobSpec, sums: list[dict[str, Any]], bill: dict[str, Any], stranded_usd: float, facts: dict[str, Any],
    judge: Spent | None = None, further: Spent | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report. `stranded_usd`: dollars granted to a process that died before it could say what it used. `facts`: provenance.
    `judge`, `further`: what the judge and a cascade's further answers cost."""
    names = spec.names
    journal = {name: _add([s["journal"][name] for s in sums]) for name in names}
    spent = dict.fromkeys(PURPOSES, 0.0)
    gpu_usd: float | None = None
    for name in names:
        for purpose, usd in journal[name]["by_purpose"].items():
            spent[purpose] = spent.get(purpose, 0.0) + usd
        rate = bill["prices"][name].get("gpu_hour_usd")
        if rate is not None:
            gpu_usd = (gpu_usd or 0.0) + journal[name]["gpu_s"] / HOUR_S * rate
    judge = judge or Spent()
    further = further or Spent()
    spent["judge"] += judge.cost_usd
    spent["cascade"] += further.cost_usd
    spent_usd = sum(spent.values())
    lost_usd = sum(journal[name]["lost_usd"] for name in names) + judge.lost_usd + further.lost_usd + stranded_usd
    parts = [s["evidence"] for s in sums]
    sample = measures.sampled_rows(parts, len(names))
    estimated = measures.estimates(parts, sample, len(names))
    from_sample = {
        name: _alternative(parts, sample, j, journal[name], bill["prices"][name]) for j, name in enumerate(names)
    }
    # Where the sample tells, it knows better than the rows that the policy chose for the model.
    all_usd = {
        name: found.mean if (found := from_sample[name]) else _all_usd(name, journal[name], bill) for name in names
    }
    routed = Counter[str]()
    given = Counter[str]()
    for part in sums:
        routed.update(part["routed"])
        given.update(part["given"])
    rows, errors, still_open = (sum(s[k] for s in sums) for k in ("rows", "errors", "open"))
    strong = all_usd[names[-1]]
    quality, measured_rows = measures.run_quality(parts, estimated)
    curve = measures.measured_curve(bill["curve"], all_usd[names[0]], all_usd[names[-1]])
    sample_rows = int(sample.reported.sum())
    figure = measures.figure
    return {
        "rows": rows, "errors": errors, "open": still_open, "complete": still_open == 0,
        "by_model": {
            name: {
                "rows": given[name], "cost_usd": journal[name]["cost_usd"], "prompt_tokens": journal[name]["prompt_tokens"],
                "completion_tokens": journal[name]["completion_tokens"], "routed": routed[name],
                "requests": journal[name]["requests"],
            } for name in names
        },
        "planned_usd": bill["planned_usd"], "spent_usd": spent_usd, "spent_by_purpose": spent, "lost_usd": lost_usd,
        "unspent_usd": bill["planned_usd"] - spent_usd - lost_usd, "gpu_usd": gpu_usd,
        "all_strong_usd": strong, "all_weak_usd": all_usd[names[0]],
        "all_strong_usd_interval": figure(from_sample[names[-1]]), "all_weak_usd_interval": figure(from_sample[names[0]]),
        "saved_usd": None if strong is None else strong - spent_usd - lost_usd - (gpu_usd or 0.0),
        "strong_share": routed[names[-1]] / max(1, sum(routed.values())),
        "quality": figure(quality), "quality_source": _source(spec, measured_rows, sample_rows),
        "quality_by_model": _by_model(names, estimated, sample_rows, all_usd),
        "pgr": figure(estimated.pgr), "pgr_over_random": figure(estimated.pgr_over_random), "gap": figure(estimated.gap),
        "over_routing": figure(estimated.over_routing), "under_routing": figure(estimated.under_routing),
        **measures.examples(parts, names), "sample_rows": sample_rows, "n_failed": estimated.n_failed,
        "calibration": measures.calibration(sample, names),
        "oracle": measures.oracle(sample, [all_usd[name] for name in names]),
        "requests": sum(journal[name]["requests"] for name in names),
        "copied_rows": sum(s["copied"] for s in sums),
        "reused_answers": sum(journal[name]["reused"] for name in names),
        "weak": names[0], "strong": names[-1], "models": list(names), "output": spec.output,
        "policy": bill["policy"], "max_usd": spec.max_usd, "cap_usd": bill["cap_usd"],
        "score_histogram": {
            "edges": np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist(),
            "counts": {name: np.sum([s["histogram"][name] for s in sums], axis=0).tolist() for name in names},
            "cut": bill["cut_score"],
        },
        "curve": curve, "budget_changes": measures.budget_changes(bill, curve),
        "judge": (bill.get("pilot") or {}).get("judge"),
        "pilot": bill.get("pilot"), "cascade": bill.get("cascade"), "promise": bill.get("promise"), "recuts": bill.get("recuts"),
        "drift": measures.drift(parts, estimated, sample, names, _router_card(spec)),
        "errors_by_kind": _errors_by_kind(sums),
        "by_category": [{"category": k} | v for k, v in measures.groups(parts, "categories").items()],
        "by_length": [
            {"from_bytes": k, "to_bytes": 2 * k - 1} | v
            for k, v in sorted((int(k), v) for k, v in measures.groups(parts, "lengths").items())
        ],
        "slowest": sorted((row for s in sums for row in s["slowest"]), key=lambda row: -row["latency_s"])[: 2 * EXAMPLES],
        "prices": {
            name: {"input": p["input_usd_per_million"], "output": p["output_usd_per_million"], "source": p["source"]}
            for name, p in bill["prices"].items()
        },
        "next": _next(still_open, errors),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
        "provenance": (facts.get("provenance") or {}) | {"prices": {"hash": fingerprint(bill["prices"])}},
    }  # fmt: skip


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


def _router_card(spec: JobSpec) -> dict[str, Any]:
    """`router.json` of a router on disk; empty for one that needs no training, is elsewhere, or is no longer there."""
    if spec.router in UNTRAINED_ROUTERS or not (Path(spec.router) / "router.json").is_file():
        return {}
    return read_card(spec.router)


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
