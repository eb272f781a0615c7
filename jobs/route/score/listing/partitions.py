"""Columns that are folders: `category=math/x.jsonl` gives each row of the file a column `category` of "math".

The values are text, as they stand: `month=01` is "01", and no other reader's guess of a type changes it. Percent signs are
decoded, as Hive and Spark write what a name cannot hold; `__HIVE_DEFAULT_PARTITION__` is null. Every folder of the path counts,
those above `input.path` too. A column of the same name in the file is the one that is read.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote

NULL = "__HIVE_DEFAULT_PARTITION__"


@lru_cache(maxsize=4096)
def folder_columns(uri: str) -> dict[str, str | None]:
    """Column → value, by the names of the folders that the file lies in; the innermost of equal names."""
    columns: dict[str, str | None] = {}
    for folder in uri.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if name and equals:
            text = _decoded(value)
            columns[_decoded(name)] = None if text == NULL else text
    return columns


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:  # an escape that is no UTF-8 was never one
        return text
