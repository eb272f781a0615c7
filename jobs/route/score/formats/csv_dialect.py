"""How one CSV file is written: what the job file says of it, and of the delimiter what its header says."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import InputError
from jobs.route.score.formats.text import Text
from jobs.spec.sections import CsvSpec

DELIMITERS = (",", ";", "\t", "|")
_HINT = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
"""A first line that spreadsheets write and take for an instruction."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What `csv.reader` has to know, and where its lines end."""

    delimiter: str
    quote: str
    """"" for none."""
    backslash: bool
    newline: str
    has_hint: bool = False

    def reader(self, lines: Any) -> Any:
        """A strict reader over an iterable of lines."""
        return csv.reader(
            lines, delimiter=self.delimiter, quotechar=self.quote or None, strict=True,
            escapechar="\\" if self.backslash else None, quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
        )  # fmt: skip

    def fields(self, lines: Sequence[str]) -> int:
        """Fields of one record, 0 where these lines are none by themselves."""
        try:
            rows = list(self.reader(lines))
        except csv.Error:
            return 0
        return len(rows[0]) if len(rows) == 1 else 0

    def opened(self, lines: Sequence[str]) -> int | None:
        """Index of the line in which the quoted field opened that is still open at the end of these; None for none."""
        at, quoted, begins, skip = None, False, True, False
        for number, line in enumerate(lines):
            for i, char in enumerate(line):
                if skip:
                    skip = False
                elif quoted and char == self.quote:
                    if line[i + 1 : i + 2] == self.quote:
                        skip = True
                    else:
                        quoted, at = False, None
                elif self.backslash and char == "\\":
                    skip, begins = True, False
                elif not quoted:
                    if begins and char == self.quote:
                        quoted, at = True, number
                    begins = char == self.delimiter or char in "\r\n"
        return at


def dialect_of(text: Text, path: str, spec: CsvSpec) -> Dialect:
    """Of a file at its start. Raises InputError where the header can be read in two ways."""
    head, _ = text.head()
    hint = _HINT.match(head)
    if hint:
        head = head[hint.end() :]
    quote = "" if spec.quote == "none" else spec.quote
    newline = _newline(head.lstrip("\r\n"), quote)

    def dialect(delimiter: str) -> Dialect:
        return Dialect(delimiter, quote, spec.escape == "backslash", newline, bool(hint))

    if spec.delimiter:
        return dialect(spec.delimiter)
    if hint:
        return dialect(hint[1])
    own = "\t" if re.search(r"\.(tsv|tab)(\.\w+)?$", path.lower()) else ","
    if _header_fields(dialect(own), head) > 1:
        return dialect(own)
    others = [d for d in DELIMITERS if d != own and _header_fields(dialect(d), head) > 1]
    if len(others) > 1:
        shown = " or ".join(repr(d) for d in others)
        raise InputError(f"input.path: {path}: the header may be cut at {shown}; say which in input.csv.delimiter")
    return dialect(others[0] if others else own)


def _newline(head: str, quote: str) -> str:
    """What ends the header ends every line: another kind of break is text."""
    quoted = f"{re.escape(quote)}[^{re.escape(quote)}]*{re.escape(quote)}|" if quote else ""
    ends = next((m[0] for m in re.finditer(rf"{quoted}\r*\n|\r", head) if m[0][0] in "\r\n"), "\n")
    return "\n" if ends.endswith("\n") else "\r"


def _header_fields(dialect: Dialect, head: str) -> int:
    lines = re.findall(rf"[^{dialect.newline}]*{dialect.newline}|[^{dialect.newline}]+$", head.lstrip("\r\n"))
    try:
        return len(next(dialect.reader(lines), []))
    except csv.Error:
        return 0
