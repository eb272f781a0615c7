"""What every reader of files gives: one row, or why it could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

NOT_UTF8 = "not UTF-8"
InputColumns = dict[str, Any]
"""A row of the input: column → whatever its file holds there."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stood in the input: its columns, or why it could not be read."""

    columns: InputColumns
    error: str = ""
    stored: tuple[pa.RecordBatch, int] | None = None
    """Of a file with a schema: the batch that holds the row as the file does, and its place there."""
