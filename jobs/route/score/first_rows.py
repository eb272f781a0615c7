"""The first rows of the input as they will be asked: what the border tries models and gold with, before anything is spent."""

from __future__ import annotations

from itertools import islice

from jobs.route.score.prompts import Prompt
from jobs.route.score.records import read_records
from jobs.route.score.stage import ScorePlan

ROWS = 100
"""Looked at; those that cannot be asked among them."""


def first_prompts(plan: ScorePlan) -> list[Prompt]:
    """Those of the first rows that can be asked."""
    file = plan.files[0]
    prompts = (plan.reader.read(record) for record in read_records(file, plan.spec.input, plan.reader.columns))
    return [prompt for prompt in islice(prompts, ROWS) if not prompt.error]
