"""Gold that numbers the options of a question: which option a number means, found out from the first rows.

`multiple_choice` compares letters. Many data sets hold 2 where the answer is C, and some of them 3. What a number means the
options tell, in the prompt or in a column of their own: a 0 counts from 0, a number as high as there are options from 1. Where
they do not tell, the job file has to: a wrong guess would measure 0 on every row that is paid for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import SpecError
from jobs.spec.job import JobSpec
from routing.answers.wording import normal, undotted

OPTION_COLUMNS = ("options", "choices", "endings", "candidates")
MATCH = "multiple_choice"
SHOWN = 6
_LETTER = re.compile(r"(?:^|(?<=\s)|(?<=\())([A-Za-z])[).:]\s*(?=\S)", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*\(?(\d{1,2})[).:]\s*(?=\S)", re.MULTILINE)


def options_column(spec: JobSpec, columns: Collection[str]) -> str | None:
    """The column that holds a row's options, where gold may count them; None for none."""
    if spec.quality.gold is None or spec.quality.gold.match != MATCH:
        return None
    return next((name for name in OPTION_COLUMNS if name in columns and name != spec.quality.gold.column), None)


@dataclass(frozen=True, slots=True)
class GoldReading:
    """`first`: the number that means option A; None where gold is no number of an option."""

    first: int | None = None

    def letter(self, gold: str, prompt: str, options: Any) -> str | None:
        """Gold as a letter, with the option's text where it is known; None where it numbers no option of the row."""
        number = number_of(gold)
        if self.first is None or number is None:
            return gold
        place, told = number - self.first, options_of(prompt, options)
        if not 0 <= place < (len(told) or 26):
            return None
        return f"{chr(ord('A') + place)}. {told[place]}".strip() if told else chr(ord("A") + place)


@dataclass(frozen=True, slots=True)
class GoldRow:
    """Of a row that can be asked: its gold as text, what it asks, and what its column of options holds."""

    gold: str
    prompt: str
    options: Any = None


def find_reading(spec: JobSpec, rows: Sequence[GoldRow]) -> tuple[GoldReading, str]:
    """How gold is to be read, and a note for the plan, "" where it is read as it stands. Raises SpecError where nobody can tell."""
    gold = spec.quality.gold
    numbers = [(number, row) for row in rows if (number := number_of(row.gold)) is not None]
    if gold is None or gold.match != MATCH or not numbers:
        return GoldReading(), ""
    field, seen = f"quality.gold.column: {gold.column!r}", sorted({number for number, _ in numbers})
    shown = ", ".join(map(str, seen[:SHOWN])) + (", …" if len(seen) > SHOWN else "")
    fix = f"write quality.gold.match: {MATCH}:0 (0 is A) or {MATCH}:1 (1 is A)"
    told = [(number, options) for number, row in numbers if (options := options_of(row.prompt, row.options))]
    if told and all(_stands_in(number, options) for number, options in told):
        return GoldReading(), ""
    if not told:
        if any(len(_NUMBERED.findall(row.prompt)) > 1 for _, row in numbers):
            return GoldReading(), ""
        raise SpecError(
            f"{field} holds numbers ({shown}) and the prompts show no lettered options; if they count options, {fix}, else "
            "match: exact or numeric"
        )
    fits = [first for first in (0, 1) if all(first <= number < len(options) + first for number, options in told)]
    if len(fits) != 1:
        why = "may count the options from 0 or from 1" if fits else "do not all count the options"
        raise SpecError(f"{field} holds numbers ({shown}) that {why}; {fix if fits else 'write letters'}")
    first = fits[0]
    note = f"quality.gold: the numbers in {gold.column!r} count the options from {first}: {first + 2} is C"
    return GoldReading(first), note


def number_of(gold: str) -> int | None:
    """The whole number that gold is, however it is written; None for other gold."""
    text = undotted(normal(gold))
    return int(text) if re.fullmatch(r"-?\d{1,3}", text) else None


def options_of(prompt: str, options: Any) -> tuple[str, ...]:
    """A row's options in order: of its own column, else the lettered ones of the prompt, the last list of them."""
    return _in_column(options) or _in_prompt(prompt)


def _in_column(options: Any) -> tuple[str, ...]:
    """Of a list of texts, JSON text of one, or ARC's {"text": [...], "label": [...]}."""
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except (ValueError, RecursionError):
            return ()
    if isinstance(options, dict):
        options = options.get("text") or list(options.values())
    if not isinstance(options, list) or len(options) < 2:
        return ()
    texts = [option.get("text") if isinstance(option, dict) else option for option in options]
    return tuple(" ".join(str(text).split()) for text in texts)


def _in_prompt(prompt: str) -> tuple[str, ...]:
    """The last run of A, B, C …, each on a line of its own or one after the other."""
    run: list[re.Match[str]] = []
    best: list[re.Match[str]] = []
    for found in _LETTER.finditer(prompt):
        letter = found[1]
        if run and ord(letter) == ord(run[-1][1]) + 1:
            run.append(found)
        elif letter in "Aa":
            run = [found]
        if len(run) > 1:
            best = run
    ends = [*(found.start() for found in best[1:]), len(prompt)]
    texts = [prompt[found.end() : end].split("\n")[0] for found, end in zip(best, ends, strict=False)]
    return tuple(" ".join(text.strip(" (,;").split()) for text in texts)


def _stands_in(number: int, options: Sequence[str]) -> bool:
    """The number is an option's own text."""
    return str(number) in {undotted(normal(option)) for option in options}
