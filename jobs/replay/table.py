"""Finding the recorded answer of (model, prompt) in one or more outcomes tables.

One dictionary over all prompts, built once: O(prompts) memory beside the tables, O(1) a look-up. Matching is exact on
the text; a job that wraps prompts in a template replays outcomes recorded with that template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import InputError
from jobs.storage.filesystems import filesystem_of
from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes
from routing.errors import RoutingError


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded answer; a token count is None where the table has none."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


class AnswerTable:
    """The recorded answers of all models of several tables. Duplicate prompts: the first known entry counts."""

    def __init__(self, tables: Sequence[Outcomes]) -> None:
        self._tables = tuple(tables)
        self._columns: dict[str, dict[int, int]] = {}
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for number, table in enumerate(self._tables):
            for column, model in enumerate(table.models):
                self._columns.setdefault(model, {})[number] = column
            for row, prompt in enumerate(table.prompts):
                self._rows.setdefault(prompt, []).append((number, row))
        if not self._rows or not self._columns:
            raise InputError("outcomes: no prompt or no model in any of the tables; give one with at least one of each")

    @property
    def models(self) -> tuple[str, ...]:
        """Model names, in the order of their first appearance."""
        return tuple(self._columns)

    @property
    def n_prompts(self) -> int:
        """Distinct prompt texts."""
        return len(self._rows)

    def find(self, model: str, messages: Sequence[Mapping[str, Any]]) -> Recorded | None:
        """The answer of `model` (a known one) to `messages`, or None where nothing is recorded.

        Tried in turn: the last user message's text, then the texts of the user messages, then of all messages, joined
        by a newline, an empty line, or nothing (recorded multi-turn prompts are one text).
        """
        user = [text_of(message) for message in messages if message["role"] == "user"]
        if user and (found := self._lookup(model, user[-1])):
            return found
        everything = [text_of(message) for message in messages]
        for texts in (user, everything):
            for separator in ("\n", "\n\n", ""):
                if found := self._lookup(model, separator.join(texts)):
                    return found
        return None

    def _lookup(self, model: str, prompt: str) -> Recorded | None:
        columns = self._columns[model]
        for number, row in self._rows.get(prompt, ()):
            if number in columns and (found := _cell(self._tables[number], row, columns[number])):
                return found
        return None


def _cell(table: Outcomes, row: int, column: int) -> Recorded | None:
    """The entry, or None where neither answer nor quality is known. Without a text the answer tells the quality."""
    text = None if table.responses is None else table.responses[row, column]
    if text is None:
        quality = table.quality[row, column]
        if math.isnan(quality):
            return None
        # str of the float32 itself: 0.1 as a Python float would read 0.10000000149011612.
        text = f"quality={quality!s}"

    def count(values: Any) -> int | None:
        return None if values is None or math.isnan(values[row, column]) else int(values[row, column])

    return Recorded(text, count(table.prompt_tokens), count(table.completion_tokens))


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text: its string, or its text parts joined; "" for null content. The shape is checked in `wire`."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or () if part.get("type") == "text")


def estimate_tokens(text: str) -> int:
    """Token count where none is recorded: UTF-8 bytes // 4 + 1, about English text under a BPE vocabulary, and never 0.

    A lone surrogate (JSON can carry one) counts its three bytes.
    """
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1


def load_tables(paths: Sequence[str]) -> list[Outcomes]:
    """Reads every outcomes path or URI. Raises InputError (StoreError for its storage) with the path of a bad one."""
    if not paths:
        raise InputError("outcomes: none given; add --outcomes PATH (Parquet or CSV of recorded outcomes)")
    tables = []
    for path in paths:
        filesystem, place = filesystem_of(path)
        try:
            table = read_outcomes(place, filesystem)
        except RoutingError as error:
            raise InputError(str(error).replace("\n", " ")) from error
        if not len(table.prompts) or not table.models:
            raise InputError(f"outcomes: {path}: holds no prompt or no model; give a table with at least one of each")
        tables.append(table)
    return tables
