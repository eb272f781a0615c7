"""From the sums of all buckets to report.json: money that reconciles, and quality with an interval.

Intervals are 95 % percentile bootstraps: over the run's rows for its quality (exact for the few distinct values a gold matcher
gives: one multinomial draw a replicate), over the sample's rows, paired, for the models' quality and PGR.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.account import CATEGORIES, EXAMPLES, HISTOGRAM_BINS
from jobs.estimate import HOUR_S
from jobs.spec import JobSpec

REPLICATES = 2000
PURPOSES = ("answer", "pilot", "shadow", "judge", "cascade")


def summarise(
    spec: JobSpec, sums: list[dict[str, Any]], bill: dict[str, Any], stranded_usd: float, facts: dict[str, Any]
) -> dict[str, Any]:
    """The report. `stranded_usd`: dollars granted to a process that died before it could say what it used. `facts`: provenance."""
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
    spent_usd = sum(spent.values())
    lost_usd = sum(journal[name]["lost_usd"] for name in names) + stranded_usd
    all_usd = {name: _all_usd(name, journal[name], bill) for name in names}
    routed = Counter[str]()
    given = Counter[str]()
    for part in sums:
        routed.update(part["routed"])
        given.update(part["given"])
    rows, errors, still_open = (sum(s[k] for s in sums) for k in ("rows", "errors", "open"))
    quality = Counter[float]()
    for part in sums:
        quality.update({float(k): v for k, v in part["quality"].items()})
    paired = np.array([row for part in sums for row in part["paired"]], float).reshape(-1, len(names) + 2)
    strong = all_usd[names[-1]]
    measured = bootstrap_paired(paired, names)
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
        "saved_usd": None if strong is None else strong - spent_usd - lost_usd - (gpu_usd or 0.0),
        "strong_share": routed[names[-1]] / max(1, sum(routed.values())),
        "quality": bootstrap_counts(quality), "quality_source": _source(spec, sum(quality.values()), len(paired)),
        "quality_by_model": measured["quality"] and {n: q | {"usd": all_usd[n]} for n, q in measured["quality"].items()},
        "pgr": measured["pgr"], "pgr_over_random": measured["pgr_over_random"], "sample_rows": len(paired),
        "requests": sum(journal[name]["requests"] for name in names),
        "copied_rows": sum(s["copied"] for s in sums),
        "weak": names[0], "strong": names[-1], "models": list(names), "output": spec.output,
        "policy": bill["policy"], "max_usd": spec.max_usd, "cap_usd": bill["cap_usd"],
        "score_histogram": {
            "edges": np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist(),
            "counts": {name: np.sum([s["histogram"][name] for s in sums], axis=0).tolist() for name in names},
            "cut": bill["cut_score"],
        },
        "curve": bill["curve"],
        "errors_by_kind": _errors_by_kind(sums),
        "by_category": _by_category(sums),
        "slowest": sorted((row for s in sums for row in s["slowest"]), key=lambda row: -row["latency_s"])[: 2 * EXAMPLES],
        "prices": {
            name: {"input": p["input_usd_per_million"], "output": p["output_usd_per_million"], "source": p["source"]}
            for name, p in bill["prices"].items()
        },
        "next": _next(still_open, errors),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
    }  # fmt: skip


def _source(spec: JobSpec, rows: int, sample_rows: int) -> str | None:
    """Where the quality figures come from, in words."""
    if spec.quality.gold is None:
        return None
    sampled = f"; models on a sample of {sample_rows:,} rows" if sample_rows else ""
    return f"gold column {spec.quality.gold.column}, {rows:,} rows{sampled}"


def _next(still_open: int, errors: int) -> str | None:
    """What to do about a run that is not whole."""
    if still_open:
        return f"{still_open:,} rows are still open; run the same command to go on"
    return f"{errors:,} rows have an error; see the column `error` of responses/" if errors else None


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
    counts = ("prompt_tokens", "completion_tokens", "requests", "answers", "unasked", "asked_bytes", "unasked_bytes")
    return {k: int(v) if k in counts else v for k, v in total.items()} | {"by_purpose": dict(purposes)}


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


def interval(mean: float, draws: NDArray[np.float64]) -> dict[str, float]:
    """Mean with the 95 % percentile interval of its bootstrap draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def bootstrap_counts(counts: Counter[float]) -> dict[str, float] | None:
    """Mean quality of rows given as value → number of rows; None without rows."""
    n = sum(counts.values())
    if not n:
        return None
    values = np.array(list(counts), float)
    shares = np.array(list(counts.values()), float) / n
    draws = np.random.default_rng(0).multinomial(n, shares, REPLICATES) @ values / n
    return interval(float(values @ shares), draws)


def bootstrap_paired(paired: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, Any]:
    """Quality of each model and PGR from the rows that all of them answered.

    paired: (k, 1 + m + 1): the policy's quality of a row, each model's, and 1 where the policy takes the strong one. PGR
    (RouteLLM, section 3.1) has no interval, and no value, where the interval of the gap between strong and weak holds 0.
    `pgr_over_random`: PGR less the share of strong rows, which is what random routing at that share recovers; two models only.
    """
    if not len(paired):
        return {"quality": None, "pgr": None, "pgr_over_random": None}
    rng = np.random.default_rng(0)
    k = len(paired)
    means = np.stack([paired[rng.integers(0, k, k)].mean(axis=0) for _ in range(REPLICATES)])
    mean = paired.mean(axis=0)
    quality = {name: interval(mean[j + 1], means[:, j + 1]) | {"rows": k} for j, name in enumerate(names)}
    gaps = means[:, -2] - means[:, 1]
    low, high = np.percentile(gaps, [2.5, 97.5])
    pgr = over_random = None
    if low > 0 or high < 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = (means[:, 0] - means[:, 1]) / gaps
        value = (mean[0] - mean[1]) / (mean[-2] - mean[1])
        pgr = interval(value, draws[np.isfinite(draws)])
        if len(names) == 2:
            beyond = draws - means[:, -1]
            over_random = interval(value - mean[-1], beyond[np.isfinite(beyond)])
    return {"quality": quality, "pgr": pgr, "pgr_over_random": over_random}


def _errors_by_kind(sums: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {}
    for part in sums:
        for error, entry in part["errors_by_kind"].items():
            total = kinds.setdefault(error, {"error": error, "rows": 0, "ids": []})
            total["rows"] += entry["rows"]
            total["ids"] = (total["ids"] + entry["ids"])[:EXAMPLES]
    return sorted(kinds.values(), key=lambda entry: -entry["rows"])[:20]


def _by_category(sums: list[dict[str, Any]]) -> list[dict[str, Any]]:
    totals: dict[str, NDArray[np.float64]] = {}
    for part in sums:
        for name, values in part["categories"].items():
            totals[name] = totals.get(name, np.zeros(4)) + np.array(values, float)
    ordered = sorted(totals.items(), key=lambda kv: -kv[1][0])[:CATEGORIES]
    return [
        {"category": name, "rows": int(t[0]), "strong_share": t[1] / t[0], "quality": t[3] / t[2] if t[2] else None}
        for name, t in ordered
    ]
