"""JSON: one object a line, a list of objects, or objects that follow each other on as many lines as they like.

The standard library's `json`: some 2 µs for a row of three columns, and the only parser in reach that tells of a key that stands
twice. What it cannot do: numbers of more digits than a float has lose them (whole numbers keep all of theirs).

Lines are told apart before they are parsed, so a broken one costs itself. In a list that cannot be: the first broken element is
the end of the file, and of the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import pyarrow.fs as pafs

from jobs.errors import InputError
from jobs.route.score.formats.json_values import Json, JsonFault, values
from jobs.route.score.formats.record import NOT_UTF8, InputColumns, Record
from jobs.route.score.formats.text import Text, is_utf8, open_text

WRAPPERS = (
    "data",
    "rows",
    "records",
    "items",
    "examples",
    "instances",
    "results",
    "questions",
    "prompts",
    "train",
    "test",
)
"""Names under which an object holds the rows that the file should."""
OWN_COLUMNS = ("messages", "prompt", "custom_id", "body")


def read_jsonl(fs: pafs.FileSystem, path: str, columns: Iterable[str]) -> Iterator[Record]:
    """`columns`: those that the job file names; an object that has one of them is a row, whatever else it holds.

    Raises InputError for a file that is one object around the rows, and for a list that is broken.
    """
    with open_text(fs, path) as text:
        try:
            records = _in_document(text, path) if _is_document(text) else _in_lines(text)
            first = list(islice(records, 2))
            if len(first) == 1 and (key := _wrapper(first[0].columns, {*columns, *OWN_COLUMNS})):
                raise InputError(
                    f"input.path: {path} is one object of columns; write one object a line (pandas: orient='records', lines=True)"
                    if isinstance(first[0].columns[key], dict)
                    else f"input.path: {path} is one object, whose {key!r} holds the rows; write them as a list, or one a line "
                    f"(jq -c '.{key}[]')"
                )
            yield from chain(first, records)
        except UnicodeDecodeError:
            raise InputError(f"input.path: {path} is damaged UTF-16; write it as UTF-8") from None


def _is_document(text: Text) -> bool:
    """Whether values must be told apart by parsing: a list, or objects that are longer than a line."""
    head, whole = text.head()
    head = head.lstrip()
    line, _, rest = head.partition("\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        pass
    else:
        return line.startswith("[") and not rest.strip() and whole
    if line.startswith("["):
        return True
    if not line.startswith("{"):
        return False
    try:
        return json.JSONDecoder().raw_decode(head)[1] > len(line)
    except (ValueError, RecursionError):
        return line.strip() == "{"


def _in_lines(text: Text) -> Iterator[Record]:
    parser = Json()
    for line in text.lines("\n"):
        line = line.strip().lstrip("\ufeff")  # of files put together, each has its mark
        if not line:
            continue
        if not is_utf8(line):
            yield Record({}, f"the line is {NOT_UTF8}")
            continue
        try:
            found = parser.sequence(line)
        except JsonFault as fault:
            yield Record({}, f"the line {fault}")
            continue
        except (ValueError, RecursionError):
            comma = line.endswith(",") and " (it ends in a comma: a list without its brackets)"
            yield Record({}, f"the line is not valid JSON{comma or ''}")
            continue
        for row in found:
            yield Record(row) if isinstance(row, dict) else Record({}, "the line is not a JSON object")


def _in_document(text: Text, path: str) -> Iterator[Record]:
    for number, (row, fault, is_whole) in enumerate(values(text.lines(""), path), 1):
        if not is_whole:
            yield Record({}, f"element {number} is {NOT_UTF8}")
        elif fault:
            yield Record({}, f"element {number} {fault}")
        else:
            yield Record(row) if isinstance(row, dict) else Record({}, f"element {number} is not a JSON object")


def _wrapper(row: InputColumns, columns: Iterable[str]) -> str:
    """The key under which a file's only object holds rows, or of a table by columns; "" for a row."""
    if row and all(isinstance(held, dict) and held and all(map(str.isdigit, held)) for held in row.values()):
        return next(iter(row))
    if not any(name in row for name in columns):
        for name in WRAPPERS:
            held = row.get(name)
            if isinstance(held, list) and held and all(isinstance(each, dict | list) for each in held):
                return name
    return ""
