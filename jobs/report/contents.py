"""What a report has at least: its keys, null where nothing is known, and the sentence that sums it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.report.formatting import count, known, measured, percent, usd

KEYS = (
    "rows",
    "errors",
    "open",
    "by_model",
    "planned_usd",
    "spent_usd",
    "spent_by_purpose",
    "lost_usd",
    "unspent_usd",
    "gpu_usd",
    "all_strong_usd",
    "all_weak_usd",
    "saved_usd",
    "strong_share",
    "quality",
    "pgr",
    "pgr_over_random",
    "requests",
    "complete",
    "output",
    "job",
    "weak",
    "strong",
    "models",
    "started_at",
    "finished_at",
    "policy",
    "max_usd",
    "quality_by_model",
    "quality_source",
    "copied_rows",
    "score_histogram",
    "curve",
    "errors_by_kind",
    "by_category",
    "slowest",
    "provenance",
    "prices",
    "next",
    "gap",
    "over_routing",
    "under_routing",
    "over_routed",
    "under_routed",
    "all_strong_usd_interval",
    "all_weak_usd_interval",
    "n_failed",
    "sample_rows",
    "calibration",
    "oracle",
    "budget_changes",
    "pilot",
    "promise",
    "recuts",
    "by_length",
    "drift",
    "judge",
    "agreement",
    "warnings",
    "notes",
    "over_cap_usd",
)
# fmt: on
"""Everything a report may say; keys it lacks are null."""


def complete_keys(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with every key of KEYS, plain JSON values only, and null for NaN and infinity."""
    full = json_safe({**dict.fromkeys(KEYS), **report})
    full["by_model"] = full["by_model"] or {}
    names = full["models"] or list(full["by_model"])
    full["models"] = [*names, *(name for name in full["by_model"] if name not in names)]
    full["errors"], full["open"] = full["errors"] or 0, full["open"] or 0
    return dict(full)


def json_safe(value: Any) -> Any:
    """Nested dicts, lists and JSON scalars: NumPy unwrapped, NaN and infinity null, anything else as its text."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if hasattr(value, "tolist"):
        return json_safe(value.tolist())
    if isinstance(value, float) and not known(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def headline(report: Mapping[str, Any]) -> str:
    """The result in words. Says what was not measured instead of leaving it out."""
    r = complete_keys(report)
    strong = r["strong"] or "the strong model"
    went = f": {percent(r['strong_share'])} went to {strong}" if known(r["strong_share"]) else ""
    sentences = [f"{count(r['rows'])} rows{went}"]
    if known(r["spent_usd"]) and known(r["all_strong_usd"]):
        share = saved_share(r)
        verdict = "" if share is None else f" ({percent(share)} saved)" if share >= 0 else f" ({percent(-share)} more)"
        gpu = f" and {usd(r['gpu_usd'])} of GPU time" if known(r["gpu_usd"]) and r["gpu_usd"] else ""
        sentences.append(
            f"{usd(r['spent_usd'])}{gpu} spent instead of {usd(r['all_strong_usd'])} for all-strong{verdict}"
        )
    elif known(r["spent_usd"]):
        sentences.append(f"{usd(r['spent_usd'])} spent; what all-strong costs was not measured")
    if r["pgr"] and known(r["pgr"].get("mean")):
        sentences[-1] += f", keeping {measured(r['pgr'])} of the quality gap"
    elif r["quality"] and known(r["quality"].get("mean")):
        sentences.append(f"Quality {measured(r['quality'])}; the share of the quality gap it keeps was not measured")
    else:
        sentences.append("Quality was not measured")
    return ". ".join(sentences) + "."


def saved_share(report: Mapping[str, Any]) -> float | None:
    """Saved dollars over all-strong dollars; None where either is unknown or all-strong is free."""
    saved, all_strong = report.get("saved_usd"), report.get("all_strong_usd")
    return saved / all_strong if known(saved) and known(all_strong) and all_strong else None
