"""The first rows of the input as they will be asked: what the border tries models and gold with, before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, islice

from jobs.route.score.fields.gold import GoldRow, find_reading
from jobs.route.score.prompts import ChatMessage
from jobs.route.score.records import read_records
from jobs.route.score.stage import ScorePlan
from routing.text import router_text

ROWS = 500
"""Looked at; those that cannot be asked among them."""
EXAMPLES = 100


@dataclass(frozen=True, slots=True)
class FirstRows:
    """Those of the first rows that can be asked."""

    examples: tuple[list[ChatMessage], ...]
    """Chats of the first of them."""
    golds: tuple[GoldRow, ...]


def first_rows(plan: ScorePlan) -> FirstRows:
    """Read the head of the input."""
    examples: list[list[ChatMessage]] = []
    golds: list[GoldRow] = []
    of_files = (read_records(file, plan.spec.input, plan.reader.columns) for file in plan.files)
    for record in islice(chain.from_iterable(of_files), ROWS):
        prompt = plan.reader.read(record)
        if prompt.error:
            continue
        examples += [prompt.messages] if len(examples) < EXAMPLES else []
        if prompt.gold is not None:
            golds.append(GoldRow(prompt.gold, router_text(prompt.messages), plan.reader.options(record)))
    return FirstRows(tuple(examples), tuple(golds))


def with_gold_read(plan: ScorePlan, rows: FirstRows) -> tuple[ScorePlan, str]:
    """The plan, with gold read as these rows tell, and a note on that. Raises SpecError where they do not tell."""
    reading, note = find_reading(plan.spec, rows.golds)
    return replace(plan, reader=plan.reader.reading_gold(reading)), note
