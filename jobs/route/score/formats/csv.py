"""CSV with a header.

The standard library's `csv`, strict: 1-2 µs for a row of three columns, field by field what RFC 4180 says, and rows that are too
long or too short are told from whole ones (pyarrow.csv and polars end at the first of them, or fill it up). What it cannot do:
tell a field that was closed by a later row's quote from one that is meant to hold those lines. So a field is believed up to
`input.csv.max_field_lines` lines, and whatever does not fit the quotes ends the file with the line in which the field opened.

A bad row costs itself where it is known to be one line: too many or too few fields, a quote within a field, no UTF-8.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import pyarrow.fs as pafs

from jobs.errors import InputError
from jobs.route.score.formats.csv_dialect import Dialect, dialect_of
from jobs.route.score.formats.record import NOT_UTF8, Record
from jobs.route.score.formats.text import is_utf8, open_text
from jobs.spec.sections import CsvSpec

_PAIR = re.compile(r"\\(.)", re.DOTALL)


def read_csv(fs: pafs.FileSystem, path: str, spec: CsvSpec) -> Iterator[Record]:
    """Raises InputError for a file whose rows cannot be told apart, and for a header that names a column twice."""
    csv.field_size_limit(2**31 - 1)  # a prompt may be far longer than csv's default of 128 KiB
    with open_text(fs, path) as text:
        try:
            dialect = dialect_of(text, path, spec)
            yield from _File(path, dialect, spec).records(text.lines(dialect.newline))
        except UnicodeDecodeError:
            raise InputError(f"input.path: {path} is damaged UTF-16; write it as UTF-8") from None


class _File:
    """One file, read once from top to bottom."""

    def __init__(self, path: str, dialect: Dialect, spec: CsvSpec) -> None:
        self.path, self.dialect, self.limit = path, dialect, spec.max_field_lines
        self.record: list[str] = []
        """Lines of the record under way."""
        self.n_before = 0
        """Lines before it."""
        self._look_at = self.limit + 1

    def records(self, lines: Iterator[str]) -> Iterator[Record]:
        if self.dialect.has_hint:
            next(lines)
            self.n_before = 1
        reader = self.dialect.reader(self._kept(lines))
        header = self._header(reader)
        while header:
            self._next_record()
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield Record({}, self._judge(str(error), len(header)))
                continue
            if row is None:
                return
            if len(row) == len(header):
                bad = next((c for c, v in zip(header, row, strict=True) if not is_utf8(v)), None)
                yield Record(dict(zip(header, row, strict=True)), f"column {bad!r} is {NOT_UTF8}" if bad else "")
            elif not row or (len(row) == 1 and not row[0].strip()):
                continue
            else:
                yield Record({}, self._ragged(len(row), len(header)))

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        """The first line that is not blank; [] for a file without one."""
        try:
            header = next((row for row in reader if row and any(name.strip() for name in row)), [])
        except csv.Error as error:
            self._open_quote("unexpected end" in str(error))
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"input.path: {self.path}: the header names {twice!r} twice; rename one of the columns")
        return header

    def _next_record(self) -> None:
        self.n_before += len(self.record)
        self.record.clear()
        self._look_at = self.limit + 1

    def _kept(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines, those of the record under way kept. Raises InputError while a quoted field runs on for too long."""
        keep, mend = self.record.append, self.dialect.backslash
        for line in lines:
            if mend:
                line = _PAIR.sub(self._literal, line)
            keep(line)
            if len(self.record) >= self._look_at:
                opened = self.dialect.opened(self.record[:-1]) or 0
                if len(self.record) - opened > self.limit:
                    self._refuse(
                        f"the quoted field that opens here runs over more than {self.limit} lines; close its quote, or raise "
                        "input.csv.max_field_lines if it is meant",
                        opened,
                    )
                self._look_at = opened + self.limit + 1
            yield line

    def _literal(self, pair: re.Match[str]) -> str:
        """A backslash before anything but what needs one stands for itself, where `csv` would drop it."""
        return pair[0] if pair[1] in (self.dialect.quote, self.dialect.delimiter, "\\", "\r", "\n") else "\\" + pair[0]

    def _judge(self, error: str, n_columns: int) -> str:
        """Why a record is broken, where that is known to be its own fault. Raises InputError where it is not."""
        self._check_escape(n_columns)
        line = self.record[0]
        alone = len(self.record) == 1 and line.count(self.dialect.quote or '"') % 2 == 0
        if "unexpected end" in error or ("expected after" in error and not alone):
            self._open_quote("unexpected end" in error)
        if "expected after" in error:
            return "a quote stands within a quoted field; write it twice"
        self._refuse("a line break stands in a field without quotes; put the field in quotes")

    def _ragged(self, n_fields: int, n_columns: int) -> str:
        self._check_escape(n_columns)
        # Rows that a quote has swallowed are known by their own fields.
        ways = (self.dialect, replace(self.dialect, quote=""))
        if n_columns > 1 and any(way.fields([line]) == n_columns for line in self.record[1:] for way in ways):
            self._open_quote(is_last=False)
        return f"the line has {n_fields} fields, the header {n_columns}"

    def _check_escape(self, n_columns: int) -> None:
        """Raises InputError where backslashes are what makes a row of these lines."""
        if self.dialect.backslash or not any('\\"' in line for line in self.record):
            return
        lines = self.record
        if replace(self.dialect, backslash=True).fields(lines[:1]) == n_columns or len(lines) > 1:
            self._refuse("quotes are escaped by a backslash; set input.csv.escape: backslash")

    def _open_quote(self, is_last: bool) -> NoReturn:
        """`is_last`: the record ends with the file. Else its last line is where the quotes were seen not to fit."""
        opened = self.dialect.opened(self.record if is_last else self.record[:-1]) or 0
        self._refuse(
            "the quoted field that opens here is not closed; close its quote, or set input.csv.quote: none if quotes mean nothing",
            opened,
        )

    def _refuse(self, why: str, index: int = 0) -> NoReturn:
        """`index`: of the line in the record."""
        raise InputError(f"input.path: {self.path}: line {self.n_before + index + 1}: {why}")
