"""The form that a value has as text: what a person would write of it, and exactly it.

Text stays as it is, dates and times are ISO 8601, decimals and whole numbers have all their digits, a UUID its dashes; lists and
objects are JSON text, in which those are strings. Bytes that are no text are hexadecimal, sixteen of them a UUID.
"""

from __future__ import annotations

import json
import sys
import uuid
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from jobs.route.score.formats.arrow_values import iso_duration, objects_of, python_values
from jobs.route.score.values.nulls import is_null

DEEPEST = 4
"""Times Python's limit of nested calls."""


def as_text(value: Any) -> str:
    """Of a value that is not null."""
    if isinstance(value, str):
        return utf8(value)
    plain = _scalar_text(value)
    if plain is not None:
        return plain
    try:
        return utf8(json.dumps(objects_of(value), ensure_ascii=False, default=_within_json))
    except RecursionError:
        return utf8(_deep_json(value))


def utf8(text: str) -> str:
    r"""`text` as UTF-8 can hold it: half of a surrogate pair, legal in JSON, is its escape `\ud83d`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def text_array(array: pa.Array) -> pa.Array:
    """An array of any type as text."""
    return pa.array([None if each is None else as_text(each) for each in python_values(array)], pa.string())


def _deep_json(value: Any) -> str:
    """What a line of JSON could nest, its text can: the reader's own limit counted fewer calls around it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(DEEPEST * limit)
    try:
        return json.dumps(value, ensure_ascii=False, default=_within_json)
    finally:
        sys.setrecursionlimit(limit)


def _within_json(value: Any) -> str | None:
    return None if is_null(value) else as_text(value)


def _scalar_text(value: Any) -> str | None:
    """None for what JSON has a form for."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, timedelta):
        if (nanoseconds := getattr(value, "value", None)) is not None:  # pandas', which Arrow gives for nanoseconds
            return iso_duration(nanoseconds, 9)
        return iso_duration(value // timedelta(microseconds=1), 6)
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value)) if len(value) == 16 else value.hex()
    return str(value) if isinstance(value, uuid.UUID) else None
