"""What a reader of the report has to know before he believes its figures: shown in bold, ahead of everything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jobs.route.account.totals import ModelTotals, RunEvidence
from jobs.spec.job import JobSpec


def run_warnings(spec: JobSpec, models: Mapping[str, ModelTotals], evidence: RunEvidence) -> list[str]:
    """One sentence each; none for a run that is as it seems."""
    return [
        f"{name}: {model.empty:,} of {model.answers:,} answers were empty, and paid for: max_tokens went on reasoning; raise "
        f"models.{name}.sampling.max_tokens, lower the reasoning effort, or turn thinking off"
        for name, model in models.items()
        if model.empty
    ] + _quality(spec, evidence)


def _quality(spec: JobSpec, evidence: RunEvidence) -> list[str]:
    """Quality that is the same on every row of every model measures nothing."""
    sampled = evidence.sampled.quality
    values = {*evidence.policy.values, *np.unique(sampled[np.isfinite(sampled)]).tolist()}
    if values not in ({0.0}, {1.0}):
        return []
    gold, judge = spec.quality.gold, spec.quality.judge
    by = [f"gold column {gold.column!r} under match {gold.match}"] if gold is not None else []
    by += [f"judge {judge.model}"] if judge is not None else []
    return [
        f"quality {values.pop():g} on every row of every model: {' and '.join(by) or 'the measure'} tells nothing apart; look at"
        " some answers beside it before you believe the figures"
    ]
