"""What counts as no value: null, and the NaN or NaT that data frames write in its place."""

from __future__ import annotations

from datetime import datetime
from typing import Any

HOLDERS = ("arguments", "input", "parameters", "properties")
"""Keys of messages whose object may be empty and still says something: a call without arguments."""


def is_null(value: Any) -> bool:
    """None, a float that is NaN, pandas' NaT."""
    return value is None or (isinstance(value, float | datetime) and value != value)


def without_nulls(value: Any) -> Any:
    """`value` without the fields of objects that are null, however deep, nor the objects that held nothing else.

    A column of structs has every field in every row: those that a row did not have are null, and say nothing. Lists keep theirs.
    """
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, field in value.items():
        clean = None if is_null(field) else without_nulls(field)
        if clean is not None and (clean != {} or field == {} or name in HOLDERS):
            kept[name] = clean
    return kept
