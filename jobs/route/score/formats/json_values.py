"""JSON values one after another: in a line, in a list of any length, in a file; and what of them `json` would hide.

A list is parsed an element at a time out of a buffer that is filled again where it ends within one: memory for the longest
element, not for the list.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from jobs.errors import InputError
from jobs.route.score.formats.text import BUFFER_BYTES, is_utf8

MOST_CHARS = 2**28
"""An element that is not complete by then is broken."""
_BLANK = re.compile(r"[\s\ufeff]*")


class JsonFault(Exception):
    """A value that is valid JSON and cannot be taken as it stands."""


class Json:
    """A parser that tells of keys that stand twice and of numbers beyond a float, which `json` takes in silence."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_float=self._float)
        self._faults: list[str] = []

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        row = dict(pairs)
        if len(row) != len(pairs):
            names = [name for name, _ in pairs]
            self._faults.append(f"has the key {next(n for n in names if names.count(n) > 1)!r} twice")
        return row

    def _float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self._faults.append(f"holds a number that is too large ({digits[:20]})")
        return value

    def value(self, text: str, start: int) -> tuple[Any, int, str]:
        """(value, where it ends, its fault or ""). Raises ValueError, RecursionError for what is no JSON."""
        self._faults.clear()
        value, end = self._decoder.raw_decode(text, start)
        return value, end, self._faults[0] if self._faults else ""

    def sequence(self, line: str) -> list[Any]:
        """The values of a line: one, or several of files that were put together. Raises JsonFault, ValueError, RecursionError."""
        found = []
        at = 0
        while at < len(line):
            value, at, fault = self.value(line, at)
            if fault:
                raise JsonFault(fault)
            found.append(value)
            at = _BLANK.match(line, at).end()  # type: ignore[union-attr]
        return found


def values(text: io.TextIOBase, path: str) -> Iterator[tuple[Any, str, bool]]:
    """(value, its fault or "", whether it was UTF-8) of each element of a list, or of each value where the text is no list.

    Raises InputError where an element cannot be parsed: what follows it is not known to be a value.
    """
    source = _Source(text, path)
    in_list = source.next_char() == "["
    if in_list:
        source.at += 1
    number = 0
    while True:
        char = source.next_char()
        if char == "" or (in_list and char == "]"):
            break
        if in_list and number:
            if char != ",":
                source.broken(number + 1, "no comma before it")
            source.at += 1
            source.next_char()
        number += 1
        yield source.value(number)
    if in_list:
        if char != "]":
            source.broken(number + 1, "the list is not closed: the file is cut")
        source.at += 1
        if source.next_char():
            raise InputError(f"input.path: {path}: text follows the end of the list; write one object a line")


class _Source:
    """The text from `at` on, filled as it is used."""

    def __init__(self, text: io.TextIOBase, path: str) -> None:
        self.text, self.path, self.parser = text, path, Json()
        self.buffer, self.at, self.is_over = "", 0, False

    def _fill(self) -> bool:
        """Read on, twice as much each time nothing was used. False at the end."""
        if self.is_over or len(self.buffer) - self.at > MOST_CHARS:
            return False
        more = self.text.read(max(BUFFER_BYTES, len(self.buffer) - self.at))
        self.buffer, self.at, self.is_over = self.buffer[self.at :] + more, 0, not more
        return bool(more)

    def next_char(self) -> str:
        """The first character that is no blank, "" at the end."""
        while True:
            self.at = _BLANK.match(self.buffer, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._fill():
                return ""

    def value(self, number: int) -> tuple[Any, str, bool]:
        while True:
            try:
                value, end, fault = self.parser.value(self.buffer, self.at)
            except RecursionError:
                self.broken(number, "nested too deeply")
            except ValueError as error:
                if not self._fill():
                    self.broken(number, str(error))
                continue
            if end == len(self.buffer) and self._fill():  # a number may go on
                continue
            start, self.at = self.at, end
            return value, fault, is_utf8(self.buffer[start:end])

    def broken(self, number: int, why: str) -> NoReturn:
        why = why.split(": line")[0]
        raise InputError(
            f"input.path: {self.path}: element {number} is not valid JSON ({why}); mend it, or write one object a line"
        )
